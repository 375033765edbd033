"""What delivery reads of inbound policy: our own ConfigMaps, one for each Server, one with an installation's defaults.

Read in full or not at all: half of a policy could let in whom the whole keeps out. So a field that is not known, or a
version that is newer than this, makes a unit unreadable, and whoever reads it keeps what it had.
"""

import json
from collections.abc import Callable, Mapping
from enum import Enum
from ipaddress import ip_network
from typing import Any, NoReturn, TypeVar

from meshwright.model.inbound import (
    EVERYWHERE,
    Authorization,
    InboundRule,
    PolicyDefaults,
    RateLimit,
    RateShare,
    ServerPolicy,
    Source,
)
from meshwright.model.policy import AccessPolicy, Network, Proof, ProxyProtocol
from meshwright.model.problem import Problem, Reason
from meshwright.model.ref import Kind, Ref
from meshwright.model.route import (
    Filters,
    FullPath,
    GrpcMatch,
    Header,
    HeaderModifier,
    HttpMatch,
    NamedText,
    Path,
    PathMatch,
    PrefixPath,
    Redirect,
    Text,
    TextMatch,
)
from meshwright.model.selector import Expression, Operator, Selector
from meshwright.model.units import DEFAULTS_KEY, INBOUND_VERSION, UNIT_KEY, Namespace, Port

_SELECTS = {"Pod": False, "ExternalWorkload": True}
_HTTP_KINDS = (Kind.HTTP_ROUTE, Kind.POLICY_HTTP_ROUTE)
_PATHS = {"exact": PathMatch.EXACT, "prefix": PathMatch.PREFIX, "regex": PathMatch.REGEX}
_TEXTS = {"exact": TextMatch.EXACT, "regex": TextMatch.REGEX}
_REDIRECTS = (301, 302, 303, 307, 308)

T = TypeVar("T")
Word = TypeVar("Word", bound=Enum)
Members = Mapping[str, Any]


def parse_inbound_unit(raw: Mapping[str, Any]) -> ServerPolicy | Problem:
    """Return the policy in a ConfigMap, or the first thing that makes it unreadable. Never raises.

    A policy is for a Server of the ConfigMap's own namespace: nobody can write one for another namespace.
    """
    return _parse(raw, UNIT_KEY, _read_policy)


def parse_defaults_unit(raw: Mapping[str, Any]) -> PolicyDefaults | Problem:
    """Return what an installation decides about inbound policy, or the first thing that makes it unreadable. Never
    raises."""
    return _parse(raw, DEFAULTS_KEY, lambda said, _: _read_defaults(said))


def _parse(raw: Mapping[str, Any], key: str, read: Callable[[object, Namespace], T]) -> T | Problem:
    try:
        text = raw["data"][key]
        said = json.loads(_text(text))
        if isinstance(said, dict) and said.get("version") != INBOUND_VERSION:
            _refuse("version", f"it is of version {said.get('version')!r:.20}, and only {INBOUND_VERSION} can be read")
        return read(said, Namespace(_text(raw["metadata"]["namespace"])))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        why = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        return Problem(
            field=f"data[{key}]",
            reason=Reason.INVALID_OBJECT,
            message=f"it cannot be read: {why:.200}; delete the ConfigMap and the operator writes it anew",
        )


def _read_defaults(raw: object) -> PolicyDefaults:
    names = ("version", "access", "cluster_networks", "probe_networks", "follows_namespace")
    said = _members(raw, "", names)
    return PolicyDefaults(
        access=_word(AccessPolicy, said["access"]),
        cluster_networks=tuple(map(_cidr, _list(said["cluster_networks"]))),
        probe_networks=tuple(map(_cidr, _list(said["probe_networks"]))),
        follows_namespace=_flag(said["follows_namespace"]),
    )


def _read_policy(raw: object, namespace: Namespace) -> ServerPolicy:
    names = ("version", "server", "selects", "selector", "port", "protocol", "access", "grants", "authorizations")
    said = _members(raw, "", names, ("rules", "rate_limit"))
    server = _members(said["server"], "server", ("namespace", "name"), ("uid", "created"))
    if server["namespace"] != namespace:
        _refuse("server.namespace", f"the Server is of another namespace than the ConfigMap, {namespace}")
    grants = [_read_authorization(each) for each in _list(said["grants"])]
    return ServerPolicy(
        server=Ref(Kind.SERVER, namespace, _name(server["name"])),
        uid=_text(server.get("uid", "")),
        created=_number(server["created"]) if "created" in server else None,
        selects_external=_choose(_SELECTS, said["selects"]),
        selector=_read_selector(said["selector"]),
        port=_name(said["port"]) if isinstance(said["port"], str) else _port(said["port"]),
        protocol=_word(ProxyProtocol, said["protocol"]),
        access=_word(AccessPolicy, said["access"]),
        authorizations=_follow(said["authorizations"], grants),
        is_routed="rules" in said,
        rules=tuple(_read_rule(rule, grants) for rule in _list(said.get("rules", []))),
        rate_limit=_read_limit(said["rate_limit"]) if "rate_limit" in said else None,
    )


