"""Which Server holds which port of a workload."""

from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshwright.link.govern import MAX_ASKING_PORTS, govern
from meshwright.model.identity import ServiceAccount
from meshwright.model.inbound import GovernedPort, Inbound, PolicyDefaults, ServerPolicy
from meshwright.model.pod import AccessLog, Pod, PortRanges
from meshwright.model.policy import AccessPolicy, ProxyProtocol
from meshwright.model.ref import Kind, Ref
from meshwright.model.selector import Expression, Operator, Selector
from meshwright.model.units import Namespace, Port
from meshwright.model.workload import ExternalWorkload, WorkloadPort
from meshwright.parse.ports import parse_port_list

SHOP = Namespace("shop")
DEFAULTS = PolicyDefaults()
ALL, AUTHENTICATED = AccessPolicy.ALL_UNAUTHENTICATED, AccessPolicy.ALL_AUTHENTICATED
CLUSTER, CLUSTER_AUTHENTICATED = AccessPolicy.CLUSTER_UNAUTHENTICATED, AccessPolicy.CLUSTER_AUTHENTICATED
DENY, AUDIT = AccessPolicy.DENY, AccessPolicy.AUDIT


def pod(**more: Any) -> Pod:
    more.setdefault("labels", (("app", "web"), ("tier", "front")))
    more.setdefault("ports", (("http", Port(8080)), ("http", Port(9090)), ("metrics", Port(9100))))
    return Pod(ref=Ref(Kind.POD, SHOP, "web-1"), uid="u", account=ServiceAccount(SHOP, "web"), **more)


def machine(**more: Any) -> ExternalWorkload:
    ref = Ref(Kind.EXTERNAL_WORKLOAD, SHOP, "vm-1")
    ports = (
        WorkloadPort(name="http", port=Port(80)),
        WorkloadPort(name="http", port=Port(81), transport="UDP"),
        WorkloadPort(name="", port=Port(82)),
    )
    return ExternalWorkload(
        ref=ref, uid="u", ips=("192.0.2.1",), ports=ports, is_ready=True, labels=(("app", "web"),), **more
    )


def server(name: str = "web", port: int | str = 8080, *, namespace: Namespace = SHOP, **more: Any) -> ServerPolicy:
    more.setdefault("selector", Selector(labels=(("app", "web"),)))
    number = port if isinstance(port, str) else Port(port)
    return ServerPolicy(server=Ref(Kind.SERVER, namespace, name), port=number, **more)


def governed(policy: ServerPolicy, *ports: int, **more: Any) -> tuple[GovernedPort, ...]:
    return tuple(
        GovernedPort(port=Port(port), policy=policy, is_opaque=not policy.protocol.is_http, **more) for port in ports
    )


def default(port: int, access: AccessPolicy, **more: Any) -> GovernedPort:
    return GovernedPort(port=Port(port), access=access, **more)


def test_without_servers_the_default_holds() -> None:
    assert govern(pod(), (), DEFAULTS) == Inbound(defaults=DEFAULTS)


@pytest.mark.parametrize(
    ("policy", "ports"),
    [
        (server(port=8080), (8080,)),
        (server(port=1), (1,)),
        (server(port="http"), (8080, 9090)),
        (server(port="nowhere"), ()),
        (server(selector=Selector()), (8080,)),
        (server(selector=Selector(labels=(("app", "api"),))), ()),
        (server(selector=Selector(expressions=(Expression(key="tier", operator=Operator.EXISTS),))), (8080,)),
        (server(selector=Selector(expressions=(Expression(key="tier", operator=Operator.IN),))), ()),
        (server(namespace=Namespace("other")), ()),
        (server(selects_external=True), ()),
        (server(protocol=ProxyProtocol.OPAQUE), (8080,)),
        (server(protocol=ProxyProtocol.TLS), (8080,)),
    ],
)
def test_a_server_holds_the_ports_it_means_of_the_pods_it_selects(policy: ServerPolicy, ports: tuple[int, ...]) -> None:
    assert govern(pod(), [policy], DEFAULTS) == Inbound(ports=governed(policy, *ports), defaults=DEFAULTS)


@pytest.mark.parametrize(
    ("policy", "ports"),
    [
        (server(port="http", selects_external=True), (80,)),
        (server(port=443, selects_external=True), (443,)),
        (server(port=80), ()),
    ],
)
def test_a_machine_is_held_by_servers_for_machines(policy: ServerPolicy, ports: tuple[int, ...]) -> None:
    assert govern(machine(), [policy], DEFAULTS) == Inbound(ports=governed(policy, *ports), defaults=DEFAULTS)


