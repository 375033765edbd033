"""What delivery makes of ExternalWorkloads: who is told what, what a change touches, and who is believed."""

from dataclasses import replace
from itertools import permutations
from typing import Any

import pytest

from meshwright.edge.delivered import Delivery
from meshwright.edge.protobuf import TypeUrl
from meshwright.emit.inbound_routes import emit_inbound_routes
from meshwright.emit.listeners import emit_inbound_listener
from meshwright.emit.names import INBOUND_ROUTES
from meshwright.link.govern import govern
from meshwright.model.identity import ServiceAccount, TrustDomain
from meshwright.model.inbound import Inbound, PolicyDefaults, ServerPolicy
from meshwright.model.pod import Pod, PortRanges
from meshwright.model.policy import AccessPolicy
from meshwright.model.proxy import EndpointSlice, OutboundUnit, Proxy, ProxySettings, SliceEndpoint
from meshwright.model.ref import Kind, Ref, ServiceName
from meshwright.model.selector import Selector
from meshwright.model.units import Namespace, Port
from meshwright.model.workload import ExternalWorkload, NamespaceObject
from tests.mesh import NOTHING_MATCHES, SHOP, make_service, make_unit, to

BANK = Namespace("bank")
TRUST = TrustDomain()
SETTINGS = ProxySettings(trust=TRUST)
DEFAULTS = PolicyDefaults(access=AccessPolicy.CLUSTER_UNAUTHENTICATED, follows_namespace=True)
WEB = ServiceName(SHOP, "web")
URI, DNS = TRUST.machine_uri(SHOP, "ledger", "uid-1"), TRUST.machine_dns(SHOP, "ledger", "vm-1")
NAMES = ("shop/web/80", "10.96.0.10:80")
CLIENT = Proxy(SHOP, "client")


def machine(name: str = "vm-1", *ips: str, namespace: Namespace = SHOP, **more: Any) -> ExternalWorkload:
    made = ExternalWorkload(
        ref=Ref(Kind.EXTERNAL_WORKLOAD, namespace, name),
        uid=name,
        ips=ips or ("192.0.2.1",),
        ports=(),
        is_ready=True,
        identity=URI,
        server_name=DNS,
        labels=(("app", "ledger"),),
    )
    return replace(made, **more)


def pod(name: str, *ips: str, **more: Any) -> Pod:
    account = ServiceAccount(SHOP, "web")
    made = Pod(ref=Ref(Kind.POD, SHOP, name), uid=name, account=account, addresses=ips, is_meshed=True)
    return replace(made, **more)


def make_slice(*endpoints: tuple[str, str]) -> EndpointSlice:
    """Return a slice of Service web; an endpoint is an address and what it says it is."""
    return EndpointSlice(
        ref=Ref(Kind.ENDPOINT_SLICE, SHOP, "web-1"),
        service=WEB,
        family="IPv4",
        ports={"http": Port(8080)},
        endpoints=tuple(SliceEndpoint(addresses=(ip,), target=target) for ip, target in endpoints),
    )


def make_delivery(settings: ProxySettings = SETTINGS) -> Delivery:
    made = Delivery(settings, linger=0, defaults=DEFAULTS)
    made.put_service(WEB, make_service("web", "10.96.0.10"))
    return made


@pytest.fixture
def delivery() -> Delivery:
    """Return what there is with a machine behind a Service."""
    made = make_delivery()
    put(made, machine())
    made.put_slice(make_slice().ref, make_slice(("192.0.2.1", "ExternalWorkload/vm-1")))
    return made


def put(delivery: Delivery, *workloads: Pod | ExternalWorkload) -> None:
    for each in workloads:
        if isinstance(each, Pod):
            delivery.put_pod(each.ref, each)
        else:
            delivery.put_machine(each.ref, each)


class Ear:
    """A proxy that asked for everything there is here, and what it was told to look at."""

    def __init__(self, delivery: Delivery, proxy: Proxy = CLIENT) -> None:
        self.proxy = proxy
        self.heard: set[tuple[TypeUrl, str]] = set()
        delivery.variant(TypeUrl.LISTENER, "inbound", self.proxy)
        for cluster in (*NAMES, "192.0.2.1:8080", "192.0.2.2:8080"):
            delivery.hub.subscribe(self, TypeUrl.CLUSTER, cluster)
        delivery.hub.subscribe(self, TypeUrl.ENDPOINTS, NAMES[0])
        delivery.hub.subscribe(self, TypeUrl.LISTENER, None)
        delivery.hub.subscribe(self, TypeUrl.ROUTES, INBOUND_ROUTES)

    def touched(self, kind: TypeUrl, names: Any) -> None:
        self.heard |= {(kind, name) for name in names}

    def take(self) -> dict[str, set[str]]:
        heard, self.heard = self.heard, set()
        return {kind.word: {name for each, name in heard if each is kind} for kind, _ in heard}


