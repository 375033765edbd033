"""What people and programs see."""

import io
from dataclasses import replace
from typing import Any

from meshwright.edge.check.inquiry import Inquiry
from meshwright.edge.check.outcome import Check, Finding, Group, Level, Result
from meshwright.edge.check.show import MOST, Table, Waiting, make_report
from meshwright.edge.terminal import Terminal


async def _look(_: Inquiry) -> list[Finding]:
    return []


def result(group: Group, description: str, level: Level = Level.ERROR, *findings: Finding) -> Result:
    check = Check(group=group, description=description, level=level, hint=f"mend {description}", look=_look)
    return Result(check=check, findings=findings)


FAULT = Finding(what="pod/web in shop", found="it is not ready", fix="kubectl -n shop logs web")
DOUBT = Finding(what="node/one", found="its clock is 1h ahead of the API server's")
RESULTS = [
    replace(result(Group.KUBERNETES, "the API server answers", Level.FATAL), note="v1.36.0"),
    result(Group.KUBERNETES, "the clocks agree", Level.WARNING, DOUBT),
    result(Group.CRDS, "all is there"),
    result(Group.DATA_PLANE, "the proxies are ready", Level.ERROR, FAULT, DOUBT),
]


def show(results: list[Result], *, is_short: bool = False, has_colour: bool = False) -> str:
    out = io.StringIO()
    table = Table(Terminal(out=out, has_colour=has_colour), is_short=is_short)
    for each in results:
        table.show(each)
    table.end(results)
    return out.getvalue()


def test_a_table_has_groups_signs_what_was_found_and_what_to_do() -> None:
    assert (
        show(RESULTS)
        == """\
kubernetes-api
--------------
√ the API server answers (v1.36.0)
‼ the clocks agree
    node/one: its clock is 1h ahead of the API server's
    hint: mend the clocks agree

meshwright-crds
---------------
√ all is there

meshwright-data-plane
---------------------
× the proxies are ready
    pod/web in shop: it is not ready
        kubectl -n shop logs web
    node/one: its clock is 1h ahead of the API server's
    hint: mend the proxies are ready

Status check results are ×
"""
    )


def test_the_short_table_has_only_what_is_not_as_it_should_be() -> None:
    assert (
        show(RESULTS[:3], is_short=True)
        == """\
kubernetes-api
--------------
‼ the clocks agree
    node/one: its clock is 1h ahead of the API server's
    hint: mend the clocks agree

Status check results are √
"""
    )
    assert show(RESULTS[:1], is_short=True) == "Status check results are √\n"


def test_on_a_terminal_the_signs_have_colours() -> None:
    text = show(RESULTS, has_colour=True)
    assert all(sign in text for sign in ("\x1b[32m√\x1b[0m", "\x1b[33m‼\x1b[0m", "\x1b[31m×\x1b[0m"))


def test_of_very_many_findings_a_table_shows_some_and_json_all() -> None:
    many = result(Group.CRDS, "all is there", Level.ERROR, *[FAULT] * (MOST + 7))
    assert show([many]).count("it is not ready") == MOST
    assert "    and 7 more; -o json has them all\n" in show([many])
    assert len(make_report([many])["categories"][0]["checks"][0]["findings"]) == MOST + 7


def test_json_has_linkerds_names_and_every_finding() -> None:
    ready: dict[str, Any] = {
        "description": "the proxies are ready",
        "result": "error",
        "error": "pod/web in shop: it is not ready; node/one: its clock is 1h ahead of the API server's",
        "hint": "mend the proxies are ready",
        "findings": [
            {"object": "pod/web in shop", "found": "it is not ready", "fix": "kubectl -n shop logs web"},
            {"object": "node/one", "found": "its clock is 1h ahead of the API server's"},
        ],
    }
    clocks = {
        "description": "the clocks agree",
        "result": "warning",
        "error": "node/one: its clock is 1h ahead of the API server's",
        "hint": "mend the clocks agree",
        "findings": [{"object": "node/one", "found": "its clock is 1h ahead of the API server's"}],
    }
    assert make_report(RESULTS) == {
        "success": False,
        "categories": [
            {
                "categoryName": "kubernetes-api",
                "checks": [{"description": "the API server answers", "result": "success", "note": "v1.36.0"}, clocks],
            },
            {"categoryName": "meshwright-crds", "checks": [{"description": "all is there", "result": "success"}]},
            {"categoryName": "meshwright-data-plane", "checks": [ready]},
        ],
    }
    assert make_report(RESULTS[:3])["success"] is True


class _Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_what_is_waited_for_is_one_line_on_a_terminal_and_nothing_elsewhere() -> None:
    screen, file = _Screen(), io.StringIO()
    for out in (screen, file):
        waiting = Waiting(out)
        waiting.clear()
        waiting.told(RESULTS[3])
        waiting.told(RESULTS[3])
        waiting.clear()
    line = "the proxies are ready -- pod/web in shop: it is not ready\x1b[K"
    assert screen.getvalue() == f"\r⠋ {line}\r⠙ {line}\r\x1b[K"
    assert file.getvalue() == ""
