"""The table of cases on real Envoys: what callers get, and what is written down and counted of it, is what it says.

So it is for random policies, whose table is the slow reference's: ``MESHWRIGHT_ENVOY_WORLDS`` sets how many of them, a
hundred attempts each.
"""

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.policy.table import FILES, Row
from tests.policy.tables_at_random import PREFIX, find_table

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("unshare") is None or shutil.which("iptables") is None,
    reason="only root has network namespaces and iptables rules of its own",
)

RANDOM = tuple(f"{PREFIX}{seed}" for seed in range(int(os.environ.get("MESHWRIGHT_ENVOY_WORLDS", "4"))))
TABLES = (*FILES, *RANDOM)
ROOT = Path(__file__).parents[2]
LET_IN = {"served", "heard", "302"}
OUTCOMES = {"403": "denied", "gRPC 7": "denied", "404": "not found", "gRPC 5": "not found", "400": "refused"}


@pytest.fixture(scope="module")
def seen() -> Mapping[str, list[dict[str, Any]]]:
    """Return what real Envoys made of all files, by file: a process of its own for all of them."""
    command = ("unshare", "-n", "-m", sys.executable, "-m", "tests.policy.enforced", *TABLES)
    # gRPC's own care for forks ends programs that are started while its servers run.
    more = {"PYTHONPATH": f"{ROOT / 'operator'}{os.pathsep}{ROOT}", "GRPC_ENABLE_FORK_SUPPORT": "0"}
    done = subprocess.run(command, cwd=ROOT, env=os.environ | more, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr[-4000:]
    found: dict[str, list[dict[str, Any]]] = {}
    for each in json.loads(done.stdout):
        found.setdefault(each["file"], []).append(each)
    return found


@pytest.mark.parametrize("file", TABLES)
def test_callers_get_what_the_table_says(seen: Mapping[str, list[dict[str, Any]]], file: str) -> None:
    table = find_table(file)
    got = {int(number): answer for each in seen[file] for number, answer in each["rows"].items()}
    found = [(row.number, outcome_of(row, got[row.number])) for row in table.rows]
    wanted = [(row.number, row.expected.outcome) for row in table.rows]
    assert [each for each in found if each not in wanted] == [each for each in wanted if each not in found]


@pytest.mark.parametrize("file", TABLES)
def test_the_log_tells_of_denials_and_of_whom_only_audit_lets_in(
    seen: Mapping[str, list[dict[str, Any]]], file: str
) -> None:
    for each in seen[file]:
        rows = [
            row for row in find_table(file).rows if [row.namespace, row.name] == each["target"] and row.expected.log
        ]
        assert Counter(map(line_of, each["log"])) == Counter(map(expected_line, rows))


@pytest.mark.parametrize("file", FILES)
def test_each_verdict_is_counted_with_who_let_whom_in(seen: Mapping[str, list[dict[str, Any]]], file: str) -> None:
    for each in seen[file]:
        rows = [row for row in find_table(file).rows if [row.namespace, row.name] == each["target"]]
        wanted = Counter(expected_count(row) for row in rows if row.expected.outcome in COUNTED)
        found = Counter[tuple[object, ...]]()
        for line in each["counted"]:
            if line.get("srv_route") == "":
                continue  # it could not be read as a request
            found[count_of(line)] += int(line["value"])
        assert found == wanted


COUNTED = {"allowed": "allow", "audited": "allow", "denied": "deny"}
ANYBODY = "default/all-unauthenticated"
"""Who lets everybody in does not wait for the names of those who send bytes."""


def count_of(line: Mapping[str, Any]) -> tuple[object, ...]:
    kind, name, route_kind, route = line.get("srv_route", "///").split("/")
    by = line.get("authz", "").removeprefix("~") or (ANYBODY if "allow" in line["name"] else "")
    return (
        line["name"].split("_")[-2],
        int(line["srv_port"]),
        line.get("srv_kind", kind),
        line.get("srv_name", name),
        route if route_kind not in ("", "default") else None,
        by,
        "" if by == ANYBODY else line.get("client_id", "").removeprefix("-"),
    )


def expected_count(row: Row) -> tuple[object, ...]:
    expected = row.expected
    by = {"audited": "default/audit", "denied": ""}.get(expected.outcome, expected.by)
    return (
        COUNTED[expected.outcome],
        row.port,
        "server" if expected.server else "default",
        expected.server or expected.default,
        expected.route or None,
        by,
        "" if by == ANYBODY else row.caller["dns"],
    )


def outcome_of(row: Row, answer: str) -> str:
    """Return what an answer means; a closed connection is what bytes get of any refusal, and opaque ports give."""
    if answer in LET_IN:
        return row.expected.outcome if row.expected.outcome in ("allowed", "audited") else f"let in: {answer}"
    if answer == "closed" and row.expected.outcome in ("denied", "refused"):
        return row.expected.outcome
    return OUTCOMES.get(answer, answer)


def line_of(line: Mapping[str, Any]) -> tuple[object, ...]:
    return (
        line["reason"],
        line["message"].partition(" ")[2],
        line["server.port"],
        line["server.kind"],
        line["server.name"],
        line.get("route.name") if line.get("route.kind") != "default" else None,
        line["client.ip"],
        line.get("client.id") or line.get("client.uri"),
    )


def expected_line(row: Row) -> tuple[object, ...]:
    expected, caller = row.expected, row.caller
    return (
        expected.log,
        "denied" if expected.log == "denied" else "allowed",
        row.port,
        "server" if expected.server else "default",
        expected.server or expected.default,
        expected.route or None,
        caller["address"],
        caller["dns"] or caller["uri"] or None,
    )