def get(delivery: Delivery, kind: TypeUrl, name: str, proxy: Proxy = CLIENT) -> Any:
    return delivery.make(kind, name, delivery.variant(kind, name, proxy))


def told(delivery: Delivery) -> list[dict[str, str]]:
    """Return what the endpoints of the Service say of themselves."""
    return [
        each["metadata"]["filter_metadata"]["envoy.transport_socket_match"]
        for group in get(delivery, TypeUrl.ENDPOINTS, NAMES[0])["endpoints"]
        for each in group["lb_endpoints"]
    ]


def asked(socket: dict[str, Any]) -> tuple[str, str, str]:
    """Return the name that a connection's other side must bear, and what TLS calls it."""
    config = socket["typed_config"]
    common = config["common_tls_context"]["combined_validation_context"]["default_validation_context"]
    [name] = common["match_typed_subject_alt_names"]
    return name["san_type"], name["matcher"]["exact"], config["sni"]


def matches(delivery: Delivery, proxy: Proxy = CLIENT) -> list[str]:
    return [each["name"] for each in get(delivery, TypeUrl.CLUSTER, NAMES[0], proxy)["transport_socket_matches"]]


OF_MACHINE = {"machine": URI, "server-name": DNS, "external-workload": "vm-1"}
NOBODY = ("URI", "spiffe://cluster.local/nobody", f"nobody.{TRUST.suffix}")


def test_a_machine_behind_a_service_is_spoken_to_as_it_says(delivery: Delivery) -> None:
    assert told(delivery) == [OF_MACHINE]
    for name in NAMES:
        own, nobody = get(delivery, TypeUrl.CLUSTER, name)["transport_socket_matches"]
        assert own["match"] == {"machine": URI, "server-name": DNS}
        assert asked(own["transport_socket"]) == ("URI", URI, DNS)
        assert nobody["match"] == {"peer": "plaintext"}
    assert asked(get(delivery, TypeUrl.CLUSTER, "192.0.2.1:8080")["transport_socket"]) == ("URI", URI, DNS)


@pytest.mark.parametrize(
    ("identity", "expected"),
    [
        ("spiffe://cluster.local/legacy", ("URI", "spiffe://cluster.local/legacy", DNS)),
        ("db.example", ("DNS", "db.example", DNS)),
        ("plaintext", ("DNS", "plaintext", DNS)),
        (TRUST.uri(ServiceAccount(SHOP, "web")), ("URI", TRUST.uri(ServiceAccount(SHOP, "web")), DNS)),
    ],
)
def test_what_a_machine_calls_itself_makes_it_neither_a_pod_nor_nobody(
    delivery: Delivery, identity: str, expected: tuple[str, str, str]
) -> None:
    put(delivery, machine(identity=identity))
    assert told(delivery) == [OF_MACHINE | {"machine": identity}]
    fitting = [
        asked(each["transport_socket"])
        for each in get(delivery, TypeUrl.CLUSTER, NAMES[0])["transport_socket_matches"]
        if each["match"].items() <= told(delivery)[0].items()
    ]
    assert fitting == [expected]


def test_where_its_annotation_says_that_no_proxy_is_it_is_spoken_to_in_the_clear(delivery: Delivery) -> None:
    put(delivery, machine(skipped_inbound=PortRanges(((Port(8080), Port(8080)),))))
    assert told(delivery) == [{"peer": "plaintext"}]
    assert "transport_socket" not in get(delivery, TypeUrl.CLUSTER, "192.0.2.1:8080")
    assert asked(get(delivery, TypeUrl.CLUSTER, "192.0.2.1:8081")["transport_socket"]) == ("URI", URI, DNS)
    assert "transport_socket" not in get(delivery, TypeUrl.CLUSTER, "192.0.2.1:4191"), "where it is asked how it is"


@pytest.mark.parametrize("unread", [replace(machine(), identity=""), replace(machine(), server_name="")])
def test_a_machine_of_which_nobody_can_read_who_it_is_is_not_reached(
    delivery: Delivery, unread: ExternalWorkload
) -> None:
    put(delivery, unread)
    assert told(delivery) == []
    assert matches(delivery) == ["plaintext"]
    assert asked(get(delivery, TypeUrl.CLUSTER, "192.0.2.1:8080")["transport_socket"]) == NOBODY


