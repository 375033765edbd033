"""What the owner of a group should hear of beside its status: by Events, while it lasts."""

from meshwright.model.enrollment import GroupView, Rejection, Turned
from meshwright.model.problem import Problem, Reason

LAST_SECONDS = 600
"""For how long a refusal that came once is told."""

_CONDITIONS = {"QuotaExceeded": Reason.QUOTA_EXCEEDED, "ExpirySuspended": Reason.EXPIRY_SUSPENDED}
_REFUSALS = {
    Turned.TOKEN_USED: (Reason.TOKEN_LOCKED, "a join token came with another key than the one that joined; revoke it"),
    Turned.TOKEN_LOCKED: (Reason.TOKEN_LOCKED, "a join token that is locked was shown again; revoke it"),
    Turned.ADDRESS_CONFLICT: (Reason.ADDRESS_CONFLICT, "a machine claims an address that another one has"),
    Turned.NAME_TAKEN: (Reason.NAME_TAKEN, "somebody else's ExternalWorkload has the name of a machine's"),
}


def find_notices(view: GroupView, wall: int, rival: str) -> dict[str, Problem]:
    """Return what is to be told of a group, by what stays the same of it.

    ``wall``: seconds since 1970. ``rival``: who else writes EndpointSlices of external workloads, ``""`` for nobody.
    """
    found: dict[str, Problem] = {}
    for condition in view.conditions:
        reason = _CONDITIONS.get(condition.type)
        if reason is not None and condition.status == "True":
            found[condition.type] = Problem("", reason, condition.message)
    for each in view.rejections:
        if each.reason in _REFUSALS and wall - each.last_seen < LAST_SECONDS:
            reason, text = _REFUSALS[each.reason]
            found.setdefault(reason.value, Problem("", reason, f"{text}{_who(each)}"))
    if rival:
        message = f"{rival} writes endpoints of external workloads; meshwright writes none until it is gone"
        found[Reason.ENDPOINT_WRITER_CONFLICT.value] = Problem("", Reason.ENDPOINT_WRITER_CONFLICT, message)
    return found


def _who(rejection: Rejection) -> str:
    who = f" ({rejection.identity})" if rejection.identity else ""
    return f"; it came from {rejection.address}{who}" if rejection.address else who