def _read_selector(raw: object) -> Selector:
    said = _members(raw, "selector", (), ("labels", "expressions"))
    labels = said.get("labels", {})
    if not isinstance(labels, dict):
        _refuse("selector.labels", "it is no object")
    return Selector(
        labels=tuple(sorted((_text(key), _text(value)) for key, value in labels.items())),
        expressions=tuple(_read_expression(each) for each in _list(said.get("expressions", []))),
    )


def _read_expression(raw: object) -> Expression:
    said = _members(raw, "selector.expressions", ("key", "operator", "values"))
    return Expression(key=_text(said["key"]), operator=_word(Operator, said["operator"]), values=_texts(said["values"]))


def _read_authorization(raw: object) -> Authorization:
    said = _members(raw, "grants", ("source", "proof"), ("networks", "exact", "suffixes", "any"))
    source = _members(said["source"], "grants.source", ("group", "kind", "namespace", "name"))
    networks = said.get("networks")
    return Authorization(
        source=Source(*(_text(source[name]) for name in ("group", "kind", "namespace", "name"))),
        networks=EVERYWHERE if networks is None else tuple(map(_read_network, _list(networks))),
        proof=_word(Proof, said["proof"]),
        exact=tuple(map(_name, _list(said.get("exact", [])))),
        suffixes=tuple(map(_suffix, _list(said.get("suffixes", [])))),
        is_any=_flag(said.get("any", False)),
    )


def _read_network(raw: object) -> Network:
    said = _members(raw, "networks", ("cidr",), ("except",))
    return Network(_cidr(said["cidr"]), tuple(map(_cidr, _list(said.get("except", [])))))


def _read_rule(raw: object, grants: list[Authorization]) -> InboundRule:
    said = _members(raw, "rules", ("route", "index", "authorizations"), ("http", "grpc", "filters", "hostnames"))
    route = _members(said["route"], "rules.route", ("kind", "namespace", "name"))
    kind = _word(Kind, route["kind"])
    match: HttpMatch | GrpcMatch
    if kind in _HTTP_KINDS and "grpc" not in said:
        match = _read_http(said["http"])
    elif kind is Kind.GRPC_ROUTE and "http" not in said:
        match = _read_grpc(said["grpc"])
    else:
        _refuse("rules.route.kind", f"a {kind.value} has no such match")
    return InboundRule(
        route=Ref(kind, Namespace(_name(route["namespace"])), _name(route["name"])),
        index=_whole(said["index"]),
        match=match,
        filters=_read_filters(said["filters"]) if "filters" in said else Filters(),
        hostnames=tuple(map(_name, _list(said.get("hostnames", [])))),
        authorizations=_follow(said["authorizations"], grants),
    )


def _read_http(raw: object) -> HttpMatch:
    said = _members(raw, "http", ("path",), ("method", "headers", "query"))
    how, value = _read_choice(said["path"], _PATHS)
    return HttpMatch(
        path=Path(how=how, value=value),
        method=_name(said["method"]) if "method" in said else None,
        headers=tuple(map(_read_named, _list(said.get("headers", [])))),
        query=tuple(map(_read_named, _list(said.get("query", [])))),
    )


def _read_grpc(raw: object) -> GrpcMatch:
    said = _members(raw, "grpc", (), ("service", "method", "headers"))
    return GrpcMatch(
        service=_read_text(said["service"]) if "service" in said else None,
        method=_read_text(said["method"]) if "method" in said else None,
        headers=tuple(map(_read_named, _list(said.get("headers", [])))),
    )


def _read_named(raw: object) -> NamedText:
    said = _members(raw, "match", ("name",), tuple(_TEXTS))
    text = {key: value for key, value in said.items() if key != "name"}
    return NamedText(name=_name(said["name"]), text=_read_text(text))


def _read_text(raw: object) -> Text:
    how, value = _read_choice(raw, _TEXTS)
    return Text(how=how, value=value)


def _read_choice(raw: object, choices: Mapping[str, Word]) -> tuple[Word, str]:
    """Return which one of ``choices`` it is, and its text."""
    said = _members(raw, "match", (), tuple(choices))
    if len(said) != 1:
        _refuse("match", f"it is not one of {', '.join(choices)}")
    ((key, value),) = said.items()
    return choices[key], _text(value)


def _read_filters(raw: object) -> Filters:
    said = _members(raw, "filters", (), ("request_headers", "response_headers", "redirect"))
    return Filters(
        request_headers=_read_modifier(said["request_headers"]) if "request_headers" in said else None,
        response_headers=_read_modifier(said["response_headers"]) if "response_headers" in said else None,
        redirect=_read_redirect(said["redirect"]) if "redirect" in said else None,
    )


def _read_modifier(raw: object) -> HeaderModifier:
    said = _members(raw, "filters", (), ("set", "add", "remove"))
    return HeaderModifier(
        set=tuple(map(_read_header, _list(said.get("set", [])))),
        add=tuple(map(_read_header, _list(said.get("add", [])))),
        remove=tuple(map(_name, _list(said.get("remove", [])))),
    )


