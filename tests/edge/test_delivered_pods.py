"""What delivery makes of pods: who is told what, what a change touches, and what nobody else is told."""

from dataclasses import replace
from typing import Any

import pytest
from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest, DeltaDiscoveryResponse

from meshwright.edge.delivered import Delivery
from meshwright.edge.protobuf import TypeUrl
from meshwright.edge.stream import Stream
from meshwright.model.identity import ServiceAccount, TrustDomain
from meshwright.model.inbound import PolicyDefaults
from meshwright.model.pod import PROXY_CONTAINER, AccessLog, Pod, PortRanges
from meshwright.model.proxy import EndpointSlice, Proxy, ProxySettings, SliceEndpoint
from meshwright.model.ref import Kind, Ref, ServiceName
from meshwright.model.units import Namespace, Port
from meshwright.model.workload import NamespaceObject
from tests.mesh import SHOP, make_service

SETTINGS = ProxySettings(trust=TrustDomain())
WEB, API = ServiceName(SHOP, "web"), ServiceName(SHOP, "api")
CLUSTERS = ("shop/web/80", "10.96.0.10:80", "shop/api/80", "10.96.0.11:80", "10.0.0.1:8080", "10.0.0.2:8080")
PORTS = ("shop/web/80", "shop/api/80")
STALE = PortRanges(((Port(7), Port(7)),))


def make_pod(name: str = "web-1", ip: str = "10.0.0.1", account: str = "web", **more: Any) -> Pod:
    made = Pod(
        ref=Ref(Kind.POD, SHOP, name),
        uid=name,
        account=ServiceAccount(SHOP, account),
        addresses=(ip,),
        is_meshed=True,
    )
    return replace(made, **more)


def make_slice(service: ServiceName, **targets: str) -> EndpointSlice:
    """Return a slice with an endpoint for each pod (``_`` for ``-``) at its address; ``not_`` in front: not ready."""
    return EndpointSlice(
        ref=Ref(Kind.ENDPOINT_SLICE, SHOP, f"{service.name}-1"),
        service=service,
        family="IPv4",
        ports={"http": Port(8080)},
        endpoints=tuple(
            SliceEndpoint(
                addresses=(ip,),
                target=f"Pod/{name.removeprefix('not_').replace('_', '-')}",
                is_ready=not name.startswith("not_"),
            )
            for name, ip in targets.items()
        ),
    )


CLIENT = make_pod("client", "10.0.0.7", account="client")


class Ear:
    """A proxy that asked for everything there is here, and what it was told to look at."""

    def __init__(self, delivery: Delivery, name: str = "client") -> None:
        self.proxy = Proxy(SHOP, name)
        self.heard: list[tuple[TypeUrl, str]] = []
        delivery.variant(TypeUrl.LISTENER, "inbound", self.proxy)
        for cluster in CLUSTERS:
            delivery.hub.subscribe(self, TypeUrl.CLUSTER, cluster)
        for port in PORTS:
            delivery.hub.subscribe(self, TypeUrl.ENDPOINTS, port)
        for kind in (TypeUrl.LISTENER, TypeUrl.SCOPE):
            delivery.hub.subscribe(self, kind, None)

    def touched(self, kind: TypeUrl, names: Any) -> None:
        self.heard += [(kind, name) for name in names]

    def take(self) -> dict[TypeUrl, set[str]]:
        heard, self.heard = self.heard, []
        return {kind: {name for each, name in heard if each is kind} for kind, _ in heard}


@pytest.fixture
def delivery() -> Delivery:
    made = Delivery(SETTINGS, linger=0, defaults=PolicyDefaults())
    made.put_pod(CLIENT.ref, CLIENT)
    made.put_service(WEB, make_service("web", "10.96.0.10"))
    made.put_service(API, make_service("api", "10.96.0.11"))
    made.put_pod(make_pod().ref, make_pod())
    for piece in (make_slice(WEB, web_1="10.0.0.1"), make_slice(API)):
        made.put_slice(piece.ref, piece)
    return made


