"""Going through the table: what is looked at, what ends it, and what is looked at again."""

from collections.abc import Callable
from pathlib import Path

import pytest

from meshwright.edge.check.inquiry import CERTIFICATES, DEPLOYMENTS, NAMESPACES, SECRETS, Inquiry
from meshwright.edge.check.kubernetes import MIN_VERSION
from meshwright.edge.check.outcome import STAGES, Group, Level, Result, Stage
from meshwright.edge.check.pre import CREATED, CREATED_BY_CERT_MANAGER
from meshwright.edge.check.table import CHECKS, Patience, run_checks
from meshwright.edge.client import Client
from tests.documents import read_document
from tests.edge.check.installation import Installation

ROOT = Path(__file__).parents[3]


class Watch:
    """A monotonic clock that goes on by what is waited, and does ``then`` after so many waits."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.waits: list[float] = []
        self.told: list[str] = []
        self.then: Callable[[], object] = lambda: None
        self.after = 0

    def patience(self, seconds: float) -> Patience:
        return Patience(seconds=seconds, clock=lambda: self.now, told=self.tell, pause=self.pause)

    def tell(self, result: Result) -> None:
        self.told.append(result.check.description)

    async def pause(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += seconds
        if len(self.waits) == self.after:
            self.then()


async def run(inquiry: Inquiry, stage: Stage, seconds: float = 0.0, watch: Watch | None = None) -> list[Result]:
    return [result async for result in run_checks(inquiry, stage, (watch or Watch()).patience(seconds))]


def failed(results: list[Result]) -> list[tuple[Group, str]]:
    return [(result.check.group, result.check.description) for result in results if result.findings]


def test_a_check_is_one_row_with_everything_people_need() -> None:
    names = [(check.group, check.description) for check in CHECKS]
    assert len(set(names)) == len(names)
    assert {check.group for check in CHECKS} == set(Group)
    assert all(len(check.description) < 80 and not check.description.endswith(".") for check in CHECKS)
    assert all(check.hint and not check.hint.endswith(".") for check in CHECKS)
    assert {group for groups in STAGES.values() for group in groups} == set(Group)


@pytest.mark.parametrize("stage", Stage)
async def test_on_a_good_cluster_every_check_of_a_stage_passes_in_order(
    stage: Stage, inquiry: Inquiry, mesh: Installation
) -> None:
    if stage is Stage.PRE:
        mesh.remove(NAMESPACES, "meshwright")
    results = await run(inquiry, stage)
    assert [(result.check.description, result.findings) for result in results] == [
        (check.description, ()) for group in STAGES[stage] for check in CHECKS if check.group is group
    ]


async def test_a_fatal_failure_ends_its_group_and_others_go_on(inquiry: Inquiry, mesh: Installation) -> None:
    mesh.remove(SECRETS, "meshwright-identity-issuer")
    results = await run(inquiry, Stage.POST)
    assert failed(results) == [(Group.IDENTITY, "the issuer's Secret can be read, and its key fits")]
    last = [result.check for result in results if result.check.group is Group.IDENTITY][-1]
    assert (last.description, last.level) == ("the issuer's Secret can be read, and its key fits", Level.FATAL)
    assert sum(result.check.group is Group.WEBHOOK for result in results) == sum(
        check.group is Group.WEBHOOK for check in CHECKS
    )


async def test_where_no_cluster_answers_nothing_else_is_looked_at(inquiry: Inquiry, mesh: Installation) -> None:
    async def find_no_way() -> Client:
        raise ConnectionError("no file says it")

    results = await run(Inquiry(find_no_way, inquiry.options, clock=mesh.clock), Stage.PROXY)
    assert [(result.check.description, [each.found for each in result.findings]) for result in results] == [
        ("it is known where the API server is", ["no file says it"])
    ]


async def test_what_may_become_true_is_looked_at_again_until_it_is(inquiry: Inquiry, mesh: Installation) -> None:
    watch = Watch()
    mesh.edit(DEPLOYMENTS, "meshwright-xds", lambda raw: raw["status"].update(readyReplicas=1))
    watch.after = 3
    watch.then = lambda: mesh.edit(DEPLOYMENTS, "meshwright-xds", lambda raw: raw["status"].update(readyReplicas=2))
    results = await run(inquiry, Stage.POST, 300, watch)
    assert (failed(results), watch.waits) == ([], [5.0, 5.0, 5.0])
    assert watch.told == ["the control plane's pods are ready"] * 3


async def test_all_checks_together_wait_no_longer_than_allowed(inquiry: Inquiry, mesh: Installation) -> None:
    watch = Watch()
    mesh.edit(DEPLOYMENTS, "meshwright-xds", lambda raw: raw["status"].update(readyReplicas=1))
    mesh.metrics.clear()
    results = await run(inquiry, Stage.POST, 12, watch)
    assert watch.waits == [5.0, 5.0, 2.0]
    assert [description for _, description in failed(results)] == [
        "the control plane's pods are ready",
        "delivery says how it is",
    ]


async def test_what_cannot_become_true_by_itself_is_looked_at_once(inquiry: Inquiry, mesh: Installation) -> None:
    watch = Watch()
    mesh.version = "v1.29.4"
    results = await run(inquiry, Stage.PRE, 300, watch)
    assert (Group.KUBERNETES, "Kubernetes is new enough") in failed(results)
    assert watch.waits == []


async def test_a_cluster_without_cert_manager_is_told_so_at_once(inquiry: Inquiry, mesh: Installation) -> None:
    watch = Watch()
    mesh.server.cluster.undefine(CERTIFICATES)
    results = await run(inquiry, Stage.PRE, 300, watch)
    assert failed(results) == [(Group.PRE, "cert-manager is there, runs and is new enough")]
    assert watch.waits == []


async def test_a_cert_manager_that_is_about_to_run_is_waited_for(inquiry: Inquiry, mesh: Installation) -> None:
    watch = Watch()
    mesh.edit(DEPLOYMENTS, "cert-manager", lambda raw: raw["status"].clear(), "cert-manager")
    watch.then = lambda: mesh.edit(
        DEPLOYMENTS, "cert-manager", lambda raw: raw["status"].update(readyReplicas=1), "cert-manager"
    )
    watch.after = 2
    assert failed(await run(inquiry, Stage.PRE, 300, watch)) == []
    assert watch.waits == [5.0, 5.0]


async def test_a_permission_that_lacks_is_named_and_not_waited_for(inquiry: Inquiry, mesh: Installation) -> None:
    watch = Watch()
    mesh.server.fail("secrets", 403)
    results = await run(inquiry, Stage.POST, 300, watch)
    found = {finding for result in results for finding in result.findings}
    assert {(finding.what, finding.fix) for finding in found} == {
        (f"{verb} secrets", f"be granted it; ask: kubectl auth can-i {verb} secrets -n meshwright")
        for verb in ("get", "list")
    }
    assert {finding.found.partition(",")[0] for finding in found} == {
        f"you may not {verb} secrets in namespace meshwright" for verb in ("get", "list")
    }
    assert watch.waits == []


PLURALS = (
    "*",
    "customresourcedefinitions",
    "configmaps",
    "certificates",
    "certificaterequests",
    "deployments",
    "externalgroups",
    "externalworkloads",
    "issuers",
    "leases",
    "mutatingwebhookconfigurations",
    "namespaces",
    "nodes",
    "pods",
    "pods/proxy",
    "secrets",
    "selfsubjectaccessreviews",
)


@pytest.mark.parametrize(("plural", "status"), [*((plural, 403) for plural in PLURALS), ("*", 500), ("*", 0)])
@pytest.mark.parametrize("stage", [Stage.PRE, Stage.PROXY])
async def test_whatever_the_api_server_refuses_is_a_finding_and_never_a_crash(
    stage: Stage, plural: str, status: int, inquiry: Inquiry, mesh: Installation
) -> None:
    mesh.server.fail(plural, status, method="*")
    results = await run(inquiry, stage)
    texts = [finding.found for result in results for finding in result.findings]
    used = {Stage.PRE: "selfsubjectaccessreviews deployments nodes leases customresourcedefinitions namespaces pods *"}
    if plural in used.get(stage, " ".join(set(PLURALS) - {"selfsubjectaccessreviews"})).split():
        assert texts
    if status == 403:
        assert all("you may not " in text or "it cannot be asked" in text for text in texts)


def test_the_oldest_kubernetes_is_the_charts() -> None:
    chart = read_document((ROOT / "helm/meshwright/Chart.yaml").read_text())
    assert chart["kubeVersion"] == ">={}.{}.0-0".format(*MIN_VERSION)


def test_every_kind_in_the_charts_is_asked_about() -> None:
    files = [*ROOT.glob("helm/*/templates/*.*"), *ROOT.glob("helm/*/files/*.yaml")]
    kinds = {
        line.removeprefix("kind: ").strip()
        for file in files
        for line in file.read_text().splitlines()
        if line.startswith("kind: ")
    }
    plurals = {plural for _, plural, _ in (*CREATED, *CREATED_BY_CERT_MANAGER)}
    # A PodMonitor is made only where somebody asks for one.
    assert {kind for kind in kinds if _plural(kind) not in plurals} == {"PodMonitor"}


def _plural(kind: str) -> str:
    word = kind.lower()
    return f"{word[:-1]}ies" if word.endswith("y") else f"{word}s"
