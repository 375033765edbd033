"""What a cluster would fill in, for manifests that no cluster has seen: ClusterIPs, and EndpointSlices of pods.

The same manifests always get the same addresses: an address is drawn from the object's name, and what is taken is
passed over in the order of names.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Any

from meshwright.emit.slices import LABEL_SERVICE, LABEL_SLICE_MANAGER
from meshwright.model.desired import Json
from meshwright.model.problem import Problem, Reason
from meshwright.model.ref import Kind, Ref
from meshwright.model.units import Namespace, Port

SLICE_MANAGER = "offline.meshwright.dev"
_MAX_ENDPOINTS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Pod:
    """A pod, as a Service's selector and its target ports see it. ``ports``: TCP port by name."""

    namespace: Namespace
    name: str
    labels: Mapping[str, str]
    ips: tuple[str, ...]
    ports: Mapping[str, Port]
    is_ready: bool = True


def fill_in_addresses(services: Mapping[Ref, Json], ranges: Iterable[str]) -> dict[Ref, Json]:
    """Return the Services with a ClusterIP for each that would have one but names none; the rest as they are.

    ``ranges``: one CIDR for each family that can be given out. IPv6 is given to Services that ask for it in
    ``ipFamilies``. Headless and ExternalName Services get none.
    """
    networks = {f"IPv{network.version}": network for network in map(ip_network, ranges)}
    taken = {address for raw in services.values() for address in _addresses(raw)}
    filled: dict[Ref, Json] = {}
    for ref, raw in sorted(services.items()):
        filled[ref] = raw
        spec = raw.get("spec")
        if not isinstance(spec, dict) or _addresses(raw) or spec.get("clusterIP") or spec.get("type") == "ExternalName":
            continue
        wanted = [family for family in _texts(spec.get("ipFamilies")) if family in networks] or list(networks)[:1]
        addresses = [draw_address(f"{ref.namespace}/{ref.name}", networks[family], taken) for family in wanted]
        filled[ref] = raw | {"spec": spec | {"clusterIP": addresses[0], "clusterIPs": addresses}}
    return filled


def draw_address(name: str, network: IPv4Network | IPv6Network, taken: set[str]) -> str:
    """Return the address of ``network`` that belongs to ``name``, or the next free one, and add it to ``taken``.

    Never the first address of the range, and never the last.

    Raises:
        ValueError: the range is used up.
    """
    room = network.num_addresses - 2
    start = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) % room
    for step in range(min(room, len(taken) + 1)):
        address = str(network[1 + (start + step) % room])
        if address not in taken:
            taken.add(address)
            return address
    raise ValueError(f"no address is left in {network}")


def read_pod(raw: Json) -> Pod | None:
    """Return a Pod manifest as a pod, ``None`` while it has no address or is done."""
    metadata, spec, status = raw["metadata"], _mapping(raw.get("spec")), _mapping(raw.get("status"))
    listed = [_mapping(entry).get("ip") for entry in _list(status.get("podIPs"))] or [status.get("podIP")]
    ips = tuple(ip for ip in _texts(listed) if _is_ip(ip))
    if not ips or status.get("phase") in ("Succeeded", "Failed"):
        return None
    ready = [_mapping(entry) for entry in _list(status.get("conditions"))]
    return Pod(
        namespace=Namespace(metadata["namespace"]),
        name=metadata["name"],
        labels=read_labels(metadata.get("labels")),
        ips=ips,
        ports=read_ports(spec),
        is_ready=any(entry.get("type") == "Ready" and entry.get("status") == "True" for entry in ready) or not ready,
    )


def read_labels(value: Any) -> dict[str, str]:
    """Return the pairs of a mapping that are labels; anything else is left out."""
    return {key: text for key, text in _mapping(value).items() if isinstance(text, str)}


def read_ports(pod_spec: Any) -> dict[str, Port]:
    """Return the named TCP ports of a pod's containers."""
    ports: dict[str, Port] = {}
    for container in _list(_mapping(pod_spec).get("containers")):
        for port in map(_mapping, _list(_mapping(container).get("ports"))):
            number, name = port.get("containerPort"), port.get("name")
            if port.get("protocol", "TCP") == "TCP" and isinstance(name, str) and isinstance(number, int):
                ports.setdefault(name, Port(number))
    return ports


