"""RegistrationPolicies: which machines may join an ExternalGroup, and the times that hold there.

It gives access, and so it is read as authorizations are: whatever is wrong with it, a field that is not known included,
leaves it void, and then it lets in nobody.
"""

import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, TypeVar

from pydantic import Field
from pydantic.dataclasses import dataclass

from meshwright.model.group import (
    HeartbeatLoss,
    IdentityScope,
    JoinMode,
    Reachability,
    RegistrationPolicy,
    Rules,
)
from meshwright.model.problem import Problem, Reason
from meshwright.model.ref import Kind
from meshwright.model.units import Millis
from meshwright.parse.certificate import encode_pem, parse_certificates
from meshwright.parse.identity import SPIFFE
from meshwright.parse.label import (
    KEY_WANTED,
    VALUE_WANTED,
    is_kubernetes_key,
    is_label_key,
    is_label_value,
    is_own_label,
)
from meshwright.parse.metadata import Metadata
from meshwright.parse.network import read_cidr
from meshwright.parse.reference import Reference, read_reference
from meshwright.parse.shape import SHAPE, make_reader, quote, read_few, read_items
from meshwright.parse.unknown import find_unknown

_INVALID = Reason.INVALID_OBJECT
_MOST = 64
_MOST_INSTANCES = 10_000
_LARGEST_BUNDLE = 64 * 1024
_DEFAULT = Rules()
_DNS_LABEL = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_DNS_PATTERN = re.compile(rf"(\*\.)?{_DNS_LABEL}(\.{_DNS_LABEL})*")
_SPIFFE_PATTERN = re.compile(rf"{SPIFFE}[a-z0-9._-]+(/[A-Za-z0-9._-]+)*(/[A-Za-z0-9._-]*\*)?")
_DOTS = re.compile(r"/\.\.?(?=/|\Z)")
_LONGEST_IDENTITY = 253
"""Source: linkerd2 ``charts/linkerd-crds/templates/workload/external-workload.yaml``, ``meshTLS.identity``."""

_IDENTITY_WANTED = (
    "a SPIFFE ID such as spiffe://example.org/vm/ledger, which may end in * within its last part, or a host name in "
    "lower case, which may begin with *."
)

_Word = TypeVar("_Word", bound=StrEnum)


_Instances = Annotated[
    int, Field(strict=True, ge=1, le=_MOST_INSTANCES, description=f"a whole number from 1 to {_MOST_INSTANCES}")
]
_Pem = Annotated[
    str, Field(strict=True, max_length=_LARGEST_BUNDLE, description="CA certificates in PEM, at most 64 KiB")
]
_Beat = Annotated[int, Field(strict=True, ge=1, le=300, description="1 to 300 seconds")]
_Lease = Annotated[int, Field(strict=True, ge=3, le=3600, description="3 to 3600 seconds")]
_GoneAfter = Annotated[int, Field(strict=True, ge=1, le=2_592_000, description="1 to 2592000 seconds")]
_GroupGoneAfter = Annotated[int, Field(strict=True, ge=0, le=86_400, description="0 to 86400 seconds")]
_Hold = Annotated[int, Field(strict=True, ge=0, le=3600, description="0 to 3600 seconds")]


@dataclass(frozen=True, slots=True, kw_only=True, config=SHAPE)
class _PolicyShape:
    target_ref: Annotated[Any, Field(description="the ExternalGroup: group, kind and name")] = None
    modes: Any = None
    identities: Any = None
    client_certificate: Any = None
    allowed_cidrs: Annotated[Any, Field(alias="allowedCIDRs")] = None
    address_from: Any = None
    allowed_labels: Any = None
    identity_scope: Any = None
    limits: Any = None
    timers: Any = None
    heartbeat_loss: Any = None
    reachability: Any = None
    zone: Any = None


@dataclass(frozen=True, slots=True, kw_only=True, config=SHAPE)
class _CertificateShape:
    ca_bundle: _Pem = ""


