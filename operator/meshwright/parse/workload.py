"""Service, Namespace and ExternalWorkload.

Source: kubernetes/api ``core/v1/types.go`` ServiceSpec; linkerd2 ``controller/gen/apis/externalworkload``
``v1beta1/types.go`` and ``v1alpha1/types.go``.
"""

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from meshwright.model.problem import Problem, Reason
from meshwright.model.snapshot import Broken
from meshwright.model.units import Port
from meshwright.model.workload import ExternalWorkload, NamespaceObject, Protocol, Service, ServicePort, WorkloadPort
from meshwright.parse.access import read_access_policy
from meshwright.parse.annotations import read_asks_identity, read_opaque_ports, read_skipped_inbound, read_traffic
from meshwright.parse.leaf import PortNumber, Word
from meshwright.parse.metadata import Metadata
from meshwright.parse.shape import SHAPE, make_reader, make_text_reader, quote, read_few, read_items, read_pairs

_INVALID = Reason.INVALID_OBJECT
_LABEL_ZONE = "topology.kubernetes.io/zone"
_NO_ADDRESS = "None"
_MAX_IPS = {"v1alpha1": 1, "v1beta1": 2}
_PROTOCOLS = {
    "http": Protocol.HTTP1,
    "kubernetes.io/ws": Protocol.HTTP1,
    "kubernetes.io/h2c": Protocol.HTTP2,
    "grpc": Protocol.HTTP2,
}

_Transport = Annotated[Literal["TCP", "UDP", "SCTP"], Field(description="TCP, UDP or SCTP")]
_ServiceType = Annotated[
    Literal["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"],
    Field(description="ClusterIP, NodePort, LoadBalancer or ExternalName"),
]
_Family = Literal["IPv4", "IPv6"]
_PortName = Annotated[
    str,
    Field(
        strict=True,
        max_length=63,
        pattern="^[a-z0-9]([-a-z0-9]*[a-z0-9])?$",
        description="a port number from 1 to 65535 or a port's name",
    ),
]
_Required = Annotated[
    str,
    Field(strict=True, min_length=1, max_length=253, description="a text of 1 to 253 characters"),
]
_ServerName = Annotated[
    str,
    Field(
        strict=True,
        max_length=253,
        pattern=r"^[A-Za-z0-9_]([-A-Za-z0-9_.]*[A-Za-z0-9_])?$",
        description="a DNS name of 1 to 253 characters",
    ),
]


@dataclass(frozen=True, slots=True, kw_only=True, config=SHAPE)
class _ServiceShape:
    type: _ServiceType = "ClusterIP"
    cluster_ip: Annotated[Word, Field(alias="clusterIP")] = ""
    cluster_ips: Annotated[Any, Field(alias="clusterIPs")] = None
    ip_families: Annotated[tuple[_Family, ...], Field(description="a list of IPv4 and IPv6")] = ()
    ports: Any = None
    selector: Any = None


@dataclass(frozen=True, slots=True, kw_only=True, config=SHAPE)
class _PortShape:
    name: Word = ""
    port: PortNumber = 0
    target_port: Any = None
    protocol: _Transport = "TCP"
    app_protocol: Word = ""


@dataclass(frozen=True, slots=True, kw_only=True, config=SHAPE)
class _WorkloadShape:
    mesh_tls: Annotated[Any, Field(alias="meshTLS")] = None
    mesh_tls_alpha: Annotated[Any, Field(alias="meshTls")] = None
    ports: Any = None
    workload_ips: Annotated[Any, Field(alias="workloadIPs")] = None


@dataclass(frozen=True, slots=True, kw_only=True, config=SHAPE)
class _MeshTlsShape:
    identity: _Required = ""
    server_name: _ServerName = ""


@dataclass(frozen=True, slots=True, kw_only=True, config=SHAPE)
class _WorkloadIpShape:
    ip: Word = ""


@dataclass(frozen=True, slots=True, kw_only=True, config=SHAPE)
class _WorkloadPortShape:
    name: Word = ""
    port: PortNumber = 0
    protocol: _Transport = "TCP"


_read_service = make_reader(_ServiceShape, _INVALID)
_read_port = make_reader(_PortShape, _INVALID, required=("port",))
_read_workload = make_reader(_WorkloadShape, _INVALID)
_read_workload_ip = make_reader(_WorkloadIpShape, _INVALID, required=("ip",))
_read_port_name = make_text_reader(_PortName, _INVALID)
_read_mesh_tls = make_reader(_MeshTlsShape, _INVALID, required=("identity", "serverName"))
_read_workload_port = make_reader(_WorkloadPortShape, _INVALID, required=("port",))


