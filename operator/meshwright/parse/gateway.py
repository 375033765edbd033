"""HTTPRoute of both groups, GRPCRoute and ReferenceGrant.

Source: kubernetes-sigs/gateway-api v1.7.0 ``apis/v1/httproute_types.go``, ``grpcroute_types.go``,
``shared_types.go``, ``referencegrant_types.go``; linkerd2 ``policy-controller/k8s/api/src/policy/httproute.rs`` for
what the HTTPRoute of policy.linkerd.io has of its own: the group of parents, Go's durations, fewer filters.
"""

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import Field
from pydantic.dataclasses import dataclass

from meshwright.model.problem import Problem, Reason
from meshwright.model.ref import Kind, Ref
from meshwright.model.route import GrpcMatch, HttpMatch, ParentRef, PathMatch, ReferenceGrant, Route, Rule, Timeouts
from meshwright.model.snapshot import Broken
from meshwright.model.units import Namespace, Port
from meshwright.parse.annotations import read_traffic
from meshwright.parse.backend import read_backends
from meshwright.parse.duration import parse_gateway_duration, parse_go_duration
from meshwright.parse.filters import (
    GRPC_BACKEND,
    GRPC_RULE,
    HTTP_BACKEND,
    HTTP_RULE,
    POLICY_BACKEND,
    POLICY_RULE,
    read_filters,
)
from meshwright.parse.leaf import GroupText, KindText, NamespaceText, NameText, PortNumber
from meshwright.parse.match import read_grpc_matches, read_http_matches
from meshwright.parse.metadata import Metadata
from meshwright.parse.shape import SHAPE, make_reader, make_text_reader, read_few, read_items
from meshwright.parse.timing import read_retry, read_timeouts

_UNSUPPORTED = Reason.UNSUPPORTED_VALUE
_INVALID = Reason.INVALID_OBJECT
_POLICY_GROUP = Kind.SERVER.group
_PARENT_GROUPS = {"Service": "", "Server": _POLICY_GROUP}
_PLACES = {
    Kind.HTTP_ROUTE: (HTTP_RULE, HTTP_BACKEND),
    Kind.POLICY_HTTP_ROUTE: (POLICY_RULE, POLICY_BACKEND),
    Kind.GRPC_ROUTE: (GRPC_RULE, GRPC_BACKEND),
}
_MAX_PARENTS = 32
_MAX_HOSTNAMES = 16
_MAX_RULES = 16
_MAX_MATCHES = 128

_Hostname = Annotated[
    str,
    Field(
        strict=True,
        max_length=253,
        pattern=r"^(\*\.)?[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$",
        description="a host name in lower case, without port; *. may stand in front",
    ),
]


@dataclass(frozen=True, slots=True, kw_only=True, config=SHAPE)
class _SpecShape:
    parent_refs: Any = None
    hostnames: Any = None
    rules: Any = None


@dataclass(frozen=True, slots=True, kw_only=True, config=SHAPE)
class _ParentShape:
    group: GroupText | None = None
    kind: KindText = "Gateway"
    namespace: NamespaceText | None = None
    name: NameText = ""
    port: PortNumber | None = None
    section_name: NameText | None = None


@dataclass(frozen=True, slots=True, kw_only=True, config=SHAPE)
class _RuleShape:
    name: NameText | None = None
    matches: Any = None
    filters: Any = None
    backend_refs: Any = None
    session_persistence: Any = None
    timeouts: Any = None
    retry: Any = None


@dataclass(frozen=True, slots=True, kw_only=True, config=SHAPE)
class _GrantSpecShape:
    from_: Annotated[Any, Field(alias="from")] = None
    to: Any = None


@dataclass(frozen=True, slots=True, kw_only=True, config=SHAPE)
class _GrantFromShape:
    group: GroupText = ""
    kind: KindText = ""
    namespace: NamespaceText = ""


@dataclass(frozen=True, slots=True, kw_only=True, config=SHAPE)
class _GrantToShape:
    group: GroupText = ""
    kind: KindText = ""
    name: NameText | None = None


_read_spec = make_reader(_SpecShape, _INVALID)
_read_parent = make_reader(_ParentShape, _INVALID, required=("name",))
_read_rule = make_reader(_RuleShape, _UNSUPPORTED)
_read_hostname = make_text_reader(_Hostname, _INVALID)
_read_grant_spec = make_reader(_GrantSpecShape, _INVALID)
_read_grant_from = make_reader(_GrantFromShape, _INVALID, required=("group", "kind", "namespace"))
_read_grant_to = make_reader(_GrantToShape, _INVALID, required=("group", "kind"))


