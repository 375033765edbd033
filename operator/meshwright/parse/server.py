"""Servers.

Source: linkerd2 ``policy-controller/k8s/api/src/policy/server.rs`` ServerSpec, ``policy-controller/src/admission.rs``.
"""

from typing import Annotated, Any

from pydantic import Field
from pydantic.dataclasses import dataclass

from meshwright.model.policy import AccessPolicy, ProxyProtocol, Server
from meshwright.model.problem import Problem, Reason
from meshwright.model.selector import Selector
from meshwright.model.snapshot import Broken
from meshwright.model.units import Port
from meshwright.parse.access import WORDS, parse_access_policy
from meshwright.parse.metadata import Metadata
from meshwright.parse.selector import read_selector
from meshwright.parse.shape import SHAPE, make_reader, make_text_reader, quote

_INVALID = Reason.INVALID_OBJECT
_PROTOCOLS = {protocol.value: protocol for protocol in ProxyProtocol}
_LATER_FIELDS = {
    "externalWorkloadSelector": ("v1beta3", "v1beta2"),
    "accessPolicy": ("v1beta3",),
}
"""The versions that have a field; the others lose it when it is stored."""

_PortName = Annotated[
    str,
    Field(
        strict=True,
        max_length=63,
        pattern="^([a-z0-9][-a-z0-9]*)?[a-z]([-a-z0-9]*[a-z0-9])?$",
        description="a port number from 1 to 65535, without quotes, or a port's name",
    ),
]


@dataclass(frozen=True, slots=True, kw_only=True, config=SHAPE)
class _ServerShape:
    pod_selector: Any = None
    external_workload_selector: Any = None
    port: Any = None
    proxy_protocol: Any = None
    access_policy: Any = None


_read_server = make_reader(_ServerShape, _INVALID)
_read_port_name = make_text_reader(_PortName, _INVALID)


def parse_server(metadata: Metadata, raw: dict[str, Any]) -> Server | Broken:
    """Return the Server in ``raw``; ``Broken`` when it cannot be said which ports it is about. Never raises.

    An access policy that is none counts as ``deny``, a protocol that is none as ``unknown``.
    """
    faults: list[Problem] = []
    problems = [*metadata.problems]
    spec = _read_server(raw.get("spec"), "spec", faults)
    if spec is None:
        return Broken(ref=metadata.ref, generation=metadata.generation, problems=(*faults, *problems))
    version = str(raw.get("apiVersion")).rpartition("/")[2]
    is_external, selector = _read_selectors(spec, version, faults, problems)
    port = _read_port(spec.port, faults)
    protocol = _read_protocol(spec.proxy_protocol, problems)
    access = _read_access(spec.access_policy, version, problems)
    if selector is None or port is None:
        return Broken(ref=metadata.ref, generation=metadata.generation, problems=(*faults, *problems))
    return Server(
        ref=metadata.ref,
        uid=metadata.uid,
        created=metadata.created,
        labels=metadata.labels,
        selects_external=is_external,
        selector=selector,
        port=port,
        protocol=protocol,
        access=access,
        problems=tuple(problems),
    )


def _read_selectors(
    spec: _ServerShape,
    version: str,
    faults: list[Problem],
    problems: list[Problem],
) -> tuple[bool, Selector | None]:
    """Return whether external workloads are selected, and which; ``None`` when that cannot be said."""
    pods, externals = spec.pod_selector, spec.external_workload_selector
    if externals is not None and version not in _LATER_FIELDS["externalWorkloadSelector"]:
        faults.append(_find_too_early("externalWorkloadSelector", version))
        return True, None
    if pods is not None and externals is not None:
        message = "found podSelector beside externalWorkloadSelector; write one of the two, and a second Server"
        faults.append(Problem("spec", _INVALID, message))
        return False, None
    if pods is None and externals is None:
        message = "it is missing; write the labels of the pods whose port it is, or {} for all"
        faults.append(Problem("spec.podSelector", _INVALID, message))
        return False, None
    if pods is not None:
        return False, read_selector(pods, "spec.podSelector", faults, problems)
    return True, read_selector(externals, "spec.externalWorkloadSelector", faults, problems)


def _read_port(raw: object, faults: list[Problem]) -> Port | str | None:
    if isinstance(raw, str):
        return _read_port_name(raw, "spec.port", faults)
    if type(raw) is int and 1 <= raw <= 65535:
        return Port(raw)
    found = "it is missing" if raw is None else f"found {quote(raw)}"
    faults.append(Problem("spec.port", _INVALID, f"{found}; write a port number from 1 to 65535 or a port's name"))
    return None


def _read_protocol(raw: object, problems: list[Problem]) -> ProxyProtocol:
    protocol = ProxyProtocol.UNKNOWN if raw is None else _PROTOCOLS.get(raw) if isinstance(raw, str) else None
    if protocol is None:
        message = f"found {quote(raw)}, which counts as unknown; write one of {', '.join(_PROTOCOLS)}"
        problems.append(Problem("spec.proxyProtocol", _INVALID, message))
        return ProxyProtocol.UNKNOWN
    return protocol


def _read_access(raw: object, version: str, problems: list[Problem]) -> AccessPolicy:
    if raw is not None and version not in _LATER_FIELDS["accessPolicy"]:
        problems.append(_find_too_early("accessPolicy", version))
        return AccessPolicy.DENY
    access = AccessPolicy.DENY if raw is None else parse_access_policy(raw) if isinstance(raw, str) else None
    if access is None:
        message = f"found {quote(raw)}, which counts as deny; write one of {WORDS}"
        problems.append(Problem("spec.accessPolicy", _INVALID, message))
        return AccessPolicy.DENY
    return access


def _find_too_early(name: str, version: str) -> Problem:
    message = f"found it in {version}, which has no such field; write apiVersion: policy.linkerd.io/v1beta3"
    return Problem(f"spec.{name}", _INVALID, message)
