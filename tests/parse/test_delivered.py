"""Policy ConfigMaps and EndpointSlices, read by delivery."""

from typing import Any

import pytest

from meshwright.model.proxy import EndpointSlice, SliceEndpoint
from meshwright.model.ref import Kind, Ref, ServiceName
from meshwright.model.units import Namespace, Port
from meshwright.parse.delivered import parse_slice

SHOP = Namespace("shop")


def make_manifest(**changes: Any) -> dict[str, Any]:
    return {
        "metadata": {
            "namespace": "shop",
            "name": "web-1",
            "labels": {"kubernetes.io/service-name": "web"},
        },
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}, {"name": "dns", "port": 53, "protocol": "UDP"}],
        "endpoints": [
            {
                "addresses": ["10.0.0.1"],
                "conditions": {"ready": True},
                "targetRef": {"kind": "Pod", "namespace": "shop", "name": "web-a"},
                "zone": "z1",
            },
            {"addresses": ["10.0.0.2"], "conditions": {"ready": False, "serving": True, "terminating": True}},
            {"addresses": ["10.0.0.3"], "conditions": {}},
        ],
    } | changes


def test_a_slice_is_read() -> None:
    assert parse_slice(make_manifest()) == EndpointSlice(
        ref=Ref(Kind.ENDPOINT_SLICE, SHOP, "web-1"),
        service=ServiceName(SHOP, "web"),
        family="IPv4",
        ports={"http": Port(8080)},
        endpoints=(
            SliceEndpoint(addresses=("10.0.0.1",), target="Pod/web-a", zone="z1"),
            SliceEndpoint(addresses=("10.0.0.2",), is_ready=False),
            SliceEndpoint(addresses=("10.0.0.3",)),
        ),
    )


@pytest.mark.parametrize(
    "changes",
    [{"addressType": "FQDN"}, {"metadata": {"namespace": "shop", "name": "web-1"}}],
)
def test_slices_that_do_not_count(changes: dict[str, Any]) -> None:
    assert parse_slice(make_manifest(**changes)) is None


@pytest.mark.parametrize(
    ("ports", "expected"),
    [
        ([{"port": 80}], {"": 80}),
        ([{"name": "", "port": 80, "protocol": "TCP"}], {"": 80}),
        ([{"name": "all"}], {}),
        (None, {}),
    ],
)
def test_ports_by_name(ports: Any, expected: dict[str, int]) -> None:
    piece = parse_slice(make_manifest(ports=ports))
    assert piece is not None
    assert piece.ports == expected


def test_a_slice_without_endpoints_is_empty() -> None:
    piece = parse_slice(make_manifest(endpoints=None))
    assert piece is not None
    assert piece.endpoints == ()