def parse_route(metadata: Metadata, raw: dict[str, Any]) -> Route | Broken:
    """Return the route in ``raw``, of the kind that ``metadata.ref`` says; ``Broken`` when its parents or rules cannot
    be found at all. Never raises.

    Whatever else is wrong costs the narrowest part it is in: a backend, a rule, or one parentRef.
    """
    faults: list[Problem] = []
    spec = _read_spec(raw.get("spec"), "spec", faults) or _SpecShape()
    entries = read_items(spec.parent_refs, "spec.parentRefs", faults, _INVALID)
    rules = read_items(spec.rules, "spec.rules", faults, _INVALID)
    problems = [*metadata.problems]
    traffic = read_traffic(metadata.annotations, problems)
    if faults:
        return Broken(ref=metadata.ref, generation=metadata.generation, problems=(*faults, *problems))
    if spec.rules is None and metadata.ref.kind is not Kind.GRPC_ROUTE:
        rules = ({},)
    parents = _make_parents(entries, metadata.ref, problems)
    hostnames = _make_hostnames(spec.hostnames, problems)
    if spec.hostnames is not None and spec.hostnames != [] and not hostnames:
        # It would take the requests for every host, and who may make them could now make those too.
        parents = tuple(parent for parent in parents if not parent.is_server)
    return Route(
        ref=metadata.ref,
        generation=metadata.generation,
        created=metadata.created,
        parents=parents,
        hostnames=hostnames,
        rules=_make_rules(rules, metadata.ref),
        traffic=traffic,
        problems=tuple(problems),
    )


def parse_grant(metadata: Metadata, raw: dict[str, Any]) -> ReferenceGrant | Broken:
    """Return the ReferenceGrant in ``raw``, ``Broken`` when it has no spec. Never raises."""
    problems = [*metadata.problems]
    spec = _read_grant_spec(raw.get("spec"), "spec", problems)
    if spec is None:
        return Broken(ref=metadata.ref, generation=metadata.generation, problems=tuple(problems))
    for index, item in enumerate(read_items(spec.from_, "spec.from", problems, _INVALID)):
        _read_grant_from(item, f"spec.from[{index}]", problems)
    for index, item in enumerate(read_items(spec.to, "spec.to", problems, _INVALID)):
        _read_grant_to(item, f"spec.to[{index}]", problems)
    return ReferenceGrant(ref=metadata.ref, problems=tuple(problems))


def _make_parents(entries: Sequence[Any], route: Ref, problems: list[Problem]) -> tuple[ParentRef, ...]:
    """Return the parentRefs that can be read. Those on other kinds than Service and Server are others' to judge."""
    if len(entries) > _MAX_PARENTS:
        message = f"found {len(entries)} entries, of which the first {_MAX_PARENTS} count; write at most {_MAX_PARENTS}"
        problems.append(Problem("spec.parentRefs", _INVALID, message))
    parents: dict[tuple[object, ...], ParentRef] = {}
    for index, item in enumerate(entries[:_MAX_PARENTS]):
        field = f"spec.parentRefs[{index}]"
        faults: list[Problem] = []
        shape = _read_parent(item, field, faults)
        has_kind = all(fault.field != f"{field}.kind" for fault in faults)
        if shape is None or not has_kind or shape.kind in _PARENT_GROUPS:
            problems += faults
        if shape is None or faults:
            continue
        parent = _make_parent(shape, item, field, route)
        legal = _PARENT_GROUPS.get(parent.kind, parent.group)
        if parent.group != legal:
            found, wanted = parent.group or '""', legal or '""'
            message = f"found kind {parent.kind} in group {found}, where there is none; write group: {wanted}"
            problems.append(Problem(f"{field}.group", Reason.INVALID_KIND, message))
        key = (parent.group, parent.kind, parent.namespace, parent.name, parent.port, parent.section_name)
        if key not in parents:
            parents[key] = parent
        elif parent.is_service or parent.is_server:
            message = f"found the parent of {parents[key].field} again; write it once"
            problems.append(Problem(field, _INVALID, message))
    return tuple(parents.values())