@dataclass(frozen=True, slots=True, kw_only=True, config=SHAPE)
class _LimitsShape:
    instances: _Instances = _DEFAULT.instances


@dataclass(frozen=True, slots=True, kw_only=True, config=SHAPE)
class _TimersShape:
    beat_seconds: _Beat = _DEFAULT.beat_ms // 1000
    lease_seconds: _Lease = _DEFAULT.lease_ms // 1000
    gone_after_seconds: _GoneAfter = _DEFAULT.gone_after_ms // 1000
    group_gone_after_seconds: _GroupGoneAfter = _DEFAULT.group_gone_after_ms // 1000
    last_endpoint_hold_seconds: _Hold = _DEFAULT.last_endpoint_hold_ms // 1000


FIELDS: Mapping[str, tuple[str, ...]] = {
    "": (
        "targetRef",
        "modes",
        "identities",
        "clientCertificate",
        "allowedCIDRs",
        "addressFrom",
        "allowedLabels",
        "identityScope",
        "limits",
        "timers",
        "heartbeatLoss",
        "reachability",
        "zone",
    ),
    "targetRef": ("group", "kind", "name"),
    "clientCertificate": ("caBundle",),
    "limits": ("instances",),
    "timers": (
        "beatSeconds",
        "leaseSeconds",
        "goneAfterSeconds",
        "groupGoneAfterSeconds",
        "lastEndpointHoldSeconds",
    ),
}
"""The fields that are read, by the field of ``spec`` that they are in."""

_read_policy = make_reader(_PolicyShape, _INVALID, required=("targetRef",))
_read_certificate = make_reader(_CertificateShape, _INVALID, required=("caBundle",))
_read_limits = make_reader(_LimitsShape, _INVALID)
_read_timers = make_reader(_TimersShape, _INVALID)


def parse_registration_policy(metadata: Metadata, raw: dict[str, Any]) -> RegistrationPolicy:
    """Return the RegistrationPolicy in ``raw``: void, and with the default rules, as soon as a part of it is wrong.

    Never raises.
    """
    faults: list[Problem] = []
    problems = [*metadata.problems]
    written = raw.get("spec")
    spec = _read_policy(written, "spec", faults) or _PolicyShape()
    faults += _find_strangers(written)
    target = None if spec.target_ref is None else read_reference(spec.target_ref, "spec.targetRef", faults)
    group = "" if target is None else _read_group(target, faults)
    rules = _read_rules(spec, faults, problems)
    return RegistrationPolicy(
        ref=metadata.ref,
        uid=metadata.uid,
        generation=metadata.generation,
        group=group,
        rules=Rules() if faults else rules,
        created=metadata.created,
        is_void=bool(faults),
        problems=(*faults, *problems),
    )


def _find_strangers(spec: object) -> list[Problem]:
    """Return the fields that nobody reads: one of them may be a limit, misspelt."""
    if not isinstance(spec, dict):
        return []
    return [
        problem
        for name, known in FIELDS.items()
        for problem in find_unknown(
            spec.get(name) if name else spec, f"spec.{name}".rstrip("."), known, is_tolerated=False
        )
        if problem.field != "spec.targetRef.namespace"
    ]


def _read_group(target: Reference, faults: list[Problem]) -> str:
    """Return the name of the group that is meant, ``""`` when it is none; other faults leave it."""
    if target.namespace is not None:
        message = f"found {quote(target.namespace)}; leave it out, the group is in the policy's own namespace"
        faults.append(Problem("spec.targetRef.namespace", _INVALID, message))
    kinds = (Kind.EXTERNAL_GROUP,)
    if target.find(kinds) is None:
        message = f"found {quote(target.words)}, which no machine joins; write {Kind.EXTERNAL_GROUP.value}"
        fault = target.find_group_fault(kinds, "spec.targetRef")
        faults.append(fault or Problem("spec.targetRef.kind", Reason.INVALID_KIND, message))
        return ""
    return target.name


