"""``meshwright group status``: how the machines of groups are, and why one is not ready."""

import argparse
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import orjson

from meshwright.edge.check.clocks import read_time, say_span
from meshwright.edge.check.inquiry import Inquiry
from meshwright.edge.client import Json
from meshwright.edge.groups.machine import (
    OURS,
    Machine,
    Told,
    read_conditions,
    read_machine,
    read_rejections,
    read_template,
)
from meshwright.edge.resources import RESOURCES
from meshwright.edge.terminal import Paint, Terminal, open_terminal
from meshwright.model.ref import Kind

WELL, UNWELL = 0, 1
WANTED = {"Accepted": "True", "SelectedByService": "True", "QuotaExceeded": "False", "ExpirySuspended": "False"}
"""What each condition of an ExternalGroup is when all is well, in the order they are shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupReport:
    """One group and its machines, sorted by name. ``is_there`` false: machines name it, and there is none."""

    namespace: str
    name: str
    is_there: bool
    template: str
    conditions: tuple[tuple[str, Told], ...]
    rejections: tuple[Json, ...]
    machines: tuple[Machine, ...]

    @property
    def is_well(self) -> bool:
        """Whether every machine is ready, and nothing is wrong with the group."""
        return (
            self.is_there
            and bool(self.conditions)
            and all(told.status in ("", WANTED.get(type_, told.status)) for type_, told in self.conditions)
            and all(each.ready.status == "True" for each in self.machines)
        )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``meshwright group status``."""
    parser.add_argument("group", nargs="?", default="", metavar="GROUP", help="one group (default: all there are)")
    parser.add_argument("-n", "--namespace", default="", metavar="NS", help="whose groups (default: all namespaces)")
    parser.add_argument("-o", "--output", choices=("table", "json"), default="table", help="(default: table)")
    parser.add_argument("--json", dest="output", action="store_const", const="json", help="the same as -o json")
    parser.add_argument_group(
        "exit status",
        "0: every machine is ready, and nothing is wrong with the groups. 1: something is. "
        "2: bad usage, or the cluster cannot be asked.",
    )


async def run(args: argparse.Namespace, inquiry: Inquiry) -> int:
    """Write how the groups are; return 0 when all is well, else 1.

    Raises:
        ConnectionError, Unreachable, NotAllowed, ApiError: the cluster does not say.
    """
    groups = await inquiry.list_all(RESOURCES[Kind.EXTERNAL_GROUP], args.namespace)
    workloads = await inquiry.list_all(RESOURCES[Kind.EXTERNAL_WORKLOAD], args.namespace, OURS)
    reports = make_reports(groups, (read_machine(raw) for raw in workloads))
    if args.group:
        reports = [each for each in reports if each.name == args.group]
        if not reports:
            where = f"namespace {args.namespace}" if args.namespace else "any namespace"
            print(f"meshwright group: there is no ExternalGroup {args.group} in {where}", file=sys.stderr)
            return UNWELL
    if args.output == "json":
        text = orjson.dumps({"groups": [as_json(each) for each in reports]}, option=orjson.OPT_INDENT_2)
        sys.stdout.write(text.decode() + "\n")
    else:
        show(open_terminal(), reports, await inquiry.now())
    return WELL if all(each.is_well for each in reports) else UNWELL


def make_reports(groups: Iterable[Json], machines: Iterable[Machine]) -> list[GroupReport]:
    """Return a report for each group that is there, and for each that machines name; by namespace and name."""
    found = {
        (raw["metadata"]["namespace"], raw["metadata"]["name"]): GroupReport(
            namespace=raw["metadata"]["namespace"],
            name=raw["metadata"]["name"],
            is_there=True,
            template=read_template(raw),
            conditions=tuple(
                (type_, told) for type_, told in sorted(read_conditions(raw).items(), key=lambda pair: _place(pair[0]))
            ),
            rejections=tuple(dict(each) for each in read_rejections(raw)),
            machines=(),
        )
        for raw in groups
    }
    for machine in sorted(machines, key=lambda each: (each.namespace, each.name)):
        key = (machine.namespace, machine.group)
        report = found.get(key) or GroupReport(
            namespace=machine.namespace,
            name=machine.group,
            is_there=False,
            template="",
            conditions=(),
            rejections=(),
            machines=(),
        )
        found[key] = replace(report, machines=(*report.machines, machine))
    return [found[key] for key in sorted(found)]