def get(delivery: Delivery, kind: TypeUrl, name: str, proxy: str = "client") -> Any:
    return delivery.make(kind, name, delivery.variant(kind, name, Proxy(SHOP, proxy)))


def identities(delivery: Delivery, name: str, proxy: str = "client") -> list[str]:
    return [each["name"] for each in get(delivery, TypeUrl.CLUSTER, name, proxy)["transport_socket_matches"]]


OF_WEB = {TypeUrl.CLUSTER: {"shop/web/80", "10.96.0.10:80", "10.0.0.1:8080"}, TypeUrl.ENDPOINTS: {"shop/web/80"}}


def test_a_pod_that_is_somebody_else_touches_its_services_and_its_addresses(delivery: Delivery) -> None:
    ear = Ear(delivery)
    pod = make_pod(account="next")
    delivery.put_pod(pod.ref, pod)
    assert ear.take() == OF_WEB
    assert identities(delivery, "shop/web/80") == ["shop/next", "plaintext"]
    delivery.put_pod(pod.ref, replace(pod, uid="restarted"))
    delivery.put_pod(pod.ref, replace(pod, uid="restarted"))
    assert ear.take() == {}
    delivery.put_pod(pod.ref, None)
    assert ear.take() == OF_WEB
    assert identities(delivery, "shop/web/80") == ["plaintext"]


def test_a_port_that_is_skipped_or_a_pod_of_a_known_account_leaves_the_clusters_as_they_are(delivery: Delivery) -> None:
    ear = Ear(delivery)
    second = make_pod("web-2", "10.0.0.2")
    delivery.put_pod(second.ref, second)
    assert ear.take() == {TypeUrl.CLUSTER: {"10.0.0.2:8080"}}
    piece = make_slice(WEB, web_1="10.0.0.1", not_web_2="10.0.0.2")
    delivery.put_slice(piece.ref, piece)
    assert ear.take() == {TypeUrl.ENDPOINTS: {"shop/web/80"}}
    delivery.put_pod(second.ref, replace(second, skipped_inbound=STALE))
    assert ear.take() == {TypeUrl.CLUSTER: {"10.0.0.2:8080"}, TypeUrl.ENDPOINTS: {"shop/web/80"}}


def test_who_comes_is_in_the_cluster_before_an_endpoint_says_so(delivery: Delivery) -> None:
    ear = Ear(delivery)
    second = make_pod("web-2", "10.0.0.2", account="next")
    delivery.put_pod(second.ref, second)
    ear.take()
    piece = make_slice(WEB, web_1="10.0.0.1", not_web_2="10.0.0.2")
    delivery.put_slice(piece.ref, piece)
    assert ear.take() == {TypeUrl.CLUSTER: {"shop/web/80", "10.96.0.10:80"}, TypeUrl.ENDPOINTS: {"shop/web/80"}}
    assert identities(delivery, "10.96.0.10:80") == ["shop/next", "shop/web", "plaintext"]
    piece = make_slice(WEB, web_1="10.0.0.1", web_2="10.0.0.2")
    delivery.put_slice(piece.ref, piece)
    assert ear.take() == {TypeUrl.ENDPOINTS: {"shop/web/80"}}


def test_clusters_go_out_before_endpoints(delivery: Delivery) -> None:
    stream = Stream(delivery.hub, Proxy(SHOP, "client"))
    for kind in (TypeUrl.ENDPOINTS, TypeUrl.CLUSTER):
        stream.take(DeltaDiscoveryRequest(type_url=kind.value, resource_names_subscribe=["shop/web/80"]))
    stream.responses()
    second = make_pod("web-2", "10.0.0.2", account="next")
    delivery.put_pod(second.ref, second)
    piece = make_slice(WEB, web_1="10.0.0.1", web_2="10.0.0.2")
    delivery.put_slice(piece.ref, piece)
    sent = [DeltaDiscoveryResponse.FromString(each).type_url for each in stream.responses()]
    assert sent == [TypeUrl.CLUSTER, TypeUrl.ENDPOINTS]