def make_slices(service: Json, pods: Iterable[Pod]) -> list[Json]:
    """Return the EndpointSlices a cluster would make for ``service`` out of ``pods``, sorted; none without a selector.

    Pods that resolve a named target port to different numbers are in different slices, as Kubernetes has it; so are
    address families. A pod that lacks a named port is left out of it.

    Source: kubernetes ``pkg/controller/endpointslice`` and its library ``staging/src/k8s.io/endpointslice``.
    """
    metadata, spec = service["metadata"], _mapping(service.get("spec"))
    selector = read_labels(spec.get("selector"))
    groups: dict[tuple[str, tuple[tuple[str, int], ...]], list[tuple[Pod, str]]] = {}
    for pod in sorted(pods, key=lambda pod: (pod.namespace, pod.name)):
        if selector and pod.namespace == metadata["namespace"] and selector.items() <= pod.labels.items():
            ports = tuple(
                (str(port.get("name", "")), number)
                for port in map(_mapping, _list(spec.get("ports")))
                if port.get("protocol", "TCP") == "TCP" and (number := resolve_target(port, pod.ports)) is not None
            )
            for ip in pod.ips:
                groups.setdefault((f"IPv{ip_address(ip).version}", ports), []).append((pod, ip))
    return [
        _make_slice(metadata, family, ports, members[at : at + _MAX_ENDPOINTS], f"{index}-{at}")
        for index, ((family, ports), members) in enumerate(sorted(groups.items(), key=lambda item: item[0]))
        for at in range(0, len(members), _MAX_ENDPOINTS)
    ]


def find_slice_problem(raw: Json) -> Problem | None:
    """Return what makes a hand-written EndpointSlice unusable, the first thing found; ``None`` when nothing does.

    Source: kubernetes/api ``discovery/v1/types.go`` EndpointSlice.
    """
    family = raw.get("addressType")
    if family not in ("IPv4", "IPv6", "FQDN"):
        return _unusable("addressType", family, "IPv4 or IPv6")
    labels = raw["metadata"].get("labels") or {}
    if not isinstance(labels, dict) or not all(isinstance(text, str) for text in labels.values()):
        return _unusable("metadata.labels", labels, "a mapping of texts")
    for key in ("ports", "endpoints"):
        if not isinstance(raw.get(key) or [], list):
            return _unusable(key, raw[key], "a list")
        for index, entry in enumerate(raw.get(key) or ()):
            field = f"{key}[{index}]"
            if not isinstance(entry, dict):
                return _unusable(field, entry, "a mapping")
            found = _find_port_problem(field, entry) if key == "ports" else _find_endpoint_problem(field, entry, family)
            if found:
                return found
    return None


def _find_port_problem(field: str, port: Json) -> Problem | None:
    number = port.get("port")
    if number is not None and not (type(number) is int and 0 < number < 65536):
        return _unusable(f"{field}.port", number, "a number, 1 to 65535")
    for key in ("name", "protocol"):
        if not isinstance(port.get(key) or "", str):
            return _unusable(f"{field}.{key}", port[key], "a text")
    return None


def _find_endpoint_problem(field: str, endpoint: Json, family: str) -> Problem | None:
    addresses = endpoint.get("addresses")
    if not isinstance(addresses, list) or not addresses:
        return _unusable(f"{field}.addresses", addresses, "a list with an address")
    for index, address in enumerate(addresses):
        is_sound = isinstance(address, str) and (family == "FQDN" or (_is_ip(address) and _family(address) == family))
        if not is_sound:
            return _unusable(f"{field}.addresses[{index}]", address, f"an {family} address")
    for key in ("conditions", "targetRef"):
        if not isinstance(endpoint.get(key) or {}, dict):
            return _unusable(f"{field}.{key}", endpoint[key], "a mapping")
    return None


def _family(address: str) -> str:
    return f"IPv{ip_address(address).version}"


def _unusable(field: str, found: Any, wanted: str) -> Problem:
    text = json.dumps(found)
    return Problem(field, Reason.INVALID_OBJECT, f"found {text[:60]}, write {wanted}; the EndpointSlice is not used")


def _make_slice(
    service: Json, family: str, ports: tuple[tuple[str, int], ...], members: list[tuple[Pod, str]], suffix: str
) -> Json:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": f"{service['name']}-pods-{suffix}",
            "namespace": service["namespace"],
            "labels": {
                LABEL_SERVICE: service["name"],
                LABEL_SLICE_MANAGER: SLICE_MANAGER,
            },
        },
        "addressType": family,
        "ports": [{"name": name, "port": number, "protocol": "TCP"} for name, number in ports],
        "endpoints": [
            {
                "addresses": [ip],
                "conditions": {"ready": pod.is_ready, "serving": pod.is_ready, "terminating": False},
                "targetRef": {"kind": Kind.POD.word, "namespace": pod.namespace, "name": pod.name},
            }
            for pod, ip in members
        ],
    }


def resolve_target(port: Mapping[str, Any], named: Mapping[str, Port]) -> int | None:
    """Return the port number that a Service's port means on a pod with ``named`` ports; ``None`` when none."""
    target = port.get("targetPort")
    if isinstance(target, str) and not target.isdecimal():
        return named.get(target)
    number = int(target) if isinstance(target, int | str) and target else port.get("port")
    return number if isinstance(number, int) and 0 < number < 65536 else None


def _addresses(raw: Json) -> list[str]:
    spec = _mapping(raw.get("spec"))
    listed = [*_texts(spec.get("clusterIPs")), *_texts([spec.get("clusterIP")])]
    return [str(ip_address(address)) for address in listed if _is_ip(address)]


def _is_ip(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _texts(value: Any) -> list[str]:
    return [text for text in _list(value) if isinstance(text, str)]
