"""Addresses and endpoints that no cluster has given out."""

from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshwright.edge.offline import Pod, draw_address, fill_in_addresses, find_slice_problem, make_slices, read_pod
from meshwright.model.ref import Kind, Ref
from meshwright.model.units import Namespace, Port
from meshwright.parse.delivered import parse_slice

SHOP = Namespace("shop")
RANGES = ("10.96.0.0/12", "fd00:10:96::/112")


def service(name: str, **spec: Any) -> dict[Ref, dict[str, Any]]:
    raw = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "shop"}, "spec": spec}
    return {Ref(Kind.SERVICE, SHOP, name): raw}


def pod(name: str, **changes: Any) -> Pod:
    defaults: dict[str, Any] = {"labels": {"app": "web"}, "ips": ("10.1.0.1",), "ports": {"http": Port(8080)}}
    return Pod(namespace=SHOP, name=name, **(defaults | changes))


def test_only_services_that_would_get_an_address_get_one() -> None:
    services = {
        **service("plain"),
        **service("given", clusterIP="10.96.0.9"),
        **service("headless", clusterIP="None"),
        **service("outside", type="ExternalName"),
        **service("six", ipFamilies=["IPv6"]),
        **service("both", ipFamilies=["IPv6", "IPv4"]),
    }

    filled = fill_in_addresses(services, RANGES)

    found = {ref.name: raw["spec"].get("clusterIPs", raw["spec"].get("clusterIP")) for ref, raw in filled.items()}
    families = {name: [ip_address(ip).version for ip in ips] for name, ips in found.items() if isinstance(ips, list)}
    assert families == {"plain": [4], "six": [6], "both": [6, 4]}
    assert {name: found[name] for name in ("given", "headless", "outside")} == {
        "given": "10.96.0.9",
        "headless": "None",
        "outside": None,
    }


@given(st.lists(st.text(max_size=5), max_size=14, unique=True))
def test_addresses_are_inside_the_range_and_no_two_are_equal(names: list[str]) -> None:
    network = ip_network("192.0.2.0/28")
    taken: set[str] = set()

    drawn = [draw_address(name, network, taken) for name in names]

    assert len(set(drawn)) == len(names)
    assert all(ip_address(address) in network for address in drawn)
    assert not {"192.0.2.0", "192.0.2.15"} & set(drawn)


def test_an_address_stays_when_other_services_come() -> None:
    alone = fill_in_addresses(service("web"), RANGES)
    among = fill_in_addresses({**service("api"), **service("web"), **service("zoo")}, RANGES)

    ref = Ref(Kind.SERVICE, SHOP, "web")
    assert alone[ref] == among[ref]


def test_slices_hold_the_pods_a_service_selects_by_family_and_by_what_named_ports_mean() -> None:
    [raw] = service(
        "web", selector={"app": "web"}, ports=[{"name": "http", "port": 80, "targetPort": "http"}, {"port": 9090}]
    ).values()
    pods = [
        pod("web-2", ips=("10.1.0.2", "fd00::2")),
        pod("web-1", is_ready=False),
        pod("other", labels={"app": "api"}),
        pod("new", ips=("10.1.0.3",), ports={"http": Port(9999)}),
    ]

    parsed = [parse_slice(piece) for piece in make_slices(raw, pods)]

    assert [
        (piece.family, dict(piece.ports), [(e.addresses, e.is_ready, e.target) for e in piece.endpoints])
        for piece in parsed
        if piece
    ] == [
        (
            "IPv4",
            {"http": 8080, "": 9090},
            [(("10.1.0.1",), False, "Pod/web-1"), (("10.1.0.2",), True, "Pod/web-2")],
        ),
        ("IPv4", {"http": 9999, "": 9090}, [(("10.1.0.3",), True, "Pod/new")]),
        ("IPv6", {"http": 8080, "": 9090}, [(("fd00::2",), True, "Pod/web-2")]),
    ]


def test_a_service_without_selector_has_no_pods() -> None:
    [raw] = service("web", ports=[{"port": 80}]).values()

    assert make_slices(raw, [pod("web-1")]) == []


ENDPOINT = {"addresses": ["10.1.0.1"], "conditions": {"ready": True}, "targetRef": {"kind": "Pod", "name": "a"}}


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({}, None),
        ({"ports": None, "endpoints": None}, None),
        ({"addressType": "FQDN", "endpoints": [{"addresses": ["a.example"]}]}, None),
        ({"addressType": "IPv5"}, "addressType"),
        ({"metadata": {"name": "a", "labels": {"a": 1}}}, "metadata.labels"),
        ({"ports": 3}, "ports"),
        ({"ports": [{}, "http"]}, "ports[1]"),
        ({"ports": [{"port": True}]}, "ports[0].port"),
        ({"ports": [{"port": 80, "name": 1}]}, "ports[0].name"),
        ({"endpoints": [{}]}, "endpoints[0].addresses"),
        ({"endpoints": [ENDPOINT, ENDPOINT | {"addresses": ["fd00::1"]}]}, "endpoints[1].addresses[0]"),
        ({"endpoints": [ENDPOINT | {"conditions": "ready"}]}, "endpoints[0].conditions"),
    ],
)
def test_a_hand_written_slice_is_checked_as_an_api_server_would(change: dict[str, Any], field: str | None) -> None:
    raw = {"metadata": {"name": "a"}, "addressType": "IPv4", "ports": [{"port": 80}], "endpoints": [ENDPOINT]}

    problem = find_slice_problem(raw | change)

    assert (problem and problem.field) == field


def test_a_pod_manifest_is_a_pod_once_it_has_an_address() -> None:
    metadata = {"name": "web-0", "namespace": "shop", "labels": {"app": "web", "odd": 3}}
    spec = {"containers": [{"ports": [{"name": "http", "containerPort": 8080}, {"containerPort": 9}, "odd"]}]}
    raw = {"metadata": metadata, "spec": spec}
    status = {"podIP": "10.1.0.1", "conditions": [{"type": "Ready", "status": "False"}]}

    assert read_pod(raw) is None
    assert read_pod(raw | {"status": status | {"phase": "Succeeded"}}) is None
    assert read_pod(raw | {"status": status}) == pod("web-0", is_ready=False)
