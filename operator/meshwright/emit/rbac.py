"""Who may, as Envoy's RBAC says it.

One shape everywhere: a policy for each source of authorizations, named by it, each a list of callers; whoever is in
none is refused. What may not be written: a policy without callers, which Envoy refuses to load, and an RBACPerRoute
without rules, which lets everybody in. Whom that is meant for is passed by the filter, and said so.

Source: Envoy ``api/envoy/config/rbac/v3/rbac.proto``, ``source/extensions/filters/common/rbac/engine_impl.cc``
(policies are tried in the order of their names).
"""

from collections.abc import Iterable, Iterator

from meshwright.emit.matches import quote
from meshwright.emit.typed import extension, skip_filter, typed
from meshwright.model.access import EVERYBODY, LOCALHOST
from meshwright.model.desired import Json
from meshwright.model.inbound import Authorization
from meshwright.model.policy import Network, Proof
from meshwright.model.units import MAX_REGEX_PROGRAM

HTTP_RBAC = "envoy.filters.http.rbac"
TCP_RBAC = "envoy.filters.network.rbac"

AUDIT = "~default/audit"
"""The policy that lets in those whom nobody else has: after all others, as RBAC goes by the order of names."""

NOT_FOUND = "default/not-found"
"""What requests that no route takes are told by: they are told so, whoever asks."""

_HTTP_TYPES = "envoy.extensions.filters.http.rbac.v3"
_TCP_TYPE = "envoy.extensions.filters.network.rbac.v3.RBAC"
_ANY: Json = {"any": True}
_MAX_EXPRESSION = MAX_REGEX_PROGRAM * 3 // 4


def emit_rules(authorizations: Iterable[Authorization], *, is_audit: bool) -> Json:
    """Return an ``envoy.config.rbac.v3.RBAC`` that lets in whom one of ``authorizations`` does, and localhost; with
    ``is_audit`` the rest, too, under another name."""
    policies: dict[str, Json] = {}
    for each in sorted((*authorizations, LOCALHOST), key=lambda each: str(each.source)):
        if principals := list(_emit_principals(each)):
            policy = policies.setdefault(str(each.source), {"permissions": [_ANY], "principals": []})
            policy["principals"] += principals
    if is_audit:
        policies[AUDIT] = {"permissions": [_ANY], "principals": [_ANY]}
    return {"policies": policies}


def emit_route_rbac(rules: Json) -> Json:
    """Return the fields of a Route or VirtualHost that put ``rules``, as of `emit_rules`, in force.

    Where the first of them is everybody's, what is left to judge is nothing: such requests pass the filter by, and
    nothing tells of them who let them in. To judge them would cost each as much as to choose its route.
    """
    policies = rules["policies"]
    if (first := min(policies)) == str(EVERYBODY.source) and _ANY in policies[first]["principals"]:
        return {HTTP_RBAC: skip_filter()}
    return {HTTP_RBAC: typed(f"{_HTTP_TYPES}.RBACPerRoute", rbac={"rules": rules})}


def emit_not_found_rbac() -> Json:
    """Return the fields of a Route that has no way to the application, and so needs no leave: nothing is enforced, and
    so nobody counts as let in. What is told of it is that it was asked for."""
    policies = {NOT_FOUND: {"permissions": [_ANY], "principals": [_ANY]}}
    rbac = {"shadow_rules": {"policies": policies}}
    return {HTTP_RBAC: typed(f"{_HTTP_TYPES}.RBACPerRoute", rbac=rbac)}


def emit_refusing_filter() -> Json:
    """Return the HTTP filter that refuses every request whose route has no rules of its own."""
    return extension(HTTP_RBAC, f"{_HTTP_TYPES}.RBAC", rules={"policies": {}})


def emit_tcp_filter(rules: Json) -> Json:
    """Return the network filter that lets no byte pass of a connection that ``rules`` do not let in.

    It looks when the first byte comes, so it cannot keep a server that speaks first from speaking.

    Source: Envoy ``source/extensions/filters/network/rbac/rbac_filter.cc`` onData.
    """
    return extension(TCP_RBAC, _TCP_TYPE, stat_prefix="inbound_tcp.", rules=rules)


def is_everywhere(networks: Iterable[Network]) -> bool:
    """Return whether every address is in one of ``networks``."""
    return {Network("0.0.0.0/0"), Network("::/0")} <= set(networks)