def test_the_oldest_server_wins_a_port_then_the_first_by_name_and_one_without_a_time_is_the_youngest() -> None:
    no_time, young = server("a"), server("b", created=20)
    old, as_old = server("d", created=10, port="http"), server("c", created=10, port=9090)
    assert govern(pod(), [no_time, young, old, as_old], DEFAULTS).ports == (
        *governed(old, 8080),
        *governed(as_old, 9090),
    )
    assert govern(pod(), [no_time, young], DEFAULTS).ports == governed(young, 8080)


@pytest.mark.parametrize(
    ("own", "above", "installed", "follows", "access"),
    [
        (None, None, ALL, False, ALL),
        (None, None, DENY, False, DENY),
        (None, DENY, ALL, False, ALL),
        (None, DENY, ALL, True, DENY),
        (None, None, AUDIT, True, AUDIT),
        (AUDIT, DENY, ALL, True, AUDIT),
        (ALL, None, DENY, False, ALL),
    ],
)
def test_the_workload_says_first_then_its_namespace_where_that_is_followed_then_the_installation(
    own: AccessPolicy | None, above: AccessPolicy | None, installed: AccessPolicy, follows: bool, access: AccessPolicy
) -> None:
    defaults = PolicyDefaults(access=installed, follows_namespace=follows)
    assert govern(pod(access=own), (), defaults, above).access is access
    assert govern(machine(access=own), (), defaults, above).access is access


@pytest.mark.parametrize(
    ("access", "there"),
    [(ALL, AUTHENTICATED), (CLUSTER, CLUSTER_AUTHENTICATED)],
)
def test_ports_that_ask_for_an_identity_get_the_form_that_does(access: AccessPolicy, there: AccessPolicy) -> None:
    found = govern(pod(access=access, asks_identity=parse_port_list("80,3306,90-91")), (), DEFAULTS)
    asking = (default(80, there), default(90, there), default(91, there), default(3306, there, is_opaque=True))
    assert found == Inbound(access=access, ports=asking, defaults=DEFAULTS)


@pytest.mark.parametrize("access", [AUTHENTICATED, CLUSTER_AUTHENTICATED, DENY, AUDIT])
def test_a_policy_that_has_no_such_form_stays(access: AccessPolicy) -> None:
    found = govern(pod(access=access, asks_identity=parse_port_list("80")), (), DEFAULTS)
    assert found == Inbound(access=access, defaults=DEFAULTS)


@pytest.mark.parametrize(
    ("asking", "access", "ports"),
    [
        ("1-65535", AUTHENTICATED, ()),
        ("3-65535", AUTHENTICATED, (default(1, ALL), default(2, ALL))),
        ("1-9,11-65535", AUTHENTICATED, (default(10, ALL),)),
        ("1000-65535", AUTHENTICATED, ()),
        (f"1-{MAX_ASKING_PORTS}", ALL, tuple(default(port, AUTHENTICATED) for port in range(1, MAX_ASKING_PORTS + 1))),
        (f"1-{MAX_ASKING_PORTS + 1}", AUTHENTICATED, ()),
    ],
)
def test_of_very_many_ports_that_ask_the_others_are_listed_or_all_ask(
    asking: str, access: AccessPolicy, ports: tuple[GovernedPort, ...]
) -> None:
    found = govern(pod(asks_identity=parse_port_list(asking), opaque=PortRanges()), (), DEFAULTS)
    assert (found.access, found.ports) == (access, ports)


def test_with_a_server_neither_the_pods_default_nor_its_opaque_ports_count() -> None:
    policy = server(port=8080)
    told = pod(access=DENY, asks_identity=parse_port_list("8080"), opaque=parse_port_list("8080"))
    assert govern(told, [policy], DEFAULTS).ports == governed(policy, 8080)


PROBES = ((Port(8080), "/live"), (Port(8080), "/ready"), (Port(3306), "/"))


@pytest.mark.parametrize(
    ("access", "ports"),
    [
        (ALL, ()),
        *(
            (access, (default(8080, access, probes=("/live", "/ready")),))
            for access in (AUTHENTICATED, CLUSTER, CLUSTER_AUTHENTICATED, DENY, AUDIT)
        ),
    ],
)
def test_probes_are_let_in_by_http_where_not_everybody_is(
    access: AccessPolicy, ports: tuple[GovernedPort, ...]
) -> None:
    assert govern(pod(access=access, probes=PROBES), (), DEFAULTS).ports == ports
    assert govern(pod(access=access, probes=PROBES), (), PolicyDefaults(probe_networks=())).ports == ()