def parse_namespace(metadata: Metadata, raw: dict[str, Any]) -> NamespaceObject:
    """Return the namespace in ``raw``. Never raises."""
    problems = [*metadata.problems]
    annotations = read_pairs(metadata.annotations, "metadata.annotations", problems, _INVALID)
    opaque = read_opaque_ports(dict(annotations), problems)
    access = read_access_policy(dict(annotations), problems)
    return NamespaceObject(
        ref=metadata.ref,
        labels=metadata.labels,
        annotations=annotations,
        opaque=opaque,
        access=access,
        problems=tuple(problems),
    )


def parse_service(metadata: Metadata, raw: dict[str, Any]) -> Service | Broken:
    """Return the Service in ``raw``; ``Broken`` when it has no spec or no type that we know. Never raises.

    A port or an address that cannot be read is left out, with a Problem. Addresses: IPv4 first. A selector without
    labels selects nothing, as Kubernetes has it, and is none; so is one that cannot be read in full, as the rest of it
    would select more.
    """
    faults: list[Problem] = []
    spec = _read_service(raw.get("spec"), "spec", faults)
    problems = [*metadata.problems]
    traffic = read_traffic(metadata.annotations, problems)
    if spec is None or faults:
        problems = [*faults, *problems]
        return Broken(ref=metadata.ref, generation=metadata.generation, problems=tuple(problems))
    listed = read_items(spec.cluster_ips, "spec.clusterIPs", problems, _INVALID)
    single = [("spec.clusterIP", spec.cluster_ip)] if spec.cluster_ip else []
    written = [(f"spec.clusterIPs[{index}]", item) for index, item in enumerate(listed)] or single
    addresses = _read_addresses([pair for pair in written if pair[1] != _NO_ADDRESS], problems)
    ports = _make_ports(spec.ports, problems)
    opaque = read_opaque_ports(metadata.annotations, problems, {port.name: port.port for port in ports if port.name})
    selector = read_pairs(spec.selector, "spec.selector", faults, _INVALID)
    problems += faults
    return Service(
        ref=metadata.ref,
        uid=metadata.uid,
        type=spec.type,
        addresses=_write_addresses(sorted(addresses, key=lambda address: address.version)),
        is_headless=any(item == _NO_ADDRESS for _, item in written),
        ports=ports,
        selector=None if faults else selector or None,
        labels=metadata.labels,
        families=spec.ip_families,
        is_deleting=metadata.is_deleting,
        traffic=traffic,
        opaque=opaque,
        problems=tuple(problems),
    )


def parse_workload(metadata: Metadata, raw: dict[str, Any]) -> ExternalWorkload | Broken:
    """Return the ExternalWorkload in ``raw``; ``Broken`` when it has no spec. Never raises.

    A port or an address that cannot be read is left out, with a Problem; so is what cannot be read of an annotation.
    v1alpha1 writes ``meshTls`` and has one address, v1beta1 ``meshTLS`` and up to two. What the server name is goes to
    other proxies as it is, so that it must be one.
    """
    problems = [*metadata.problems]
    spec = _read_workload(raw.get("spec"), "spec", problems)
    if spec is None:
        return Broken(ref=metadata.ref, generation=metadata.generation, problems=tuple(problems))
    version = str(raw.get("apiVersion")).partition("/")[2]
    tls, field = (spec.mesh_tls_alpha, "meshTls") if version == "v1alpha1" else (spec.mesh_tls, "meshTLS")
    mesh_tls = _read_mesh_tls({} if tls is None else tls, f"spec.{field}", problems) or _MeshTlsShape()
    ips = _make_workload_ips(spec.workload_ips, _MAX_IPS.get(version, 1), problems)
    ports = _make_workload_ports(spec.ports, problems)
    annotations = dict(read_pairs(metadata.annotations, "metadata.annotations", problems, _INVALID))
    names = {port.name: port.port for port in ports if port.name}
    return ExternalWorkload(
        ref=metadata.ref,
        uid=metadata.uid,
        ips=ips,
        ports=ports,
        is_ready=_is_ready(raw.get("status")),
        identity=mesh_tls.identity,
        server_name=mesh_tls.server_name,
        labels=metadata.labels,
        zone=dict(metadata.labels).get(_LABEL_ZONE),
        access=read_access_policy(annotations, problems),
        asks_identity=read_asks_identity(annotations, problems, names),
        opaque=read_opaque_ports(annotations, problems, names),
        skipped_inbound=read_skipped_inbound(annotations, problems, names),
        problems=tuple(problems),
    )


