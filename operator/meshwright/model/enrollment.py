"""What agents and the registrar say to each other, and what is known of one machine."""

from dataclasses import dataclass, field
from enum import StrEnum

from meshwright.model.desired import Condition
from meshwright.model.group import Pairs
from meshwright.model.ref import Kind, Ref
from meshwright.model.units import Millis, Namespace


class Turned(StrEnum):
    """Why a request of a machine is refused: the CamelCase word in the answer, in metrics and in the group's status."""

    BAD_REQUEST = "BadRequest"
    TOO_LARGE = "TooLarge"
    NO_CERTIFICATE = "NoCertificate"
    BAD_TOKEN = "BadToken"
    TOKEN_EXPIRED = "TokenExpired"
    TOKEN_USED = "TokenUsed"
    TOKEN_LOCKED = "TokenLocked"
    WRONG_SOURCE = "WrongSource"
    NOT_ALLOWED = "NotAllowed"
    BAD_IDENTITY = "BadIdentity"
    GROUP_MISSING = "GroupMissing"
    GROUP_UNUSABLE = "GroupUnusable"
    STALE_EPOCH = "StaleEpoch"
    DUPLICATE_INSTANCE = "DuplicateInstance"
    DUPLICATE_IDENTITY = "DuplicateIdentity"
    ADDRESS_CONFLICT = "AddressConflict"
    NAME_TAKEN = "NameTaken"
    BAD_ADDRESS = "BadAddress"
    BAD_LABEL = "BadLabel"
    NOT_REGISTERED = "NotRegistered"
    REMOVED = "Removed"
    QUOTA_EXCEEDED = "QuotaExceeded"
    TOO_MANY_REQUESTS = "TooManyRequests"
    BLOCKED = "Blocked"
    NOT_LEADER = "NotLeader"
    HOLDING = "Holding"
    NO_ISSUER = "NoIssuer"
    API_SERVER_AWAY = "ApiServerAway"
    WRITER_CONFLICT = "EndpointWriterConflict"


STATUS_OF = {
    Turned.BAD_REQUEST: 400,
    Turned.TOO_LARGE: 413,
    Turned.NO_CERTIFICATE: 401,
    Turned.BAD_TOKEN: 401,
    Turned.TOKEN_EXPIRED: 401,
    Turned.TOKEN_USED: 409,
    Turned.TOKEN_LOCKED: 409,
    Turned.WRONG_SOURCE: 403,
    Turned.NOT_ALLOWED: 403,
    Turned.BAD_IDENTITY: 422,
    Turned.GROUP_MISSING: 404,
    Turned.GROUP_UNUSABLE: 409,
    Turned.STALE_EPOCH: 409,
    Turned.DUPLICATE_INSTANCE: 409,
    Turned.DUPLICATE_IDENTITY: 409,
    Turned.ADDRESS_CONFLICT: 409,
    Turned.NAME_TAKEN: 409,
    Turned.BAD_ADDRESS: 422,
    Turned.BAD_LABEL: 422,
    Turned.NOT_REGISTERED: 410,
    Turned.REMOVED: 403,
    Turned.QUOTA_EXCEEDED: 429,
    Turned.TOO_MANY_REQUESTS: 429,
    Turned.BLOCKED: 429,
    Turned.NOT_LEADER: 503,
    Turned.HOLDING: 503,
    Turned.NO_ISSUER: 503,
    Turned.API_SERVER_AWAY: 503,
    Turned.WRITER_CONFLICT: 409,
}
"""The status of the answer, by its reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """An answer other than what was asked for. ``message`` is for people: what was found, and what to do.

    ``retry_after``: seconds, ``None`` when trying again without a change is of no use.
    """

    reason: Turned
    message: str
    retry_after: float | None = None

    @property
    def status(self) -> int:
        return STATUS_OF[self.reason]


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """Who asks, as TLS has proved it. ``identity``: the one URI name of its certificate; ``address``: where it comes
    from, canonical, without a zone. ``not_after``: when its certificate ends, seconds since 1970."""

    identity: str
    address: str
    not_after: int = 0


@dataclass(frozen=True, slots=True, order=True)
class InstanceKey:
    """One machine in one group. ``uid``: 8 to 64 characters of ``[A-Za-z0-9-]``, of the machine's own choice."""

    namespace: Namespace
    group: str
    uid: str

    @property
    def group_ref(self) -> Ref:
        return Ref(Kind.EXTERNAL_GROUP, self.namespace, self.group)


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """An address that a machine says is its own; ``interface`` is told for people only."""

    ip: str
    interface: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """What a machine has in force: hashes as the registrar gave them, ``""`` for nothing yet."""

    config: str = ""
    bundle: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Join:
    """``POST /v1/join``. ``token`` is a secret, ``""`` for who shows a machine certificate: then ``namespace`` and
    ``group`` say where to; with a token they are the token's."""

    uid: str
    csr: str
    token: str = field(default="", repr=False)
    namespace: Namespace = Namespace("")
    group: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Register:
    """``PUT /v1/ns/{ns}/groups/{group}/instances/{uid}``. ``epoch`` 1 or more; ``nonce``: of this run of the agent,
    8 to 64 characters; ``identity``: what it believes it is, ``""`` when it does not say; ``agent`` and ``envoy``:
    versions."""

    key: InstanceKey
    epoch: int
    nonce: str
    addresses: tuple[Claim, ...]
    labels: Pairs = ()
    identity: str = ""
    agent: str = ""
    envoy: str = ""
    loaded: Loaded = Loaded()


