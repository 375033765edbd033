"""Which workloads are found behind which Service, on which ports."""

from dataclasses import replace

import pytest

from meshwright.link.members import is_selected, may_have_members, select_members
from meshwright.model.linked_members import Family, Member, MemberGroup, MemberPort
from meshwright.model.ref import Kind, Ref
from meshwright.model.units import Namespace, Port
from meshwright.model.workload import ExternalWorkload, Protocol, Service, ServicePort, WorkloadPort

NAMESPACE = Namespace("shop")
V4, V6 = "10.0.0.1", "fd00::1"


def service_port(name: str, target: int | str, port: int = 80, transport: str = "TCP") -> ServicePort:
    where = target if isinstance(target, str) else Port(target)
    return ServicePort(name=name, port=Port(port), target=where, protocol=Protocol.DETECT, transport=transport)


SERVICE = Service(
    ref=Ref(Kind.SERVICE, NAMESPACE, "db"),
    uid="service-uid",
    type="ClusterIP",
    addresses=("10.96.0.1",),
    is_headless=False,
    ports=(service_port("sql", "sql", port=5432),),
    selector=(("app", "db"),),
    families=("IPv4",),
)


def workload(
    name: str,
    *,
    ips: tuple[str, ...] = (V4,),
    ports: tuple[WorkloadPort, ...] = (WorkloadPort(name="sql", port=Port(15432)),),
    is_ready: bool = True,
    labels: tuple[tuple[str, str], ...] = (("app", "db"), ("zone", "a")),
    namespace: Namespace = NAMESPACE,
    zone: str | None = None,
) -> ExternalWorkload:
    return ExternalWorkload(
        ref=Ref(Kind.EXTERNAL_WORKLOAD, namespace, name),
        uid=f"uid-{name}",
        ips=ips,
        ports=ports,
        is_ready=is_ready,
        labels=labels,
        zone=zone,
    )


def member(name: str, *addresses: str, is_ready: bool = True) -> Member:
    ref = Ref(Kind.EXTERNAL_WORKLOAD, NAMESPACE, name)
    return Member(workload=ref, uid=f"uid-{name}", addresses=addresses or (V4,), is_ready=is_ready)


def group(*members: Member, ports: tuple[MemberPort, ...] | None = None, family: Family = Family.IPV4) -> MemberGroup:
    resolved = (MemberPort("sql", Port(15432), "TCP"),) if ports is None else ports
    return MemberGroup(family=family, ports=resolved, members=members)


@pytest.mark.parametrize(
    ("service", "expected"),
    [
        pytest.param(SERVICE, True, id="a plain Service"),
        pytest.param(replace(SERVICE, is_headless=True, addresses=()), True, id="headless"),
        pytest.param(replace(SERVICE, type="LoadBalancer"), True, id="LoadBalancer"),
        pytest.param(replace(SERVICE, type="ExternalName"), False, id="ExternalName"),
        pytest.param(replace(SERVICE, selector=None), False, id="no selector"),
        pytest.param(replace(SERVICE, selector=()), False, id="an empty selector"),
        pytest.param(replace(SERVICE, is_deleting=True), False, id="being deleted"),
        pytest.param(
            replace(SERVICE, ref=Ref(Kind.SERVICE, Namespace("kube-system"), "db")), False, id="in kube-system"
        ),
    ],
)
def test_a_service_has_members_unless_something_else_fills_it(service: Service, expected: bool) -> None:
    assert may_have_members(service) is expected
    beside = workload("vm", namespace=service.ref.namespace)
    assert is_selected(service, beside) is expected
    assert bool(select_members(service, [beside])) is expected


@pytest.mark.parametrize(
    ("selector", "labels", "expected"),
    [
        ((("app", "db"),), (("app", "db"),), True),
        ((("app", "db"),), (("app", "db"), ("more", "x")), True),
        ((("app", "db"), ("tier", "1")), (("app", "db"),), False),
        ((("app", "db"),), (("app", "web"),), False),
        ((("app", ""),), (), False),
        ((("app", ""),), (("app", ""),), True),
        ((("app", "db"),), (), False),
    ],
)
def test_every_pair_of_the_selector_must_be_a_label(
    selector: tuple[tuple[str, str], ...], labels: tuple[tuple[str, str], ...], expected: bool
) -> None:
    assert is_selected(replace(SERVICE, selector=selector), workload("vm", labels=labels)) is expected


def test_a_workload_of_another_namespace_is_not_a_member() -> None:
    assert select_members(SERVICE, [workload("vm", namespace=Namespace("other"))]) == ()


def test_members_are_sorted_and_those_not_ready_stay() -> None:
    workloads = [workload("vm-b", is_ready=False), workload("vm-a")]
    assert select_members(SERVICE, workloads) == (group(member("vm-a"), member("vm-b", is_ready=False)),)
    assert select_members(SERVICE, workloads[::-1]) == select_members(SERVICE, workloads)


def test_two_workloads_with_one_address_are_two_members() -> None:
    assert select_members(SERVICE, [workload("a"), workload("b")]) == (group(member("a"), member("b")),)