def test_an_endpoint_waits_for_its_machine() -> None:
    delivery = make_delivery()
    delivery.put_slice(make_slice().ref, make_slice(("192.0.2.1", "ExternalWorkload/vm-1"), ("192.0.2.9", "")))
    assert told(delivery) == [{"peer": "plaintext"}]
    ear = Ear(delivery)
    put(delivery, machine())
    everything = {
        "Cluster": {*NAMES, "192.0.2.1:8080"},
        "ClusterLoadAssignment": {NAMES[0]},
    }
    assert ear.take() == everything
    assert told(delivery) == [{"peer": "plaintext"}, OF_MACHINE]
    delivery.put_machine(machine().ref, None)
    assert ear.take() == everything
    assert told(delivery) == [{"peer": "plaintext"}]
    assert delivery.machines == {}


def test_only_what_changes_how_a_machine_is_spoken_to_touches_anything(delivery: Delivery) -> None:
    ear = Ear(delivery)
    put(delivery, machine(is_ready=False, zone="dc-2"))
    put(delivery, machine(uid="another"))
    assert ear.take() == {}
    put(delivery, machine(identity="db.example"))
    assert ear.take() == {"Cluster": {*NAMES, "192.0.2.1:8080"}, "ClusterLoadAssignment": {NAMES[0]}}
    put(delivery, machine("vm-1", "192.0.2.2", identity="db.example"))
    assert ear.take() == {"Cluster": {"192.0.2.1:8080", "192.0.2.2:8080"}}
    assert "transport_socket" not in get(delivery, TypeUrl.CLUSTER, "192.0.2.1:8080")


def test_pods_and_machines_may_be_behind_one_service() -> None:
    delivery = make_delivery()
    second = machine("vm-2", "192.0.2.2", server_name="two.example")
    put(delivery, machine(), second, pod("web-1", "10.0.0.1"), pod("old", "10.0.0.2", is_meshed=False))
    piece = make_slice(
        ("10.0.0.1", "Pod/web-1"),
        ("10.0.0.2", "Pod/old"),
        ("192.0.2.1", "ExternalWorkload/vm-1"),
        ("192.0.2.2", "ExternalWorkload/vm-2"),
    )
    delivery.put_slice(piece.ref, piece)
    assert told(delivery) == [
        OF_MACHINE,
        {"machine": URI, "server-name": "two.example", "external-workload": "vm-2"},
        {"peer": "plaintext"},
        {"peer": TRUST.uri(ServiceAccount(SHOP, "web")), "pod": "web-1"},
    ]
    assert matches(delivery) == ["shop/web", "two.example", DNS, "plaintext"]


def test_an_address_alone_is_the_machine_that_is_there(delivery: Delivery) -> None:
    delivery.put_slice(make_slice().ref, make_slice(("192.0.2.1", "")))
    assert told(delivery) == [OF_MACHINE]
    put(delivery, machine(namespace=BANK), machine("vm-1", "192.0.2.7"))
    assert told(delivery) == [{"peer": "plaintext"}], "what another namespace says of the address counts there"


def test_no_namespace_says_how_others_speak_to_an_address() -> None:
    """It may be the API server's, a data base's, or that of a machine of theirs."""
    delivery, elsewhere = make_delivery(), Proxy(BANK, "client")
    delivery.put_slice(make_slice().ref, make_slice(("192.0.2.1", "")))
    direct, ear = "192.0.2.1:8080", Ear(delivery)
    in_clear = get(delivery, TypeUrl.CLUSTER, direct)
    put(delivery, machine("a", namespace=BANK, identity="a.example"))
    ear.take()
    assert (told(delivery), get(delivery, TypeUrl.CLUSTER, direct)) == ([{"peer": "plaintext"}], in_clear)
    assert asked(get(delivery, TypeUrl.CLUSTER, direct, elsewhere)["transport_socket"])[1] == "a.example"
    put(delivery, machine(), machine("b", namespace=BANK, skipped_inbound=PortRanges(((Port(1), Port(65535)),))))
    assert ear.take() == {"Cluster": {*NAMES, direct}, "ClusterLoadAssignment": {NAMES[0]}}
    assert told(delivery) == [OF_MACHINE]
    assert asked(get(delivery, TypeUrl.CLUSTER, direct)["transport_socket"]) == ("URI", URI, DNS)
    delivery.put_machine(machine().ref, None)
    assert get(delivery, TypeUrl.CLUSTER, direct) == in_clear


