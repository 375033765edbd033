"""Who may come in: which group, which identity, whose name and whose address."""

from collections.abc import Sequence

from meshwright.edge.registrar.book import Book
from meshwright.edge.registrar.pace import spread
from meshwright.edge.registrar.restoring import is_spoilt
from meshwright.link.enroll import check_identity, is_allowed_identity, make_workload_name, read_machine
from meshwright.model.enrollment import InstanceKey, Peer, Refusal, Turned
from meshwright.model.group import Group, IdentityScope, JoinMode
from meshwright.model.instance import workload_ref
from meshwright.model.ref import Ref
from meshwright.model.workload import WorkloadPort

GROUP_SECONDS = 15.0
ENDING_SECONDS = 60.0
FULL_SECONDS = 60.0


def refuse_group(book: Book, key: InstanceKey, at: float) -> Refusal | None:
    """Return why there is no such group, ``None`` when there is. Nothing comes into a namespace that ends."""
    if book.world.is_ending(key.namespace):
        message = f"namespace {key.namespace} is being deleted; stop the agent"
        wait = ENDING_SECONDS + spread(key.uid, at, ENDING_SECONDS)
        return Refusal(reason=Turned.GROUP_MISSING, message=message, retry_after=round(wait, 1))
    if book.world.group_of(key.group_ref) is None:
        message = f"there is no ExternalGroup {key.group} in namespace {key.namespace}; create it, or mend its name"
        wait = GROUP_SECONDS / 2 + spread(key.uid, at, GROUP_SECONDS / 2)
        return Refusal(reason=Turned.GROUP_MISSING, message=message, retry_after=round(wait, 1))
    return None


def refuse_entry(book: Book, group: Group) -> Refusal | None:
    """Return why no further machine comes into ``group``, ``None`` when one may."""
    if not group.is_usable:
        message = f"ExternalGroup {group.ref.name} has errors; mend it: {'; '.join(map(str, group.problems[:3]))}"
        return Refusal(reason=Turned.GROUP_UNUSABLE, message=message, retry_after=GROUP_SECONDS)
    most = book.world.rules_of(group.ref).instances
    if book.instances.count(group.ref) >= most:
        book.full.add(group.ref)
        message = (
            f"ExternalGroup {group.ref.name} has {most} machines, as many as it may; remove machines that are gone, or "
            "raise limits.instances in its RegistrationPolicy"
        )
        return Refusal(reason=Turned.QUOTA_EXCEEDED, message=message, retry_after=FULL_SECONDS)
    return None


def refuse_machine_identity(book: Book, key: InstanceKey, peer: Peer, claimed: str = "") -> Refusal | None:
    """Return why a certificate does not let its holder be the machine ``key``, ``None`` when it does.

    One that we signed for a machine is for that machine only. Any other must be allowed by the group's policy.
    ``claimed``: who the machine believes to be; another one than its certificate says is refused, not passed over.
    """
    if claimed and claimed != peer.identity:
        message = (
            f"the certificate is for {peer.identity}, not for the identity that the body claims; send neither or both"
        )
        return Refusal(reason=Turned.BAD_IDENTITY, message=message)
    rules, where = book.world.rules_of(key.group_ref), f"group {key.group} in namespace {key.namespace}"
    machine = read_machine(book.trust, peer.identity)
    if machine is not None and machine != key:
        message = (
            f"the certificate is for {machine.namespace}/{machine.group}/{machine.uid}; join {where} for one of its own"
        )
        return Refusal(reason=Turned.NOT_ALLOWED, message=message)
    if machine is not None:
        if rules.modes & {JoinMode.TOKEN, JoinMode.CERTIFICATE}:
            return None
        message = f"{where} lets in nobody by token or machine certificate; see spec.modes of its RegistrationPolicy"
        return Refusal(reason=Turned.NOT_ALLOWED, message=message)
    if book.trust.read_uri(peer.identity) is not None:
        message = f"{peer.identity} is a ServiceAccount's, for pods; give the machine a SPIFFE ID of its own"
        return Refusal(reason=Turned.NOT_ALLOWED, message=message)
    if JoinMode.SPIFFE in rules.modes and not peer.identity.startswith(book.trust.uri_prefix):
        message = f"{peer.identity} is not of trust domain {book.trust.name}, and no proxy would believe it"
        return Refusal(reason=Turned.BAD_IDENTITY, message=message)
    if JoinMode.SPIFFE in rules.modes and is_allowed_identity(rules.identities, peer.identity):
        return None
    if JoinMode.SPIFFE in rules.modes:
        message = f"{peer.identity} may not join {where}; list it under identities of the group's RegistrationPolicy"
    else:
        message = f"{where} lets in no SPIFFE identity; add SPIFFE to the modes of its RegistrationPolicy"
    return Refusal(reason=Turned.NOT_ALLOWED, message=message)


