"""What delivery reads: our own policy ConfigMaps, and anybody's EndpointSlices."""

import json
from collections.abc import Mapping
from typing import Any

from meshwright.model.desired import UnitName
from meshwright.model.problem import Problem, Reason
from meshwright.model.proxy import EndpointSlice, OutboundUnit, SliceEndpoint
from meshwright.model.ref import Kind, Ref, ServiceName
from meshwright.model.units import UNIT_KEY, Namespace, Port

LABEL_SERVICE = "kubernetes.io/service-name"


def parse_unit(raw: Mapping[str, Any]) -> OutboundUnit | Problem:
    """Return the policy in a ConfigMap, or the first thing that makes it unreadable. Never raises.

    Envoy's part, the virtual hosts, is taken as it is: who encodes it finds out if it is sound.
    """
    metadata = raw["metadata"]
    text = (raw.get("data") or {}).get(UNIT_KEY)
    if not isinstance(text, str):
        return _broken(f"there is no {UNIT_KEY}")
    try:
        unit = json.loads(text)
        service = ServiceName(Namespace(str(unit["service"]["namespace"])), str(unit["service"]["name"]))
        ports = {Port(int(port)): entry["virtual_host"] for port, entry in unit["ports"].items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        return _broken(f"it cannot be read: {type(error).__name__}: {error}")
    if not all(isinstance(host, dict) for host in ports.values()):
        return _broken("a virtual_host is not an object")
    name = UnitName(Namespace(str(metadata.get("namespace") or "")), str(metadata["name"]))
    return OutboundUnit(name=name, service=service, ports=ports)


def _broken(why: str) -> Problem:
    return Problem(
        field=f"data[{UNIT_KEY}]",
        reason=Reason.INVALID_OBJECT,
        message=f"{why}; delete the ConfigMap and the operator writes it anew",
    )


def parse_slice(raw: Mapping[str, Any]) -> EndpointSlice | None:
    """Return an EndpointSlice, ``None`` when it belongs to no Service or holds host names. Never raises on what an API
    server accepts.

    An endpoint whose readiness is not said is ready; a port without a number means all ports, which nobody can call
    by name, and is left out.

    Source: kubernetes/api ``discovery/v1/types.go`` ``EndpointConditions.Ready``, ``EndpointPort``.
    """
    metadata = raw["metadata"]
    service = (metadata.get("labels") or {}).get(LABEL_SERVICE)
    family = str(raw.get("addressType") or "")
    if not service or family not in ("IPv4", "IPv6"):
        return None
    namespace = Namespace(str(metadata.get("namespace") or ""))
    return EndpointSlice(
        ref=Ref(Kind.ENDPOINT_SLICE, namespace, str(metadata["name"])),
        service=ServiceName(namespace, str(service)),
        family=family,
        ports={
            str(port.get("name") or ""): Port(int(port["port"]))
            for port in raw.get("ports") or ()
            if port.get("port") and (port.get("protocol") or "TCP") == "TCP"
        },
        endpoints=tuple(_endpoint(endpoint) for endpoint in raw.get("endpoints") or ()),
    )


def _endpoint(raw: Mapping[str, Any]) -> SliceEndpoint:
    target = raw.get("targetRef") or {}
    return SliceEndpoint(
        addresses=tuple(raw.get("addresses") or ()),
        is_ready=(raw.get("conditions") or {}).get("ready") is not False,
        target=f"{target.get('kind', '')}/{target['name']}" if target.get("name") else "",
        zone=str(raw.get("zone") or ""),
    )
