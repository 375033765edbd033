"""Real helm, as pinned for the test cluster, and what it renders."""

import copy
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from e2e.cluster.places import find_places
from e2e.cluster.wheels import install_clients
from tests.documents import read_documents

Json = dict[str, Any]
CHARTS = Path(__file__).parents[2] / "helm"


@dataclass(frozen=True, slots=True, kw_only=True)
class Helm:
    """The helm program. No command of it talks to a cluster: there is no kubeconfig."""

    program: Path

    def run(self, *args: str) -> subprocess.CompletedProcess[str]:
        environ = {"KUBECONFIG": "/dev/null", "HOME": "/nonexistent", "PATH": "/usr/bin:/bin"}
        return subprocess.run(
            [self.program, *args], capture_output=True, text=True, env=environ, timeout=60, check=False
        )

    def render(
        self, *sets: str, chart: str = "meshwright", release: str = "mw", namespace: str = "mesh"
    ) -> tuple[Json, ...]:
        """Return the objects that the chart makes. ``sets``: arguments of ``--set-json``. Helm runs once for each."""
        return copy.deepcopy(self._rendered(sets, chart, release, namespace))

    def render_anew(self, *sets: str) -> tuple[Json, ...]:
        return self._render(sets, "meshwright", "mw", "mesh")

    @cache  # noqa: B019 - it lives as long as the tests
    def _rendered(self, sets: tuple[str, ...], chart: str, release: str, namespace: str) -> tuple[Json, ...]:
        return self._render(sets, chart, release, namespace)

    def _render(self, sets: tuple[str, ...], chart: str, release: str, namespace: str) -> tuple[Json, ...]:
        done = self.run("template", release, str(CHARTS / chart), "--namespace", namespace, *as_options(sets))
        assert done.returncode == 0, done.stderr
        return tuple(raw for raw in read_documents(done.stdout) if raw)

    def refusal(self, *sets: str, chart: str = "meshwright") -> str:
        """Return what helm says when it refuses these values."""
        done = self.run("template", "mw", str(CHARTS / chart), *as_options(sets))
        assert done.returncode != 0, f"accepted: {sets}"
        return done.stderr


def of_kind(objects: Iterable[Json], kind: str) -> dict[str, Json]:
    return {raw["metadata"]["name"]: raw for raw in objects if raw["kind"] == kind}


def as_options(sets: Iterable[str]) -> list[str]:
    return [option for one in sets for option in ("--set-json", one)]


@pytest.fixture(scope="session")
def helm() -> Helm:
    return Helm(program=install_clients(find_places()) / "helm")


@pytest.fixture(scope="session")
def default(helm: Helm) -> tuple[Json, ...]:
    """What the chart makes without values."""
    return helm.render()


@pytest.fixture(scope="session")
def full(helm: Helm) -> tuple[Json, ...]:
    """What it makes with everything switched on."""
    return helm.render("networkPolicy.enabled=true", "podMonitor.enabled=true")