def _read_rules(spec: _PolicyShape, faults: list[Problem], problems: list[Problem]) -> Rules:
    modes = _read_modes(spec.modes, faults)
    identities = _read_identities(spec.identities, faults)
    limits = (None if spec.limits is None else _read_limits(spec.limits, "spec.limits", faults)) or _LimitsShape()
    timers = _read_times(spec.timers, faults)
    loss = _read_word(spec.heartbeat_loss, HeartbeatLoss, "spec.heartbeatLoss", faults) or _DEFAULT.heartbeat_loss
    reachability = _read_word(spec.reachability, Reachability, "spec.reachability", faults) or _DEFAULT.reachability
    scope = _read_word(spec.identity_scope, IdentityScope, "spec.identityScope", faults) or _DEFAULT.identity_scope
    if loss is HeartbeatLoss.TOLERATE and reachability is Reachability.OFF:
        message = f"found {loss.value} without reachability, which nobody then looks at; write Report or Gate there"
        faults.append(Problem("spec.heartbeatLoss", _INVALID, message))
    if not identities and modes != {JoinMode.TOKEN}:
        named = " and ".join(mode.value for mode in JoinMode if mode in modes and mode is not JoinMode.TOKEN)
        message = f"there are none, and so {named} lets in nobody; write {_IDENTITY_WANTED}"
        problems.append(Problem("spec.identities", Reason.SELECTS_NOTHING, message))
    return Rules(
        modes=modes,
        identities=identities,
        ca_bundle=_read_bundle(spec.client_certificate, modes, faults, problems),
        allowed_cidrs=_read_ranges(spec.allowed_cidrs, "spec.allowedCIDRs", faults, problems),
        address_from=_read_ranges(spec.address_from, "spec.addressFrom", faults, problems),
        allowed_labels=_read_keys(spec.allowed_labels, faults),
        identity_scope=scope,
        instances=limits.instances,
        beat_ms=Millis(timers.beat_seconds * 1000),
        lease_ms=Millis(timers.lease_seconds * 1000),
        gone_after_ms=Millis(timers.gone_after_seconds * 1000),
        group_gone_after_ms=Millis(timers.group_gone_after_seconds * 1000),
        last_endpoint_hold_ms=Millis(timers.last_endpoint_hold_seconds * 1000),
        heartbeat_loss=loss,
        reachability=reachability,
        zone=_read_zone(spec.zone, faults),
    )


def _read_word(raw: object, words: type[_Word], field: str, faults: list[Problem]) -> _Word | None:
    """Return the word that ``raw`` is, ``None`` when it is absent or, with a Problem, another one."""
    if raw is None:
        return None
    found = next((word for word in words if word.value == raw), None)
    if found is None:
        faults.append(
            Problem(field, _INVALID, f"found {quote(raw)}; write {' or '.join(word.value for word in words)}")
        )
    return found


def _read_modes(raw: object, faults: list[Problem]) -> frozenset[JoinMode]:
    if raw is None:
        return _DEFAULT.modes
    listed = read_items(raw, "spec.modes", faults, _INVALID)
    if raw == []:
        legal = ", ".join(mode.value for mode in JoinMode)
        faults.append(Problem("spec.modes", _INVALID, f"found an empty list; write some of {legal}"))
    found = (_read_word(item, JoinMode, f"spec.modes[{index}]", faults) for index, item in enumerate(listed))
    return frozenset(mode for mode in found if mode is not None)


def _read_identities(raw: object, faults: list[Problem]) -> tuple[str, ...]:
    """Return the patterns, each once. None is open at the end of a trust domain: ``spiffe://root*`` would be
    anybody's."""
    patterns = []
    for index, item in enumerate(read_few(raw, "spec.identities", faults, _INVALID, _MOST)):
        if _is_identity(item):
            patterns.append(item)
        else:
            faults.append(
                Problem(f"spec.identities[{index}]", _INVALID, f"found {quote(item)}; write {_IDENTITY_WANTED}")
            )
    return tuple(dict.fromkeys(patterns))


