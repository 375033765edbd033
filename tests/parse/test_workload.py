"""Services, namespaces and machines."""

from typing import Any

import pytest

from meshwright.model.problem import Reason
from meshwright.model.ref import Kind, Ref
from meshwright.model.route import Timeouts, Traffic
from meshwright.model.snapshot import Broken
from meshwright.model.units import Millis, Namespace, Port
from meshwright.model.workload import ExternalWorkload, NamespaceObject, Protocol, Service, ServicePort, WorkloadPort
from meshwright.parse.kinds import parse_object
from tests.parse.made import Raw, fields, make

SHOP = Namespace("shop")
WORKLOADS = "workload.linkerd.io"
TLS = {"identity": "spiffe://mesh/vm", "serverName": "vm.mesh"}


def parse_service(metadata: Raw | None = None, **spec: Any) -> Service:
    parsed = parse_object(make("v1", "Service", spec, **(metadata or {})))
    assert isinstance(parsed, Service)
    return parsed


def parse_workload(version: str = "v1beta1", status: Any = None, **spec: Any) -> ExternalWorkload:
    tls = "meshTls" if version == "v1alpha1" else "meshTLS"
    raw = make(f"{WORKLOADS}/{version}", "ExternalWorkload", {tls: TLS, **spec})
    parsed = parse_object(raw if status is None else {**raw, "status": status})
    assert isinstance(parsed, ExternalWorkload)
    return parsed


def test_a_service_is_read_whole() -> None:
    metadata = {
        "uid": "u",
        "labels": {"z": "1", "a": "2"},
        "annotations": {"timeout.linkerd.io/request": "1s"},
        "deletionTimestamp": "2026-01-31T23:59:59Z",
    }
    service = parse_service(
        metadata,
        type="LoadBalancer",
        clusterIP="fd00::1",
        clusterIPs=["fd00::1", "10.0.0.1"],
        ipFamilies=["IPv6", "IPv4"],
        ports=[
            {"name": "web", "port": 80, "targetPort": "http", "appProtocol": "http"},
            {"port": 53, "protocol": "UDP"},
        ],
        selector={"b": "2", "a": "1"},
    )
    assert service == Service(
        ref=Ref(Kind.SERVICE, SHOP, "cart"),
        uid="u",
        type="LoadBalancer",
        addresses=("10.0.0.1", "fd00::1"),
        is_headless=False,
        ports=(
            ServicePort(name="web", port=Port(80), target="http", protocol=Protocol.HTTP1),
            ServicePort(name="", port=Port(53), target=Port(53), protocol=Protocol.DETECT, transport="UDP"),
        ),
        selector=(("a", "1"), ("b", "2")),
        labels=(("a", "2"), ("z", "1")),
        families=("IPv6", "IPv4"),
        is_deleting=True,
        traffic=Traffic(timeouts=Timeouts(request_ms=Millis(1000))),
    )


@pytest.mark.parametrize(
    ("spec", "addresses", "is_headless"),
    [
        ({}, (), False),
        ({"clusterIP": ""}, (), False),
        ({"clusterIP": "10.0.0.1"}, ("10.0.0.1",), False),
        ({"clusterIP": "10.0.0.1", "clusterIPs": None}, ("10.0.0.1",), False),
        ({"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"]}, ("10.0.0.1",), False),
        ({"clusterIPs": ["FD00:0::1"]}, ("fd00::1",), False),
        ({"clusterIP": "None"}, (), True),
        ({"clusterIP": "None", "clusterIPs": ["None"]}, (), True),
        ({"type": "ExternalName", "externalName": "a.b"}, (), False),
    ],
)
def test_addresses_are_canonical_and_headless_services_have_none(
    spec: Raw, addresses: tuple[str, ...], is_headless: bool
) -> None:
    service = parse_service(**spec)
    assert (service.addresses, service.is_headless, service.problems) == (addresses, is_headless, ())


