"""HTTPRoute and GRPCRoute as their authors meant them, with what is wrong beside each part.

Source of every field: kubernetes-sigs/gateway-api v1.7.0 ``apis/v1/httproute_types.go``, ``grpcroute_types.go`` and
``shared_types.go``; of the annotations: linkerd2 ``policy-controller/k8s/index/src/outbound/index.rs``.
"""

from dataclasses import dataclass
from enum import Enum

from meshwright.model.problem import Problem
from meshwright.model.ref import Kind, Ref
from meshwright.model.units import Millis, Namespace, Port


class TextMatch(Enum):
    """How a text is compared: whole and case-sensitive, or by an RE2 expression anchored at both ends."""

    EXACT = "Exact"
    REGEX = "RegularExpression"


class PathMatch(Enum):
    """How a path is compared. ``PREFIX`` goes by path element: ``/a`` covers ``/a`` and ``/a/b``, never ``/ab``."""

    EXACT = "Exact"
    PREFIX = "PathPrefix"
    REGEX = "RegularExpression"


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """A text to compare with."""

    how: TextMatch
    value: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Path:
    """A path to compare with. A prefix's value has no trailing ``/``, but for ``/`` itself."""

    how: PathMatch
    value: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedText:
    """A header (``name`` in lower case; ``Host`` is ``:authority``) or a query parameter to compare."""

    name: str
    text: Text


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpMatch:
    """One match of an HTTPRoute rule; all conditions must hold. Names are unique, the first of duplicates stays."""

    path: Path
    method: str | None = None
    headers: tuple[NamedText, ...] = ()
    query: tuple[NamedText, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class GrpcMatch:
    """One match of a GRPCRoute rule. ``None`` for a part means any; both ``None`` and no headers: every call."""

    service: Text | None = None
    method: Text | None = None
    headers: tuple[NamedText, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """A header's name (as written) and value."""

    name: str
    value: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HeaderModifier:
    """What to do to headers: ``set`` replaces, ``add`` appends, ``remove`` drops. Order as written."""

    set: tuple[Header, ...] = ()
    add: tuple[Header, ...] = ()
    remove: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class FullPath:
    """Replace the whole path; the query string is kept."""

    value: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefixPath:
    """Replace the matched prefix ``matched`` (no trailing ``/``, or ``/``) by ``value``."""

    matched: str
    value: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Redirect:
    """Answer with a redirect; ``None`` keeps the request's part."""

    scheme: str | None = None
    hostname: str | None = None
    path: FullPath | PrefixPath | None = None
    port: Port | None = None
    status: int = 302


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewrite:
    """Change Host and path on the way to the backend; ``None`` keeps."""

    hostname: str | None = None
    path: FullPath | PrefixPath | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Filters:
    """All filters of a rule or of a backend."""

    request_headers: HeaderModifier | None = None
    response_headers: HeaderModifier | None = None
    redirect: Redirect | None = None
    rewrite: Rewrite | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """What a rule sends to. ``group`` is ``""`` for core (``core`` is read as ``""``).

    ``problems`` make only this backend invalid: its share of requests gets 500 (gRPC: UNAVAILABLE). They carry what
    can be seen on the route alone (kind, missing port, unusable filter); link adds what needs other objects.
    """

    field: str
    group: str
    kind: str
    namespace: Namespace
    name: str
    port: Port | None
    weight: int = 1
    filters: Filters = Filters()
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """Timeouts in milliseconds. ``None``: not said here. ``0``: said to be none.

    ``request``: the whole request with all its attempts; ``response``: from the request fully sent to the response
    fully received; ``idle``: silence in both directions; ``backend_request``: one attempt.
    """

    request_ms: Millis | None = None
    response_ms: Millis | None = None
    idle_ms: Millis | None = None
    backend_request_ms: Millis | None = None

    @property
    def is_empty(self) -> bool:
        return self == Timeouts()


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusRange:
    """HTTP status codes from ``first`` to ``last``, both included, within 100 to 599."""

    first: int
    last: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """When and how often to try again.

    ``limit``: retries after the first try, 0 or more; 0 switches retries off. ``http``/``grpc``: answers that are
    retried (gRPC: Envoy's words, ``unavailable`` ...), sorted, without duplicates. ``per_try_ms``: time for one try;
    a try that passes it is retried (``None``: the rule's ``backend_request`` bounds it, and it is not retried).
    ``backoff_ms``: base interval, ``None`` for 25 ms.
    """

    limit: int
    http: tuple[StatusRange, ...] = ()
    grpc: tuple[str, ...] = ()
    per_try_ms: Millis | None = None
    backoff_ms: Millis | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """What annotations on a Service or a route say. ``retry_http``/``retry_grpc`` are the retry policies they give
    an HTTPRoute's or a GRPCRoute's rules; ``None``: none."""

    timeouts: Timeouts = Timeouts()
    retry_http: Retry | None = None
    retry_grpc: Retry | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One rule. ``field`` is its path, ``spec.rules[3]``. ``matches`` is never empty: no match written means one that
    takes everything.

    ``problems`` make the whole rule invalid: it keeps its matches and answers 500 (gRPC: UNAVAILABLE). A match that
    cannot be expressed (a bad regex) is not in ``matches`` but is in ``problems``.
    ``retry`` is the rule's own ``retry`` stanza, ``timeouts`` its own ``timeouts``.
    """

    field: str
    name: str | None = None
    matches: tuple[HttpMatch, ...] | tuple[GrpcMatch, ...]
    filters: Filters = Filters()
    backends: tuple[Backend, ...] = ()
    timeouts: Timeouts = Timeouts()
    retry: Retry | None = None
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ParentRef:
    """One entry of ``spec.parentRefs``.

    ``field`` is its path; ``group``, ``kind``, ``namespace`` are resolved (defaults filled in, ``core`` read as
    ``""``), ``written`` is the entry as the author wrote it, to be repeated in status (sorted pairs).
    """

    field: str
    group: str
    kind: str
    namespace: Namespace
    name: str
    port: Port | None = None
    section_name: str | None = None
    written: tuple[tuple[str, str | int], ...] = ()

    @property
    def is_service(self) -> bool:
        return self.group == "" and self.kind == "Service"

    @property
    def is_server(self) -> bool:
        return self.group == "policy.linkerd.io" and self.kind == "Server"


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """An HTTPRoute (``ref.kind`` HTTP_ROUTE or POLICY_HTTP_ROUTE, rules with HttpMatch) or a GRPCRoute (GRPC_ROUTE,
    GrpcMatch).

    ``created``: seconds since the epoch, ``None`` when the object has no timestamp (sorts last).
    ``problems``: what is wrong outside any one rule or backend, annotations included; a bad annotation group counts
    as absent, and the problem says so.
    """

    ref: Ref
    generation: int
    created: int | None
    parents: tuple[ParentRef, ...]
    hostnames: tuple[str, ...] = ()
    rules: tuple[Rule, ...] = ()
    traffic: Traffic = Traffic()
    problems: tuple[Problem, ...] = ()

    @property
    def is_grpc(self) -> bool:
        return self.ref.kind is Kind.GRPC_ROUTE


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceGrant:
    """Who may refer to objects of this namespace. The backends of a route on a Service need none (GEP-1294)."""

    ref: Ref
    problems: tuple[Problem, ...] = ()