def _is_identity(item: object) -> bool:
    if not isinstance(item, str) or len(item) > _LONGEST_IDENTITY:
        return False
    if item.startswith(SPIFFE):
        return _SPIFFE_PATTERN.fullmatch(item) is not None and _DOTS.search(item, len(SPIFFE)) is None
    return _DNS_PATTERN.fullmatch(item) is not None


def _read_bundle(raw: object, modes: frozenset[JoinMode], faults: list[Problem], problems: list[Problem]) -> str:
    """Return the PEM of the CAs of machine certificates, ``""`` for none. No message quotes it: it may hold a key."""
    field = "spec.clientCertificate.caBundle"
    is_used = JoinMode.CERTIFICATE in modes
    if raw is None:
        if is_used:
            message = f"it is missing; write the PEM of the CA whose certificates {JoinMode.CERTIFICATE.value} means"
            faults.append(Problem(field, _INVALID, message))
        return ""
    shape = _read_certificate(raw, "spec.clientCertificate", faults)
    if shape is None or not shape.ca_bundle:
        return ""
    certificates, wrong = parse_certificates(shape.ca_bundle, field)
    faults += wrong
    faults += [
        Problem(field, Reason.NOT_A_CA, f"found {quote(found.subject)}, which is no CA's; write the CA's certificate")
        for found in certificates
        if not found.is_ca
    ]
    if not is_used:
        message = f"it is for {JoinMode.CERTIFICATE.value}, which is not among spec.modes; write it there too"
        problems.append(Problem(field, Reason.SELECTS_NOTHING, message))
    by_fingerprint = {found.fingerprint: found for found in certificates}
    return encode_pem(by_fingerprint[each] for each in sorted(by_fingerprint))


def _read_ranges(raw: object, field: str, faults: list[Problem], problems: list[Problem]) -> tuple[str, ...]:
    if raw == []:
        faults.append(Problem(field, _INVALID, "found an empty list; write some CIDRs, or leave it out for any"))
    found = (
        read_cidr(item, f"{field}[{index}]", faults, problems)
        for index, item in enumerate(read_few(raw, field, faults, _INVALID, _MOST))
    )
    return tuple(dict.fromkeys(str(network) for network in found if network is not None))


def _read_keys(raw: object, faults: list[Problem]) -> tuple[str, ...]:
    keys = []
    for index, item in enumerate(read_few(raw, "spec.allowedLabels", faults, _INVALID, _MOST)):
        field = f"spec.allowedLabels[{index}]"
        if not isinstance(item, str) or not is_label_key(item):
            faults.append(Problem(field, _INVALID, f"found {quote(item)}; write {KEY_WANTED}"))
        elif is_own_label(item) or is_kubernetes_key(item):
            message = f"found {quote(item)}, by which others than the machine decide; leave it out"
            faults.append(Problem(field, _INVALID, message))
        else:
            keys.append(item)
    return tuple(sorted(set(keys)))


def _read_times(raw: object, faults: list[Problem]) -> _TimersShape:
    shape = (None if raw is None else _read_timers(raw, "spec.timers", faults)) or _TimersShape()
    if shape.lease_seconds <= 2 * shape.beat_seconds:
        message = (
            f"found {shape.lease_seconds}, with which two lost beats of {shape.beat_seconds} seconds are an outage; "
            f"write more than {2 * shape.beat_seconds}"
        )
        faults.append(Problem("spec.timers.leaseSeconds", _INVALID, message))
    if shape.gone_after_seconds < shape.lease_seconds:
        message = f"found {shape.gone_after_seconds}; write at least the {shape.lease_seconds} of leaseSeconds"
        faults.append(Problem("spec.timers.goneAfterSeconds", _INVALID, message))
    return shape


def _read_zone(raw: object, faults: list[Problem]) -> str:
    if raw is None:
        return ""
    if isinstance(raw, str) and is_label_value(raw):
        return raw
    faults.append(Problem("spec.zone", _INVALID, f"found {quote(raw)}; write {VALUE_WANTED}"))
    return ""
