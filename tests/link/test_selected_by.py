"""Whether Services stand in front of a group of machines."""

from typing import Any

import pytest

from meshwright.link.selected_by import find_selection
from meshwright.model.desired import Condition
from meshwright.model.group import Group
from meshwright.model.ref import Kind, Ref
from meshwright.model.units import Namespace, Port
from meshwright.model.workload import Protocol, Service, ServicePort, WorkloadPort

SHOP = Namespace("shop")
GROUP = Group(
    ref=Ref(Kind.EXTERNAL_GROUP, SHOP, "ledger"),
    uid="u",
    generation=1,
    labels=(("app", "ledger"), ("location", "vm")),
    annotations=(),
    ports=(WorkloadPort(name="http", port=Port(8000)), WorkloadPort(name="", port=Port(53), transport="UDP")),
)
NO_SERVICE = Condition(
    type="SelectedByService",
    status="False",
    reason="NoService",
    message=(
        "No Service of namespace shop selects the template's labels (app=ledger,location=vm), so nobody calls these "
        "machines by name; write one whose selector is among them."
    ),
)


def port(number: int, target: int | str, transport: str = "TCP") -> ServicePort:
    return ServicePort(
        name="",
        port=Port(number),
        target=Port(target) if isinstance(target, int) else target,
        protocol=Protocol.DETECT,
        transport=transport,
    )


def service(name: str = "ledger", *ports: ServicePort, **fields: Any) -> Service:
    given: dict[str, Any] = {
        "uid": "u",
        "type": "ClusterIP",
        "addresses": ("10.0.0.1",),
        "is_headless": False,
        "selector": (("app", "ledger"),),
    }
    namespace = fields.pop("namespace", SHOP)
    return Service(ref=Ref(Kind.SERVICE, namespace, name), ports=ports, **given | fields)


@pytest.mark.parametrize(
    "found",
    [
        service("ledger", port(80, 8000)),
        service("ledger", port(80, "http"), port(53, 53, "UDP")),
        service("ledger", port(80, 8000), type="LoadBalancer", selector=(("app", "ledger"), ("location", "vm"))),
        service("ledger", is_headless=True, addresses=()),
    ],
)
def test_a_group_behind_a_service_that_reaches_its_ports_is_selected(found: Service) -> None:
    assert find_selection(GROUP, [found]) == Condition(
        type="SelectedByService", status="True", reason="Selected", message="Selected by Service ledger."
    )


@pytest.mark.parametrize(
    "found",
    [
        [],
        [service("ledger", port(80, 8000), selector=(("app", "other"),))],
        [service("ledger", port(80, 8000), selector=(("app", "ledger"), ("tier", "gold")))],
        [service("ledger", port(80, 8000), selector=None)],
        [service("ledger", port(80, 8000), selector=())],
        [service("ledger", port(80, 8000), type="ExternalName")],
        [service("ledger", port(80, 8000), is_deleting=True)],
        [service("ledger", port(80, 8000), namespace=Namespace("other"))],
    ],
)
def test_a_group_that_no_service_selects_says_by_which_labels_one_could(found: list[Service]) -> None:
    assert find_selection(GROUP, found) == NO_SERVICE


def test_a_label_that_machines_may_give_themselves_may_be_what_selects_them() -> None:
    found = service("gold", port(80, 8000), selector=(("app", "ledger"), ("tier", "gold")))
    assert find_selection(GROUP, [found]).reason == "NoService"
    assert find_selection(GROUP, [found], allowed_labels=("tier",)).reason == "Selected"


@pytest.mark.parametrize(
    ("astray", "leads"),
    [
        (port(80, 8080), "TCP 8080"),
        (port(80, "web"), 'TCP "web"'),
        (port(80, 53), "TCP 53"),
        (port(80, 8000, "UDP"), "UDP 8000"),
    ],
)
def test_a_port_that_leads_nowhere_is_named_with_its_service(astray: ServicePort, leads: str) -> None:
    good, bad = service("b", port(80, 8000)), service("a", port(81, "http"), astray)
    assert find_selection(GROUP, [good, bad]) == Condition(
        type="SelectedByService",
        status="False",
        reason="PortNotDeclared",
        message=(
            f"Port 80 of Service a leads to {leads}, which the template does not declare, it has TCP 8000 (http), "
            "UDP 53; write it at spec.template.ports, or correct the targetPort."
        ),
    )


def test_many_services_are_named_in_one_order_and_not_all() -> None:
    found = [service(f"s{number}", port(80, 8000)) for number in range(8)]
    expected = "Selected by Service s0, s1, s2, s3, s4, and 3 more."
    assert find_selection(GROUP, found).message == find_selection(GROUP, found[::-1]).message == expected
