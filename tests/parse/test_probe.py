"""Probes of machines."""

from typing import Any

import pytest

from meshwright.model.group import Probe, ProbeKind
from meshwright.model.problem import Problem
from meshwright.model.units import Millis, Port
from meshwright.parse.probe import read_probe
from tests.parse.made import Raw, fields

NAMES = {"http": Port(8000)}


def read(raw: Any) -> tuple[Probe | None, list[str], list[str]]:
    faults: list[Problem] = []
    warnings: list[Problem] = []
    probe = read_probe(raw, "p", NAMES, faults, warnings)
    return probe, fields(tuple(faults)), fields(tuple(warnings))


@pytest.mark.parametrize(
    ("raw", "probe"),
    [
        ({"httpGet": {"port": 80}}, Probe(port=Port(80))),
        ({"httpGet": {"port": 80, "path": "", "scheme": "", "host": ""}}, Probe(port=Port(80))),
        (
            {
                "httpGet": {
                    "port": "http",
                    "path": "/a?b=c",
                    "scheme": "https",
                    "host": "LOCALHOST",
                    "httpHeaders": [{"name": "B", "value": "2"}, {"name": "A", "value": "1"}],
                },
                "initialDelaySeconds": 5,
                "periodSeconds": 6,
                "timeoutSeconds": 7,
                "failureThreshold": 8,
                "successThreshold": 9,
            },
            Probe(
                port=Port(8000),
                path="/a?b=c",
                scheme="HTTPS",
                host="localhost",
                headers=(("A", "1"), ("B", "2")),
                initial_delay_ms=Millis(5_000),
                period_ms=Millis(6_000),
                timeout_ms=Millis(7_000),
                failure_threshold=8,
                success_threshold=9,
            ),
        ),
        ({"tcpSocket": {"port": 80, "host": "::1"}}, Probe(kind=ProbeKind.TCP, port=Port(80), host="::1")),
        ({"grpc": {"port": 80, "service": "a.B"}}, Probe(kind=ProbeKind.GRPC, port=Port(80), service="a.B")),
        (
            {"httpGet": {"port": 80}, "periodSeconds": 0, "timeoutSeconds": 0, "failureThreshold": 0},
            Probe(port=Port(80)),
        ),
    ],
)
def test_a_probe_is_read_whole(raw: Raw, probe: Probe) -> None:
    assert read(raw) == (probe, [], [])


@pytest.mark.parametrize(
    ("raw", "where"),
    [
        (3, ["p"]),
        ({}, ["p"]),
        ({"exec": {"command": ["x"]}}, ["p"]),
        ({"httpGet": {"port": 80}, "tcpSocket": {"port": 80}}, ["p"]),
        ({"httpGet": []}, ["p.httpGet"]),
        ({"httpGet": {}}, ["p.httpGet.port"]),
        ({"httpGet": {"port": 0}}, ["p.httpGet.port"]),
        ({"httpGet": {"port": 65536}}, ["p.httpGet.port"]),
        ({"httpGet": {"port": "web"}}, ["p.httpGet.port"]),
        ({"httpGet": {"port": True}}, ["p.httpGet.port"]),
        ({"httpGet": {"port": 80, "path": "ready"}}, ["p.httpGet.path"]),
        ({"httpGet": {"port": 80, "path": "/a b"}}, ["p.httpGet.path"]),
        ({"httpGet": {"port": 80, "path": "/a\r\nHost: b"}}, ["p.httpGet.path"]),
        ({"httpGet": {"port": 80, "scheme": "ftp"}}, ["p.httpGet.scheme"]),
        ({"httpGet": {"port": 80, "host": "a b"}}, ["p.httpGet.host"]),
        ({"httpGet": {"port": 80, "host": "fe80::1%eth0"}}, ["p.httpGet.host"]),
        ({"httpGet": {"port": 80, "host": 3}}, ["p.httpGet.host"]),
        ({"httpGet": {"port": 80, "httpHeaders": [{"name": "a:b"}]}}, ["p.httpGet.httpHeaders[0].name"]),
        (
            {"httpGet": {"port": 80, "httpHeaders": [{"name": "a", "value": "b\r\nc: d"}]}},
            ["p.httpGet.httpHeaders[0].value"],
        ),
        ({"httpGet": {"port": 80, "httpHeaders": [{"name": "a"}] * 17}}, ["p.httpGet.httpHeaders"]),
        ({"grpc": {"port": 80, "service": "a b"}}, ["p.grpc.service"]),
        ({"httpGet": {"port": 80}, "periodSeconds": -1}, ["p.periodSeconds"]),
        ({"httpGet": {"port": 80}, "timeoutSeconds": 3601}, ["p.timeoutSeconds"]),
        ({"httpGet": {"port": 80}, "failureThreshold": "3"}, ["p.failureThreshold"]),
        ({"httpGet": {"port": 80}, "successThreshold": 1001}, ["p.successThreshold"]),
        ({"httpGet": {"port": 80}, "initialDelaySeconds": 1.5}, ["p.initialDelaySeconds"]),
    ],
)
def test_a_probe_with_a_mistake_is_none_so_that_nothing_counts_as_well_for_it(raw: Any, where: list[str]) -> None:
    probe, faults, _ = read(raw)
    assert (probe, faults) == (None, where)


@pytest.mark.parametrize(
    ("raw", "where"),
    [
        ({"httpGet": {"port": 80, "service": "a"}}, ["p.httpGet.service"]),
        ({"tcpSocket": {"port": 80, "path": "/"}}, ["p.tcpSocket.path"]),
        ({"grpc": {"port": 80, "host": "a"}}, ["p.grpc.host"]),
        ({"httpGet": {"port": 80}, "name": "x"}, ["p.name"]),
        ({"tcpSocket": {"port": 4191}}, ["p.tcpSocket.port"]),
    ],
)
def test_what_is_ignored_or_doubtful_is_told(raw: Raw, where: list[str]) -> None:
    probe, faults, warnings = read(raw)
    assert (probe is not None, faults, warnings) == (True, [], where)