def test_an_endpoint_waits_for_its_pod(delivery: Delivery) -> None:
    piece = make_slice(WEB, web_1="10.0.0.1", web_2="10.0.0.2")
    delivery.put_slice(piece.ref, piece)

    def ips() -> list[str]:
        return [
            each["endpoint"]["address"]["socket_address"]["address"]
            for group in get(delivery, TypeUrl.ENDPOINTS, "shop/web/80")["endpoints"]
            for each in group["lb_endpoints"]
        ]

    assert ips() == ["10.0.0.1"]
    ear = Ear(delivery)
    second = make_pod("web-2", "10.0.0.2")
    delivery.put_pod(second.ref, second)
    assert ear.take()[TypeUrl.ENDPOINTS] == {"shop/web/80"}
    assert ips() == ["10.0.0.1", "10.0.0.2"]


def test_only_the_pod_itself_is_told_to_reach_itself_in_the_clear(delivery: Delivery) -> None:
    for name in ("shop/web/80", "10.96.0.10:80"):
        assert identities(delivery, name, "web-1") == ["own", "shop/web", "plaintext"]
        assert identities(delivery, name, "client") == ["shop/web", "plaintext"]
    assert "transport_socket" not in get(delivery, TypeUrl.CLUSTER, "10.0.0.1:8080", "web-1")
    assert "transport_socket" in get(delivery, TypeUrl.CLUSTER, "10.0.0.1:8080", "client")
    assert identities(delivery, "shop/api/80", "web-1") == ["plaintext"]
    own, other = Ear(delivery, "web-1"), Ear(delivery)
    piece = make_slice(API, web_1="10.0.0.1")
    delivery.put_slice(piece.ref, piece)
    assert identities(delivery, "shop/api/80", "web-1") == ["own", "shop/web", "plaintext"]
    assert (
        own.take()
        == other.take()
        == {
            TypeUrl.CLUSTER: {"shop/api/80", "10.96.0.11:80"},
            TypeUrl.ENDPOINTS: {"shop/api/80"},
        }
    )


def test_a_pod_that_joins_people_like_itself_is_told_so_alone(delivery: Delivery) -> None:
    second = make_pod("web-2", "10.0.0.2")
    delivery.put_pod(second.ref, second)
    own, other = Ear(delivery, "web-2"), Ear(delivery)
    piece = make_slice(WEB, web_1="10.0.0.1", web_2="10.0.0.2")
    delivery.put_slice(piece.ref, piece)
    assert other.take() == {TypeUrl.ENDPOINTS: {"shop/web/80"}}
    assert own.take() == {TypeUrl.ENDPOINTS: {"shop/web/80"}, TypeUrl.CLUSTER: {"shop/web/80", "10.96.0.10:80"}}


def test_of_two_pods_at_one_address_the_first_by_name_is_meant() -> None:
    orders = []
    for names in (("web-1", "web-2"), ("web-2", "web-1")):
        delivery = Delivery(SETTINGS)
        for name in names:
            pod = make_pod(name, account=name)
            delivery.put_pod(pod.ref, pod)
        orders.append(get(delivery, TypeUrl.CLUSTER, "10.0.0.1:8080"))
        delivery.put_pod(make_pod("web-1").ref, None)
        orders.append(get(delivery, TypeUrl.CLUSTER, "10.0.0.1:8080"))
    names_shown = [order["transport_socket"]["typed_config"]["sni"].partition(".")[0] for order in orders]
    assert names_shown == ["web-1", "web-2", "web-1", "web-2"]


def has_chain(delivery: Delivery, name: str, proxy: str) -> bool:
    listener = get(delivery, TypeUrl.LISTENER, "inbound", proxy)
    return any(chain["name"] == name for chain in listener["filter_chains"])