@pytest.mark.parametrize("selector", [None, {}])
def test_an_empty_selector_is_none(selector: Any) -> None:
    assert parse_service(selector=selector).selector is None


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (None, Protocol.DETECT),
        ("", Protocol.DETECT),
        ("http", Protocol.HTTP1),
        ("HTTP", Protocol.HTTP1),
        ("kubernetes.io/ws", Protocol.HTTP1),
        ("kubernetes.io/h2c", Protocol.HTTP2),
        ("grpc", Protocol.HTTP2),
        ("kubernetes.io/wss", Protocol.OPAQUE),
        ("https", Protocol.OPAQUE),
        ("tcp", Protocol.OPAQUE),
        ("tls", Protocol.OPAQUE),
        ("linkerd.io/opaque", Protocol.OPAQUE),
        ("anything.else/x", Protocol.OPAQUE),
    ],
)
def test_app_protocol_says_what_a_port_speaks(written: str | None, expected: Protocol) -> None:
    (port,) = parse_service(ports=[{"port": 80, "appProtocol": written}]).ports
    assert port.protocol is expected


@pytest.mark.parametrize(
    ("written", "expected"), [(None, 80), (0, 80), ("", 80), (8080, 8080), ("http", "http"), ("8080-x", "8080-x")]
)
def test_the_target_is_a_number_or_a_name_and_else_the_port(written: Any, expected: int | str) -> None:
    (port,) = parse_service(ports=[{"port": 80, "targetPort": written}]).ports
    assert port.target == expected


@pytest.mark.parametrize(
    ("bad", "where", "message"),
    [
        (3, "", "found 3; write an object"),
        ({}, ".port", "it is missing; write a port number"),
        ({"port": 0}, ".port", "found 0; write a port number"),
        ({"port": 65536}, ".port", "found 65536; write a port number"),
        ({"port": "80"}, ".port", 'found "80"; write a port number'),
        ({"port": 80, "targetPort": 65536}, ".targetPort", "found 65536; write a port number from 1 to 65535 or"),
        ({"port": 80, "targetPort": True}, ".targetPort", "found true; write a port number"),
        ({"port": 80, "targetPort": False}, ".targetPort", "found false; write a port number"),
        ({"port": 80, "targetPort": 80.0}, ".targetPort", "found 80.0; write a port number"),
        ({"port": 80, "targetPort": "A_b"}, ".targetPort", 'found "A_b"; write a port number'),
        ({"port": 80, "protocol": "ICMP"}, ".protocol", 'found "ICMP"; write TCP, UDP or SCTP'),
        ({"port": 80, "appProtocol": 3}, ".appProtocol", "found 3; write a text"),
        ({"port": 80, "name": 3}, ".name", "found 3; write a text"),
    ],
)
def test_a_port_that_cannot_be_read_is_left_out_and_said(bad: Any, where: str, message: str) -> None:
    service = parse_service(ports=[bad, {"port": 81}])
    assert [port.port for port in service.ports] == [81]
    (problem,) = service.problems
    assert (problem.field, problem.reason) == (f"spec.ports[0]{where}", Reason.INVALID_OBJECT)
    assert problem.message.startswith(message)


@pytest.mark.parametrize(
    ("spec", "where"),
    [
        ({"ports": 3}, "spec.ports"),
        ({"clusterIPs": "10.0.0.1"}, "spec.clusterIPs"),
        ({"clusterIPs": ["10.0.0.1", "x"]}, "spec.clusterIPs[1]"),
        ({"clusterIPs": ["fe80::1%eth0"]}, "spec.clusterIPs[0]"),
        ({"clusterIPs": [167772161]}, "spec.clusterIPs[0]"),
        ({"clusterIP": "10.0.0.256"}, "spec.clusterIP"),
        ({"selector": 3}, "spec.selector"),
    ],
)
def test_what_else_is_wrong_with_a_service_is_said(spec: Raw, where: str) -> None:
    assert fields(parse_service(**spec).problems) == [where]


@pytest.mark.parametrize("value", [3, None, ["x"], "\ud800"])
def test_a_selector_that_cannot_be_read_in_full_selects_nothing(value: Any) -> None:
    service = parse_service(selector={"a": "1", "b": value})
    assert (service.selector, fields(service.problems)) == (None, ["spec.selector[b]"])


@pytest.mark.parametrize(
    ("spec", "where"),
    [
        (None, "spec"),
        ([], "spec"),
        ({"type": "Other"}, "spec.type"),
        ({"clusterIP": 3}, "spec.clusterIP"),
        ({"ipFamilies": ["IPv5"]}, "spec.ipFamilies"),
        ({"ipFamilies": 3}, "spec.ipFamilies"),
    ],
)
def test_a_service_that_cannot_be_known_is_broken(spec: Any, where: str) -> None:
    parsed = parse_object(make("v1", "Service", spec))
    assert isinstance(parsed, Broken)
    assert fields(parsed.problems) == [where]