@pytest.mark.parametrize("protocol", ProxyProtocol)
@pytest.mark.parametrize("is_routed", [False, True])
def test_a_servers_routes_replace_probes_and_so_does_a_protocol_without_them(
    protocol: ProxyProtocol, is_routed: bool
) -> None:
    policy = server(protocol=protocol, is_routed=is_routed)
    is_probed = not is_routed and protocol in (ProxyProtocol.UNKNOWN, ProxyProtocol.HTTP1, ProxyProtocol.HTTP2)
    probes = ("/live", "/ready") if is_probed else ()
    assert govern(pod(probes=PROBES), [policy], DEFAULTS).ports == governed(policy, 8080, probes=probes)


@pytest.mark.parametrize(
    ("own", "above", "opaque"),
    [(None, None, None), (None, "80", "80"), ("", "80", ""), ("90", None, "90")],
)
def test_opaque_ports_are_the_pods_else_its_namespaces(own: str | None, above: str | None, opaque: str | None) -> None:
    def read(text: str | None) -> PortRanges | None:
        return None if text is None else parse_port_list(text)

    assert govern(pod(opaque=read(own)), (), DEFAULTS, None, read(above)).opaque == read(opaque)


def test_what_is_usually_opaque_is_said_by_the_installation() -> None:
    asking = pod(asks_identity=parse_port_list("3306,7"))
    found = govern(asking, (), DEFAULTS, usual=[Port(7)])
    assert found.ports == (default(7, AUTHENTICATED, is_opaque=True), default(3306, AUTHENTICATED))


def test_the_access_log_is_the_pods() -> None:
    assert govern(pod(access_log=AccessLog.JSON), (), DEFAULTS).access_log is AccessLog.JSON


SERVERS = st.builds(
    server,
    st.sampled_from("abcd"),
    st.sampled_from([8080, 9090, "http", "metrics", 7]),
    namespace=st.sampled_from([SHOP, Namespace("other")]),
    created=st.sampled_from([None, 1, 2]),
    protocol=st.sampled_from(ProxyProtocol),
    selects_external=st.booleans(),
    selector=st.sampled_from([Selector(), Selector(labels=(("app", "web"),)), Selector(labels=(("app", "api"),))]),
)
UNIQUE = st.lists(SERVERS, max_size=6, unique_by=lambda policy: policy.server)
WORKLOADS = st.sampled_from([pod(), machine(), pod(access=DENY, probes=PROBES), pod(ports=())])


def oldest(policies: Iterable[ServerPolicy], port: Port) -> ServerPolicy | None:
    """Return who holds a port of the pod, by a slow look at everybody."""
    named = {"http": (8080, 9090), "metrics": (9100,)}
    meant = [each for each in policies if each.port == port or port in named.get(str(each.port), ())]
    meant = [each for each in meant if each.server.namespace == SHOP and not each.selects_external]
    meant = [each for each in meant if each.selector in (Selector(), Selector(labels=(("app", "web"),)))]
    return min(meant, key=lambda each: (each.created or 99, each.server.name), default=None)


@given(UNIQUE, WORKLOADS, st.randoms(use_true_random=False))
def test_the_order_of_servers_does_not_matter(policies: list[ServerPolicy], workload: Any, random: Any) -> None:
    shuffled = random.sample(policies, len(policies))
    assert govern(workload, shuffled, DEFAULTS) == govern(workload, policies, DEFAULTS)


@given(UNIQUE)
def test_each_port_is_held_by_the_oldest_who_means_it(policies: list[ServerPolicy]) -> None:
    found = {each.port: each.policy for each in govern(pod(), policies, DEFAULTS).ports}
    for port in map(Port, (7, 8080, 9090, 9100, 80)):
        assert found.get(port) == oldest(policies, port)


@given(UNIQUE, WORKLOADS, st.sampled_from(AccessPolicy), st.sampled_from(["", "80", "8080-8090", "1-65535", "2-9999"]))
def test_what_is_listed_differs_from_the_rest_and_is_sorted(
    policies: list[ServerPolicy], workload: Any, access: AccessPolicy, asking: str
) -> None:
    told = pod(access=access, asks_identity=parse_port_list(asking)) if asking else workload
    found = govern(told, policies, DEFAULTS)
    assert [each.port for each in found.ports] == sorted({each.port for each in found.ports})
    assert all(each.policy or each.access is not found.access or each.probes for each in found.ports)
