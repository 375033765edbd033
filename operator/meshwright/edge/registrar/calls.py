"""What machines ask for, answered from the book."""

from collections.abc import Sequence
from dataclasses import replace
from math import inf

from meshwright.edge.registrar.book import Book
from meshwright.edge.registrar.entry import (
    refuse_duplicate_identity,
    refuse_entry,
    refuse_group,
    refuse_machine_identity,
    refuse_name,
    refuse_owner,
)
from meshwright.edge.registrar.fencing import refuse_epoch, refuse_identity, refuse_nonce, refuse_registration
from meshwright.edge.registrar.instances import Instance
from meshwright.edge.registrar.pace import Turnstile
from meshwright.edge.registrar.restoring import BACK_OFF_SECONDS
from meshwright.link.enroll import (
    Chosen,
    check_addresses,
    check_identity,
    filter_labels,
    hash_nonce,
    make_template,
    make_workload_name,
)
from meshwright.model.enrollment import (
    Beat,
    Beaten,
    Claim,
    Done,
    Drain,
    Health,
    InstanceKey,
    Leave,
    Peer,
    Refusal,
    Register,
    Registered,
    Trouble,
    Turned,
)
from meshwright.model.group import Group, Pairs, Rules
from meshwright.model.instance import Enrolled, LeaseState, workload_ref


def register(
    book: Book, turnstile: Turnstile, request: Register, peer: Peer, now: float, wall: int
) -> Registered | Refusal:
    """Let a machine in, or know it again; refuse it without any effect."""
    key, at = request.key, book.elapsed.at(now)
    if (refusal := refuse_group(book, key, at)) is not None:
        return refusal
    group, rules = book.world.group_of(key.group_ref), book.world.rules_of(key.group_ref)
    instance = book.instances.get(key)
    if group is None:
        raise AssertionError("a group that is missing is refused")
    ref = workload_ref(key, make_workload_name(key.namespace, key.group, key.uid))
    server_name = book.trust.machine_dns(key.namespace, key.group, ref.name)
    refusal = (
        check_identity(peer.identity, server_name)
        or refuse_machine_identity(book, key, peer, request.identity)
        or refuse_registration(instance, book.tombstones.get(key), request, peer, at)
        or refuse_name(book, ref, key)
        or refuse_duplicate_identity(book, key, peer, at)
        or (refuse_entry(book, group) if instance is None else None)
    )
    if refusal is not None:
        return refusal
    chosen = _choose(book, rules, request.addresses, peer)
    if isinstance(chosen, Refusal):
        return chosen
    template = instance.enrolled.template if instance and not group.is_usable else make_template(group, rules.zone)
    is_elsewhere = instance is None or chosen.ips != instance.enrolled.ips or bool(instance.conflict)
    if is_elsewhere and (refusal := refuse_owner(book, ref, chosen.ips, template.ports, peer.address)) is not None:
        return refusal
    if (seconds := turnstile.turn_away(key.uid, now, is_known=instance is not None)) is not None:
        message = "too many machines register at once; come back when told"
        return Refusal(reason=Turned.TOO_MANY_REQUESTS, message=message, retry_after=round(seconds, 1))
    labels = filter_labels(request.labels, template.labels, rules.allowed_labels, book.world.services_in(key.namespace))
    enrolled = Enrolled(
        key=key,
        ref=ref,
        template=template,
        agent_labels=labels.kept,
        epoch=request.epoch,
        nonce_hash=hash_nonce(request.nonce),
        identity=peer.identity,
        server_name=server_name,
        ips=chosen.ips,
        registered_from=peer.address,
        agent=request.agent,
    )
    book.heard_at, book.wall = at, max(book.wall, wall)
    is_new = instance is None
    calls_from_elsewhere = instance is not None and instance.observed != peer.address
    has_other_ports = instance is not None and instance.enrolled.template.ports != template.ports
    instance = _enter(book, instance, enrolled, group, rules, at, wall)
    instance.nonce, instance.seq = request.nonce, -1
    instance.claims, instance.moving, instance.lost = request.addresses, None, ""
    instance.observed, instance.loaded = peer.address, request.loaded
    if is_elsewhere or has_other_ports or calls_from_elsewhere:
        for other in book.lapsed_owners(instance, at):
            book.bury(other, at)
        book.judge_address(instance, at)
        book.settle(chosen.ips, at)
    else:
        book.refresh(instance, at)
    return Registered(
        workload=ref.name,
        is_new=is_new,
        ready=instance.is_ready,
        beat_ms=rules.beat_ms,
        lease_ms=rules.lease_ms,
        epoch=request.epoch,
        dropped_labels=labels.dropped,
        warnings=(*labels.warnings, *chosen.warnings, *_warn(instance)),
    )


