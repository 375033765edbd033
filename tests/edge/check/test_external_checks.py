"""The checks of machines outside the cluster, each with one thing broken."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from meshwright.edge.check.inquiry import SECRETS, Inquiry
from meshwright.edge.check.outcome import Group
from meshwright.edge.check.table import CHECKS, look_once
from meshwright.edge.registrar.rivals import LEASE_NAME
from meshwright.edge.resources import LEASES
from meshwright.emit.join_token import emit_join_token
from meshwright.model.group import JoinToken
from meshwright.model.units import Namespace
from tests.certificates import NOW
from tests.edge.check.installation import HOME, Installation, stamp
from tests.edge.check.test_checks import Case, find
from tests.edge.groups.machines import (
    GOOD,
    GROUPS,
    SERVICES,
    SLICES,
    WORKLOADS,
    change_condition,
    condition,
    put_group,
    put_machine,
    put_registrar,
)
from tests.edge.groups.test_group_tokens import KEPT, USED

A = "externalworkload/ledger-a in shop"


def judge(type_: str, status: str, reason: str, message: str) -> Callable[[Installation], object]:
    changed = change_condition(GOOD, condition(type_, status, reason, message))
    return lambda mesh: put_group(mesh, conditions=changed)


def unready(status: str, reason: str, message: str) -> Callable[[Installation], object]:
    ready = condition("Ready", status, reason, message, timedelta(hours=1, minutes=2))
    return lambda mesh: put_machine(mesh, "ledger-a", ready=ready)


def inform(*conditions: dict[str, str]) -> Callable[[Installation], object]:
    return lambda mesh: put_machine(mesh, "ledger-a", others=conditions)


def by_hand(age: timedelta, *conditions: dict[str, str]) -> Callable[[Installation], object]:
    def put(mesh: Installation) -> None:
        made = stamp(age).replace(".000000Z", "Z")
        put_machine(mesh, "ledger-a", is_ours=False, creationTimestamp=made)
        mesh.edit(
            WORKLOADS,
            "ledger-a",
            namespace="shop",
            change=lambda raw: raw.update(status={"conditions": list(conditions)}),
        )

    return put


def keep(token: JoinToken) -> Callable[[Installation], object]:
    return lambda mesh: mesh.server.cluster.put(SECRETS, emit_join_token(token, Namespace(HOME)))


def keep_broken(mesh: Installation) -> None:
    raw = emit_join_token(KEPT, Namespace(HOME))
    raw["data"]["group"] = ""
    mesh.server.cluster.put(SECRETS, raw)


def add_linkerd(mesh: Installation, *, age: timedelta = timedelta(seconds=5), namespace: str = "linkerd") -> None:
    spec = {"holderIdentity": "linkerd-destination-1", "renewTime": stamp(age), "leaseDurationSeconds": 30}
    mesh.put(LEASES, LEASE_NAME, namespace, spec=spec)


REACHED = "machines reach the operator that leads"
GROUPED = "externalgroup/ledger in shop"

CASES = (
    Case(
        name="no definition of groups",
        group=Group.EXTERNAL,
        check="the kinds that machines join by are there, in versions that are read",
        breaks=lambda mesh: mesh.server.cluster.undefine(GROUPS),
        found=(("crd/externalgroups.workload.buoyant.io", "there is none"),),
        fixes=("install it so that it serves v1alpha1",),
    ),
    Case(
        name="groups and no registrar",
        group=Group.EXTERNAL,
        check=REACHED,
        breaks=lambda mesh: (put_group(mesh), mesh.remove(SERVICES, "meshwright-registrar")),
        found=(("service/meshwright-registrar", "there is none in namespace meshwright, and there are groups"),),
    ),
    Case(
        name="nobody leads",
        group=Group.EXTERNAL,
        check=REACHED,
        breaks=lambda mesh: mesh.remove(SLICES, "meshwright-registrar"),
        found=(("endpointslice/meshwright-registrar", "it has no endpoint: no operator leads"),),
    ),
    Case(
        name="who led is gone",
        group=Group.EXTERNAL,
        check=REACHED,
        breaks=lambda mesh: put_registrar(mesh, addresses=("10.1.0.99",)),
        found=(("endpointslice/meshwright-registrar", "it has 10.1.0.99, which is no operator's"),),
    ),
    Case(
        name="a group with two probes",
        group=Group.EXTERNAL,
        check="every group of machines is accepted",
        breaks=judge("Accepted", "False", "InvalidObject", "spec.probes: found 2; write one"),
        found=((GROUPED, "Accepted: InvalidObject: spec.probes: found 2; write one"),),
        fixes=("kubectl -n shop describe externalgroup ledger",),
    ),
    Case(
        name="a group that nobody has looked at",
        group=Group.EXTERNAL,
        check="every group of machines is accepted",
        breaks=lambda mesh: put_group(mesh, conditions=()),
        found=((GROUPED, "Accepted: nobody has judged it yet"),),
    ),
    Case(
        name="a group behind no Service",
        group=Group.EXTERNAL,
        check="every group of machines is behind a Service",
        breaks=judge("SelectedByService", "False", "NoService", "no Service selects app=ledger"),
        found=((GROUPED, "SelectedByService: NoService: no Service selects app=ledger"),),
    ),
    Case(
        name="a full group",
        group=Group.EXTERNAL,
        check="no group is full, and none keeps silent machines",
        breaks=judge("QuotaExceeded", "True", "QuotaExceeded", "100 of 100 machines"),
        found=((GROUPED, "QuotaExceeded: QuotaExceeded: 100 of 100 machines"),),
    ),
    Case(
        name="many machines silent at once",
        group=Group.EXTERNAL,
        check="no group is full, and none keeps silent machines",
        breaks=judge("ExpirySuspended", "True", "MassExpiry", "7 of 10 machines are silent"),
        found=((GROUPED, "ExpirySuspended: MassExpiry: 7 of 10"),),
    ),
    Case(
        name="a machine whose agent is silent",
        group=Group.EXTERNAL,
        check="the machines are ready",
        breaks=unready("False", "LeaseExpired", "no beat for 35 s"),
        found=((A, "it is not ready for 1h 2m: LeaseExpired: no beat for 35 s"),),
        fixes=("on the machine: meshwright agent status",),
    ),
    Case(
        name="a machine that is spared",
        group=Group.EXTERNAL,
        check="the machines are ready",
        breaks=unready("True", "LastEndpointHeld", "silent for 35 s"),
        found=((A, "it counts as ready, for now: LastEndpointHeld: silent for 35 s"),),
    ),
    Case(
        name="a machine that nobody has judged",
        group=Group.EXTERNAL,
        check="the machines are ready",
        breaks=lambda mesh: put_machine(mesh, "ledger-a", ready=condition("Other", "True")),
        found=((A, "it is not ready: nobody says why"),),
    ),
    Case(
        name="an agent of another version",
        group=Group.EXTERNAL,
        check="the machines' agents are of this program's version",
        breaks=lambda mesh: put_machine(mesh, "ledger-a", annotations={"meshwright.dev/agent-version": "0.0.9"}),
        found=((A, "its agent is of version 0.0.9, this program of "),),
    ),
    Case(
        name="a machine with old anchors",
        group=Group.EXTERNAL,
        check="the machines have the newest configuration and trust anchors",
        breaks=inform(
            condition("meshwright.dev/TrustCurrent", "False", "Behind", "it has sha256:1"),
            condition("meshwright.dev/ConfigCurrent", "False", "Behind", "it has sha256:2"),
        ),
        found=(
            (A, "its trust anchors are not the newest: Behind: it has sha256:1"),
            (A, "its configuration is not the newest: Behind"),
        ),
    ),
    Case(
        name="hand-made and nobody's",
        group=Group.EXTERNAL,
        check="somebody keeps every ExternalWorkload ready",
        breaks=by_hand(timedelta(hours=1)),
        found=((A, "it was made by hand: nobody has ever said that it is ready"),),
        fixes=("kubectl -n shop patch externalworkload ledger-a --subresource=status",),
    ),
    Case(
        name="hand-made and down",
        group=Group.EXTERNAL,
        check="somebody keeps every ExternalWorkload ready",
        breaks=by_hand(timedelta(hours=1), condition("Ready", "False", "Maintenance")),
        found=((A, "it was made by hand: Maintenance"),),
    ),
    Case(
        name="hand-made just now",
        group=Group.EXTERNAL,
        check="somebody keeps every ExternalWorkload ready",
        breaks=by_hand(timedelta(seconds=20)),
        found=(),
    ),
    Case(
        name="a stolen token",
        group=Group.EXTERNAL,
        check="no token is locked or forgotten",
        breaks=keep(replace(KEPT, is_locked=True, redemptions=(USED,))),
        found=(
            (
                "token abcd1234 of shop/ledger",
                "it was shown with another key than that of who has joined (machine-1): it may be stolen",
            ),
        ),
        fixes=("meshwright group token revoke abcd1234",),
    ),
    Case(
        name="an expired token",
        group=Group.EXTERNAL,
        check="no token is locked or forgotten",
        breaks=keep(replace(KEPT, expires=int((NOW - timedelta(hours=2)).timestamp()))),
        found=(("token abcd1234 of shop/ledger", "it expired 2h ago; 0 of 2 machines have joined"),),
        fixes=("meshwright group token revoke --ended",),
    ),
    Case(
        name="a token that cannot be read",
        group=Group.EXTERNAL,
        check="no token is locked or forgotten",
        breaks=keep_broken,
        found=(("secret/mw-join-abcd1234", "nobody can join with it: data[group]: "),),
    ),
    Case(
        name="Linkerd is there, too",
        group=Group.EXTERNAL,
        check="nobody else writes the machines' endpoints",
        breaks=lambda mesh: add_linkerd(mesh, namespace="l5d"),
        found=((f"lease/{LEASE_NAME} in l5d", "linkerd-destination-1 holds it: it writes the slices"),),
    ),
    Case(
        name="Linkerd was there",
        group=Group.EXTERNAL,
        check="nobody else writes the machines' endpoints",
        breaks=lambda mesh: add_linkerd(mesh, age=timedelta(minutes=5)),
        found=(),
    ),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_what_is_broken_of_machines_is_found_and_named(case: Case, inquiry: Inquiry, mesh: Installation) -> None:
    put_registrar(mesh)
    case.breaks(mesh)
    findings = (await look_once(inquiry, find(case.group, case.check)))[0].findings
    assert [(each.what, each.found[: len(found)]) for each, (_, found) in zip(findings, case.found, strict=True)] == [
        *case.found
    ]
    assert [fix in each.fix for each, fix in zip(findings, case.fixes, strict=False)] == [True] * len(case.fixes)


def test_every_check_of_machines_has_a_case() -> None:
    assert {check.description for check in CHECKS if check.group is Group.EXTERNAL} == {case.check for case in CASES}
    assert len({case.name for case in CASES}) == len(CASES)


async def test_where_machines_are_well_no_check_finds_anything(inquiry: Inquiry, mesh: Installation) -> None:
    put_registrar(mesh)
    put_group(mesh)
    put_machine(mesh, "ledger-a")
    put_machine(mesh, "ledger-b", ready=condition("Ready", "False", "Draining"), deletionTimestamp=stamp())
    put_machine(mesh, "by-hand", is_ours=False)
    keep(KEPT)(mesh)
    results = [(await look_once(inquiry, check))[0] for check in CHECKS if check.group is Group.EXTERNAL]
    assert [(result.findings, result.note) for result in results if result.findings or result.note] == [((), "2")]


async def test_only_the_namespace_that_was_asked_about_is_looked_at(inquiry: Inquiry, mesh: Installation) -> None:
    put_registrar(mesh)
    unready("False", "LeaseExpired", "")(mesh)
    inquiry.options = replace(inquiry.options, namespace="bank")
    assert (await look_once(inquiry, find(Group.EXTERNAL, "the machines are ready")))[0].findings == ()
