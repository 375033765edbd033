"""Laws of delivery: what it serves is what `assemble` says, whatever happened before, in whatever order."""

from collections.abc import Mapping, Sequence
from typing import Any

from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest, DeltaDiscoveryResponse
from hypothesis import given, settings
from hypothesis import strategies as st

from meshwright.edge.delivered import Delivery
from meshwright.edge.protobuf import TypeUrl, make_version
from meshwright.edge.stream import Stream
from meshwright.emit.proxy import assemble
from meshwright.model.identity import ServiceAccount, TrustDomain
from meshwright.model.pod import Pod, PortRanges
from meshwright.model.proxy import EndpointSlice, OutboundUnit, Proxy, ProxySettings
from meshwright.model.ref import Kind, Ref, ServiceName
from meshwright.model.units import Namespace, Port
from meshwright.model.workload import Protocol, Service
from tests.mesh import SHOP, make_service, make_slice, make_unit, to

SETTINGS = ProxySettings(trust=TrustDomain())
NAMES = ("web", "cart")
NAMESPACES = (SHOP, Namespace("client"))
PORTS = tuple(f"{namespace}/{name}/{port}" for namespace in NAMESPACES for name in NAMES for port in (80, 81))

services = st.builds(
    make_service,
    st.sampled_from(NAMES),
    st.sampled_from(("10.96.0.10", "10.96.0.11")),
    namespace=st.sampled_from(NAMESPACES),
    port=st.sampled_from((80, 81)),
    protocol=st.sampled_from((Protocol.DETECT, Protocol.OPAQUE)),
)
targets = st.builds(ServiceName, st.sampled_from(NAMESPACES), st.sampled_from(NAMES))
units = st.builds(
    lambda service, namespace, port, target: make_unit(service, to(target), namespace=namespace, port=port),
    targets,
    st.sampled_from(NAMESPACES),
    st.sampled_from((80, 81)),
    st.sampled_from(("a", "b")),
)
slices = st.builds(
    lambda service, ip, name, target: make_slice(service, (ip, 8080), name=name, target=target),
    targets,
    st.sampled_from(("10.244.0.1", "10.244.0.2")),
    st.sampled_from(("one", "two")),
    st.sampled_from(("", "Pod/client", "Pod/other")),
)
pods = st.builds(
    lambda namespace, name, account, ip, is_meshed, is_ingress, opaque: Pod(
        ref=Ref(Kind.POD, namespace, name),
        uid="uid",
        account=ServiceAccount(namespace, account),
        addresses=(ip,),
        is_meshed=is_meshed,
        is_ingress=is_ingress,
        opaque=opaque,
    ),
    st.sampled_from(NAMESPACES),
    st.sampled_from(("client", "other")),
    st.sampled_from(("a", "b")),
    st.sampled_from(("10.244.0.1", "10.244.0.2")),
    st.booleans(),
    st.booleans(),
    st.sampled_from((None, PortRanges(), PortRanges(((Port(80), Port(81)),)))),
)
Thing = Service | OutboundUnit | EndpointSlice | Pod
changes = st.lists(st.tuples(st.one_of(services, units, slices, pods), st.booleans()), max_size=25)


def put(delivery: Delivery, thing: Thing, *, is_there: bool) -> None:
    match thing:
        case Service():
            delivery.put_service(thing.name, thing if is_there else None)
        case OutboundUnit():
            delivery.put_unit(thing.name, thing if is_there else None)
        case EndpointSlice():
            delivery.put_slice(thing.ref, thing if is_there else None)
        case Pod():
            delivery.put_pod(thing.ref, thing if is_there else None)


def key_of(thing: Thing) -> object:
    return thing.name if isinstance(thing, OutboundUnit) else thing.ref


def everything(state: dict[object, Thing], proxy: Proxy) -> dict[TypeUrl, Mapping[str, Mapping[str, Any]]]:
    """Return what `assemble` makes of a state, by kind."""
    found = assemble(
        proxy,
        [thing for thing in state.values() if isinstance(thing, OutboundUnit)],
        [thing for thing in state.values() if isinstance(thing, Service)],
        [thing for thing in state.values() if isinstance(thing, EndpointSlice)],
        SETTINGS,
        [thing for thing in state.values() if isinstance(thing, Pod)],
    )
    return {
        TypeUrl.LISTENER: found.listeners,
        TypeUrl.SCOPE: found.scopes,
        TypeUrl.ROUTES: found.routes,
        TypeUrl.CLUSTER: found.clusters,
        TypeUrl.ENDPOINTS: found.endpoints,
    }


class Follower:
    """A proxy that asked for everything, and what it has by now: versions by kind and name."""

    def __init__(self, delivery: Delivery, proxy: Proxy) -> None:
        self.has: dict[TypeUrl, dict[str, str]] = {kind: {} for kind in TypeUrl}
        self._stream = Stream(delivery.hub, proxy)
        for kind in TypeUrl:
            names = () if kind in (TypeUrl.LISTENER, TypeUrl.SCOPE) else PORTS
            self._stream.take(DeltaDiscoveryRequest(type_url=kind.value, resource_names_subscribe=names))

    def follow(self) -> None:
        for text in self._stream.responses():
            response = DeltaDiscoveryResponse.FromString(text)
            kind = TypeUrl(response.type_url)
            for name in response.removed_resources:
                self.has[kind].pop(name, None)
            for resource in response.resources:
                self.has[kind][resource.name] = resource.version
            self._stream.take(DeltaDiscoveryRequest(type_url=kind.value, response_nonce=response.nonce))


@settings(max_examples=150, deadline=None)
@given(changes, st.sampled_from(NAMESPACES), st.integers(min_value=1, max_value=5))
def test_a_proxy_that_follows_every_change_has_what_the_last_state_gives(
    history: Sequence[tuple[Thing, bool]], namespace: Namespace, every: int
) -> None:
    delivery = Delivery(SETTINGS, linger=0)
    proxy = Proxy(namespace, "client")
    follower = Follower(delivery, proxy)
    state: dict[object, Thing] = {}
    for number, (thing, is_there) in enumerate(history):
        put(delivery, thing, is_there=is_there)
        if is_there:
            state[key_of(thing)] = thing
        else:
            state.pop(key_of(thing), None)
        if number % every == 0:
            follower.follow()
    follower.follow()
    for kind, resources in everything(state, proxy).items():
        asked_for = {name for name in resources if name in PORTS or kind in (TypeUrl.LISTENER, TypeUrl.SCOPE)}
        assert follower.has[kind] == {name: make_version(resources[name]) for name in asked_for}
        for name in asked_for:
            assert delivery.make(kind, name, delivery.variant(kind, name, proxy)) == resources[name]
    late = Follower(delivery, proxy)
    late.follow()
    assert late.has == follower.has