def test_a_bad_annotation_leaves_the_service_standing() -> None:
    service = parse_service({"annotations": {"retry.linkerd.io/http": "x", "timeout.linkerd.io/idle": "1s"}})
    assert service.traffic == Traffic(timeouts=Timeouts(idle_ms=Millis(1000)))
    assert fields(service.problems) == ["metadata.annotations[retry.linkerd.io/http]"]


def test_a_namespace_is_read() -> None:
    raw = make("v1", "Namespace", labels={"b": "1", "a": "2"}, annotations={"x": "y"})
    assert parse_object(raw) == NamespaceObject(
        ref=Ref(Kind.NAMESPACE, Namespace(""), "cart"),
        labels=(("a", "2"), ("b", "1")),
        annotations=(("x", "y"),),
    )


def test_what_is_wrong_with_a_namespace_is_said() -> None:
    parsed = parse_object(make("v1", "Namespace", labels={"b": 1}, annotations={"x": True, "y": "z"}))
    assert isinstance(parsed, NamespaceObject)
    assert (parsed.labels, parsed.annotations) == ((), (("y", "z"),))
    assert fields(parsed.problems) == ["metadata.labels[b]", "metadata.annotations[x]"]


@pytest.mark.parametrize("version", ["v1beta1", "v1alpha1"])
def test_a_machine_is_read_whole(version: str) -> None:
    tls = {"v1beta1": "meshTLS", "v1alpha1": "meshTls"}[version]
    raw = make(
        f"{WORKLOADS}/{version}",
        "ExternalWorkload",
        {
            tls: TLS,
            "ports": [{"name": "sql", "port": 5432}, {"port": 53, "protocol": "UDP"}],
            "workloadIPs": [{"ip": "FD00::0:1"}],
        },
        uid="u",
        labels={"app": "db", "topology.kubernetes.io/zone": "a"},
    )
    raw["status"] = {"conditions": [{"type": "Ready", "status": "True"}]}
    assert parse_object(raw) == ExternalWorkload(
        ref=Ref(Kind.EXTERNAL_WORKLOAD, SHOP, "cart"),
        uid="u",
        ips=("fd00::1",),
        ports=(
            WorkloadPort(name="sql", port=Port(5432)),
            WorkloadPort(name="", port=Port(53), transport="UDP"),
        ),
        is_ready=True,
        identity="spiffe://mesh/vm",
        server_name="vm.mesh",
        labels=(("app", "db"), ("topology.kubernetes.io/zone", "a")),
        zone="a",
    )


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (None, False),
        ({}, False),
        ({"conditions": None}, False),
        ({"conditions": [{"type": "Ready", "status": "True"}]}, True),
        ({"conditions": [{"type": "Other", "status": "True"}, {"type": "Ready", "status": "True"}]}, True),
        ({"conditions": [{"type": "Ready", "status": "False"}]}, False),
        ({"conditions": [{"type": "Ready", "status": "Unknown"}]}, False),
        ({"conditions": [{"type": "Ready", "status": True}]}, False),
        ({"conditions": [{"type": "Ready"}]}, False),
        ({"conditions": ["Ready", 3, None]}, False),
        ({"conditions": {"Ready": "True"}}, False),
        ("Ready", False),
    ],
)
def test_a_machine_is_ready_only_when_its_condition_says_so(status: Any, expected: bool) -> None:
    workload = parse_workload(status=status)
    assert (workload.is_ready, workload.problems) == (expected, ())


