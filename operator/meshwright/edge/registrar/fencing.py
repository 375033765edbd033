"""Which of two copies of a machine counts, and whether who asks is the machine at all."""

from math import ceil

from meshwright.edge.registrar.instances import Instance
from meshwright.link.enroll import hash_nonce
from meshwright.model.enrollment import Peer, Refusal, Register, Turned
from meshwright.model.instance import Tombstone


def refuse_identity(instance: Instance, peer: Peer) -> Refusal | None:
    """Return why ``peer`` may not speak for a machine, ``None`` when it is the machine."""
    if peer.identity == instance.enrolled.identity:
        return None
    message = (
        f"{peer.identity} may not speak for {instance.key.uid}, which joined as another; "
        "a machine that has a new identity may register once the lease of the old one is over"
    )
    return Refusal(reason=Turned.NOT_ALLOWED, message=message)


def refuse_epoch(instance: Instance, epoch: int) -> Refusal | None:
    """Return why a machine's call at ``epoch`` does not count, ``None`` when it does."""
    known = instance.enrolled.epoch
    if epoch < known:
        return _stale(epoch, known)
    if epoch > known:
        message = f"epoch {epoch} has not registered, {known} has; register first"
        return Refusal(reason=Turned.NOT_REGISTERED, message=message)
    return None


def refuse_nonce(instance: Instance, nonce: str, at: float) -> Refusal | None:
    """Return why a run of the agent is not the one that registered, ``None`` when it is."""
    if nonce == instance.nonce:
        return None
    if not instance.nonce and hash_nonce(nonce) == instance.enrolled.nonce_hash:
        instance.nonce = nonce
        return None
    return _duplicate(instance, at)


def refuse_registration(
    instance: Instance | None, tombstone: Tombstone | None, request: Register, peer: Peer, at: float
) -> Refusal | None:
    """Return why a registration comes from a copy that does not count, ``None`` when it counts.

    A lower epoch is an old copy, awake again: a restored snapshot, a paused machine. Another nonce is another run. It
    takes over where the holder calls from, and once the holder's lease is over; else there are two of them, and the
    first stays.
    """
    if tombstone is not None and request.epoch <= tombstone.epoch:
        return _stale(request.epoch, tombstone.epoch)
    if instance is None:
        return None
    if request.epoch < instance.enrolled.epoch:
        return _stale(request.epoch, instance.enrolled.epoch)
    if not instance.is_live:
        return None
    if (refusal := refuse_identity(instance, peer)) is not None:
        return refusal
    is_same_run = hash_nonce(request.nonce) == instance.enrolled.nonce_hash
    if is_same_run or instance.is_at(peer.address):
        return None
    return _duplicate(instance, at)


def _stale(epoch: int, known: int) -> Refusal:
    message = (
        f"epoch {epoch} is over, {known} has been seen: this is an old copy of the machine; "
        "restart its agent to go on from here, or stop it if another copy runs"
    )
    return Refusal(reason=Turned.STALE_EPOCH, message=message)


def _duplicate(instance: Instance, at: float) -> Refusal:
    message = (
        f"another copy of {instance.key.uid} is alive; if this machine was cloned, stop its agent, remove the agent's "
        "state folder and join anew; if the other one is gone, its lease will be over soon"
    )
    retry_after = float(max(1, ceil(instance.deadline - at)))
    return Refusal(reason=Turned.DUPLICATE_INSTANCE, message=message, retry_after=retry_after)