def _read_header(raw: object) -> Header:
    name, value = _list(raw)
    return Header(name=_name(name), value=_text(value))


def _read_redirect(raw: object) -> Redirect:
    said = _members(raw, "redirect", ("status",), ("scheme", "hostname", "path", "port"))
    status = _whole(said["status"])
    if status not in _REDIRECTS:
        _refuse("redirect.status", f"{status} is none that redirects")
    scheme = said.get("scheme")
    if scheme not in (None, "http", "https"):
        _refuse("redirect.scheme", "it is neither http nor https")
    return Redirect(
        scheme=scheme,
        hostname=_name(said["hostname"]) if "hostname" in said else None,
        path=_read_path_change(said["path"]) if "path" in said else None,
        port=_port(said["port"]) if "port" in said else None,
        status=status,
    )


def _read_path_change(raw: object) -> FullPath | PrefixPath:
    if isinstance(raw, dict) and "full" in raw:
        return FullPath(value=_text(_members(raw, "redirect.path", ("full",))["full"]))
    said = _members(raw, "redirect.path", ("matched", "prefix"))
    return PrefixPath(matched=_text(said["matched"]), value=_text(said["prefix"]))


def _read_limit(raw: object) -> RateLimit:
    said = _members(raw, "rate_limit", ("policy",), ("total", "per_identity", "overrides"))
    policy = _members(said["policy"], "rate_limit.policy", ("namespace", "name"))
    return RateLimit(
        policy=Ref(Kind.RATE_LIMIT_POLICY, Namespace(_name(policy["namespace"])), _name(policy["name"])),
        total=_rate(said["total"]) if "total" in said else None,
        per_identity=_rate(said["per_identity"]) if "per_identity" in said else None,
        overrides=tuple(map(_read_share, _list(said.get("overrides", [])))),
    )


def _read_share(raw: object) -> RateShare:
    said = _members(raw, "rate_limit.overrides", ("per_second", "identities"))
    return RateShare(per_second=_rate(said["per_second"]), identities=_texts(said["identities"]))


def _members(raw: object, field: str, required: tuple[str, ...], optional: tuple[str, ...] = ()) -> Members:
    """Return an object with all of ``required``, and nothing that is in neither."""
    if not isinstance(raw, dict):
        _refuse(field, "it is no object")
    if missing := [name for name in required if name not in raw]:
        _refuse(field, f"there is no {missing[0]}")
    if unknown := sorted(raw.keys() - {*required, *optional}):
        _refuse(field, f"{unknown[0]!r:.40} is not known")
    return raw


def _follow(raw: object, grants: list[Authorization]) -> tuple[Authorization, ...]:
    """Return the authorizations that a list of their places means."""
    places = [_whole(each) for each in _list(raw)]
    if any(place >= len(grants) for place in places):
        _refuse("authorizations", "there is no such grant")
    return tuple(grants[place] for place in places)


def _word(words: type[Word], raw: object) -> Word:
    return words(_text(raw))


def _choose(choices: Mapping[str, T], raw: object) -> T:
    return choices[_text(raw)]


def _list(raw: object) -> list[Any]:
    if not isinstance(raw, list):
        raise ValueError("something is no list")
    return raw


def _texts(raw: object) -> tuple[str, ...]:
    return tuple(_text(each) for each in _list(raw))


def _text(raw: object) -> str:
    if not isinstance(raw, str):
        raise ValueError("something is no text")
    if not raw.isascii():
        raw.encode()  # JSON admits half of a surrogate pair, which nobody can be sent
    return raw


def _name(raw: object) -> str:
    text = _text(raw)
    if not text:
        raise ValueError("a name is empty")
    return text


def _suffix(raw: object) -> str:
    """Return the end of a name; without its dot it would be the end of others', and alone of everybody's."""
    text = _text(raw)
    if len(text) < 2 or not text.startswith("."):
        raise ValueError("a suffix does not begin with a dot")
    return text


def _flag(raw: object) -> bool:
    if not isinstance(raw, bool):
        raise ValueError("something is neither true nor false")
    return raw


def _number(raw: object) -> int:
    if type(raw) is not int:
        raise ValueError("something is no whole number")
    return raw


def _whole(raw: object) -> int:
    if (number := _number(raw)) < 0:
        raise ValueError("a number is less than 0")
    return number


def _rate(raw: object) -> int:
    if (number := _whole(raw)) < 1:
        raise ValueError("a rate is not 1 or more")
    return number


def _port(raw: object) -> Port:
    if not 0 < (number := _whole(raw)) < 65536:
        raise ValueError("a port is not within 1 to 65535")
    return Port(number)


def _cidr(raw: object) -> str:
    text = _text(raw)
    if str(ip_network(text)) != text:
        raise ValueError("a network is not in canonical form")
    return text


def _refuse(field: str, why: str) -> NoReturn:
    raise ValueError(f"{field}: {why}" if field else why)
