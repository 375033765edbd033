"""One machine as an ExternalWorkload holds it, and what its conditions say."""

from dataclasses import dataclass, field
from enum import StrEnum

from meshwright.model.desired import Condition
from meshwright.model.enrollment import Health, InstanceKey, Loaded, Trouble
from meshwright.model.group import HeartbeatLoss, Pairs, Reachability
from meshwright.model.ref import Kind, Ref
from meshwright.model.units import Millis
from meshwright.model.workload import WorkloadPort

LABEL_EXTERNAL = "meshwright.dev/external"
LABEL_ZONE = "topology.kubernetes.io/zone"
ANNOTATION_GROUP = "meshwright.dev/group"
ANNOTATION_UID = "meshwright.dev/instance-uid"
ANNOTATION_EPOCH = "meshwright.dev/instance-epoch"
ANNOTATION_NONCE = "meshwright.dev/instance-nonce"
ANNOTATION_TEMPLATE = "meshwright.dev/template-hash"
ANNOTATION_SOURCE = "meshwright.dev/registered-from"
ANNOTATION_AGENT = "meshwright.dev/agent-version"
ANNOTATION_AGENT_LABELS = "meshwright.dev/agent-labels"
"""Which labels the machine itself has set: their keys, with commas. Left out when there are none."""

READY = "Ready"
HEARTBEAT = "meshwright.dev/HeartbeatCurrent"
PROBE = "meshwright.dev/ProbeHealthy"
ADDRESS = "meshwright.dev/AddressVerified"
CONFIG = "meshwright.dev/ConfigCurrent"
TRUST = "meshwright.dev/TrustCurrent"


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """What a group makes its machines of, as it was when a machine was last written: sorted pairs, the ports in the
    order of the group's manifest, and the group's ``template_hash`` of then."""

    labels: Pairs
    annotations: Pairs
    ports: tuple[WorkloadPort, ...]
    hash: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Enrolled:
    """One machine of a group: all that its ExternalWorkload is written from.

    ``agent_labels``: those that it has set itself and may, none of them the template's. ``nonce_hash``: the first 16
    hexadecimal digits of the SHA-256 of its run's nonce. ``ips``: at most one of each family, IPv4 first.
    ``registered_from``: where its last registration came from. ``agent``: its version, ``""`` when not said.
    """

    key: InstanceKey
    ref: Ref
    template: Template
    agent_labels: Pairs
    epoch: int
    nonce_hash: str
    identity: str
    server_name: str
    ips: tuple[str, ...]
    registered_from: str
    agent: str = ""

    @property
    def labels(self) -> Pairs:
        """Return what Services select by: the template's and its own, sorted."""
        return tuple(sorted((*self.template.labels, *self.agent_labels)))


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenWorkload:
    """An ExternalWorkload as the API server shows it: one of ours, or made by hand.

    ``enrolled``: what it was written from; ``None`` when it is not ours, or when another writer has taken it over:
    then ``writer`` is that one's field manager or, of an object that was never ours, its ``managed-by`` label (``""``
    for neither). ``group``: the group it says it is of, also when it is not ours. ``conditions``: those of our types,
    in our order.
    """

    ref: Ref
    uid: str
    ips: tuple[str, ...]
    ports: tuple[WorkloadPort, ...]
    labels: Pairs = ()
    is_ready: bool = False
    is_deleting: bool = False
    conditions: tuple[Condition, ...] = ()
    enrolled: Enrolled | None = None
    group: Ref | None = None
    writer: str = ""


@dataclass(frozen=True, slots=True, order=True)
class Tombstone:
    """What is kept of a machine that is gone, so that an old copy of it cannot come back: only a higher epoch may.
    ``until``: seconds since 1970."""

    key: InstanceKey
    epoch: int
    until: int


class LeaseState(StrEnum):
    """Whether a machine has been heard of in time.

    ``PENDING``: registered, no beat yet. ``CURRENT``: it beats. ``SUSPENDED``: silent, with so many others that the
    fault may be ours. ``HELD``: silent, but the last endpoint of a Service. ``EXPIRED``: silent.
    """

    PENDING = "Pending"
    CURRENT = "Current"
    SUSPENDED = "Suspended"
    HELD = "Held"
    EXPIRED = "Expired"


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How one machine is: all that its conditions are written from. Nothing in it changes while the machine is well.

    ``health``: the last that it has said, with ``health_message`` and, when it fails, ``trouble``. ``conflict``: who
    else has its address, in words, ``""`` for nobody. ``lost``: what is wrong with the addresses it has now, ``""``
    when nothing is. ``is_observed``: its calls come from one of its addresses; ``is_in_range``: the policy names
    ranges, and its addresses are in them. ``is_reachable``: what the cluster's own probe says, ``None`` before it has.
    ``loaded`` and ``want``: what it has in force, and should have; ``""`` for not known yet.
    """

    lease: LeaseState
    lease_ms: Millis
    has_probe: bool
    health: Health = Health.UNKNOWN
    trouble: Trouble = Trouble.PROBE
    health_message: str = ""
    is_draining: bool = False
    conflict: str = ""
    lost: str = ""
    is_observed: bool = False
    is_in_range: bool = False
    observed: str = ""
    reachability: Reachability = Reachability.OFF
    is_reachable: bool | None = None
    reach_message: str = ""
    heartbeat_loss: HeartbeatLoss = HeartbeatLoss.NOT_READY
    is_orphan: bool = False
    loaded: Loaded = field(default_factory=Loaded)
    want: Loaded = field(default_factory=Loaded)


def workload_ref(key: InstanceKey, name: str) -> Ref:
    """Return what the ExternalWorkload of a machine is called."""
    return Ref(Kind.EXTERNAL_WORKLOAD, key.namespace, name)
