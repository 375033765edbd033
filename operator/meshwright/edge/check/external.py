"""Whether machines outside the cluster are well: who they join at, their groups, and each of them."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

from meshwright import __version__
from meshwright.edge.check.clocks import read_time, say_span
from meshwright.edge.check.inquiry import PODS, Inquiry
from meshwright.edge.check.outcome import Check, Finding, Group, Level
from meshwright.edge.check.pre import find_unserved
from meshwright.edge.client import Json
from meshwright.edge.groups.machine import (
    OURS,
    Machine,
    Told,
    read_conditions,
    read_machine,
)
from meshwright.edge.groups.tokens import list_tokens, state_of
from meshwright.edge.registrar.rivals import LEASE_NAME
from meshwright.edge.resources import LEASES, RESOURCES
from meshwright.model.identity import TrustDomain
from meshwright.model.instance import CONFIG, TRUST
from meshwright.model.ref import Kind
from meshwright.model.units import Namespace

OPERATORS = "app.kubernetes.io/part-of=meshwright,app.kubernetes.io/component=operator"

_NEW = timedelta(minutes=1)
"""A hand-made ExternalWorkload younger than this may be about to be told ready."""


async def look_at_kinds(inquiry: Inquiry) -> list[Finding]:
    kinds = (Kind.EXTERNAL_GROUP, Kind.REGISTRATION_POLICY)
    return [finding for kind in kinds for finding in await find_unserved(inquiry, kind)]


async def look_at_registrar(inquiry: Inquiry) -> list[Finding]:
    """Find out whether machines reach a pod of the operator behind the registrar's Service.

    Without groups and machines there may be no Service: nobody asks for it.
    """
    home = inquiry.options.control_plane
    name = TrustDomain(control_plane=Namespace(home)).registrar.name
    service = await inquiry.read(RESOURCES[Kind.SERVICE], home, name)
    if service is None:
        if not await _groups(inquiry) and not await _machines(inquiry):
            return []
        return [Finding(what=f"service/{name}", found=f"there is none in namespace {home}, and there are groups")]
    piece = await inquiry.read(RESOURCES[Kind.ENDPOINT_SLICE], home, name)
    endpoints = (piece or {}).get("endpoints") or ()
    led = {str(address) for each in endpoints for address in each.get("addresses") or ()}
    if not led:
        return [Finding(what=f"endpointslice/{name}", found="it has no endpoint: no operator leads")]
    pods = await inquiry.list_all(PODS, home, OPERATORS)
    if led & {address for pod in pods for address in _addresses(pod)}:
        return []
    found = f"it has {', '.join(sorted(led))}, which is no operator's: the one that led is gone"
    return [Finding(what=f"endpointslice/{name}", found=found)]


async def look_at_groups(inquiry: Inquiry) -> list[Finding]:
    return await _look_at_condition(inquiry, "Accepted", "True")


async def look_at_selection(inquiry: Inquiry) -> list[Finding]:
    return await _look_at_condition(inquiry, "SelectedByService", "True")


async def look_at_room(inquiry: Inquiry) -> list[Finding]:
    full = await _look_at_condition(inquiry, "QuotaExceeded", "False")
    return [*full, *await _look_at_condition(inquiry, "ExpirySuspended", "False")]


async def look_at_readiness(inquiry: Inquiry) -> list[Finding]:
    """Find machines whose endpoint is not ready, or only for a while more, and say why."""
    now = await inquiry.now()
    findings = []
    for each in await _machines(inquiry):
        ready = each.ready
        if each.is_well or each.is_leaving:
            continue
        since = f" for {say_span(now - ready.since)}" if ready.since else ""
        found = f"it is not ready{since}: {_say(ready)}"
        if ready.status == "True":
            found = f"it counts as ready, for now: {_say(ready)}"
        findings.append(Finding(what=_what(each), found=found, fix="on the machine: meshwright agent status"))
    return findings


async def look_at_agents(inquiry: Inquiry) -> list[Finding]:
    return [
        Finding(what=_what(each), found=f"its agent is of version {each.agent}, this program of {__version__}")
        for each in await _machines(inquiry)
        if each.agent not in ("", __version__)
    ]


async def look_at_hashes(inquiry: Inquiry) -> list[Finding]:
    """Find machines that have not loaded what they were given last: configuration, or trust anchors."""
    findings = []
    for each in await _machines(inquiry):
        for type_, what in ((TRUST, "its trust anchors are"), (CONFIG, "its configuration is")):
            if (told := each.told(type_)).status == "False":
                findings.append(Finding(what=_what(each), found=f"{what} not the newest: {_say(told)}"))
    return findings


async def look_at_orphans(inquiry: Inquiry) -> list[Finding]:
    """Find ExternalWorkloads that were made by hand and whose Ready condition nobody sets.

    Source: linkerd/linkerd2 ``controller/api/destination/external-workload/endpoints_reconciler.go`` IsEwReady: what
    has no such condition is not ready.
    """
    now = await inquiry.now()
    findings = []
    for raw in await inquiry.list_all(RESOURCES[Kind.EXTERNAL_WORKLOAD], inquiry.options.namespace):
        machine = read_machine(raw)
        made = read_time(raw["metadata"].get("creationTimestamp"))
        if machine.is_ours or machine.ready.status == "True" or (made is not None and now - made < _NEW):
            continue
        found = "nobody has ever said that it is ready" if not machine.ready.status else _say(machine.ready)
        fix = (
            f"kubectl -n {machine.namespace} patch externalworkload {machine.name} --subresource=status --type=merge "
            '-p \'{"status":{"conditions":[{"type":"Ready","status":"True","reason":"ByHand",'
            '"lastTransitionTime":"…"}]}}\''
        )
        findings.append(Finding(what=_what(machine), found=f"it was made by hand: {found}", fix=fix))
    return findings


async def look_at_tokens(inquiry: Inquiry) -> list[Finding]:
    """Find tokens that were shown by two machines, and such as nobody can join with any more."""
    now = await inquiry.now()
    tokens, broken = await list_tokens(inquiry)
    findings = [
        Finding(what=f"secret/{name}", found=f"nobody can join with it: {problem}", is_lasting=True)
        for name, problem in sorted(broken.items())
    ]
    for token in tokens:
        state = state_of(token, now)
        who = f"token {token.id} of {token.namespace}/{token.group}"
        if state == "locked":
            used = ", ".join(each.uid for each in token.redemptions) or "nobody"
            found = f"it was shown with another key than that of who has joined ({used}): it may be stolen"
            fix = f"meshwright group token revoke {token.id}, and make another for who has not joined"
            findings.append(Finding(what=who, found=found, fix=fix, is_lasting=True))
        elif state == "expired":
            ago = say_span(now - datetime.fromtimestamp(token.expires, UTC))
            joined = f"{len(token.redemptions)} of {token.uses} machines have joined"
            found, fix = f"it expired {ago} ago; {joined}", "meshwright group token revoke --ended"
            findings.append(Finding(what=who, found=found, fix=fix, is_lasting=True))
    return findings


async def look_at_others(inquiry: Inquiry) -> list[Finding]:
    """Find a Linkerd that writes EndpointSlices for the same ExternalWorkloads."""
    now = await inquiry.now()
    findings = []
    for lease in await inquiry.list_all(LEASES, fields=f"metadata.name={LEASE_NAME}"):
        spec, where = lease.get("spec") or {}, lease["metadata"]["namespace"]
        renewed = read_time(spec.get("renewTime"))
        duration = timedelta(seconds=float(spec.get("leaseDurationSeconds") or 0))
        if renewed is not None and spec.get("holderIdentity") and now - renewed <= duration:
            found = f"{spec['holderIdentity']} holds it: it writes the slices of the same ExternalWorkloads"
            findings.append(Finding(what=f"lease/{LEASE_NAME} in {where}", found=found))
    return findings


async def count_machines(inquiry: Inquiry) -> str:
    return str(len(await _machines(inquiry)))


async def _groups(inquiry: Inquiry) -> list[Json]:
    return await inquiry.list_all(RESOURCES[Kind.EXTERNAL_GROUP], inquiry.options.namespace)


async def _machines(inquiry: Inquiry) -> list[Machine]:
    """Return the machines that have joined, by namespace and name."""
    raws = await inquiry.list_all(RESOURCES[Kind.EXTERNAL_WORKLOAD], inquiry.options.namespace, OURS)
    return sorted(map(read_machine, raws), key=lambda each: (each.namespace, each.name))


async def _look_at_condition(inquiry: Inquiry, type_: str, wanted: str) -> list[Finding]:
    """Find groups with a condition that is otherwise than ``wanted``."""
    findings = []
    for raw in await _groups(inquiry):
        told = read_conditions(raw).get(type_, Told())
        if told.status == wanted or (not told.status and wanted == "False"):
            continue
        found = _say(told) if told.status else "nobody has judged it yet"
        where = raw["metadata"]["namespace"]
        fix = f"kubectl -n {where} describe externalgroup {raw['metadata']['name']}"
        findings.append(
            Finding(what=f"externalgroup/{raw['metadata']['name']} in {where}", found=f"{type_}: {found}", fix=fix)
        )
    return findings


def _addresses(pod: Json) -> list[str]:
    status = pod.get("status") or {}
    return [str(status.get("podIP") or ""), *(str(each.get("ip")) for each in status.get("podIPs") or ())]


def _what(machine: Machine) -> str:
    return f"externalworkload/{machine.name} in {machine.namespace}"


def _say(told: Told) -> str:
    return ": ".join(filter(None, (told.reason, told.message))) or "nobody says why"


def _check(
    description: str,
    level: Level,
    hint: str,
    look: Callable[[Inquiry], Awaitable[list[Finding]]],
    *,
    is_retried: bool = False,
    note: Callable[[Inquiry], Awaitable[str]] | None = None,
) -> Check:
    return Check(
        group=Group.EXTERNAL,
        description=description,
        level=level,
        hint=hint,
        look=look,
        is_retried=is_retried,
        note=note,
    )


CHECKS = (
    _check(
        "the kinds that machines join by are there, in versions that are read",
        Level.WARNING,
        "without them no machine outside the cluster joins by itself; they are in the chart meshwright-crds",
        look_at_kinds,
    ),
    _check(
        "machines reach the operator that leads",
        Level.ERROR,
        "machines that have joined go on with what they know, and new ones wait; see the operators' logs",
        look_at_registrar,
        is_retried=True,
    ),
    _check(
        "every group of machines is accepted",
        Level.WARNING,
        "no machine joins a group that is not; those that have joined stay as they are",
        look_at_groups,
        is_retried=True,
    ),
    _check(
        "every group of machines is behind a Service",
        Level.WARNING,
        "without a Service that selects its labels nobody calls a group; its machines may call all the same",
        look_at_selection,
        is_retried=True,
    ),
    _check(
        "no group is full, and none keeps silent machines",
        Level.WARNING,
        "raise spec.limits.instances of the RegistrationPolicy; see why many machines are silent at once",
        look_at_room,
        is_retried=True,
    ),
    _check(
        "the machines are ready",
        Level.WARNING,
        "`meshwright group status` has them all; docs/external-machines.md has what to do for each reason",
        look_at_readiness,
        is_retried=True,
        note=count_machines,
    ),
    _check(
        "the machines' agents are of this program's version",
        Level.WARNING,
        "install the same wheel on them, and restart the agent",
        look_at_agents,
    ),
    _check(
        "the machines have the newest configuration and trust anchors",
        Level.WARNING,
        "take no old anchor out of the bundle before: a machine that does not know the new one is cut off",
        look_at_hashes,
        is_retried=True,
    ),
    _check(
        "somebody keeps every ExternalWorkload ready",
        Level.WARNING,
        "what was made by hand has the Ready condition that you give it, and no endpoint without one",
        look_at_orphans,
    ),
    _check(
        "no token is locked or forgotten",
        Level.WARNING,
        "`meshwright group token list` has them all",
        look_at_tokens,
    ),
    _check(
        "nobody else writes the machines' endpoints",
        Level.WARNING,
        "two meshes that keep the same ExternalWorkloads undo each other's writes: have one of them alone",
        look_at_others,
    ),
)