def _emit_principals(authorization: Authorization) -> Iterator[Json]:
    """Yield the callers, any of them; nothing for nobody."""
    everywhere = is_everywhere(authorization.networks)
    networks = [] if everywhere else [_emit_network(network) for network in authorization.networks]
    if not networks and not everywhere:
        return
    proofs = [_ANY] if authorization.proof is Proof.NOTHING else list(_emit_proofs(authorization))
    if not proofs:
        return
    if everywhere:
        yield from proofs
    elif authorization.proof is Proof.NOTHING:
        yield from networks
    else:
        yield {"and_ids": {"ids": [_one_of(networks), _one_of(proofs)]}}


def _emit_proofs(authorization: Authorization) -> Iterator[Json]:
    """Yield the identities. Any identity is any DNS name: a certificate with a URI alone has to be named.

    DNS names go into expressions, many into one: whatever Envoy compares exactly it compares as clients compare the
    names of servers, and a certificate for ``*.shop…`` would be everybody of ``shop``.

    Source: linkerd2 ``policy-controller/core/src/identity_match.rs``; Envoy
    ``api/envoy/extensions/rbac/principals/mtls_authenticated/v3/mtls_authenticated.proto``,
    ``source/common/tls/cert_validator/san_matcher.cc`` ``DnsExactStringSanMatcher``.
    """
    if authorization.proof is Proof.ANY_TLS:
        yield _mtls(any_validated_client_certificate=True)
        return
    if authorization.is_any:
        yield _san("DNS", {"safe_regex": {"regex": ".+"}})
    for expression in _write_names(name for name in authorization.exact if not is_uri(name)):
        yield _san("DNS", {"safe_regex": {"regex": expression}})
    for name in filter(is_uri, authorization.exact):
        yield _san("URI", {"exact": name})
    for suffix in authorization.suffixes:
        yield _san("DNS", {"suffix": suffix})


def _write_names(names: Iterable[str]) -> Iterator[str]:
    """Yield RE2 expressions that match exactly ``names`` between them, none beyond what proxies compile: a character
    is one instruction, at most. Names that differ in their first label only share the others."""
    heads: dict[str, list[str]] = {}
    for name in names:
        head, dot, tail = name.partition(".")
        heads.setdefault(dot + tail, []).append(quote(head))
    ends = (
        (f"(?:{part}){quote(tail)}", size + len(tail))
        for tail, found in heads.items()
        for part, size in _pack(
            ((head, len(head)) for head in found), _MAX_EXPRESSION - min(len(tail), _MAX_EXPRESSION)
        )
    )
    yield from (part for part, _ in _pack(ends, _MAX_EXPRESSION))


def _pack(parts: Iterable[tuple[str, int]], most: int) -> Iterator[tuple[str, int]]:
    """Yield alternatives made of ``parts``, texts and how much each counts, as many in one as ``most`` allows."""
    packed: list[str] = []
    total = 0
    for text, size in parts:
        if packed and total + size > most:
            yield "|".join(packed), total
            packed, total = [], 0
        packed.append(text)
        total += size + 2
    if packed:
        yield "|".join(packed), total


def is_uri(identity: str) -> bool:
    """Return whether an identity is in SPIFFE form."""
    return identity.startswith("spiffe://")


def _emit_network(network: Network) -> Json:
    place = _cidr(network.cidr)
    if not network.excepts:
        return place
    return {"and_ids": {"ids": [place, *({"not_id": _cidr(cidr)} for cidr in network.excepts)]}}


def _cidr(text: str) -> Json:
    # Who is at the other end, whatever headers say.
    address, _, length = text.partition("/")
    return {"direct_remote_ip": {"address_prefix": address, "prefix_len": int(length)}}


def _san(kind: str, matcher: Json) -> Json:
    return _mtls(san_matcher={"san_type": kind, "matcher": matcher})


def _mtls(**how: object) -> Json:
    name = "envoy.rbac.principals.mtls_authenticated"
    return {"custom": extension(name, "envoy.extensions.rbac.principals.mtls_authenticated.v3.Config", **how)}


def _one_of(principals: list[Json]) -> Json:
    return principals[0] if len(principals) == 1 else {"or_ids": {"ids": principals}}