def test_who_is_believed_at_one_address_does_not_depend_on_who_came_first() -> None:
    """Pods' addresses are given out by the cluster; machines' are written down by people, in any namespace."""
    claims: tuple[Pod | ExternalWorkload, ...] = (
        machine("vm-2", identity="b.example"),
        machine("vm-1", identity="a.example"),
        machine("vm-0", namespace=BANK, identity="bank.example"),
        pod("web-1", "192.0.2.1"),
    )
    order = ["spiffe://cluster.local/ns/shop/sa/web", "a.example", "b.example"]
    by_name = {claim.ref: name for claim, name in zip((claims[3], claims[1], claims[0]), order, strict=True)}
    for coming in permutations(claims):
        delivery = make_delivery()
        put(delivery, *coming)
        for gone in ("", *order[:-1]):
            for ref in [ref for ref, name in by_name.items() if name == gone]:
                delivery.put_pod(ref, None) if ref.kind is Kind.POD else delivery.put_machine(ref, None)
            made = get(delivery, TypeUrl.CLUSTER, "192.0.2.1:8080")
            assert asked(made["transport_socket"])[1] == order[order.index(gone) + 1 if gone else 0]


def test_a_machine_behind_a_service_is_to_its_own_proxy_the_application_itself(delivery: Delivery) -> None:
    own = Proxy.of(machine().ref)
    for name in NAMES:
        first = get(delivery, TypeUrl.CLUSTER, name, own)["transport_socket_matches"][0]
        assert (first["name"], first["match"]) == ("own", {"external-workload": "vm-1"})
    assert "transport_socket" not in get(delivery, TypeUrl.CLUSTER, "192.0.2.1:8080", own)
    assert matches(delivery, Proxy(SHOP, "vm-1")) == [DNS, "plaintext"], "a pod of its name is somebody else"
    put(delivery, pod("vm-1", "10.0.0.1"))
    delivery.put_slice(make_slice().ref, make_slice(("10.0.0.1", "Pod/vm-1")))
    assert matches(delivery, own) == ["shop/web", "plaintext"]
    assert matches(delivery, Proxy(SHOP, "vm-1")) == ["own", "shop/web", "plaintext"]


def test_a_machine_that_joins_a_service_is_told_that_it_is_itself(delivery: Delivery) -> None:
    ear, other = Ear(delivery, Proxy.of(machine("vm-2").ref)), Ear(delivery)
    put(delivery, machine("vm-2", "192.0.2.2"))
    ear.take(), other.take()
    piece = make_slice(("192.0.2.1", "ExternalWorkload/vm-1"), ("192.0.2.2", "ExternalWorkload/vm-2"))
    delivery.put_slice(piece.ref, piece)
    assert ear.take() == {"Cluster": set(NAMES), "ClusterLoadAssignment": {NAMES[0]}}
    assert other.take() == {"ClusterLoadAssignment": {NAMES[0]}}


def assert_has(delivery: Delivery, proxy: Proxy, inbound: Inbound) -> None:
    assert get(delivery, TypeUrl.LISTENER, "inbound", proxy) == emit_inbound_listener(SETTINGS, inbound)
    assert get(delivery, TypeUrl.ROUTES, INBOUND_ROUTES, proxy) == emit_inbound_routes(inbound)


def test_a_machine_has_the_policy_of_servers_that_select_machines(delivery: Delivery) -> None:
    own = Proxy.of(machine().ref)
    assert_has(
        delivery,
        own,
        Inbound(access=DEFAULTS.access, defaults=DEFAULTS, server_name="*.external.identity.meshwright.cluster.local"),
    )
    ear = Ear(delivery, own)
    selector = Selector(labels=(("app", "ledger"),))
    ours = ServerPolicy(server=Ref(Kind.SERVER, SHOP, "ours"), port=Port(80), selector=selector, selects_external=True)
    pods = ServerPolicy(server=Ref(Kind.SERVER, SHOP, "pods"), port=Port(81), selector=selector)
    delivery.put_policy(pods.server, pods)
    assert ear.take() == {}
    delivery.put_policy(ours.server, ours)
    assert ear.take() == {"Listener": {"inbound"}, "RouteConfiguration": {INBOUND_ROUTES}}
    assert_has(delivery, own, govern(machine(), [ours], DEFAULTS))
    put(delivery, machine(labels=()))
    assert ear.take() == {"Listener": {"inbound"}, "RouteConfiguration": {INBOUND_ROUTES}}
    assert_has(delivery, own, govern(machine(), [], DEFAULTS))


