"""What the status of an ExternalGroup says of its machines."""

from meshwright.edge.registrar.book import Book
from meshwright.edge.registrar.instances import Instance
from meshwright.link.selected_by import find_selection
from meshwright.model.desired import Condition
from meshwright.model.enrollment import GroupView
from meshwright.model.group import Group
from meshwright.model.instance import LeaseState
from meshwright.model.ref import Ref

_MAX_PROBLEMS = 5


def view_group(book: Book, ref: Ref) -> GroupView | None:
    """Return what is to be said of a group, ``None`` when it is gone."""
    group = book.world.group_of(ref)
    if group is None:
        return None
    members = book.instances.of_group(ref)
    ready = sum(1 for each in members if each.is_ready)
    quarantined = sum(1 for each in members if each.conflict)
    return GroupView(
        generation=group.generation,
        total=len(members),
        ready=ready,
        not_ready=len(members) - ready - quarantined,
        quarantined=quarantined,
        template_hash=group.template_hash,
        rejections=book.rejections.of_group(ref),
        conditions=(
            _view_accepted(book, group),
            find_selection(
                group, book.world.services_in(ref.namespace), allowed_labels=book.world.rules_of(ref).allowed_labels
            ),
            _view_quota(book, ref),
            _view_suspension(members),
        ),
    )


def _view_accepted(book: Book, group: Group) -> Condition:
    if not group.is_usable:
        problems = "; ".join(str(problem) for problem in group.problems[:_MAX_PROBLEMS])
        message = f"No machine may join, and those that have stay as they are: {problems}"
        return Condition(type="Accepted", status="False", reason="Invalid", message=message)
    taken = sorted((seen.ref, seen.writer) for seen in book.taken.values() if seen.group == group.ref)
    if taken:
        first, writer = taken[0]
        message = f"{first} is written by {writer}, so it is left alone; let only one of the two register machines"
        return Condition(type="Accepted", status="False", reason="EndpointWriterConflict", message=message)
    warnings = "; ".join(str(problem) for problem in group.warnings[:_MAX_PROBLEMS])
    message = f"Machines may join; but {warnings}" if warnings else "Machines may join"
    return Condition(type="Accepted", status="True", reason="Accepted", message=message)


def _view_quota(book: Book, ref: Ref) -> Condition:
    most = book.world.rules_of(ref).instances
    if ref in book.full:
        message = (
            f"A machine was refused because there are {most}; remove machines that are gone, or raise the limit in the "
            "group's RegistrationPolicy"
        )
        return Condition(type="QuotaExceeded", status="True", reason="LimitReached", message=message)
    message = f"At most {most} machines may join"
    return Condition(type="QuotaExceeded", status="False", reason="WithinLimit", message=message)


def _view_suspension(members: tuple[Instance, ...]) -> Condition:
    if any(each.lease is LeaseState.SUSPENDED for each in members):
        message = (
            "Many machines fell silent at once, which may be a fault of the cluster: they stay for up to 5 min; look "
            "at the registrar and at the network to the machines"
        )
        return Condition(type="ExpirySuspended", status="True", reason="MassExpiry", message=message)
    message = "Silent machines are taken when their lease is over"
    return Condition(type="ExpirySuspended", status="False", reason="Normal", message=message)
