"""What holds at a workload's ports: link's answer about Servers, and about one proxy, before anyone thinks of Envoy."""

from dataclasses import dataclass, field

from meshwright.model.pod import AccessLog, PortRanges
from meshwright.model.policy import AccessPolicy, Network, Proof, ProxyProtocol
from meshwright.model.ref import Ref
from meshwright.model.route import Filters, GrpcMatch, HttpMatch
from meshwright.model.selector import Selector
from meshwright.model.units import Port

EVERYWHERE = (Network("0.0.0.0/0"), Network("::/0"))
LOOPBACK = (Network("127.0.0.0/8"), Network("::1/128"))
DEFAULT_CLUSTER_NETWORKS = ("10.0.0.0/8", "100.64.0.0/10", "172.16.0.0/12", "192.168.0.0/16", "fd00::/8")
"""Source: linkerd2 ``charts/linkerd-control-plane/values.yaml`` ``clusterNetworks``; ``fd00::/8`` is for IPv6."""


@dataclass(frozen=True, slots=True, order=True)
class Source:
    """Where an authorization comes from, in the words metrics and logs use.

    ``kind``: ``authorizationpolicy``, ``serverauthorization`` or ``default``; then ``name`` is the access policy's,
    ``localhost`` or ``probe``, and group and namespace are ``""``.

    Source: linkerd2 ``policy-controller/k8s/index/src/inbound/index.rs`` (ClientAuthorization keys, metadata).
    """

    group: str
    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return "/".join(part for part in (self.kind, self.namespace, self.name) if part)


@dataclass(frozen=True, slots=True, kw_only=True)
class Authorization:
    """Who may: a caller from one of ``networks`` who shows ``proof``.

    ``proof`` IDENTITY: one of ``exact`` (DNS names and SPIFFE URIs, compared whole), or any DNS name that ends in one
    of ``suffixes`` (each begins with a dot, and something stands before it), or, if ``is_any``, any DNS name. All
    tuples sorted, without duplicates. Empty ``networks``, or IDENTITY with nothing listed: nobody.
    """

    source: Source
    networks: tuple[Network, ...] = EVERYWHERE
    proof: Proof = Proof.NOTHING
    exact: tuple[str, ...] = ()
    suffixes: tuple[str, ...] = ()
    is_any: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class InboundRule:
    """One match of one rule of a route attached to a Server, and who may make such requests beside those whom the
    Server lets in. ``index``: the rule's place in its route."""

    route: Ref
    index: int
    match: HttpMatch | GrpcMatch
    filters: Filters = field(default_factory=Filters)
    hostnames: tuple[str, ...] = ()
    authorizations: tuple[Authorization, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RateShare:
    """A limit shared by all identities (DNS names, sorted) listed."""

    per_second: int
    identities: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimit:
    """What of requests is let through at each proxy, per second. ``None``: unlimited. ``policy``: its source."""

    policy: Ref
    total: int | None = None
    per_identity: int | None = None
    overrides: tuple[RateShare, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerPolicy:
    """All that holds at the port of one Server.

    ``authorizations``: those for every request, sorted by source: of the Server, of its namespace, and what its
    access policy comes to (but for ``audit``, which is ``is_audit``: nobody is refused, and who would have been is
    told). ``is_routed``: routes are attached, and only ``rules``, in the order they must be tried, serve; a request
    that none of them matches is not found. Without, every request is served alike. ``access``: as the Server has it.
    """

    server: Ref
    uid: str = ""
    created: int | None = None
    selects_external: bool = False
    selector: Selector
    port: Port | str
    protocol: ProxyProtocol = ProxyProtocol.UNKNOWN
    access: AccessPolicy = AccessPolicy.DENY
    authorizations: tuple[Authorization, ...] = ()
    is_routed: bool = False
    rules: tuple[InboundRule, ...] = ()
    rate_limit: RateLimit | None = None

    @property
    def is_audit(self) -> bool:
        return self.access is AccessPolicy.AUDIT


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyDefaults:
    """What an installation decides about inbound policy. Networks in canonical form, in the order configured.

    ``access``: where neither a Server nor the workload says. ``probe_networks``: from where the kubelet's probes are
    let in, none: nowhere. ``follows_namespace``: a workload that says nothing itself goes by what its namespace says
    now, not by what it said when the workload was created.

    Source: linkerd2 ``charts/linkerd-control-plane/values.yaml`` ``proxy.defaultInboundPolicy``, ``clusterNetworks``,
    ``policyController.probeNetworks``.
    """

    access: AccessPolicy = AccessPolicy.ALL_UNAUTHENTICATED
    cluster_networks: tuple[str, ...] = DEFAULT_CLUSTER_NETWORKS
    probe_networks: tuple[str, ...] = ("0.0.0.0/0", "::/0")
    follows_namespace: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class GovernedPort:
    """What holds at one port of one workload.

    ``policy``: of the Server that governs it, ``None`` for the default. ``access``: the default policy as it applies
    here when there is no Server. ``is_opaque``: bytes are passed on as they are. ``probes``: paths that anybody of the
    probe networks may GET, sorted; empty where a Server's routes replace them.
    """

    port: Port
    policy: ServerPolicy | None = None
    access: AccessPolicy = AccessPolicy.DENY
    is_opaque: bool = False
    probes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Inbound:
    """All that decides how one workload's proxy takes connections; equal values mean equal configurations.

    ``access``: at every port that is not in ``ports``, by number. ``opaque``: where bytes are passed on as they are at
    those other ports; ``None`` when nobody says, then the usual ones. ``server_name``: what callers' TLS calls the
    workload, a DNS name or, for all below one, ``*.`` and that; ``""`` for pods, which go by their identity.
    """

    access: AccessPolicy = AccessPolicy.ALL_UNAUTHENTICATED
    ports: tuple[GovernedPort, ...] = ()
    opaque: PortRanges | None = None
    access_log: AccessLog = AccessLog.NONE
    defaults: PolicyDefaults = field(default_factory=PolicyDefaults)
    server_name: str = ""
