"""Which of several matches takes a request: the order in which they must be tried."""

from dataclasses import dataclass

from meshwright.model.ref import Ref
from meshwright.model.route import GrpcMatch, HttpMatch, PathMatch, TextMatch

_LAST = 1 << 62
_PATH_RANK = {PathMatch.EXACT: 0, PathMatch.REGEX: 1, PathMatch.PREFIX: 2}

Order = tuple[int | str, ...]
"""A sort key: the lowest is matched first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RulePlace:
    """Which rule: its place in its route, which was ``created`` then (``None`` sorts last)."""

    route: Ref
    created: int | None
    index: int


def order_http(rule: RulePlace, match: HttpMatch, match_index: int) -> Order:
    """Return the place of a match among all of one port. ``match_index``: its place in its rule.

    Exact path, then expression, then prefix; the longer path; with a method; more headers; more query parameters;
    then age, name and place, as for every kind.

    Source: Gateway API ``apis/v1/httproute_types.go`` HTTPRouteRule.Matches. It leaves the place of expressions
    open; after prefixes, a rule for ``/`` would hide them all.
    """
    length = len(match.path.value.rstrip("/")) if match.path.how is PathMatch.PREFIX else len(match.path.value)
    return (
        _PATH_RANK[match.path.how],
        -length,
        0 if match.method is not None else 1,
        -len(match.headers),
        -len(match.query),
        *_order_ties(rule, match_index),
    )


def order_grpc(rule: RulePlace, match: GrpcMatch, match_index: int) -> Order:
    """Return the place of a match among all of one port.

    More characters in the service, then in the method; names before expressions; more headers; then age, name and
    place, as for every kind.

    Source: Gateway API ``apis/v1/grpcroute_types.go`` GRPCRouteRule.Matches; names before expressions is ours.
    """
    texts = (match.service, match.method)
    return (
        *(-len(text.value) if text else 0 for text in texts),
        sum(text is not None and text.how is TextMatch.REGEX for text in texts),
        -len(match.headers),
        *_order_ties(rule, match_index),
    )


def order_hostname(hostname: str) -> Order:
    """Return the place of what a route says about the host, before its matches: names, then wildcards, the longer
    first, then ``""``, which is no hostname at all. Hostnames with equal places never take the same request, but for
    equal ones.

    Source: Gateway API ``apis/v1/httproute_types.go`` HTTPRouteSpec.Hostnames; linkerd2-proxy
    ``linkerd/http/route/src/lib.rs`` (a match on the host counts before one on the request).
    """
    if hostname.startswith("*."):
        return (1, -len(hostname))
    return (0, 0) if hostname else (2, 0)


def _order_ties(rule: RulePlace, match_index: int) -> Order:
    age = _LAST if rule.created is None else rule.created
    route = rule.route
    return age, f"{route.namespace}/{route.name}", route.kind.value, rule.index, match_index