@pytest.mark.parametrize(
    ("families", "ips", "expected"),
    [
        (("IPv4",), (V4, V6), ((Family.IPV4, (V4,)),)),
        (("IPv6",), (V4, V6), ((Family.IPV6, (V6,)),)),
        (("IPv6", "IPv4"), (V4, V6), ((Family.IPV4, (V4,)), (Family.IPV6, (V6,)))),
        ((), (V4, V6), ((Family.IPV4, (V4,)), (Family.IPV6, (V6,)))),
        (("IPv4", "IPv6"), (V6,), ((Family.IPV6, (V6,)),)),
        (("IPv4",), (V6,), ()),
        (("IPv4",), (), ()),
        (("IPv4",), ("10.0.0.9", "10.0.0.1"), ((Family.IPV4, ("10.0.0.9", "10.0.0.1")),)),
    ],
)
def test_each_family_of_the_service_gets_the_addresses_of_its_own(
    families: tuple[str, ...], ips: tuple[str, ...], expected: tuple[tuple[Family, tuple[str, ...]], ...]
) -> None:
    groups = select_members(replace(SERVICE, families=families), [workload("vm", ips=ips)])
    assert groups == tuple(group(member("vm", *addresses), family=family) for family, addresses in expected)


@pytest.mark.parametrize(
    ("ports", "declared", "expected"),
    [
        pytest.param(
            (service_port("sql", "sql"),),
            (WorkloadPort(name="sql", port=Port(1)),),
            (MemberPort("sql", Port(1), "TCP"),),
            id="by name",
        ),
        pytest.param(
            (service_port("", 15432),),
            (WorkloadPort(name="x", port=Port(15432)),),
            (MemberPort("", Port(15432), "TCP"),),
            id="by number, the Service port unnamed",
        ),
        pytest.param((service_port("", 1),), (WorkloadPort(name="x", port=Port(2)),), (), id="number not declared"),
        pytest.param((service_port("", "a"),), (WorkloadPort(name="b", port=Port(1)),), (), id="name not declared"),
        pytest.param(
            (service_port("", "a"),), (WorkloadPort(name="a", port=Port(1), transport="UDP"),), (), id="other transport"
        ),
        pytest.param(
            (service_port("dns", 53), service_port("dns-udp", 53, transport="UDP")),
            (WorkloadPort(name="", port=Port(53), transport="UDP"), WorkloadPort(name="", port=Port(53))),
            (MemberPort("dns", Port(53), "TCP"), MemberPort("dns-udp", Port(53), "UDP")),
            id="one number, two transports",
        ),
        pytest.param(
            (service_port("b", "sql"), service_port("a", "gone"), service_port("0", 9)),
            (WorkloadPort(name="sql", port=Port(1)), WorkloadPort(name="", port=Port(9))),
            (MemberPort("0", Port(9), "TCP"), MemberPort("b", Port(1), "TCP")),
            id="one of three is left out, the others are sorted",
        ),
        pytest.param(
            (service_port("", "a"),),
            (WorkloadPort(name="a", port=Port(7)), WorkloadPort(name="a", port=Port(6))),
            (MemberPort("", Port(7), "TCP"),),
            id="the first of two ports of one name counts",
        ),
        pytest.param((), (WorkloadPort(name="a", port=Port(7)),), (), id="a Service without ports"),
    ],
)
def test_a_port_is_the_one_the_workload_declares(
    ports: tuple[ServicePort, ...], declared: tuple[WorkloadPort, ...], expected: tuple[MemberPort, ...]
) -> None:
    groups = select_members(replace(SERVICE, ports=ports), [workload("vm", ports=declared)])
    assert groups == (group(member("vm"), ports=expected),)


def test_workloads_with_other_port_numbers_are_in_other_groups() -> None:
    named = {name: (WorkloadPort(name="sql", port=Port(port)),) for name, port in (("a", 20), ("b", 9), ("c", 20))}
    groups = select_members(SERVICE, [workload(name, ports=ports) for name, ports in named.items()])
    assert groups == (
        group(member("b"), ports=(MemberPort("sql", Port(9), "TCP"),)),
        group(member("a"), member("c"), ports=(MemberPort("sql", Port(20), "TCP"),)),
    )


@pytest.mark.parametrize(
    ("is_headless", "name", "expected"),
    [
        (False, "vm-1", None),
        (True, "vm-1", "vm-1"),
        (True, "vm-1.rack-2", None),
        (True, "a" * 63, "a" * 63),
        (True, "a" * 64, None),
    ],
)
def test_a_headless_service_names_its_members_where_dns_can(is_headless: bool, name: str, expected: str | None) -> None:
    groups = select_members(replace(SERVICE, is_headless=is_headless), [workload(name)])
    assert groups == (group(replace(member(name), hostname=expected)),)


@pytest.mark.parametrize("zone", [None, "", "north-1"])
def test_the_zone_is_passed_on(zone: str | None) -> None:
    assert select_members(SERVICE, [workload("vm", zone=zone)]) == (group(replace(member("vm"), zone=zone)),)
