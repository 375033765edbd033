"""Groups of machines outside the cluster, who may join them, and the tokens to join with."""

from dataclasses import dataclass, field
from enum import StrEnum

from meshwright.model.problem import Problem
from meshwright.model.ref import Ref
from meshwright.model.units import Millis, Namespace, Port
from meshwright.model.workload import WorkloadPort

Pairs = tuple[tuple[str, str], ...]
"""Labels, annotations or headers: sorted."""

TOKEN_PREFIX = "mw-join-"
"""What the name of a join token's Secret begins with; the token's id follows."""

TOKEN_TYPE = "meshwright.dev/join-token"
"""The type of a join token's Secret."""

LABEL_TOKEN = "meshwright.dev/join-token"
"""The label of a join token's Secret; its value is ``true``."""


class ProbeKind(StrEnum):
    """How a machine's application is asked whether it is well. The value is the field's name in manifests.

    Source: ``httpGet`` is Buoyant's; ``tcpSocket`` and ``grpc`` are Kubernetes' (``core/v1`` ProbeHandler).
    """

    HTTP = "httpGet"
    TCP = "tcpSocket"
    GRPC = "grpc"


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """How an agent asks its application, and how often. ``host`` is ``""`` for 127.0.0.1.

    ``path``, ``scheme`` (``HTTP``, ``HTTPS``) and ``headers`` are for ``httpGet``; ``service`` for ``grpc``. A probe
    fails after ``failure_threshold`` failures in a row, and passes after ``success_threshold`` successes in a row.

    Source: Buoyant Enterprise for Linkerd reference of ExternalGroup; ``core/v1`` Probe.
    """

    kind: ProbeKind = ProbeKind.HTTP
    port: Port
    host: str = ""
    path: str = "/"
    scheme: str = "HTTP"
    headers: Pairs = ()
    service: str = ""
    initial_delay_ms: Millis = Millis(0)
    period_ms: Millis = Millis(10_000)
    timeout_ms: Millis = Millis(1_000)
    failure_threshold: int = 3
    success_threshold: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """An ExternalGroup: what its machines' ExternalWorkloads look like, and how their health is known.

    ``probe`` ``None``: an agent that beats is healthy. ``is_usable``: machines may join; else ``problems`` say what is
    wrong with the template, and what is there stays as it is. ``warnings``: what was ignored, or is doubtful.
    ``template_hash``: of what instances are made of (labels, annotations, ports), ``sha256:`` and 16 hexadecimal
    digits. ``created``: seconds since 1970, ``None`` when not said.
    """

    ref: Ref
    uid: str
    generation: int
    labels: Pairs
    annotations: Pairs
    ports: tuple[WorkloadPort, ...]
    probe: Probe | None = None
    template_hash: str = ""
    is_usable: bool = True
    is_deleting: bool = False
    warnings: tuple[Problem, ...] = ()
    problems: tuple[Problem, ...] = ()


class JoinMode(StrEnum):
    """How a machine proves that it may join."""

    TOKEN = "JoinToken"
    SPIFFE = "SPIFFE"
    CERTIFICATE = "ClientCertificate"


class IdentityScope(StrEnum):
    """Whether each instance has an identity of its own, or all of a group may share one."""

    INSTANCE = "Instance"
    GROUP = "Group"


class HeartbeatLoss(StrEnum):
    """What silence of an agent means for its endpoint."""

    NOT_READY = "NotReady"
    TOLERATE = "TolerateIfReachable"


class Reachability(StrEnum):
    """Whether the cluster itself looks if a machine's proxy answers, and what follows."""

    OFF = "Off"
    REPORT = "Report"
    GATE = "Gate"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """Who may join a group, and the times that hold there: a RegistrationPolicy's, or the default without one.

    ``modes``: the ways in. ``identities``: patterns that a SPIFFE ID or a machine certificate's name must match, any
    of them: a whole name, one that ends in ``*`` (``spiffe://root/external/*``), or one that begins with ``*.``;
    without any nobody comes in but by token. ``ca_bundle``: PEM of who signs machine certificates.
    ``allowed_cidrs``: where addresses must be, ``()`` for anywhere; ``address_from``: told to agents, to choose by.
    ``allowed_labels``: keys of labels that an agent may set. ``instances``: how many at most. ``zone``: ``""`` unknown.
    """

    modes: frozenset[JoinMode] = frozenset((JoinMode.TOKEN,))
    identities: tuple[str, ...] = ()
    ca_bundle: str = ""
    allowed_cidrs: tuple[str, ...] = ()
    address_from: tuple[str, ...] = ()
    allowed_labels: tuple[str, ...] = ()
    identity_scope: IdentityScope = IdentityScope.INSTANCE
    instances: int = 100
    beat_ms: Millis = Millis(10_000)
    lease_ms: Millis = Millis(35_000)
    gone_after_ms: Millis = Millis(900_000)
    group_gone_after_ms: Millis = Millis(300_000)
    last_endpoint_hold_ms: Millis = Millis(60_000)
    heartbeat_loss: HeartbeatLoss = HeartbeatLoss.NOT_READY
    reachability: Reachability = Reachability.OFF
    zone: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistrationPolicy:
    """Who may join the ExternalGroup ``group`` (a name in its own namespace), ``""`` when that cannot be read.

    ``is_void``: it lets in nobody, because of its ``problems``. Of several for one group the oldest holds, by name
    among those as old.
    """

    ref: Ref
    uid: str
    generation: int
    group: str
    rules: Rules = field(default_factory=Rules)
    created: int | None = None
    is_void: bool = False
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Redemption:
    """Who has joined with a token: the SHA-256 of its public key (DER SubjectPublicKeyInfo), hexadecimal, its uid, and
    when, in seconds since 1970."""

    key_hash: str
    uid: str
    at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinToken:
    """What is kept of a join token, in a Secret: never the token.

    A token is ``<id>.<secret>``; ``secret_hash`` is the SHA-256 of the secret, hexadecimal. ``expires``: seconds since
    1970. ``cidr``: where it may be used from, ``""`` for anywhere. ``is_locked``: it was shown with a key that did not
    join by it. ``resource_version``: of the Secret, for writing.
    """

    id: str
    secret_hash: str
    namespace: Namespace
    group: str
    expires: int
    uses: int = 1
    cidr: str = ""
    redemptions: tuple[Redemption, ...] = ()
    is_locked: bool = False
    resource_version: str = ""