def test_a_proxy_gets_the_inbound_listener_of_its_own_pod(delivery: Delivery) -> None:
    own, other = Ear(delivery, "web-1"), Ear(delivery)
    pod = make_pod(opaque=STALE)
    delivery.put_pod(pod.ref, pod)
    assert (own.take(), other.take()) == ({TypeUrl.LISTENER: {"inbound"}}, {})
    assert has_chain(delivery, "mesh-tcp-7", "web-1")
    assert not has_chain(delivery, "mesh-tcp-7", "client")
    eight = PortRanges(((Port(8), Port(8)),))
    namespace = NamespaceObject(ref=Ref(Kind.NAMESPACE, SHOP, "shop"), opaque=eight)
    delivery.put_namespace(SHOP, namespace)
    assert other.take() == {TypeUrl.LISTENER: {"inbound"}}
    assert has_chain(delivery, "mesh-tcp-8", "client")
    assert not has_chain(delivery, "mesh-tcp-8", "web-1"), "what the pod says comes first"
    delivery.put_namespace(SHOP, None)
    assert not has_chain(delivery, "mesh-tcp-8", "client")


def test_a_proxy_writes_down_what_its_own_pod_asks_for(delivery: Delivery) -> None:
    def logs(proxy: str) -> list[Any]:
        listener = get(delivery, TypeUrl.LISTENER, "inbound", proxy)
        [http] = [chain for chain in listener["filter_chains"] if chain["name"] == "mesh-http"]
        found = http["filters"][0]["typed_config"].get("access_log", ())
        return [each["typed_config"]["log_format"] for each in found if "filter" not in each]

    own, other = Ear(delivery, "web-1"), Ear(delivery)
    assert logs("web-1") == []
    for style, key in ((AccessLog.JSON, "json_format"), (AccessLog.APACHE, "text_format_source")):
        pod = make_pod(opaque=STALE, access_log=style)
        delivery.put_pod(pod.ref, pod)
        assert (own.take(), other.take()) == ({TypeUrl.LISTENER: {"inbound"}}, {})
        assert [list(each) for each in logs("web-1")] == [[key]]
        assert has_chain(delivery, "mesh-tcp-7", "web-1")
        assert logs("client") == []
    pod = make_pod(access_log=AccessLog.JSON)
    delivery.put_pod(pod.ref, pod)
    assert not has_chain(delivery, "mesh-tcp-7", "web-1")
    assert len(logs("web-1")) == 1


def test_a_namespaces_opaque_ports_are_its_services(delivery: Delivery) -> None:
    ear = Ear(delivery)
    namespace = NamespaceObject(ref=Ref(Kind.NAMESPACE, SHOP, "shop"), opaque=PortRanges(((Port(80), Port(80)),)))
    delivery.put_namespace(SHOP, namespace)
    assert ear.take()[TypeUrl.LISTENER] == {"inbound", "outbound"}
    disabled = get(delivery, TypeUrl.LISTENER, "outbound")["listener_filters"][-1]["filter_disabled"]["or_match"]
    assert {"destination_port_range": {"start": 80, "end": 81}} in disabled["rules"]
    other = ServiceName(SHOP, "plain")
    delivery.put_service(other, replace(make_service("plain", "10.96.0.12"), opaque=PortRanges()))
    assert TypeUrl.LISTENER in ear.take()
    listener = get(delivery, TypeUrl.LISTENER, "outbound")
    assert {"destination_port_range": {"start": 80, "end": 81}} not in listener["listener_filters"][-1][
        "filter_disabled"
    ]["or_match"]["rules"]
    [chain] = [each for each in listener["filter_chains"] if each["name"] == "opaque-80"]
    ips = [each["address_prefix"] for each in chain["filter_chain_match"]["prefix_ranges"]]
    assert ips == ["10.96.0.10", "10.96.0.11"]
    delivery.put_service(ServiceName(SHOP, "more"), make_service("more", "10.96.0.13", port=81))
    assert TypeUrl.LISTENER not in ear.take(), "what is HTTP changes no listener"