def _enter(
    book: Book, instance: Instance | None, enrolled: Enrolled, group: Group, rules: Rules, at: float, wall: int
) -> Instance:
    """Return the machine as it is after it has registered. What its probe said last still holds, unless it was silent
    for too long, or said that it stops."""
    lease_seconds = rules.lease_ms / 1000
    if instance is None:
        book.tombstones.pop(enrolled.key, None)
        instance = Instance(
            enrolled=enrolled,
            rules=rules,
            beat_at=at,
            deadline=at + lease_seconds,
            seen_wall=wall,
            has_probe=group.probe is not None,
        )
        book.add(instance, at)
        book.touch(enrolled.ref)
        return instance
    if not instance.is_live or instance.draining_until is not None:
        instance.lease, instance.health, instance.health_message = LeaseState.PENDING, Health.UNKNOWN, ""
        instance.trouble = Trouble.PROBE
    instance.rules, instance.has_probe = rules, group.probe is not None
    instance.draining_until, instance.is_orphan = None, False
    _hear(book, instance, at, wall)
    book.change(instance, enrolled, at)
    return instance


def beat(book: Book, request: Beat, peer: Peer, now: float, wall: int) -> Beaten | Refusal:
    """Note that a machine lives, and how it is."""
    instance = book.instances.get(request.key)
    at = book.elapsed.at(now)
    if instance is None:
        return refuse_group(book, request.key, at) or _not_registered(request.key)
    if book.world.is_ending(request.key.namespace) and (refusal := refuse_group(book, request.key, at)) is not None:
        return refusal
    refusal = (
        refuse_identity(instance, peer)
        or refuse_epoch(instance, request.epoch)
        or refuse_nonce(instance, request.nonce, at)
    )
    if refusal is not None:
        return refusal
    if not instance.is_live and (refusal := refuse_duplicate_identity(book, request.key, peer, at)) is not None:
        return refusal
    is_other, is_back = instance.lease is not LeaseState.CURRENT, not instance.is_live
    if is_other:
        instance.lease = LeaseState.CURRENT
    _hear(book, instance, at, wall)
    book.heard_at = at
    if request.seq > instance.seq:
        instance.seq = request.seq
        is_other |= _take_health(instance, request, at)
        if request.loaded != instance.loaded:
            instance.loaded, is_other = request.loaded, True
        if request.addresses == instance.claims:
            instance.moving = None
        else:
            is_other |= _move(book, instance, request.addresses, peer, at)
    if is_back and instance.conflict:
        book.judge_address(instance, at)
    elif is_other:
        book.refresh(instance, at)
    return Beaten(ready=instance.is_ready, next_ms=instance.rules.beat_ms, must_register=bool(instance.lost))


def drain(book: Book, request: Drain, peer: Peer, now: float) -> Done | Refusal:
    """Take a machine's endpoint at once, and the machine itself when it will have stopped."""
    instance, at = book.instances.get(request.key), book.elapsed.at(now)
    if instance is None:
        return _not_registered(request.key)
    if (refusal := refuse_identity(instance, peer) or refuse_epoch(instance, request.epoch)) is not None:
        return refusal
    until = at + request.drain_ms / 1000
    if instance.draining_until is None or until < instance.draining_until:
        instance.draining_until = until
        book.schedule(instance, until)
        book.refresh(instance, at)
    return Done()


