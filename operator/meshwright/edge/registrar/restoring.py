"""A machine read back from its ExternalWorkload, as a new leader finds it.

What the conditions say is what is known: so that nothing is written anew because the leader is another one.
"""

from collections.abc import Sequence
from dataclasses import replace
from math import inf

from meshwright.edge.registrar.instances import Instance
from meshwright.emit.external_workload import read_found
from meshwright.link.enroll import check_addresses, is_allowed_identity, read_machine
from meshwright.model.config import FIELD_MANAGER, LABEL_MANAGED_BY
from meshwright.model.desired import Condition
from meshwright.model.enrollment import Claim, Health, Refusal, Trouble
from meshwright.model.group import Group, JoinMode, Rules
from meshwright.model.identity import TrustDomain
from meshwright.model.instance import ADDRESS, HEARTBEAT, PROBE, READY, Enrolled, LeaseState, SeenWorkload, Template
from meshwright.parse.enrollment import MAX_EPOCH

BACK_OFF_SECONDS = 60.0
"""The longest that an agent waits before it tries again: what a new leader gives everybody beyond one lease."""

_LEASES = {
    "Beating": LeaseState.CURRENT,
    "Pending": LeaseState.PENDING,
    "ExpirySuspended": LeaseState.SUSPENDED,
    "LastEndpointHeld": LeaseState.HELD,
    "LeaseExpired": LeaseState.EXPIRED,
}
_TROUBLES = {trouble.value: trouble for trouble in Trouble}
_HEALTH = {"ProbePassed": Health.PASSING, **dict.fromkeys(_TROUBLES, Health.FAILING)}
_REACHED = {"Reachable": True, "Unreachable": False}
_NOTHING = Condition(type="", status="Unknown", reason="", message="")


def find_fiction(
    enrolled: Enrolled, trust: TrustDomain, rules: Rules, forbidden: Sequence[str], *, is_void: bool
) -> str:
    """Return what no machine could have registered of what an ExternalWorkload says, ``""`` when all of it could be so.

    Who may edit ExternalWorkloads must not get by that what the registrar would have refused. ``is_void``: the group's
    policy has errors, and does not tell which identities it means: then those of the mesh that are nobody else's may be
    so, lest a slip of the pen take machines that are in.
    """
    key, identity = enrolled.key, enrolled.identity
    if not 1 <= enrolled.epoch <= MAX_EPOCH:
        return f"epoch {enrolled.epoch}, which is none that a machine can have"
    if identity != trust.machine_uri(key.namespace, key.group, key.uid):
        is_free = identity.startswith(trust.uri_prefix) and trust.read_uri(identity) is None
        is_allowed = JoinMode.SPIFFE in rules.modes and is_allowed_identity(rules.identities, identity)
        if not is_free or read_machine(trust, identity) is not None or not (is_allowed or is_void):
            return "an identity that is not this machine's, and that the group's policy does not allow"
    found = check_addresses(tuple(Claim(ip=ip) for ip in enrolled.ips), observed="", forbidden=forbidden)
    if isinstance(found, Refusal) or found.ips != enrolled.ips:
        return "addresses that no machine may have"
    return ""


def restore_instance(
    seen: SeenWorkload, enrolled: Enrolled, rules: Rules, *, at: float, wall: int, last_seen: int, group: Group | None
) -> Instance:
    """Return the machine ``enrolled`` as ``seen`` shows it, with one lease and an agent's longest back-off from ``at``
    on, whenever it was heard last.

    ``wall``, ``last_seen``: seconds since 1970. Its silence counts from ``last_seen``, but only towards removal.
    """
    said = {condition.type: condition for condition in seen.conditions}
    ready, heartbeat, probe, address = (said.get(type_, _NOTHING) for type_ in (READY, HEARTBEAT, PROBE, ADDRESS))
    lease = _LEASES.get(heartbeat.reason, LeaseState.PENDING)
    lease_seconds = rules.lease_ms / 1000
    is_draining = ready.reason == "Draining"
    has_probe = group.probe is not None if group is not None else probe.reason != "NoProbe"
    return Instance(
        enrolled=enrolled,
        rules=rules,
        beat_at=at - max(0, wall - last_seen),
        deadline=at + lease_seconds + BACK_OFF_SECONDS,
        seen_wall=last_seen,
        lease=lease,
        conditions=seen.conditions,
        is_ready=ready.status == "True",
        until=at + lease_seconds if lease in (LeaseState.SUSPENDED, LeaseState.HELD) else inf,
        removable_at=at + lease_seconds + BACK_OFF_SECONDS,
        was_spared=lease is LeaseState.SUSPENDED,
        draining_until=at + lease_seconds if is_draining else None,
        has_probe=has_probe,
        health=_HEALTH.get(probe.reason, Health.UNKNOWN),
        trouble=_TROUBLES.get(probe.reason, Trouble.PROBE),
        health_message=read_found(probe) if probe.reason in _TROUBLES else "",
        lost=read_found(ready) if ready.reason == "AddressLost" else "",
        conflict=ready.message if ready.reason == "AddressConflict" else "",
        observed=enrolled.registered_from,
        is_reachable=True if ready.reason == "SilenceTolerated" else _REACHED.get(address.reason),
        reach_message=read_found(address) if address.reason == "Unreachable" else "",
        is_orphan=group is None and ready.reason == "GroupMissing",
        said_at=at,
        object_uid=seen.uid,
    )


def leave_out(enrolled: Enrolled, template: Template) -> Enrolled:
    """Return a machine without what others have added to its ExternalWorkload, where that is all that it has more than
    its group says: theirs to keep, and not ours to write."""
    found = enrolled.template
    is_current = (
        (found.hash, found.ports) == (template.hash, template.ports)
        and set(template.labels) <= set(found.labels)
        and set(template.annotations) <= set(found.annotations)
    )
    return replace(enrolled, template=template) if is_current else enrolled


def is_spoilt(seen: SeenWorkload) -> bool:
    """Return whether an ExternalWorkload says that it is ours, and no more from what: somebody has edited it, and it is
    to be written again."""
    return seen.enrolled is None and not seen.writer and (LABEL_MANAGED_BY, FIELD_MANAGER) in seen.labels
