"""What came of checks, as people read it and as programs do."""

import json
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any, TextIO

from meshwright.edge.check.outcome import Finding, Level, Result
from meshwright.edge.terminal import Paint, Terminal

PASSED, FAILED, DOUBTED = "√", "×", "‼"
MOST = 10
"""Findings of a check that a table shows; JSON has them all."""

_SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"


class Table:
    """Writes results as they come. ``is_short``: only those that are not as they should be."""

    def __init__(self, terminal: Terminal, *, is_short: bool = False) -> None:
        self._terminal = terminal
        self._is_short = is_short
        self._group = ""

    def show(self, result: Result) -> None:
        if self._is_short and result.is_passed:
            return
        terminal, check = self._terminal, result.check
        if self._group != check.group:
            if self._group:
                terminal.say()
            self._group = check.group
            terminal.say(check.group)
            terminal.say("-" * len(check.group))
        note = terminal.paint(f" ({result.note})", Paint.DIM) if result.note else ""
        terminal.say(f"{_mark(terminal, result)} {check.description}{note}")
        for finding in result.findings[:MOST]:
            terminal.say(f"    {finding.what}: {finding.found}")
            if finding.fix:
                terminal.say(f"        {finding.fix}")
        if len(result.findings) > MOST:
            terminal.say(f"    and {len(result.findings) - MOST} more; -o json has them all")
        if result.findings:
            terminal.say(terminal.paint(f"    hint: {check.hint}", Paint.DIM))

    def end(self, results: Sequence[Result]) -> None:
        if self._group:
            self._terminal.say()
        mark = (
            self._terminal.paint(FAILED, Paint.RED)
            if has_failed(results)
            else self._terminal.paint(PASSED, Paint.GREEN)
        )
        self._terminal.say(f"Status check results are {mark}")


def has_failed(results: Iterable[Result]) -> bool:
    """Return whether any result is a failure; warnings are none."""
    return any(result.is_failure for result in results)


def _mark(terminal: Terminal, result: Result) -> str:
    if result.is_passed:
        return terminal.paint(PASSED, Paint.GREEN)
    return terminal.paint(FAILED, Paint.RED) if result.is_failure else terminal.paint(DOUBTED, Paint.YELLOW)


def make_report(results: Sequence[Result]) -> dict[str, Any]:
    """Return everything as JSON, with the names that tools for ``linkerd check -o json`` look for, and the findings
    one by one besides.

    Source: linkerd2 ``pkg/healthcheck/healthcheck_output.go`` CheckOutput.
    """
    return {
        "success": not has_failed(results),
        "categories": [
            {"categoryName": str(group), "checks": [_report(result) for result in found]}
            for group, found in groupby(results, key=lambda result: result.check.group)
        ],
    }


def _report(result: Result) -> dict[str, Any]:
    level = "warning" if result.check.level is Level.WARNING else "error"
    report: dict[str, Any] = {
        "description": result.check.description,
        "result": "success" if result.is_passed else level,
    }
    if result.note:
        report["note"] = result.note
    if result.findings:
        report["error"] = "; ".join(f"{each.what}: {each.found}" for each in result.findings)
        report["hint"] = result.check.hint
        report["findings"] = [_report_finding(each) for each in result.findings]
    return report


def _report_finding(finding: Finding) -> dict[str, str]:
    found = {"object": finding.what, "found": finding.found}
    return found | ({"fix": finding.fix} if finding.fix else {})


def write_report(results: Sequence[Result], out: TextIO) -> None:
    json.dump(make_report(results), out, indent=2, ensure_ascii=False)
    out.write("\n")
    out.flush()


class Waiting:
    """One line that says what is waited for, written over again and again; nothing where ``out`` is no terminal."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._is_shown = out.isatty()
        self._turn = 0

    def told(self, result: Result) -> None:
        """Say what is not so yet."""
        if not self._is_shown:
            return
        first = result.findings[0]
        sign = _SPINNER[self._turn % len(_SPINNER)]
        self._turn += 1
        # A carriage return, and erase to the end of the line (ECMA-48 8.3.41): a longer line would wrap and stay.
        line = f"{sign} {result.check.description} -- {first.what}: {first.found}"[:100]
        self._out.write(f"\r{line}\x1b[K")
        self._out.flush()

    def clear(self) -> None:
        """Take the line away."""
        if self._is_shown and self._turn:
            self._out.write("\r\x1b[K")
            self._out.flush()
