"""Laws of delivery: what it serves is what `assemble` says, whatever happened before, in whatever order."""

from collections.abc import Mapping, Sequence
from typing import Any

from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest, DeltaDiscoveryResponse
from hypothesis import given, settings
from hypothesis import strategies as st

from meshwright.edge.delivered import Delivery
from meshwright.edge.policies import NOBODY
from meshwright.edge.protobuf import TypeUrl, make_version
from meshwright.edge.stream import Stream
from meshwright.emit.listeners import INBOUND_LISTENER
from meshwright.emit.names import INBOUND_ROUTES
from meshwright.emit.proxy import assemble
from meshwright.link.govern import govern
from meshwright.link.ports import declare_opaque
from meshwright.model.identity import MACHINE_MARK, ServiceAccount, TrustDomain
from meshwright.model.inbound import PolicyDefaults, ServerPolicy
from meshwright.model.pod import Pod, PortRanges
from meshwright.model.policy import AccessPolicy, ProxyProtocol
from meshwright.model.proxy import EndpointSlice, OutboundUnit, Proxy, ProxySettings
from meshwright.model.ref import Kind, Ref, ServiceName
from meshwright.model.selector import Selector
from meshwright.model.units import Namespace, Port
from meshwright.model.workload import ExternalWorkload, NamespaceObject, Protocol, Service
from tests.mesh import SHOP, make_service, make_slice, make_unit, to

SETTINGS = ProxySettings(trust=TrustDomain())
NAMES = ("web", "cart")
NAMESPACES = (SHOP, Namespace("client"))
PORTS = tuple(f"{namespace}/{name}/{port}" for namespace in NAMESPACES for name in NAMES for port in (80, 81))

ASKED = (*PORTS, INBOUND_ROUTES)

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
    st.sampled_from(("", "Pod/client", "Pod/other", "ExternalWorkload/client", "ExternalWorkload/other")),
)
pods = st.builds(
    lambda namespace, name, account, ip, is_meshed, is_ingress, opaque, access: Pod(
        ref=Ref(Kind.POD, namespace, name),
        uid="uid",
        account=ServiceAccount(namespace, account),
        addresses=(ip,),
        is_meshed=is_meshed,
        is_ingress=is_ingress,
        opaque=opaque,
        labels=(("app", account),),
        access=access,
    ),
    st.sampled_from(NAMESPACES),
    st.sampled_from(("client", "other")),
    st.sampled_from(("a", "b")),
    st.sampled_from(("10.244.0.1", "10.244.0.2")),
    st.booleans(),
    st.booleans(),
    st.sampled_from((None, PortRanges(), PortRanges(((Port(80), Port(81)),)))),
    st.sampled_from((None, None, AccessPolicy.DENY)),
)
machines = st.builds(
    lambda namespace, name, identity, server_name, ip, skipped, access: ExternalWorkload(
        ref=Ref(Kind.EXTERNAL_WORKLOAD, namespace, name),
        uid="uid",
        ips=(ip,),
        ports=(),
        is_ready=True,
        identity=identity,
        server_name=server_name,
        labels=(("app", "a"),),
        skipped_inbound=skipped,
        access=access,
    ),
    st.sampled_from(NAMESPACES),
    st.sampled_from(("client", "other")),
    st.sampled_from(("", "spiffe://cluster.local/vm", "vm.example")),
    st.sampled_from(("vm.example", f"vm.ledger.shop{MACHINE_MARK}mesh")),
    st.sampled_from(("10.244.0.1", "10.244.0.2")),
    st.sampled_from((PortRanges(), PortRanges(((Port(8080), Port(8080)),)))),
    st.sampled_from((None, None, AccessPolicy.DENY)),
)
servers = st.builds(
    lambda namespace, name, account, port, protocol, selects_external: ServerPolicy(
        server=Ref(Kind.SERVER, namespace, name),
        selects_external=selects_external,
        selector=Selector(labels=(("app", account),)),
        port=Port(port),
        protocol=protocol,
    ),
    st.sampled_from(NAMESPACES),
    st.sampled_from(("one", "two")),
    st.sampled_from(("a", "b")),
    st.sampled_from((80, 81)),
    st.sampled_from((ProxyProtocol.HTTP1, ProxyProtocol.OPAQUE)),
    st.booleans(),
)
spaces = st.builds(
    lambda namespace, opaque, access: NamespaceObject(
        ref=Ref(Kind.NAMESPACE, Namespace(""), namespace), opaque=opaque, access=access
    ),
    st.sampled_from(NAMESPACES),
    st.sampled_from((None, PortRanges(((Port(80), Port(80)),)))),
    st.sampled_from((None, AccessPolicy.AUDIT)),
)
Thing = Service | OutboundUnit | EndpointSlice | Pod | ExternalWorkload | ServerPolicy | NamespaceObject
things = st.one_of(services, units, slices, pods, pods, machines, machines, servers, servers, spaces)
changes = st.lists(st.tuples(things, st.booleans()), max_size=25)
proxies = st.builds(
    Proxy, st.sampled_from(NAMESPACES), st.just("client"), st.sampled_from((Kind.POD, Kind.EXTERNAL_WORKLOAD))
)
DEFAULTS = PolicyDefaults(follows_namespace=True)


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
        case ExternalWorkload():
            delivery.put_machine(thing.ref, thing if is_there else None)
        case ServerPolicy():
            delivery.put_policy(thing.server, thing if is_there else None)
        case NamespaceObject():
            delivery.put_namespace(Namespace(thing.ref.name), thing if is_there else None)


