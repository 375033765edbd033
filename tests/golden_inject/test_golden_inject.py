"""Manifests in, manifests with proxies out, as the webhook would have it: a file for each case.

``<case>.yaml`` is what people wrote, ``<case>.out.yaml`` what comes of it, with what is said of each object above it.
``pytest --update-golden`` rewrites the latter; explain every line of the difference.
"""

import io
from pathlib import Path

import pytest

from meshwright.edge.inject_command import Outcome, inject_all, write_objects
from meshwright.edge.manifests import read_text
from meshwright.emit.inject import uninject
from meshwright.model.identity import TrustDomain
from meshwright.model.injection import InjectionSettings
from meshwright.model.units import Namespace

HERE = Path(__file__).parent
SUFFIX = ".out.yaml"
CASES = sorted(path.stem for path in HERE.glob("*.yaml") if not path.name.endswith(SUFFIX))
SETTINGS = InjectionSettings(
    trust=TrustDomain(),
    image="registry.example/meshwright:1.2.3",
    version="1.2.3",
    xds="meshwright-xds.meshwright:15010",
    signing="meshwright-xds.meshwright:15012",
    defaults={"skip-inbound-ports": "4567,4568", "skip-outbound-ports": "4567,4568", "proxy-cpu-request": "100m"},
)


def inject_case(case: str) -> list[Outcome]:
    manifests = read_text((HERE / f"{case}.yaml").read_text(), f"{case}.yaml").manifests
    return inject_all(manifests, SETTINGS, Namespace("default"), None)


def show(outcomes: list[Outcome]) -> str:
    out = io.StringIO()
    for outcome in outcomes:
        said = [f"{outcome.word}: {outcome.message}".removesuffix(": ").removeprefix(": "), *outcome.warnings]
        out.write("".join(f"# {outcome.name} {line}".rstrip() + "\n" for line in said))
        if outcome.word == "injected":
            write_objects([outcome.manifest], "yaml", out)
    return out.getvalue()


@pytest.mark.parametrize("case", CASES)
def test_a_case_is_injected_as_is_written_beside_it(case: str, request: pytest.FixtureRequest) -> None:
    shown = show(inject_case(case))
    file = HERE / f"{case}{SUFFIX}"
    if request.config.getoption("--update-golden"):
        file.write_text(shown)
    assert shown == file.read_text()


@pytest.mark.parametrize("case", CASES)
def test_what_was_injected_can_be_undone(case: str) -> None:
    manifests = read_text((HERE / f"{case}.yaml").read_text(), f"{case}.yaml").manifests
    for manifest, outcome in zip(manifests, inject_case(case), strict=True):
        if outcome.word == "injected":
            assert uninject(outcome.manifest) == manifest.raw


def test_every_output_belongs_to_a_case() -> None:
    assert {path.name.removesuffix(SUFFIX) for path in HERE.glob(f"*{SUFFIX}")} == set(CASES)
    assert len(CASES) >= 6