def leave(book: Book, request: Leave, peer: Peer, now: float, wall: int) -> Done | Refusal:
    """Remove a machine, because it says so. One that is not there has left."""
    instance, at = book.instances.get(request.key), book.elapsed.at(now)
    if instance is None:
        return Done()
    if (refusal := refuse_identity(instance, peer) or refuse_epoch(instance, request.epoch)) is not None:
        return refusal
    book.wall = max(book.wall, wall)
    book.bury(instance, at)
    return Done()


def _hear(book: Book, instance: Instance, at: float, wall: int) -> None:
    """Give a machine a new lease."""
    instance.beat_at, instance.seen_wall = at, wall
    instance.deadline = at + instance.lease_seconds
    instance.was_spared, instance.until = False, inf
    if instance.timer > instance.deadline:
        book.schedule(instance, instance.deadline)


def _take_health(instance: Instance, request: Beat, at: float) -> bool:
    """Return whether how a machine is is news. While its probe has not been asked often enough, what it said before
    holds. Other words for the same trouble are news once in a while only."""
    health, message = request.health, request.message
    trouble = request.trouble if health is Health.FAILING else Trouble.PROBE
    if health is Health.UNKNOWN:
        return False
    if (health, trouble) == (instance.health, instance.trouble):
        may_reword = health is Health.FAILING and at - instance.said_at >= BACK_OFF_SECONDS
        if not may_reword or message == instance.health_message:
            return False
    instance.health, instance.trouble = health, trouble
    instance.health_message = message if health is Health.FAILING else ""
    return True


def _move(book: Book, instance: Instance, claims: tuple[Claim, ...], peer: Peer, at: float) -> bool:
    """Return whether a machine has other addresses than before: it must say so twice in a row. The first it says after
    a change of leaders only tells which claims its addresses were chosen of."""
    chosen = _choose(book, instance.rules, claims, peer) if claims else None
    if isinstance(chosen, Chosen) and chosen.ips == instance.enrolled.ips and not instance.lost:
        instance.claims, instance.moving = claims, None
        return False
    if claims != instance.moving:
        instance.moving = claims
        return False
    instance.claims, instance.moving, before = claims, None, instance.lost
    if not isinstance(chosen, Chosen):
        instance.lost = (
            "It has no address left" if chosen is None else f"It has no other address than: {chosen.message}"
        )
        return instance.lost != before
    owner = refuse_owner(book, instance.ref, chosen.ips, instance.enrolled.template.ports, peer.address)
    if owner is not None:
        instance.lost = owner.message
        return instance.lost != before
    instance.lost, instance.observed = "", peer.address
    book.change(instance, replace(instance.enrolled, ips=chosen.ips, registered_from=peer.address), at)
    for other in book.lapsed_owners(instance, at):
        book.bury(other, at)
    book.judge_address(instance, at)
    book.settle(chosen.ips, at)
    return True


def _choose(book: Book, rules: Rules, claims: tuple[Claim, ...], peer: Peer) -> Chosen | Refusal:
    return check_addresses(
        claims,
        observed=peer.address,
        allowed=rules.allowed_cidrs,
        address_from=rules.address_from,
        forbidden=book.world.forbidden,
    )


def _warn(instance: Instance) -> tuple[str, ...]:
    return (f"its address is still taken by {instance.conflict}",) if instance.conflict else ()


def _not_registered(key: InstanceKey) -> Refusal:
    return Refusal(reason=Turned.NOT_REGISTERED, message=f"{key.uid} is not registered; register")


def keep_labels(labels: Pairs, template: Pairs, allowed: Sequence[str]) -> Pairs:
    """Return which of its own labels a machine keeps under another template, or when others are ``allowed``."""
    fixed = {key for key, _ in template}
    return tuple(pair for pair in labels if pair[0] in allowed and pair[0] not in fixed)
