"""Manifests in, what is written out: every case a folder that can be read on its own.

``input.yaml``: what people wrote. ``objects.yaml``: the virtual hosts of each unit by port, the policy of each Server,
and the EndpointSlices.
``status.yaml``: our conditions on each object, and what is wrong with any object. ``pytest --update-golden`` rewrites
the last two; explain every line of the difference.
"""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from meshwright.edge.local_envoy import find_envoy
from meshwright.model.config import Config
from meshwright.model.desired import Condition, Desired, LimitStatus, Status
from meshwright.model.ref import Kind, Ref
from meshwright.parse.kinds import parse_object
from meshwright.pipeline import compile_all
from tests.documents import read_documents

HERE = Path(__file__).parent
CASES = sorted(path.name for path in HERE.iterdir() if path.is_dir() and not path.name.startswith("__"))
FILES = {"input.yaml", "objects.yaml", "status.yaml"}
MAX_LINES = 150
_HCM = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
_ROUTER = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"


def compile_case(case: str) -> Desired:
    raws = [raw for raw in read_documents((HERE / case / "input.yaml").read_text()) if raw is not None]
    parsed = [parse_object(raw) for raw in raws]
    return compile_all({value.ref: value for value in parsed if value is not None}, Config())


def show_objects(desired: Desired) -> dict[str, Any]:
    units = {
        f"{name.namespace}/{name.name}": {
            int(port): policy["virtual_host"] for port, policy in json.loads(unit["data"]["unit.json"])["ports"].items()
        }
        for name, unit in desired.units.items()
        if unit is not None and name.name.startswith("mw-out-")
    }
    servers = {
        f"{name.namespace}/{name.name}": json.loads(unit["data"]["unit.json"])
        for name, unit in desired.units.items()
        if unit is not None and name.name.startswith("mw-in-")
    }
    slices = {
        f"{manifest['metadata']['namespace']}/{name}": {
            key: manifest[key] for key in ("addressType", "endpoints", "ports")
        }
        for manifests in desired.slices.values()
        for name, manifest in manifests.items()
    }
    return {key: shown for key, shown in (("units", units), ("servers", servers), ("slices", slices)) if shown}


def show_ref(ref: Ref) -> str:
    return f"{ref.kind.value} {ref.namespace}/{ref.name}" if ref.kind is Kind.POLICY_HTTP_ROUTE else str(ref)


def show_condition(condition: Condition) -> str:
    return f"{condition.status} {condition.reason}: {condition.message}".removesuffix(": ")


def show_status(status: Status) -> Any:
    if isinstance(status, LimitStatus):
        return {"targetRef": status.server, status.accepted.type: show_condition(status.accepted)}
    return [
        {
            "parent": dict(entry.parent),
            "conditions": {condition.type: show_condition(condition) for condition in entry.conditions},
        }
        for entry in status.parents
    ]


def show_statuses(desired: Desired) -> dict[str, Any]:
    statuses = {show_ref(ref): show_status(status) for ref, status in desired.statuses.items() if status is not None}
    problems = {show_ref(ref): [str(problem) for problem in found] for ref, found in desired.problems.items()}
    return {key: shown for key, shown in (("statuses", statuses), ("problems", problems)) if shown}


class _Dumper(yaml.SafeDumper):
    """Says everything in full: an anchor saves bytes and costs the reader."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def write_yaml(value: dict[str, Any], *, is_compact: bool) -> str:
    style = None if is_compact else False
    return yaml.dump(value, Dumper=_Dumper, width=118, default_flow_style=style, allow_unicode=True) if value else ""


@pytest.mark.parametrize("case", CASES)
def test_a_case_compiles_to_what_is_written_beside_it(case: str, request: pytest.FixtureRequest) -> None:
    desired = compile_case(case)
    shown = {
        "objects.yaml": write_yaml(show_objects(desired), is_compact=True),
        "status.yaml": write_yaml(show_statuses(desired), is_compact=False),
    }
    if request.config.getoption("--update-golden"):
        for path in (HERE / case).iterdir():
            if path.name not in FILES:
                path.unlink()
        for name, text in shown.items():
            (HERE / case / name).write_text(text)
    assert shown == {name: (HERE / case / name).read_text() for name in shown}


@pytest.mark.parametrize("case", CASES)
def test_a_case_is_short_and_has_no_strays(case: str) -> None:
    assert {path.name for path in (HERE / case).iterdir()} == FILES
    for name in FILES:
        assert len((HERE / case / name).read_text().splitlines()) <= MAX_LINES, f"{case}/{name}"


def test_there_are_cases() -> None:
    assert len(CASES) >= 25


def all_virtual_hosts() -> Iterator[dict[str, Any]]:
    """Yield every virtual host of every case, each under a name and a domain of its own."""
    for case in CASES:
        for unit, ports in show_objects(compile_case(case)).get("units", {}).items():
            for port, host in ports.items():
                name = f"{case}/{unit}/{port}"
                yield {**host, "name": name, "domains": [name.replace("/", "-")]}


def clusters_of(value: Any) -> Iterator[str]:
    """Yield every cluster that routes in ``value`` name."""
    match value:
        case {"cluster": str(name)}:
            yield name
        case {"weighted_clusters": {"clusters": [*shares]}}:
            yield from (share["name"] for share in shares)
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from clusters_of(part)


def test_envoy_accepts_every_virtual_host(tmp_path: Path) -> None:
    hosts = list(all_virtual_hosts())
    connection_manager = {
        "@type": _HCM,
        "stat_prefix": "golden",
        "route_config": {"name": "golden", "virtual_hosts": hosts},
        "http_filters": [
            {"name": "envoy.filters.http.router", "typed_config": {"@type": _ROUTER}},
        ],
    }
    hcm = {"name": "envoy.filters.network.http_connection_manager", "typed_config": connection_manager}
    listener = {
        "name": "golden",
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
        "filter_chains": [{"filters": [hcm]}],
    }
    clusters = [
        {"name": name, "type": "STATIC", "load_assignment": {"cluster_name": name}}
        for name in sorted({*clusters_of(hosts)})
    ]
    config = tmp_path / "envoy.json"
    config.write_text(json.dumps({"static_resources": {"listeners": [listener], "clusters": clusters}}))
    checked = subprocess.run(
        [find_envoy(), "--mode", "validate", "-c", str(config), "-l", "warning"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert checked.returncode == 0, checked.stderr
    assert "deprecated" not in checked.stderr
    assert len(hosts) >= 25