@pytest.mark.parametrize(
    ("version", "spec", "ips", "where"),
    [
        ("v1beta1", {"workloadIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]}, ("10.0.0.1", "fd00::1"), []),
        ("v1beta1", {"workloadIPs": [{"ip": "10.0.0.1"}, {"ip": "10.0.0.1"}]}, ("10.0.0.1",), []),
        ("v1beta1", {"workloadIPs": [{"ip": "10.0.0.1"}] * 3}, ("10.0.0.1",), ["spec.workloadIPs"]),
        (
            "v1alpha1",
            {"workloadIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]},
            ("10.0.0.1",),
            ["spec.workloadIPs"],
        ),
        ("v1beta1", {"workloadIPs": [{"ip": "vm"}, {"ip": "fd00::1"}]}, ("fd00::1",), ["spec.workloadIPs[0].ip"]),
        *(
            ("v1beta1", {"workloadIPs": [{"ip": ip}, {"ip": "fd00::1"}]}, ("fd00::1",), ["spec.workloadIPs[0].ip"])
            for ip in ("127.0.0.1", "::1", "0.0.0.0", "::", "169.254.1.1", "fe80::1", "224.0.0.1", "ff02::1")
        ),
        ("v1beta1", {"workloadIPs": [{}, {"ip": 3}]}, (), ["spec.workloadIPs[0].ip", "spec.workloadIPs[1].ip"]),
        ("v1beta1", {"workloadIPs": ["10.0.0.1"]}, (), ["spec.workloadIPs[0]"]),
        ("v1beta1", {"workloadIPs": "10.0.0.1"}, (), ["spec.workloadIPs"]),
        ("v1beta1", {"ports": {}}, (), ["spec.ports"]),
        ("v1beta1", {"ports": [{"port": 0}, 3]}, (), ["spec.ports[0].port", "spec.ports[1]"]),
        ("v1beta1", {"ports": [{"port": 80, "protocol": "x"}]}, (), ["spec.ports[0].protocol"]),
        ("v1beta1", {"meshTLS": None}, (), ["spec.meshTLS.identity", "spec.meshTLS.serverName"]),
        ("v1alpha1", {"meshTls": 3}, (), ["spec.meshTls"]),
        (
            "v1beta1",
            {"meshTLS": {"identity": "", "serverName": "x" * 254}},
            (),
            ["spec.meshTLS.identity", "spec.meshTLS.serverName"],
        ),
        *(
            ("v1beta1", {"meshTLS": {"identity": "vm", "serverName": name}}, (), ["spec.meshTLS.serverName"])
            for name in ("", "*.mesh", "vm mesh", "vm\x00", ".mesh", "mesh.", "spiffe://mesh/vm", "vm\n")
        ),
    ],
)
def test_what_is_wrong_with_a_machine_is_said_and_the_rest_stays(
    version: str, spec: Raw, ips: tuple[str, ...], where: list[str]
) -> None:
    workload = parse_workload(version, **spec)
    assert (workload.ips, workload.ports, sorted(fields(workload.problems))) == (ips, (), where)


@pytest.mark.parametrize(
    ("annotations", "skipped", "where"),
    [
        ({}, (), []),
        (
            {"config.linkerd.io/skip-inbound-ports": "8080, 9000-9002,sql"},
            ((5432, 5432), (8080, 8080), (9000, 9002)),
            [],
        ),
        (
            {"config.linkerd.io/skip-inbound-ports": "1", "config.meshwright.dev/skip-inbound-ports": "2"},
            ((2, 2),),
            [],
        ),
        (
            {"config.linkerd.io/skip-inbound-ports": "0,web,7"},
            ((7, 7),),
            ["metadata.annotations[config.linkerd.io/skip-inbound-ports]"] * 2,
        ),
        ({"config.linkerd.io/skip-outbound-ports": "7"}, (), []),
    ],
)
def test_a_machine_says_where_its_proxy_is_not(
    annotations: dict[str, str], skipped: tuple[tuple[int, int], ...], where: list[str]
) -> None:
    spec = {"meshTLS": TLS, "ports": [{"name": "sql", "port": 5432}]}
    parsed = parse_object(make(f"{WORKLOADS}/v1beta1", "ExternalWorkload", spec, annotations=annotations))
    assert isinstance(parsed, ExternalWorkload)
    assert (parsed.skipped_inbound.ranges, fields(parsed.problems)) == (skipped, where)


@pytest.mark.parametrize("spec", [None, 3, []])
def test_a_machine_without_spec_is_broken(spec: Any) -> None:
    parsed = parse_object(make(f"{WORKLOADS}/v1beta1", "ExternalWorkload", spec))
    assert isinstance(parsed, Broken)
    assert fields(parsed.problems) == ["spec"]
