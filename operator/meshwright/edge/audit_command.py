"""``meshwright audit``: who would be refused, were audit mode deny; and who is."""

import argparse
import asyncio
import os
import sys
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import orjson
import yaml

from meshwright.edge.client import ApiError, Unreachable, connect
from meshwright.edge.flags import add_connection, add_control_plane
from meshwright.edge.observe import Observations, list_policy, observe
from meshwright.edge.terminal import Paint, Terminal, open_terminal
from meshwright.emit.grants import choose_selector, emit_smallest
from meshwright.model.desired import Json
from meshwright.model.identity import TrustDomain
from meshwright.model.observed import Called, Client
from meshwright.model.pod import Pod
from meshwright.model.ref import Ref
from meshwright.model.units import Namespace
from meshwright.parse.duration import parse_millis

NOBODY, SOMEBODY, FAILED = 0, 1, 2
_EXAMPLES = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``meshwright audit``."""
    parser.add_argument("-n", "--namespace", default="", metavar="NS", help="whose pods were called (default: all)")
    add_observing(parser)
    parser.add_argument("-o", "--output", choices=("text", "json"), default="text", help="(default: text)")
    parser.add_argument_group(
        "exit status",
        "0: nobody was refused or would have been. 1: somebody was. 2: bad usage, or the cluster cannot be asked.",
    )


def add_observing(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say where to look, and since when."""
    parser.add_argument(
        "--since",
        type=read_since,
        default="1h",
        metavar="TIME",
        help="how far back logs are read, as 30m or 2h (default: %(default)s); counts go back to each proxy's start",
    )
    add_connection(parser)
    add_control_plane(parser)
    parser.add_argument(
        "--trust-domain",
        default=os.environ.get("MESHWRIGHT_TRUST_DOMAIN", "cluster.local"),
        metavar="NAME",
        help="the root that identities hang from ($MESHWRIGHT_TRUST_DOMAIN, default: cluster.local)",
    )