def key_of(thing: Thing) -> object:
    match thing:
        case OutboundUnit():
            return thing.name
        case ServerPolicy():
            return thing.server
        case _:
            return thing.ref


def everything(state: dict[object, Thing], proxy: Proxy) -> dict[TypeUrl, Mapping[str, Mapping[str, Any]]]:
    """Return what `assemble` makes of a state, by kind."""
    above = {thing.ref.name: thing for thing in state.values() if isinstance(thing, NamespaceObject)}
    opaque = {name: thing.opaque for name, thing in above.items()}
    own = state.get(proxy.ref)
    inbound = NOBODY
    if isinstance(own, Pod | ExternalWorkload):
        servers = [thing for thing in state.values() if isinstance(thing, ServerPolicy)]
        space = above.get(proxy.namespace)
        inbound = govern(own, servers, DEFAULTS, space.access if space else None, opaque.get(proxy.namespace))
    found = assemble(
        proxy,
        [thing for thing in state.values() if isinstance(thing, OutboundUnit)],
        [
            declare_opaque(thing, opaque.get(thing.ref.namespace), SETTINGS.opaque_ports)
            for thing in state.values()
            if isinstance(thing, Service)
        ],
        [thing for thing in state.values() if isinstance(thing, EndpointSlice)],
        SETTINGS,
        [thing for thing in state.values() if isinstance(thing, Pod | ExternalWorkload)],
        inbound,
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
            names = () if kind in (TypeUrl.LISTENER, TypeUrl.SCOPE) else ASKED
            self._stream.take(DeltaDiscoveryRequest(type_url=kind.value, resource_names_subscribe=names))

    def follow(self) -> None:
        self._stream.wake.set()
        while self._stream.wake.is_set():
            self._stream.wake.clear()
            self._take_all()

    def _take_all(self) -> None:
        for text in self._stream.responses():
            response = DeltaDiscoveryResponse.FromString(text)
            kind = TypeUrl(response.type_url)
            for name in response.removed_resources:
                self.has[kind].pop(name, None)
            for resource in response.resources:
                self.has[kind][resource.name] = resource.version
            self._stream.take(DeltaDiscoveryRequest(type_url=kind.value, response_nonce=response.nonce))


@settings(max_examples=150, deadline=None)
@given(changes, proxies, st.integers(min_value=1, max_value=5))
def test_a_proxy_that_follows_every_change_has_what_the_last_state_gives(
    history: Sequence[tuple[Thing, bool]], proxy: Proxy, every: int
) -> None:
    delivery = Delivery(SETTINGS, linger=0, defaults=DEFAULTS)
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
    late = Follower(delivery, proxy)
    late.follow()
    # A workload that is gone has a proxy that is about to end: nothing more is said to it about who may call.
    untold = set() if proxy.ref in state else {INBOUND_LISTENER, INBOUND_ROUTES}

    def shown(one: Follower, kind: TypeUrl) -> dict[str, str]:
        return {name: version for name, version in one.has[kind].items() if name not in untold}

    for kind, resources in everything(state, proxy).items():
        asked_for = {name for name in resources if name in ASKED or kind in (TypeUrl.LISTENER, TypeUrl.SCOPE)}
        for each in (follower, late):
            assert shown(each, kind) == {name: make_version(resources[name]) for name in asked_for - untold}
        for name in asked_for:
            assert delivery.make(kind, name, delivery.variant(kind, name, proxy)) == resources[name]