def show(terminal: Terminal, reports: Sequence[GroupReport], now: datetime) -> None:
    """Write the reports for people."""
    if not reports:
        terminal.say("there is no ExternalGroup, and no machine has joined")
    for number, report in enumerate(reports):
        if number:
            terminal.say()
        ready = sum(each.ready.status == "True" for each in report.machines)
        heading = f"ExternalGroup {report.name} in {report.namespace}: {ready} of {len(report.machines)} machines ready"
        terminal.say(terminal.paint(heading, Paint.BOLD))
        if not report.is_there:
            terminal.say(
                terminal.paint("  × the group is not there: its machines are removed, unless it comes back", Paint.RED)
            )
        elif not report.conditions:
            terminal.say(terminal.paint("  × nobody has looked at it yet: does the operator run?", Paint.RED))
        for type_, told in report.conditions:
            is_well = told.status == WANTED.get(type_, told.status)
            mark = terminal.paint("√", Paint.GREEN) if is_well else terminal.paint("‼", Paint.YELLOW)
            why = f" ({told.reason}): {told.message}" if not is_well else ""
            terminal.say(f"  {mark} {type_} {told.status}{why}")
        if report.machines:
            terminal.table([_HEAD, *(_row(each, report, now) for each in report.machines)])
        for each in report.machines:
            if not each.is_well and each.ready.message:
                terminal.say(f"  {each.name}: {each.ready.message}")
        for refused in report.rejections:
            terminal.say(f"  turned away: {_say_rejection(refused, now)}")


_HEAD = ("workload", "addresses", "ready", "reason", "since", "agent", "template", "instance")


def _row(machine: Machine, report: GroupReport, now: datetime) -> tuple[str, ...]:
    ready = machine.ready
    return (
        machine.name,
        ",".join(machine.addresses) or "-",
        {"True": "yes", "False": "no"}.get(ready.status, "unknown"),
        ("" if machine.is_well else ready.reason) or "-",
        say_span(now - ready.since) if ready.since else "-",
        machine.agent or "-",
        _say_template(machine, report),
        machine.uid or "-",
    )


def _say_template(machine: Machine, report: GroupReport) -> str:
    if not (machine.template and report.template):
        return "-"
    return "current" if machine.template == report.template else "older"


def _say_rejection(refused: Json, now: datetime) -> str:
    last = read_time(refused.get("lastSeen"))
    ago = f", last {say_span(now - last)} ago" if last else ""
    who = f" as {refused['identity']}" if refused.get("identity") else ""
    return f"{refused.get('count', 1)} times {refused.get('reason')}, from {refused.get('address') or '?'}{who}{ago}"


def _place(type_: str) -> tuple[int, str]:
    order = list(WANTED)
    return (order.index(type_) if type_ in order else len(order), type_)


def as_json(report: GroupReport) -> Json:
    """Return a report for programs."""
    return {
        "namespace": report.namespace,
        "name": report.name,
        "found": report.is_there,
        "well": report.is_well,
        "templateHash": report.template or None,
        "conditions": {type_: _told_as_json(told) for type_, told in report.conditions},
        "rejections": list(report.rejections),
        "machines": [
            {
                "workload": each.name,
                "instance": each.uid or None,
                "addresses": list(each.addresses),
                "ready": each.ready.status == "True",
                "agent": each.agent or None,
                "templateCurrent": each.template == report.template if each.template and report.template else None,
                "leaving": each.is_leaving,
                "conditions": {type_: _told_as_json(told) for type_, told in sorted(each.conditions.items())},
            }
            for each in report.machines
        ],
    }


def _told_as_json(told: Told) -> Json:
    since = told.since.strftime("%Y-%m-%dT%H:%M:%SZ") if told.since else None
    return {"status": told.status, "reason": told.reason, "message": told.message, "since": since}