def test_an_ingress_controllers_proxy_gets_names_and_nobody_else_does(delivery: Delivery) -> None:
    own, other = Ear(delivery, "nginx"), Ear(delivery)
    pod = make_pod("nginx", "10.0.0.9", is_ingress=True)
    delivery.put_pod(pod.ref, pod)
    named = {"mesh/direct"} | {
        f"{service}.shop.svc{domain}{port}"
        for service in ("web", "api")
        for domain in ("", ".cluster.local")
        for port in ("", ":80")
    }
    assert own.take() == {TypeUrl.LISTENER: {"inbound", "outbound"}, TypeUrl.SCOPE: named}
    assert other.take() == {}
    assert set(delivery.names(TypeUrl.SCOPE)) == {"10.96.0.10:80", "10.96.0.11:80"} | named
    for name in named:
        assert get(delivery, TypeUrl.SCOPE, name, "client") is None
        assert get(delivery, TypeUrl.SCOPE, name, "nginx")["key"] == {"fragments": [{"string_key": name}]}
    assert get(delivery, TypeUrl.SCOPE, "web.shop.svc:81", "nginx") is None
    delivery.put_service(API, None)
    assert get(delivery, TypeUrl.SCOPE, "api.shop.svc:80", "nginx") is None
    assert {name for name in own.take()[TypeUrl.SCOPE] if name.startswith("api")} == {
        name for name in named if name.startswith("api")
    }
    delivery.put_pod(pod.ref, None)
    assert set(delivery.names(TypeUrl.SCOPE)) == {"10.96.0.10:80"}


def test_pods_and_namespaces_are_read_as_the_api_server_has_them() -> None:
    delivery = Delivery(SETTINGS, defaults=PolicyDefaults())
    ref = Ref(Kind.POD, SHOP, "web-1")
    raw: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"namespace": "shop", "name": "web-1", "uid": "u"},
        "spec": {"serviceAccountName": "web", "initContainers": [{"name": PROXY_CONTAINER}]},
        "status": {"podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00:0::1"}]},
    }
    delivery.put(ref, raw)
    assert delivery.pods == {ref: replace(make_pod(), uid="u", addresses=("10.0.0.1", "fd00::1"))}
    assert "transport_socket" in get(delivery, TypeUrl.CLUSTER, "[fd00::1]:80")
    delivery.put(ref, None)
    assert delivery.pods == {}
    assert "transport_socket" not in get(delivery, TypeUrl.CLUSTER, "[fd00::1]:80")
    delivery.put_service(WEB, make_service("web", "10.96.0.10"))
    annotations = {"config.linkerd.io/opaque-ports": "80"}
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop", "annotations": annotations}}
    delivery.put(Ref(Kind.NAMESPACE, SHOP, "shop"), namespace)
    delivery.put_pod(CLIENT.ref, CLIENT)
    assert has_chain(delivery, "mesh-tcp-80", "client")


def test_without_identities_pods_touch_no_cluster() -> None:
    delivery = Delivery(ProxySettings())
    ear = Ear(delivery)
    delivery.put_service(WEB, make_service("web", "10.96.0.10"))
    piece = make_slice(WEB, web_1="10.0.0.1")
    delivery.put_slice(piece.ref, piece)
    ear.take()
    delivery.put_pod(make_pod().ref, make_pod())
    assert TypeUrl.CLUSTER not in ear.take()
    assert "transport_socket_matches" not in get(delivery, TypeUrl.CLUSTER, "shop/web/80")