def test_a_machine_goes_by_its_own_word_then_by_its_namespaces(delivery: Delivery) -> None:
    own = Proxy.of(machine().ref)
    said = PortRanges(((Port(5432), Port(5432)),))
    ref = Ref(Kind.NAMESPACE, Namespace(""), "shop")
    delivery.put_namespace(SHOP, NamespaceObject(ref=ref, access=AccessPolicy.DENY, opaque=said))
    assert_has(delivery, own, govern(machine(), (), DEFAULTS, AccessPolicy.DENY, said))
    word = machine(access=AccessPolicy.ALL_AUTHENTICATED, opaque=PortRanges())
    put(delivery, word)
    assert_has(delivery, own, govern(word, (), DEFAULTS))
    assert govern(word, (), DEFAULTS).access is AccessPolicy.ALL_AUTHENTICATED


@pytest.mark.parametrize(
    ("server_name", "names"),
    [
        (DNS, "*.external.identity.meshwright.cluster.local"),
        ("Legacy.Example", "legacy.example"),
        ("", f"*.{TRUST.suffix}"),
    ],
)
def test_a_machine_takes_the_meshs_tls_by_the_name_it_is_called(
    delivery: Delivery, server_name: str, names: str
) -> None:
    put(delivery, machine(server_name=server_name, opaque=PortRanges(((Port(25), Port(25)),))))
    listener = get(delivery, TypeUrl.LISTENER, "inbound", Proxy.of(machine().ref))
    found = [each["filter_chain_match"].get("server_names") for each in listener["filter_chains"]]
    assert [each for each in found if each] == [[names]] * 3


def test_machines_of_one_group_share_what_they_are_told(delivery: Delivery) -> None:
    second = machine("vm-2", "192.0.2.2", identity="x", server_name=TRUST.machine_dns(SHOP, "ledger", "vm-2"))
    put(delivery, second)
    variants = {delivery.variant(TypeUrl.LISTENER, "inbound", Proxy.of(each.ref)) for each in (machine(), second)}
    assert len(variants) == 1


def test_a_machines_proxy_has_the_routes_of_its_namespace_and_no_policy_of_a_pod_of_its_name(
    delivery: Delivery,
) -> None:
    own = Proxy.of(machine().ref)
    units: list[OutboundUnit] = [make_unit(WEB, to("shop/web/80")), make_unit(WEB, NOTHING_MATCHES, namespace=BANK)]
    for unit in units:
        delivery.put_unit(unit.name, unit)
    stranger = machine(namespace=BANK)
    put(delivery, stranger, pod("vm-1", "10.0.0.1", access=AccessPolicy.ALL_UNAUTHENTICATED))
    name = "shop/web/80"
    assert get(delivery, TypeUrl.ROUTES, name, own) == get(delivery, TypeUrl.ROUTES, name)
    assert get(delivery, TypeUrl.ROUTES, name, Proxy.of(stranger.ref)) != get(delivery, TypeUrl.ROUTES, name)
    assert_has(delivery, own, govern(machine(), (), DEFAULTS))
    delivery.put_machine(machine().ref, None)
    assert_has(delivery, own, Inbound(access=AccessPolicy.DENY))


def test_external_workloads_are_read_as_the_api_server_has_them() -> None:
    delivery = make_delivery()
    raw: dict[str, Any] = {
        "apiVersion": "workload.linkerd.io/v1beta1",
        "kind": "ExternalWorkload",
        "metadata": {"namespace": "shop", "name": "vm-1", "uid": "vm-1", "labels": {"app": "ledger"}},
        "spec": {"meshTLS": {"identity": URI, "serverName": DNS}, "workloadIPs": [{"ip": "192.0.2.1"}]},
        "status": {"conditions": [{"type": "Ready", "status": "True"}]},
    }
    delivery.put(machine().ref, raw)
    assert delivery.machines == {machine().ref: machine()}
    delivery.put(machine().ref, {**raw, "spec": "?"})
    assert delivery.machines == {machine().ref: machine()}, "the last good one stays"
    [problem] = delivery.problems()
    assert problem.field.startswith("ExternalWorkload shop/vm-1 spec")
    delivery.put(machine().ref, None)
    assert (delivery.machines, delivery.problems()) == ({}, ())


def test_without_identities_machines_are_spoken_to_in_the_clear() -> None:
    delivery = make_delivery(ProxySettings())
    put(delivery, machine())
    delivery.put_slice(make_slice().ref, make_slice(("192.0.2.1", "ExternalWorkload/vm-1"), ("192.0.2.5", "")))
    made = get(delivery, TypeUrl.ENDPOINTS, NAMES[0])
    assert all("metadata" not in each for group in made["endpoints"] for each in group["lb_endpoints"])
    assert "transport_socket" not in get(delivery, TypeUrl.CLUSTER, "192.0.2.1:8080")
