"""The ConfigMaps that inbound policy is stored in: one for each Server, and one with what an installation decides.

The JSON is ours and not Envoy's: what a proxy gets is put together of several Servers, probes and defaults. It says
what differs from the usual, and lists each authorization once.
"""

import json
from collections.abc import Iterable
from dataclasses import replace

from meshwright.emit.manifest import hash_text, shorten_name
from meshwright.model.config import ANNOTATION_HASH, FIELD_MANAGER, LABEL_MANAGED_BY, LABEL_UNIT, Config
from meshwright.model.desired import Json, UnitName
from meshwright.model.inbound import EVERYWHERE, Authorization, InboundRule, RateLimit, ServerPolicy
from meshwright.model.policy import AccessPolicy, Network
from meshwright.model.problem import Problem, Reason
from meshwright.model.ref import Ref
from meshwright.model.route import (
    Filters,
    FullPath,
    GrpcMatch,
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
from meshwright.model.selector import Selector
from meshwright.model.units import DEFAULTS_KEY, INBOUND_VERSION, MAX_UNIT_BYTES, UNIT_KEY

DEFAULTS_NAME = "mw-mesh-policy"
INBOUND = "inbound"
DEFAULTS = "defaults"
_OWNER_VERSION = "v1beta3"
_PATH_WORDS = {PathMatch.EXACT: "exact", PathMatch.PREFIX: "prefix", PathMatch.REGEX: "regex"}


def make_inbound_unit_name(server: Ref) -> UnitName:
    """Return where the unit of ``server`` lives: ``mw-in-<server>``, shortened like the names of other units."""
    return UnitName(server.namespace, shorten_name(f"mw-in-{server.name}"))


def make_defaults_name(config: Config) -> UnitName:
    """Return where the installation's defaults live: ``mw-mesh-policy`` in the control plane's namespace."""
    return UnitName(config.namespace, DEFAULTS_NAME)


def emit_inbound_unit(policy: ServerPolicy) -> Json | Problem:
    """Return the ConfigMap manifest of one Server's policy, the same bytes for equal policies; a problem when it is
    too large. It is owned by the Server and goes with it."""
    text = _write(emit_policy(policy))
    size = len(text.encode())
    server = policy.server
    if size > MAX_UNIT_BYTES:
        message = (
            f"{len(policy.rules)} matches of routes and the authorizations on {server} compile to {size} bytes, more "
            f"than the {MAX_UNIT_BYTES} that a ConfigMap may hold, so the port is shut: nobody is let in; remove "
            "matches, or name fewer identities and networks"
        )
        return Problem("", Reason.TOO_LARGE, message)
    manifest = _make_config_map(make_inbound_unit_name(server), INBOUND, UNIT_KEY, text)
    owner = {
        "apiVersion": f"{server.kind.group}/{_OWNER_VERSION}",
        "controller": True,
        "kind": server.kind.word,
        "name": server.name,
        "uid": policy.uid,
    }
    manifest["metadata"]["ownerReferences"] = [owner]
    return manifest


def shut(policy: ServerPolicy) -> ServerPolicy:
    """Return what takes the place of a policy that is too large to be stored: nobody is let in, for what was stored
    before may let in whom nobody lets in any more. In audit mode everybody still is."""
    access = policy.access if policy.is_audit else AccessPolicy.DENY
    return replace(policy, access=access, authorizations=(), is_routed=False, rules=(), rate_limit=None)


def emit_defaults_unit(config: Config) -> Json:
    """Return the ConfigMap manifest of what the installation decides about inbound policy."""
    defaults = config.policy
    said = {
        "version": INBOUND_VERSION,
        "access": defaults.access.value,
        "cluster_networks": list(defaults.cluster_networks),
        "probe_networks": list(defaults.probe_networks),
        "follows_namespace": defaults.follows_namespace,
    }
    return _make_config_map(make_defaults_name(config), DEFAULTS, DEFAULTS_KEY, _write(said))


def emit_policy(policy: ServerPolicy) -> Json:
    """Return ``policy`` as the JSON of a unit."""
    lists = (policy.authorizations, *(rule.authorizations for rule in policy.rules))
    table = {each: index for index, each in enumerate(dict.fromkeys(each for listed in lists for each in listed))}

    def point(authorizations: Iterable[Authorization]) -> list[int]:
        return [table[each] for each in authorizations]

    said: Json = {
        "version": INBOUND_VERSION,
        "server": {"namespace": policy.server.namespace, "name": policy.server.name},
        "selects": "ExternalWorkload" if policy.selects_external else "Pod",
        "selector": _emit_selector(policy.selector),
        "port": policy.port,
        "protocol": policy.protocol.value,
        "access": policy.access.value,
        "grants": [_emit_authorization(each) for each in table],
        "authorizations": point(policy.authorizations),
    }
    if policy.uid:
        said["server"]["uid"] = policy.uid
    if policy.created is not None:
        said["server"]["created"] = policy.created
    if policy.is_routed:
        said["rules"] = [_emit_rule(rule, point(rule.authorizations)) for rule in policy.rules]
    if policy.rate_limit is not None:
        said["rate_limit"] = _emit_limit(policy.rate_limit)
    return said


def _make_config_map(name: UnitName, unit: str, key: str, text: str) -> Json:
    return {
        "apiVersion": "v1",
        "data": {key: text},
        "kind": "ConfigMap",
        "metadata": {
            "annotations": {ANNOTATION_HASH: hash_text(text)},
            "labels": {LABEL_MANAGED_BY: FIELD_MANAGER, LABEL_UNIT: unit},
            "name": name.name,
            "namespace": name.namespace,
        },
    }


def _write(value: Json) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _emit_selector(selector: Selector) -> Json:
    said: Json = {}
    if selector.labels:
        said["labels"] = dict(selector.labels)
    if selector.expressions:
        said["expressions"] = [
            {"key": each.key, "operator": each.operator.value, "values": list(each.values)}
            for each in selector.expressions
        ]
    return said


def _emit_authorization(authorization: Authorization) -> Json:
    source = authorization.source
    said: Json = {
        "source": {"group": source.group, "kind": source.kind, "namespace": source.namespace, "name": source.name},
        "proof": authorization.proof.value,
    }
    if authorization.networks != EVERYWHERE:
        said["networks"] = [_emit_network(network) for network in authorization.networks]
    if authorization.exact:
        said["exact"] = list(authorization.exact)
    if authorization.suffixes:
        said["suffixes"] = list(authorization.suffixes)
    if authorization.is_any:
        said["any"] = True
    return said


def _emit_network(network: Network) -> Json:
    return {"cidr": network.cidr, **({"except": list(network.excepts)} if network.excepts else {})}


def _emit_rule(rule: InboundRule, authorizations: list[int]) -> Json:
    route = rule.route
    said: Json = {
        "route": {"kind": route.kind.value, "namespace": route.namespace, "name": route.name},
        "index": rule.index,
        "authorizations": authorizations,
    }
    match rule.match:
        case HttpMatch() as match:
            said["http"] = _emit_http(match)
        case GrpcMatch() as match:
            said["grpc"] = _emit_grpc(match)
    if rule.filters != Filters():
        said["filters"] = _emit_filters(rule.filters)
    if rule.hostnames:
        said["hostnames"] = list(rule.hostnames)
    return said


def _emit_http(match: HttpMatch) -> Json:
    said: Json = {"path": _emit_path(match.path)}
    if match.method is not None:
        said["method"] = match.method
    if match.headers:
        said["headers"] = [_emit_named(header) for header in match.headers]
    if match.query:
        said["query"] = [_emit_named(parameter) for parameter in match.query]
    return said


def _emit_grpc(match: GrpcMatch) -> Json:
    said: Json = {}
    if match.service is not None:
        said["service"] = _emit_text(match.service)
    if match.method is not None:
        said["method"] = _emit_text(match.method)
    if match.headers:
        said["headers"] = [_emit_named(header) for header in match.headers]
    return said


def _emit_path(path: Path) -> Json:
    return {_PATH_WORDS[path.how]: path.value}


def _emit_text(text: Text) -> Json:
    return {"regex" if text.how is TextMatch.REGEX else "exact": text.value}


def _emit_named(named: NamedText) -> Json:
    return {"name": named.name, **_emit_text(named.text)}


def _emit_filters(filters: Filters) -> Json:
    said: Json = {}
    if filters.request_headers is not None:
        said["request_headers"] = _emit_modifier(filters.request_headers)
    if filters.response_headers is not None:
        said["response_headers"] = _emit_modifier(filters.response_headers)
    if filters.redirect is not None:
        said["redirect"] = _emit_redirect(filters.redirect)
    return said


def _emit_modifier(modifier: HeaderModifier) -> Json:
    said: Json = {}
    for key, headers in (("set", modifier.set), ("add", modifier.add)):
        if headers:
            said[key] = [[header.name, header.value] for header in headers]
    if modifier.remove:
        said["remove"] = list(modifier.remove)
    return said


def _emit_redirect(redirect: Redirect) -> Json:
    said: Json = {"status": redirect.status}
    if redirect.scheme is not None:
        said["scheme"] = redirect.scheme
    if redirect.hostname is not None:
        said["hostname"] = redirect.hostname
    if redirect.port is not None:
        said["port"] = redirect.port
    match redirect.path:
        case FullPath(value=value):
            said["path"] = {"full": value}
        case PrefixPath(matched=matched, value=value):
            said["path"] = {"matched": matched, "prefix": value}
        case None:
            pass
    return said


def _emit_limit(limit: RateLimit) -> Json:
    said: Json = {"policy": {"namespace": limit.policy.namespace, "name": limit.policy.name}}
    if limit.total is not None:
        said["total"] = limit.total
    if limit.per_identity is not None:
        said["per_identity"] = limit.per_identity
    if limit.overrides:
        said["overrides"] = [
            {"per_second": share.per_second, "identities": list(share.identities)} for share in limit.overrides
        ]
    return said
