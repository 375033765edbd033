"""Which ports a parentRef selects, and what a person reads when it selects none."""

from typing import Any

import pytest

from meshwright.link.ports import may_serve, select_ports, write_ports
from meshwright.model.problem import Problem, Reason
from meshwright.model.workload import Protocol
from tests.link.made import parent, port, service

HTTP = port(80, "http", target=8080)
GRPC = port(7070, "grpc")
DNS = port(53, "dns", transport="UDP")
SERVICE = service(ports=(HTTP, GRPC, DNS))


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ({}, (HTTP, GRPC)),
        ({"port": 80}, (HTTP,)),
        ({"section_name": "grpc"}, (GRPC,)),
        ({"port": 7070, "section_name": "grpc"}, (GRPC,)),
    ],
)
def test_a_parent_selects_tcp_ports_by_number_and_by_name(written: dict[str, Any], expected: object) -> None:
    assert select_ports(SERVICE, parent(**written)) == expected


@pytest.mark.parametrize(
    ("written", "field", "message"),
    [
        (
            {"port": 81},
            "spec.parentRefs[0].port",
            "Service shop/web has no TCP port 81, it has 80 (http), 7070 (grpc); write one of these",
        ),
        (
            {"port": 8080},
            "spec.parentRefs[0].port",
            "Service shop/web has no TCP port 8080, it has 80 (http), 7070 (grpc); "
            "8080 is the targetPort of 80, write 80",
        ),
        (
            {"port": 53},
            "spec.parentRefs[0].port",
            "Service shop/web has no TCP port 53, it has 80 (http), 7070 (grpc); write one of these",
        ),
        (
            {"section_name": "htpp"},
            "spec.parentRefs[0].sectionName",
            'Service shop/web has no TCP port named "htpp", it has 80 (http), 7070 (grpc); write one of these',
        ),
        (
            {"port": 80, "section_name": "grpc"},
            "spec.parentRefs[0].sectionName",
            'port 80 of Service shop/web is not named "grpc": it has 80 (http), 7070 (grpc); select the same port in '
            "port and sectionName, or leave one out",
        ),
    ],
)
def test_a_parent_that_selects_nothing_is_told_what_there_is(written: dict[str, Any], field: str, message: str) -> None:
    assert select_ports(SERVICE, parent(**written)) == Problem(field, Reason.NO_MATCHING_PARENT, message)


def test_a_service_without_tcp_ports_has_nothing_to_attach_to() -> None:
    found = select_ports(service(ports=(DNS,)), parent())
    message = "Service shop/web has no TCP port; add one, or correct the parentRef"
    assert found == Problem("spec.parentRefs[0]", Reason.NO_MATCHING_PARENT, message)
    assert write_ports(service(ports=(DNS,))) == "no TCP port"


@pytest.mark.parametrize(
    ("protocol", "http", "grpc"),
    [
        (Protocol.DETECT, True, True),
        (Protocol.HTTP1, True, False),
        (Protocol.HTTP2, True, True),
        (Protocol.OPAQUE, False, False),
    ],
)
def test_the_protocol_decides_which_kind_may_serve(protocol: Protocol, http: bool, grpc: bool) -> None:
    assert may_serve(port(80, protocol=protocol), is_grpc=False) is http
    assert may_serve(port(80, protocol=protocol), is_grpc=True) is grpc