def read_since(text: str) -> int:
    """Return whole seconds, 1 or more. Raises argparse's error for anything else."""
    try:
        return max(1, parse_millis(text) // 1000)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"'{text}' is no time; write {error}") from error


def trust_of(args: argparse.Namespace) -> TrustDomain:
    return TrustDomain(name=args.trust_domain, control_plane=Namespace(args.control_plane_namespace))


def run(args: argparse.Namespace) -> int:
    """Return 0 when nobody was refused or would have been, 1 when somebody was, 2 when nobody can say."""
    return asyncio.run(audit(args))


async def look(args: argparse.Namespace, *, with_policy: bool = False) -> Observations | None:
    """Return what the proxies tell, with progress on stderr; ``None``, and why on stderr, when they cannot be asked.
    ``with_policy``: and the policy objects that are stored."""

    def told(done: int, of: int) -> None:
        if sys.stderr.isatty():
            print(f"\r{done} of {of} proxies asked", end="\n" if done == of else "", file=sys.stderr, flush=True)

    try:
        async with await connect(args.kubeconfig, args.context) as client:
            stored = await list_policy(client, args.namespace) if with_policy else {}
            found = await observe(client, args.namespace, args.since, trust_of(args), told)
            return replace(found, stored=stored)
    except (ApiError, Unreachable, ConnectionError) as error:
        print(f"the cluster cannot be asked: {error}", file=sys.stderr)
        return None


async def audit(args: argparse.Namespace) -> int:
    """Ask the proxies, and write who was refused or would have been. Return the exit status."""
    found = await look(args)
    if found is None:
        return FAILED
    rows = group(found)
    if args.output == "json":
        report = {"calls": [_as_json(row) for row in rows], "notAsked": [str(pod.ref) for pod, _ in found.silent]}
        sys.stdout.buffer.write(orjson.dumps(report, option=orjson.OPT_INDENT_2) + b"\n")
    else:
        show(open_terminal(), rows, found)
    return SOMEBODY if rows else NOBODY


@dataclass(slots=True, kw_only=True)
class Row:
    """One client's calls of one thing. ``lines``: in the logs looked at; ``times``: counted since the proxies began.

    ``targets``: the pods called; ``last``: when, by the log, ``""`` when only counters tell of it.
    """

    called: Called
    client: Client
    is_denied: bool
    lines: int = 0
    times: int = 0
    last: str = ""
    examples: dict[str, None] = field(default_factory=dict)
    targets: set[Ref] = field(default_factory=set)


def group(found: Observations) -> list[Row]:
    """Return who was refused, or would have been, sorted by what was called and by whom."""
    rows: dict[tuple[Called, Client, bool], Row] = {}

    def row(called: Called, client: Client, is_denied: bool) -> Row:
        key = (called, client, is_denied)
        return rows.setdefault(key, Row(called=called, client=client, is_denied=is_denied))

    for line in found.seen:
        each = row(line.called, line.client, line.is_denied)
        each.lines += 1
        each.last = max(each.last, line.at)
        each.targets.add(line.pod)
        if len(each.examples) < _EXAMPLES:
            each.examples[line.what or "a connection"] = None
    nameless: defaultdict[tuple[Called, bool], int] = defaultdict(int)
    for counted in found.counted:
        if counted.by not in ("", "audit"):
            continue
        is_denied = not counted.by
        if counted.client == Client():
            nameless[counted.called, is_denied] += counted.times
            continue
        each = row(counted.called, counted.client, is_denied)
        each.times += counted.times
        each.targets.add(counted.pod)
    # Counters do not tell callers without identity apart; lines do, by their address.
    for (called, is_denied), times in nameless.items():
        if not any(key[0] == called and key[2] is is_denied and key[1].address for key in rows):
            row(called, Client(), is_denied).times = times
    return sorted(rows.values(), key=lambda row: (row.called, str(row.client), row.is_denied))


def show(terminal: Terminal, rows: Iterable[Row], found: Observations) -> None:
    """Write the report for people."""
    by_called: defaultdict[Called, list[Row]] = defaultdict(list)
    for row in rows:
        by_called[row.called].append(row)
    pods = {pod.ref: pod for pod in found.pods}
    meshed = sum(pod.is_meshed for pod in found.pods)
    if not by_called:
        terminal.say(f"{terminal.paint('√', Paint.GREEN)} nobody was refused, or would have been, by {meshed} proxies")
    for called, each in by_called.items():
        terminal.say(terminal.paint(title(called), Paint.BOLD))
        terminal.table(
            [
                ("client", "would be", "in the log", "since start", "last", "calls"),
                *(
                    (
                        name_client(row.client, found.pods),
                        "is refused" if row.is_denied else "refused",
                        str(row.lines),
                        str(row.times) if row.times else "-",
                        row.last.partition(".")[0].replace("T", " ") or "-",
                        ", ".join(row.examples),
                    )
                    for row in each
                ),
            ]
        )
        for row in each:
            _advise(terminal, row, pods)
        terminal.say()
    for pod, why in found.silent:
        terminal.say(f"{terminal.paint('‼', Paint.YELLOW)} {pod.ref} could not be asked: {why}")


def title(called: Called) -> str:
    """Return what was called, as a heading."""
    governed = f"Server {called.server}" if called.server else f"no Server, default policy {called.default}"
    route = f", {called.route_kind} {called.route}" if called.route else ""
    return f"namespace {called.namespace}, port {called.port} ({governed}{route})"


def name_client(client: Client, pods: Iterable[Pod]) -> str:
    """Return who a client is, by the pod at its address where it shows no identity."""
    if client.address:
        at = next((pod for pod in pods if client.address in pod.addresses), None)
        return f"{client.address} ({f'{at.ref}, ' if at else ''}no identity)"
    return str(client)


def _advise(terminal: Terminal, row: Row, pods: dict[Ref, Pod]) -> None:
    manifest = emit_smallest(row.called, row.client)
    if manifest is not None:
        terminal.say(f"  to let in {row.client}:")
        for line in yaml.safe_dump(manifest, sort_keys=False).splitlines():
            terminal.say(terminal.paint(f"    {line}", Paint.DIM))
    elif row.client.account is not None:
        labels = next((dict(choose_selector(pods[ref])) for ref in sorted(row.targets) if ref in pods), {})
        said = ", ".join(f"{key}={value}" for key, value in labels.items())
        terminal.say(
            f"  to let in {row.client}: there is no Server for port {row.called.port} of pods {said}; "
            f"`meshwright policy generate -n {row.called.namespace}` writes one, and who may"
        )
    elif not row.client.identity:
        terminal.say(f"  {row.client}: mesh it, so that it can be told by name; or let in its network by")
        terminal.say("    a NetworkAuthentication, if its address is its own for good")


def _as_json(row: Row) -> Json:
    called = row.called
    return {
        "namespace": called.namespace,
        "port": called.port,
        "server": called.server or None,
        "default": called.default or None,
        "route": {"group": called.route_group, "kind": called.route_kind, "name": called.route}
        if called.route
        else None,
        "client": {
            "serviceAccount": str(row.client.account) if row.client.account else None,
            "identity": row.client.identity or None,
            "address": row.client.address or None,
        },
        "refused": row.is_denied,
        "lines": row.lines,
        "sinceStart": row.times,
        "last": row.last or None,
        "examples": list(row.examples),
        "allowedBy": emit_smallest(called, row.client),
    }