def _make_ports(raw: object, problems: list[Problem]) -> tuple[ServicePort, ...]:
    ports = []
    for index, item in enumerate(read_items(raw, "spec.ports", problems, _INVALID)):
        field = f"spec.ports[{index}]"
        faults: list[Problem] = []
        shape = _read_port(item, field, faults) or _PortShape()
        target = _read_target(shape.target_port, shape.port, f"{field}.targetPort", faults)
        problems += faults
        if target is not None and not faults:
            ports.append(
                ServicePort(
                    name=shape.name,
                    port=Port(shape.port),
                    target=target,
                    protocol=_read_protocol(shape.app_protocol),
                    transport=shape.protocol,
                )
            )
    return tuple(ports)


def _read_target(raw: object, port: int, field: str, problems: list[Problem]) -> Port | str | None:
    """Return a number or a port's name: ``port`` when nothing is written, ``None`` when it cannot be read."""
    if raw is None or raw == "" or (raw == 0 and type(raw) is int):
        return Port(port)
    if isinstance(raw, str):
        return _read_port_name(raw, field, problems)
    if type(raw) is int and 1 <= raw <= 65535:
        return Port(raw)
    message = f"found {quote(raw)}; write a port number from 1 to 65535 or a port's name"
    problems.append(Problem(field, _INVALID, message))
    return None


def _read_protocol(app_protocol: str) -> Protocol:
    """Return what the port speaks; letters count in either case.

    Source: Gateway API GEP-1911; linkerd2 ``policy-controller/k8s/index/src/outbound/index.rs`` AppProtocol.
    """
    return _PROTOCOLS.get(app_protocol.lower(), Protocol.OPAQUE) if app_protocol else Protocol.DETECT


def _read_addresses(
    written: Iterable[tuple[str, object]],
    problems: list[Problem],
) -> list[IPv4Address | IPv6Address]:
    """Return the addresses among values and their paths; a zone (``fe80::1%eth0``) is not part of one."""
    addresses = []
    for field, item in written:
        try:
            if not isinstance(item, str) or "%" in item:
                raise ValueError
            addresses.append(ip_address(item))
        except ValueError:
            problems.append(Problem(field, _INVALID, f"found {quote(item)}; write an IPv4 or IPv6 address"))
    return addresses


def _write_addresses(addresses: Iterable[IPv4Address | IPv6Address]) -> tuple[str, ...]:
    """Return the canonical texts, in order, each once."""
    return tuple(dict.fromkeys(str(address) for address in addresses))


def _make_workload_ips(raw: object, most: int, problems: list[Problem]) -> tuple[str, ...]:
    """Return the addresses that the API server takes for an endpoint: one that it refuses would cost its whole slice.

    Source: kubernetes/kubernetes ``pkg/apis/core/validation/validation.go`` ValidateNonSpecialIP.
    """
    written = []
    for index, item in enumerate(read_few(raw, "spec.workloadIPs", problems, _INVALID, most)[:most]):
        shape = _read_workload_ip(item, f"spec.workloadIPs[{index}]", problems)
        if shape is not None and shape.ip:
            written.append((f"spec.workloadIPs[{index}].ip", shape.ip))
    addresses = []
    for field, text in written:
        for address in _read_addresses([(field, text)], problems):
            if address.is_loopback or address.is_link_local or address.is_unspecified or address.is_multicast:
                wanted = (
                    "an address by which the cluster reaches the machine, not one of the machine itself or its link"
                )
                problems.append(Problem(field, _INVALID, f"found {quote(text)}; write {wanted}"))
            else:
                addresses.append(address)
    return _write_addresses(addresses)


def _make_workload_ports(raw: object, problems: list[Problem]) -> tuple[WorkloadPort, ...]:
    ports = []
    for index, item in enumerate(read_items(raw, "spec.ports", problems, _INVALID)):
        faults: list[Problem] = []
        shape = _read_workload_port(item, f"spec.ports[{index}]", faults)
        problems += faults
        if shape is not None and not faults:
            ports.append(WorkloadPort(name=shape.name, port=Port(shape.port), transport=shape.protocol))
    return tuple(ports)


def _is_ready(status: object) -> bool:
    """Return whether the Ready condition is True. A status that cannot be read says nothing, so: no."""
    conditions = status.get("conditions") if isinstance(status, dict) else None
    return isinstance(conditions, list) and any(
        isinstance(condition, dict) and condition.get("type") == "Ready" and condition.get("status") == "True"
        for condition in conditions
    )