def told_peers(delivery: Delivery, name: str = "shop/web/80") -> list[dict[str, str]]:
    """Return what the endpoints of a port say of themselves."""
    return [
        each["metadata"]["filter_metadata"]["envoy.transport_socket_match"]
        for group in get(delivery, TypeUrl.ENDPOINTS, name)["endpoints"]
        for each in group["lb_endpoints"]
    ]


def write_slice(service: ServiceName, *ips: str, target: str = "") -> EndpointSlice:
    """Return a slice as people write it by hand: addresses, and no pods."""
    endpoints = tuple(SliceEndpoint(addresses=(ip,), target=target) for ip in ips)
    return replace(make_slice(service), family="IPv6" if ":" in ips[0] else "IPv4", endpoints=endpoints)


@pytest.mark.parametrize("target", ["", "Node/one", "/web-1"])
@pytest.mark.parametrize("written", ["10.0.0.1", "FD00:0::1"])
def test_an_address_alone_is_the_pod_that_is_there(delivery: Delivery, target: str, written: str) -> None:
    """A pod that is meshed is not spoken to in the clear because a slice does not say that it is one."""
    pod = make_pod(ip="10.0.0.1" if "." in written else "fd00::1")
    delivery.put_pod(pod.ref, pod)
    nobody = make_slice(WEB)
    delivery.put_slice(nobody.ref, nobody)
    piece = write_slice(API, written, target=target)
    delivery.put_slice(piece.ref, piece)
    uri = "spiffe://cluster.local/ns/shop/sa/web"
    assert told_peers(delivery, "shop/api/80") == [{"peer": uri, "pod": "web-1"}]
    assert identities(delivery, "shop/api/80") == ["shop/web", "plaintext"]
    assert identities(delivery, "shop/api/80", "web-1") == ["own", "shop/web", "plaintext"]
    ear = Ear(delivery)
    delivery.put_pod(pod.ref, None)
    assert ear.take()[TypeUrl.ENDPOINTS] == {"shop/api/80"}
    assert told_peers(delivery, "shop/api/80") == [{"peer": "plaintext"}]
    assert identities(delivery, "shop/api/80") == ["plaintext"]
    delivery.put_pod(pod.ref, pod)
    assert {"shop/api/80", "10.96.0.11:80"} <= ear.take()[TypeUrl.CLUSTER]
    assert told_peers(delivery, "shop/api/80") == [{"peer": uri, "pod": "web-1"}]


def test_a_namesake_of_another_namespace_is_not_reached_in_the_clear(delivery: Delivery) -> None:
    other = Namespace("other")
    pod = make_pod(ip="10.0.0.9", account="web")
    stranger = replace(pod, ref=replace(pod.ref, namespace=other), account=ServiceAccount(other, "web"))
    delivery.put_pod(stranger.ref, stranger)
    piece = write_slice(WEB, "10.0.0.1", "10.0.0.9")
    delivery.put_slice(piece.ref, piece)
    assert [each["pod"] for each in told_peers(delivery)] == ["web-1", "other/web-1"]
    assert identities(delivery, "shop/web/80", "web-1") == ["own", "other/web", "shop/web", "plaintext"]
    own = get(delivery, TypeUrl.CLUSTER, "shop/web/80", "web-1")["transport_socket_matches"][0]
    assert own["match"] == {"pod": "web-1"}
    theirs = delivery.make(
        TypeUrl.CLUSTER, "shop/web/80", delivery.variant(TypeUrl.CLUSTER, "shop/web/80", Proxy(other, "web-1"))
    )
    assert theirs is not None
    assert theirs["transport_socket_matches"][0]["match"] == {"pod": "other/web-1"}


def test_addresses_alone_that_are_gone_are_forgotten(delivery: Delivery) -> None:
    piece = write_slice(API, "10.0.0.1", "10.0.0.2")
    delivery.put_slice(piece.ref, piece)
    delivery.put_slice(piece.ref, write_slice(API, "10.0.0.2"))
    delivery.put_slice(piece.ref, None)
    assert not delivery._members._alone