def _make_parent(shape: _ParentShape, item: dict[str, Any], field: str, route: Ref) -> ParentRef:
    group = route.kind.group if shape.group is None else shape.group
    # Linkerd takes the kind in either case (policy-controller/k8s/index/src/inbound/routes.rs), and a route that is not
    # attached would restrict nothing.
    is_server = group == _POLICY_GROUP and shape.kind.lower() == "server"
    known = ("group", "kind", "name", "namespace", "port", "sectionName")
    return ParentRef(
        field=field,
        group="" if group == "core" else group,
        kind="Server" if is_server else shape.kind,
        namespace=route.namespace if shape.namespace is None else Namespace(shape.namespace),
        name=shape.name,
        port=None if shape.port is None else Port(shape.port),
        section_name=shape.section_name,
        written=tuple((name, item[name]) for name in known if item.get(name) is not None),
    )


def _make_hostnames(raw: object, problems: list[Problem]) -> tuple[str, ...]:
    hostnames = []
    for index, item in enumerate(read_few(raw, "spec.hostnames", problems, _INVALID, _MAX_HOSTNAMES)):
        hostname = _read_hostname(item, f"spec.hostnames[{index}]", problems)
        if hostname is not None:
            hostnames.append(hostname)
    return tuple(hostnames)


def _make_rules(items: Sequence[Any], route: Ref) -> tuple[Rule, ...]:
    """Return all rules. Those past what a route may hold are invalid, but keep their matches: nobody else may take
    these requests."""
    rules: list[Rule] = []
    for index, item in enumerate(items):
        field = f"spec.rules[{index}]"
        problems: list[Problem] = []
        if index >= _MAX_RULES:
            message = f"found rule number {index + 1}; write at most {_MAX_RULES} in one route"
            problems.append(Problem(field, _UNSUPPORTED, message))
        room = _MAX_MATCHES - sum(len(rule.matches) for rule in rules)
        rules.append(_make_rule(item, field, problems, route, room))
    return tuple(rules)


def _make_rule(
    raw: object,
    field: str,
    problems: list[Problem],
    route: Ref,
    room: int,
) -> Rule:
    shape = _read_rule(raw, field, problems)
    if shape is None:
        return Rule(field=field, matches=(), problems=tuple(problems))
    at_matches = f"{field}.matches"
    before = len(problems)
    matches: tuple[HttpMatch, ...] | tuple[GrpcMatch, ...]
    if route.kind is Kind.GRPC_ROUTE:
        matches, prefix = read_grpc_matches(shape.matches, at_matches, problems), None
    else:
        matches = read_http_matches(shape.matches, at_matches, problems)
        # What a broken match compares with is not known; the rule is refused for it, not for its filters.
        prefix = "/" if len(problems) > before else _find_prefix(matches)
    if len(matches) > room:
        message = f"found more matches than a route may have; write at most {_MAX_MATCHES} in all its rules"
        problems.append(Problem(at_matches, _UNSUPPORTED, message))
    rule_place, backend_place = _PLACES[route.kind]
    filters = read_filters(shape.filters, f"{field}.filters", problems, rule_place, prefix)
    at_backends = f"{field}.backendRefs"
    backends = read_backends(shape.backend_refs, at_backends, problems, route.namespace, backend_place, prefix)
    if filters.redirect is not None and backends:
        message = "found it beside a RequestRedirect; write one of the two, what is redirected is not sent on"
        problems.append(Problem(at_backends, Reason.INCOMPATIBLE_FILTERS, message))
    if shape.session_persistence is not None:
        message = "found session persistence, which is not supported; leave it out"
        problems.append(Problem(f"{field}.sessionPersistence", _UNSUPPORTED, message))
    timeouts, retry = Timeouts(), None
    if route.kind is not Kind.GRPC_ROUTE:
        parse = parse_go_duration if route.kind is Kind.POLICY_HTTP_ROUTE else parse_gateway_duration
        timeouts = read_timeouts(shape.timeouts, f"{field}.timeouts", problems, parse)
    if route.kind is Kind.HTTP_ROUTE:
        retry = read_retry(shape.retry, f"{field}.retry", problems)
    return Rule(
        field=field,
        name=shape.name,
        matches=matches,
        filters=filters,
        backends=backends,
        timeouts=timeouts,
        retry=retry,
        problems=tuple(problems),
    )


def _find_prefix(matches: tuple[HttpMatch, ...]) -> str | None:
    """Return the prefix that the only match compares with; ``None`` when there are more, or it compares otherwise."""
    if len(matches) == 1 and matches[0].path.how is PathMatch.PREFIX:
        return matches[0].path.value
    return None
