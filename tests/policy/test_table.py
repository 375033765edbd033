"""The table of cases, as the slow reference has it, and as `meshwright explain access` does."""

import pytest

from tests.policy.reference import Installed, judge
from tests.policy.table import FILES, Expected, Row, load, pod_of
from tests.policy.worlds import decide_row, shown, world_of


@pytest.mark.parametrize("file", FILES)
def test_the_reference_agrees_with_the_table(file: str) -> None:
    table = load(file)
    installed = Installed(**table.installed)
    seen, wanted = [], []
    for row in table.rows:
        objects, kind = pod_of(table, row)
        verdict = judge(objects, installed, row.caller, (kind, row.namespace, row.name), row.port, row.request)
        found = Expected(
            outcome=verdict.outcome,
            server=verdict.server,
            default=verdict.default,
            route=verdict.route,
            by=verdict.by,
        )
        seen.append((row.number, found))
        wanted.append((row.number, row.expected))
    assert [each for each in seen if each not in wanted] == [each for each in wanted if each not in seen]


def test_the_table_is_long_enough() -> None:
    rows: list[Row] = [row for file in FILES for row in load(file).rows]
    assert len(rows) >= 150
    assert len({(row.namespace, row.name, row.port, str(row.caller), str(row.request)) for row in rows}) >= 150


@pytest.mark.parametrize("file", FILES)
def test_what_is_decided_offline_agrees_with_the_table(file: str) -> None:
    table = load(file)
    world = world_of(table)
    seen = [(row.number, shown(decide_row(world, row))) for row in table.rows]
    wanted = [(row.number, row.expected) for row in table.rows]
    assert [each for each in seen if each not in wanted] == [each for each in wanted if each not in seen]