class Health(StrEnum):
    """What a probe says. ``UNKNOWN``: it has not been asked often enough yet."""

    UNKNOWN = "Unknown"
    PASSING = "Passing"
    FAILING = "Failing"


class Trouble(StrEnum):
    """What it is that fails on a machine: the reason of its conditions.

    ``PROBE``: the application. The others are its proxy: ``DOWN``: it does not run; ``UNCONFIGURED``: delivery has not
    answered it; ``REFUSED``: it refuses what delivery gives it.
    """

    PROBE = "ProbeFailed"
    DOWN = "ProxyDown"
    UNCONFIGURED = "ProxyUnconfigured"
    REFUSED = "ProxyRefused"


@dataclass(frozen=True, slots=True, kw_only=True)
class Beat:
    """``POST …/beat``: it lives, and how it is. ``seq`` grows with each. ``health`` is that of the application, as far
    as ``trouble`` does not say otherwise; ``message``: what was found; ``age_ms``: how long ago. ``addresses``: those
    it has now."""

    key: InstanceKey
    epoch: int
    nonce: str
    seq: int
    health: Health
    trouble: Trouble = Trouble.PROBE
    message: str = ""
    age_ms: Millis = Millis(0)
    addresses: tuple[Claim, ...] = ()
    loaded: Loaded = Loaded()


@dataclass(frozen=True, slots=True, kw_only=True)
class Drain:
    """``POST …/drain``: it will stop after ``drain_ms``."""

    key: InstanceKey
    epoch: int
    drain_ms: Millis


@dataclass(frozen=True, slots=True, kw_only=True)
class Leave:
    """``DELETE …``: it is gone for good."""

    key: InstanceKey
    epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Registered:
    """The answer to `Register`. ``workload``: the ExternalWorkload's name; ``is_new``: 201 instead of 200."""

    workload: str
    is_new: bool
    ready: bool
    beat_ms: Millis
    lease_ms: Millis
    epoch: int
    dropped_labels: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Beaten:
    """The answer to `Beat`. ``next_ms``: until the next one; ``must_register``: come with `Register`, because what was
    registered is no longer what is said."""

    ready: bool
    next_ms: Millis
    must_register: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """The answer to `Drain` and `Leave`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejection:
    """A refusal that the group's owner should know of. ``last_seen``: seconds since 1970."""

    reason: Turned
    identity: str
    address: str
    count: int
    last_seen: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupView:
    """What the status of an ExternalGroup says. ``rejections``: at most 10, the newest first; ``conditions``:
    ``Accepted``, ``SelectedByService``, ``QuotaExceeded``, ``ExpirySuspended``, in this order."""

    generation: int
    total: int
    ready: int
    not_ready: int
    quarantined: int
    template_hash: str
    rejections: tuple[Rejection, ...]
    conditions: tuple[Condition, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineConfig:
    """What an agent is told besides the answers to its calls. ``hash`` is of all but the bundle, ``bundle_hash`` of
    that: ``sha256:`` and 16 hexadecimal digits. ``delivery``: host:port of ``meshwright xds``. ``probe``: JSON as in
    the group's manifest with every default filled in, ``None`` without one. ``skip_*``: as the template's annotations
    ``config.linkerd.io/skip-…`` say, ``""`` when they do not."""

    hash: str
    bundle_hash: str
    bundle: str
    workload: str
    identity: str
    delivery: str
    trust_domain: str
    control_plane: Namespace
    probe: dict[str, object] | None
    skip_inbound_ports: str = ""
    skip_outbound_ports: str = ""
    skip_subnets: str = ""
    address_from: tuple[str, ...] = ()
