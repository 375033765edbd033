"""``meshwright group cleanup``: what machines left behind goes, and nothing else."""

import io
from dataclasses import replace

import pytest

from meshwright.edge.check.inquiry import CONFIG_MAPS, DEPLOYMENTS, SECRETS
from meshwright.edge.client import Json
from meshwright.emit.join_token import emit_join_token
from meshwright.model.units import Namespace
from tests.edge.check.installation import HOME, Installation
from tests.edge.groups.conftest import Run
from tests.edge.groups.machines import SLICES, WORKLOADS, put_machine
from tests.edge.groups.test_group_tokens import KEPT

STAYS = (
    "ConfigMap mw-mesh",
    "ExternalWorkload by-hand",
    "EndpointSlice kubernetes",
    "Secret meshwright-identity-issuer",
)


@pytest.fixture(autouse=True)
def left_behind(mesh: Installation) -> None:
    put_machine(mesh, "ledger-aaaa")
    put_machine(mesh, "ledger-bbbb")
    put_machine(mesh, "till-aaaa", "bank", group="till")
    put_machine(mesh, "by-hand", is_ours=False)
    ours = {"app.kubernetes.io/managed-by": "meshwright"}
    mesh.put(SLICES, "ledger-x", "shop", metadata={"labels": ours}, endpoints=[])
    mesh.put(SLICES, "kubernetes", "default", endpoints=[])
    mesh.put(CONFIG_MAPS, "mw-seen-0", metadata={"labels": {**ours, "meshwright.dev/checkpoint": "true"}})
    mesh.server.cluster.put(SECRETS, emit_join_token(replace(KEPT), Namespace(HOME)))


def uninstall(mesh: Installation) -> None:
    mesh.remove(DEPLOYMENTS, "meshwright-operator")


def names(mesh: Installation) -> set[str]:
    resources = (WORKLOADS, SLICES, CONFIG_MAPS, SECRETS)
    return {f"{each.kind} {raw['metadata']['name']}" for each in resources for raw in mesh.server.cluster.all(each)}


async def test_after_an_uninstallation_all_that_machines_left_goes(
    mesh: Installation, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    uninstall(mesh)
    before = names(mesh)
    assert await run("cleanup", "--yes") == 0
    assert before - names(mesh) == {
        "ExternalWorkload ledger-aaaa",
        "ExternalWorkload ledger-bbbb",
        "ExternalWorkload till-aaaa",
        "EndpointSlice ledger-x",
        "ConfigMap mw-seen-0",
        "Secret mw-join-abcd1234",
    }
    assert names(mesh) >= set(STAYS)
    assert capsys.readouterr() == (
        "1 ExternalWorkload of ExternalGroup till in namespace bank\n"
        "1 ConfigMap in namespace meshwright\n"
        "1 Secret in namespace meshwright\n"
        "1 EndpointSlice in namespace shop\n"
        "2 ExternalWorkloads of ExternalGroup ledger in namespace shop\n"
        "deleted: 3 ExternalWorkloads, 1 EndpointSlice, 1 ConfigMap, 1 Secret\n",
        "",
    )
    assert await run("cleanup") == 0
    assert capsys.readouterr() == ("", "there is nothing to take away\n")


async def test_one_namespace_may_be_cleaned_alone(mesh: Installation, run: Run) -> None:
    uninstall(mesh)
    before = names(mesh)
    assert await run("cleanup", "-n", "bank", "--yes") == 0
    assert before - names(mesh) == {"ExternalWorkload till-aaaa"}


async def test_while_meshwright_is_installed_it_warns_and_leaves_what_the_operator_keeps(
    mesh: Installation, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    before = names(mesh)
    assert await run("cleanup", "--yes") == 0
    assert {each.partition(" ")[0] for each in before - names(mesh)} == {"ExternalWorkload"}
    assert "still installed in namespace meshwright: machines that beat come back" in capsys.readouterr().err


class Answers(io.StringIO):
    """Somebody at a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("answer", "status"), [("y\n", 0), ("n\n", 1), ("\n", 1)])
async def test_it_asks_first(
    answer: str, status: int, mesh: Installation, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    uninstall(mesh)
    before = names(mesh)
    monkeypatch.setattr("sys.stdin", Answers(answer))
    assert await run("cleanup") == status
    assert (names(mesh) == before) is (status != 0)


async def test_without_anybody_to_ask_it_does_nothing(
    mesh: Installation, run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    uninstall(mesh)
    before = names(mesh)
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    assert await run("cleanup") == 2
    assert names(mesh) == before
    assert "write --yes" in capsys.readouterr().err


async def test_what_another_has_made_anew_since_stays(mesh: Installation, run: Run) -> None:
    """The uid is a precondition: only what was listed is deleted."""
    uninstall(mesh)
    mesh.server.fail("externalworkloads", 409, method="DELETE", times=1)
    mesh.server.fail("externalworkloads", 404, method="DELETE", times=1)
    assert await run("cleanup", "--yes") == 0
    kept: list[Json] = [raw for raw in mesh.server.cluster.all(WORKLOADS) if raw["metadata"]["labels"]]
    assert len(kept) == 2


async def test_what_may_not_be_deleted_is_2(mesh: Installation, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    uninstall(mesh)
    mesh.server.fail("externalworkloads", 403, method="DELETE")
    assert await run("cleanup", "--yes") == 2
    assert "the cluster cannot be asked: 403 " in capsys.readouterr().err
