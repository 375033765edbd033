"""Inbound policy as its authors wrote it: Servers, who may call them, how callers prove who they are, and how often.

Source of every field: linkerd2 ``policy-crd`` of ``charts/linkerd-crds/templates/policy/`` and
``policy-controller/k8s/api/src/policy/``.
"""

from dataclasses import dataclass
from enum import StrEnum

from meshwright.model.identity import ServiceAccount
from meshwright.model.problem import Problem
from meshwright.model.ref import Kind, Ref
from meshwright.model.selector import Selector
from meshwright.model.units import Namespace, Port


class AccessPolicy(StrEnum):
    """What holds for callers that no authorization names.

    Source: linkerd2 ``policy-controller/k8s/index/src/defaults.rs`` ``DefaultPolicy``.
    """

    ALL_UNAUTHENTICATED = "all-unauthenticated"
    ALL_AUTHENTICATED = "all-authenticated"
    CLUSTER_UNAUTHENTICATED = "cluster-unauthenticated"
    CLUSTER_AUTHENTICATED = "cluster-authenticated"
    DENY = "deny"
    AUDIT = "audit"

    @property
    def authenticated(self) -> "AccessPolicy":
        """Return the form that asks who the caller is; ``deny`` and ``audit`` stay as they are."""
        match self:
            case AccessPolicy.ALL_UNAUTHENTICATED:
                return AccessPolicy.ALL_AUTHENTICATED
            case AccessPolicy.CLUSTER_UNAUTHENTICATED:
                return AccessPolicy.CLUSTER_AUTHENTICATED
            case _:
                return self


class ProxyProtocol(StrEnum):
    """What a Server says its port speaks."""

    UNKNOWN = "unknown"
    HTTP1 = "HTTP/1"
    HTTP2 = "HTTP/2"
    GRPC = "gRPC"
    OPAQUE = "opaque"
    TLS = "TLS"

    @property
    def is_http(self) -> bool:
        """Whether HTTP is taken as such on it."""
        return self not in (ProxyProtocol.OPAQUE, ProxyProtocol.TLS)

    @property
    def is_tcp(self) -> bool:
        """Whether bytes that are not HTTP are taken on it."""
        return self in (ProxyProtocol.UNKNOWN, ProxyProtocol.OPAQUE, ProxyProtocol.TLS)


@dataclass(frozen=True, slots=True, order=True)
class Network:
    """A range of addresses, less some within it. CIDRs in canonical form; ``excepts`` sorted."""

    cidr: str
    excepts: tuple[str, ...] = ()


class Proof(StrEnum):
    """What a caller must show: nothing, any TLS of the mesh, or one of some identities."""

    NOTHING = "nothing"
    ANY_TLS = "any-tls"
    IDENTITY = "identity"


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A Server: some port of some workloads of its namespace.

    ``selects_external``: ExternalWorkloads instead of pods. ``port``: a number, or the name of container ports.
    ``created``: seconds since the epoch, ``None`` sorts last. ``labels``: sorted pairs. An ``accessPolicy`` that is
    none counts as ``deny``.
    """

    ref: Ref
    uid: str = ""
    created: int | None = None
    labels: tuple[tuple[str, str], ...] = ()
    selects_external: bool = False
    selector: Selector
    port: Port | str
    protocol: ProxyProtocol = ProxyProtocol.UNKNOWN
    access: AccessPolicy = AccessPolicy.DENY
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerAuthorization:
    """A ServerAuthorization. It names one Server (``server``), or those that ``selector`` selects by their labels.

    ``networks`` ``None``: none written, which means the cluster's networks. ``identities``: as written, ``*`` and
    ``*.suffix`` among them; ``accounts``: ServiceAccounts. ``is_void``: it is well formed but grants nothing, because
    it says of no way to be a client; one with a faulty part grants nothing either.
    """

    ref: Ref
    server: str | None = None
    selector: Selector | None = None
    networks: tuple[Network, ...] | None = None
    proof: Proof = Proof.IDENTITY
    identities: tuple[str, ...] = ()
    accounts: tuple[ServiceAccount, ...] = ()
    is_void: bool = False
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthorizationPolicy:
    """An AuthorizationPolicy: who meets all of ``required`` may call ``target``.

    ``target``: a Server, HTTPRoute (either group) or GRPCRoute of its own namespace, or that namespace; ``required``:
    MeshTLSAuthentications, NetworkAuthentications (their refs) and ServiceAccounts. ``is_void``: a part of it is
    faulty, and so it grants nothing.
    """

    ref: Ref
    target: Ref
    required: tuple[Ref, ...] = ()
    accounts: tuple[ServiceAccount, ...] = ()
    is_void: bool = False
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class MeshTlsAuthentication:
    """A MeshTLSAuthentication: any one of its identities (as written: exact, ``*``, ``*.suffix``, ``spiffe://…``),
    ServiceAccounts, or anybody of one of its ``namespaces``. ``is_void``: faulty, proves nothing."""

    ref: Ref
    identities: tuple[str, ...] = ()
    accounts: tuple[ServiceAccount, ...] = ()
    namespaces: tuple[Namespace, ...] = ()
    is_void: bool = False
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkAuthentication:
    """A NetworkAuthentication: any one of its networks. ``is_void``: faulty, proves nothing."""

    ref: Ref
    networks: tuple[Network, ...] = ()
    is_void: bool = False
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RateOverride:
    """A limit that all of ``accounts`` share instead of the one for each identity."""

    per_second: int
    accounts: tuple[ServiceAccount, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimitPolicy:
    """An HTTPLocalRateLimitPolicy. Limits are requests per second and proxy, 1 or more; ``None``: unlimited.

    ``refusal``: why nothing of it is in force, whatever the Server; ``None`` when it is well formed.
    """

    ref: Ref
    generation: int = 0
    created: int | None = None
    server: str
    total: int | None = None
    per_identity: int | None = None
    overrides: tuple[RateOverride, ...] = ()
    refusal: Problem | None = None
    problems: tuple[Problem, ...] = ()

    @property
    def target(self) -> Ref:
        return Ref(Kind.SERVER, self.ref.namespace, self.server)
