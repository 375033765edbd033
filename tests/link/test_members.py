"""Which workloads are found behind which Service, on which ports."""

from dataclasses import replace

import pytest

from meshwright.link.members import is_selected, may_have_members, select_members
from meshwright.model.linked_members import Family, MemberPort
from meshwright.model.ref import Kind, Ref
from meshwright.model.units import Namespace, Port
from meshwright.model.workload import Service, ServicePort, WorkloadPort
from tests.workloads import DB, make_group, make_member, make_port, make_workload

V4, V6 = "10.0.0.1", "fd00::1"


@pytest.mark.parametrize(
    ("service", "expected"),
    [
        pytest.param(DB, True, id="a plain Service"),
        pytest.param(replace(DB, is_headless=True, addresses=()), True, id="headless"),
        pytest.param(replace(DB, type="LoadBalancer"), True, id="LoadBalancer"),
        pytest.param(replace(DB, type="ExternalName"), False, id="ExternalName"),
        pytest.param(replace(DB, selector=None), False, id="no selector"),
        pytest.param(replace(DB, selector=()), False, id="an empty selector"),
        pytest.param(replace(DB, is_deleting=True), False, id="being deleted"),
        pytest.param(replace(DB, ref=Ref(Kind.SERVICE, Namespace("kube-system"), "db")), False, id="in kube-system"),
    ],
)
def test_a_service_has_members_unless_something_else_fills_it(service: Service, expected: bool) -> None:
    assert may_have_members(service) is expected
    beside = make_workload("vm", namespace=service.ref.namespace)
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
    assert is_selected(replace(DB, selector=selector), make_workload("vm", labels=labels)) is expected


def test_a_workload_of_another_namespace_is_not_a_member() -> None:
    assert select_members(DB, [make_workload("vm", namespace=Namespace("other"))]) == ()


def test_members_are_sorted_and_those_not_ready_stay() -> None:
    workloads = [make_workload("vm-b", is_ready=False), make_workload("vm-a")]
    assert select_members(DB, workloads) == (make_group(make_member("vm-a"), make_member("vm-b", is_ready=False)),)
    assert select_members(DB, workloads[::-1]) == select_members(DB, workloads)


def test_two_workloads_with_one_address_are_two_members() -> None:
    assert select_members(DB, [make_workload("a"), make_workload("b")]) == (
        make_group(make_member("a"), make_member("b")),
    )


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
    groups = select_members(replace(DB, families=families), [make_workload("vm", ips=ips)])
    assert groups == tuple(make_group(make_member("vm", *addresses), family=family) for family, addresses in expected)


@pytest.mark.parametrize(
    ("ports", "declared", "expected"),
    [
        pytest.param(
            (make_port("sql", "sql"),),
            (WorkloadPort(name="sql", port=Port(1)),),
            (MemberPort("sql", Port(1), "TCP"),),
            id="by name",
        ),
        pytest.param(
            (make_port("", 15432),),
            (WorkloadPort(name="x", port=Port(15432)),),
            (MemberPort("", Port(15432), "TCP"),),
            id="by number, the Service port unnamed",
        ),
        pytest.param((make_port("", 1),), (WorkloadPort(name="x", port=Port(2)),), (), id="number not declared"),
        pytest.param((make_port("", "a"),), (WorkloadPort(name="b", port=Port(1)),), (), id="name not declared"),
        pytest.param(
            (make_port("", "a"),), (WorkloadPort(name="a", port=Port(1), transport="UDP"),), (), id="other transport"
        ),
        pytest.param(
            (make_port("dns", 53), make_port("dns-udp", 53, transport="UDP")),
            (WorkloadPort(name="", port=Port(53), transport="UDP"), WorkloadPort(name="", port=Port(53))),
            (MemberPort("dns", Port(53), "TCP"), MemberPort("dns-udp", Port(53), "UDP")),
            id="one number, two transports",
        ),
        pytest.param(
            (make_port("b", "sql"), make_port("a", "gone"), make_port("0", 9)),
            (WorkloadPort(name="sql", port=Port(1)), WorkloadPort(name="", port=Port(9))),
            (MemberPort("0", Port(9), "TCP"), MemberPort("b", Port(1), "TCP")),
            id="one of three is left out, the others are sorted",
        ),
        pytest.param(
            (make_port("", "a"),),
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
    groups = select_members(replace(DB, ports=ports), [make_workload("vm", ports=declared)])
    assert groups == (make_group(make_member("vm"), ports=expected),)


def test_workloads_with_other_port_numbers_are_in_other_groups() -> None:
    named = {name: (WorkloadPort(name="sql", port=Port(port)),) for name, port in (("a", 20), ("b", 9), ("c", 20))}
    groups = select_members(DB, [make_workload(name, ports=ports) for name, ports in named.items()])
    assert groups == (
        make_group(make_member("b"), ports=(MemberPort("sql", Port(9), "TCP"),)),
        make_group(make_member("a"), make_member("c"), ports=(MemberPort("sql", Port(20), "TCP"),)),
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
    groups = select_members(replace(DB, is_headless=is_headless), [make_workload(name)])
    assert groups == (make_group(replace(make_member(name), hostname=expected)),)


@pytest.mark.parametrize("zone", [None, "", "north-1"])
def test_the_zone_is_passed_on(zone: str | None) -> None:
    assert select_members(DB, [make_workload("vm", zone=zone)]) == (make_group(replace(make_member("vm"), zone=zone)),)
