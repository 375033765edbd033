"""ExternalGroups: machines outside the cluster that are alike.

Nobody has published the schema of this kind. It is read as the reference page and the published examples have it, and
what is not known is told and ignored.

Source: Buoyant Enterprise for Linkerd, reference of ExternalGroup and the workshops on external workloads.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from meshwright.model.group import Group, Pairs, Probe
from meshwright.model.problem import Problem, Reason
from meshwright.model.units import Port
from meshwright.model.workload import WorkloadPort
from meshwright.parse.injection import parse_injection
from meshwright.parse.label import is_kubernetes_key, read_annotations, read_labels
from meshwright.parse.leaf import PortNumber, Word
from meshwright.parse.metadata import Metadata
from meshwright.parse.probe import read_probe
from meshwright.parse.shape import SHAPE, make_reader, read_few, read_items, shorten
from meshwright.parse.unknown import find_unknown

_INVALID = Reason.INVALID_OBJECT
_MOST_PORTS = 100
"""Source: kubernetes/kubernetes ``pkg/apis/discovery/validation/validation.go`` maxPorts, for an EndpointSlice."""

_HASH_LENGTH = 16
_FOR_PEOPLE = ("app.kubernetes.io/", "topology.kubernetes.io/")
_PORT_NAME = re.compile(r"(?=.*[a-z])(?!.*--)[a-z0-9]([-a-z0-9]{0,13}[a-z0-9])?")
"""Source: kubernetes/apimachinery ``pkg/util/validation/validation.go`` IsValidPortName."""

_TEMPLATE = "spec.template"
_META = f"{_TEMPLATE}.metadata"
_PORTS = f"{_TEMPLATE}.ports"

_Transport = Annotated[Literal["TCP", "UDP"], Field(description="TCP or UDP")]


@dataclass(frozen=True, slots=True, kw_only=True, config=SHAPE)
class _GroupShape:
    template: Annotated[Any, Field(description="what its machines have in common: labels and ports")] = None
    probes: Any = None


@dataclass(frozen=True, slots=True, kw_only=True, config=SHAPE)
class _TemplateShape:
    metadata: Any = None
    ports: Any = None
    probes: Any = None


@dataclass(frozen=True, slots=True, kw_only=True, config=SHAPE)
class _MetadataShape:
    labels: Any = None
    annotations: Any = None


@dataclass(frozen=True, slots=True, kw_only=True, config=SHAPE)
class _PortShape:
    name: Word = ""
    port: PortNumber = 0
    protocol: _Transport = "TCP"


_read_group = make_reader(_GroupShape, _INVALID, required=("template",))
_read_template = make_reader(_TemplateShape, _INVALID)
_read_metadata = make_reader(_MetadataShape, _INVALID)
_read_port = make_reader(_PortShape, _INVALID, required=("port",))


def parse_group(metadata: Metadata, raw: dict[str, Any]) -> Group:
    """Return the ExternalGroup in ``raw``; one that cannot be used says so, with problems. Never raises.

    Probes are read at ``spec.probes``, or, where there are none, at ``spec.template.probes``. Of several the first
    counts. Whatever is wrong with the template or with that probe leaves the group unusable; a field that is not known
    does not.
    """
    faults: list[Problem] = []
    warnings: list[Problem] = []
    spec = _read_group(raw.get("spec"), "spec", faults) or _GroupShape()
    warnings += find_unknown(raw.get("spec"), "spec", ("template", "probes"))
    template = (None if spec.template is None else _read_template(spec.template, _TEMPLATE, faults)) or _TemplateShape()
    warnings += find_unknown(spec.template, _TEMPLATE, ("metadata", "ports", "probes"))
    labels, annotations = _read_meta(template.metadata, faults, warnings)
    ports = _read_ports(template.ports, faults, warnings) if isinstance(spec.template, dict) else ()
    names = {port.name: port.port for port in reversed(ports) if port.name and port.transport == "TCP"}
    warnings += _check_settings(annotations, names)
    excess: list[Problem] = []
    probe = _read_probes(spec.probes, template.probes, names, faults, warnings, excess)
    return Group(
        ref=metadata.ref,
        uid=metadata.uid,
        generation=metadata.generation,
        labels=labels,
        annotations=annotations,
        ports=ports,
        probe=probe,
        template_hash=_hash_template(labels, annotations, ports),
        is_usable=not faults,
        is_deleting=metadata.is_deleting,
        warnings=tuple(warnings),
        problems=(*faults, *excess, *metadata.problems),
    )


def _read_meta(raw: object, faults: list[Problem], warnings: list[Problem]) -> tuple[Pairs, Pairs]:
    """Return labels and annotations of the template."""
    if raw is None:
        return (), ()
    shape = _read_metadata(raw, _META, faults) or _MetadataShape()
    # Tools that make templates write a time into them, which is null.
    warnings += find_unknown(raw, _META, ("labels", "annotations"))
    labels = read_labels(shape.labels, f"{_META}.labels", faults)
    for key, _ in labels:
        if is_kubernetes_key(key) and not key.startswith(_FOR_PEOPLE):
            message = "found a key that Kubernetes keeps for itself; write one of your own"
            warnings.append(Problem(f"{_META}.labels[{shorten(key)}]", Reason.UNSUPPORTED_VALUE, message))
    return labels, read_annotations(shape.annotations, f"{_META}.annotations", faults)


def _read_ports(raw: object, faults: list[Problem], warnings: list[Problem]) -> tuple[WorkloadPort, ...]:
    """Return the ports in order, without those that are wrong."""
    ports: list[WorkloadPort] = []
    for index, item in enumerate(read_few(raw, _PORTS, faults, _INVALID, _MOST_PORTS)[:_MOST_PORTS]):
        field = f"{_PORTS}[{index}]"
        found: list[Problem] = []
        shape = _read_port(item, field, found) or _PortShape()
        warnings += find_unknown(item, field, ("name", "port", "protocol"))
        port = WorkloadPort(name=shape.name, port=Port(shape.port), transport=shape.protocol)
        if not found:
            found += _find_repeated(port, field, ports)
        if found:
            faults += found
            continue
        if port.name and not _PORT_NAME.fullmatch(port.name):
            wanted = "at most 15 lower-case letters, digits and -, with a letter among them"
            message = f"found a name by which no Service can mean it; write {wanted}"
            warnings.append(Problem(f"{field}.name", Reason.UNSUPPORTED_VALUE, message))
        ports.append(port)
    if not ports and not faults:
        faults.append(Problem(_PORTS, _INVALID, "found none; write at least one, or no Service reaches the machines"))
    return tuple(ports)


def _find_repeated(port: WorkloadPort, field: str, before: list[WorkloadPort]) -> Iterator[Problem]:
    alike = [each for each in before if each.transport == port.transport]
    if any(each.port == port.port for each in alike):
        yield Problem(f"{field}.port", _INVALID, f"found {port.transport} {port.port} again; write each port once")
    if port.name and any(each.name == port.name for each in alike):
        message = f'found "{shorten(port.name)}" again; write a name that no other {port.transport} port has'
        yield Problem(f"{field}.name", _INVALID, message)


def _read_probes(
    own: object,
    of_template: object,
    names: Mapping[str, Port],
    faults: list[Problem],
    warnings: list[Problem],
    excess: list[Problem],
) -> Probe | None:
    """Return the one probe, ``None`` for none. ``excess``: the others, which are not used."""
    at_template = f"{_TEMPLATE}.probes"
    is_own = own is not None and own != []
    if is_own and of_template is not None and of_template != []:
        message = "found probes beside those at spec.probes, which count; leave them out"
        warnings.append(Problem(at_template, Reason.UNSUPPORTED_VALUE, message))
    field = "spec.probes" if is_own or of_template is None else at_template
    listed = read_items(own if is_own else of_template, field, faults, _INVALID)
    if len(listed) > 1:
        message = f"found {len(listed)} probes, of which the first counts; write one"
        excess.append(Problem(field, _INVALID, message))
    return read_probe(listed[0], f"{field}[0]", names, faults, warnings) if listed else None


def _check_settings(annotations: Pairs, names: Mapping[str, Port]) -> Iterator[Problem]:
    """Yield what is wrong with the proxy's settings among ``annotations``: it will count as not said."""
    declared = [{"name": name, "containerPort": port} for name, port in names.items()]
    like_pod = {"metadata": {"annotations": dict(annotations)}, "spec": {"containers": [{"ports": declared}]}}
    for problem in parse_injection(like_pod, {}, {}).problems:
        yield replace(problem, field=f"{_TEMPLATE}.{problem.field}")


def _hash_template(labels: Pairs, annotations: Pairs, ports: tuple[WorkloadPort, ...]) -> str:
    content = [labels, annotations, [(port.name, port.port, port.transport) for port in ports]]
    digest = hashlib.sha256(json.dumps(content, ensure_ascii=True, separators=(",", ":")).encode()).hexdigest()
    return f"sha256:{digest[:_HASH_LENGTH]}"