def refuse_duplicate_identity(book: Book, key: InstanceKey, peer: Peer, at: float) -> Refusal | None:
    """Return that a living machine of the group has the same identity already, where each must have its own."""
    if book.world.rules_of(key.group_ref).identity_scope is IdentityScope.GROUP:
        return None
    for other in book.instances.with_identity(key.group_ref, peer.identity):
        if other.key != key and other.is_live:
            message = (
                f"{other.key.uid} goes by {peer.identity} already; give each machine an identity of its own, or set "
                "identityScope: Group in the group's RegistrationPolicy"
            )
            retry_after = float(max(1, round(other.deadline - at)))
            return Refusal(reason=Turned.DUPLICATE_IDENTITY, message=message, retry_after=retry_after)
    return None


def refuse_name(book: Book, ref: Ref, key: InstanceKey) -> Refusal | None:
    """Return that the name ``ref`` is not ``key``'s to have, ``None`` when it is: an ExternalWorkload that we did not
    write has it, or another machine, whose name must not be had by choosing a uid well."""
    seen, instance = book.seen.get(ref), book.instances.at(ref)
    holder = seen.enrolled.key if seen is not None and seen.enrolled is not None and book.is_ours(seen) else None
    holder = holder if instance is None else instance.key
    if holder is not None and holder != key:
        message = f"{ref} is another machine's; join under another uid"
        return Refusal(reason=Turned.NAME_TAKEN, message=message)
    if seen is None or book.is_ours(seen) or is_spoilt(seen):
        return None
    if seen.writer:
        message = f"{ref} is written by {seen.writer}; let only one of the two register machines"
        return Refusal(reason=Turned.WRITER_CONFLICT, message=message)
    message = f"{ref} was made by hand; delete it, or join under another uid"
    return Refusal(reason=Turned.NAME_TAKEN, message=message)


def refuse_owner(
    book: Book, ref: Ref, ips: Sequence[str], ports: Sequence[WorkloadPort], source: str
) -> Refusal | None:
    """Return that an ExternalWorkload made by hand has one of the addresses, with one of the ports. ``source``: where
    the call comes from."""
    owner = book.find_owner(ref, ips, ports, source)
    seen = None if owner is None else book.seen.get(owner)
    if seen is None or book.is_ours(seen):
        return None
    message = f"{owner} has address {' or '.join(ips)} and one of the ports already; delete it, or correct its address"
    return Refusal(reason=Turned.ADDRESS_CONFLICT, message=message)


def refuse_join(book: Book, key: InstanceKey, mode: JoinMode, names: Sequence[str], address: str) -> Refusal | None:
    """Return why a machine gets no certificate for ``key``, ``None`` when it may have one.

    ``names``: those in its own certificate, for `JoinMode.CERTIFICATE`. A name that a living machine goes by is only
    for that machine: who asks from elsewhere waits until its lease is over.
    """
    group, rules = book.world.group_of(key.group_ref), book.world.rules_of(key.group_ref)
    if (refusal := refuse_group(book, key, float(book.wall))) is not None or group is None:
        return refusal
    where = f"group {key.group} in namespace {key.namespace}"
    if mode not in rules.modes:
        message = f"{where} lets in nobody by {mode}; see modes of its RegistrationPolicy"
        return Refusal(reason=Turned.NOT_ALLOWED, message=message)
    if mode is JoinMode.CERTIFICATE and not any(is_allowed_identity(rules.identities, name) for name in names):
        message = f"no name of the machine certificate may join {where}; list one under identities of its policy"
        return Refusal(reason=Turned.NOT_ALLOWED, message=message)
    name = make_workload_name(key.namespace, key.group, key.uid)
    ref = workload_ref(key, name)
    names_fit = check_identity(
        book.trust.machine_uri(key.namespace, key.group, key.uid),
        book.trust.machine_dns(key.namespace, key.group, name),
    )
    if (refusal := names_fit or refuse_name(book, ref, key)) is not None:
        return refusal
    instance = book.instances.get(key)
    if instance is None:
        return refuse_entry(book, group)
    if instance.is_live and not instance.is_at(address):
        message = f"{key.uid} is a machine that lives; choose another uid, or wait until the lease of that one is over"
        return Refusal(reason=Turned.DUPLICATE_INSTANCE, message=message, retry_after=instance.lease_seconds)
    return None
