"""``meshwright check``: whether meshwright can be installed, is installed well, and serves its proxies."""

import argparse
import asyncio
import os
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial

from meshwright.edge.check.inquiry import Inquiry, Options
from meshwright.edge.check.outcome import Result, Stage
from meshwright.edge.check.show import Table, Waiting, has_failed, write_report
from meshwright.edge.check.table import Patience, run_checks
from meshwright.edge.client import connect
from meshwright.edge.flags import add_connection, add_control_plane
from meshwright.edge.terminal import open_terminal
from meshwright.parse.duration import parse_millis

WELL, FAILED = 0, 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``meshwright check``; those about the cluster can be set in the environment."""
    stage = parser.add_mutually_exclusive_group()
    stage.add_argument("--pre", action="store_true", help="before the installation: can meshwright be installed?")
    stage.add_argument("--proxy", action="store_true", help="look at every proxy, too")
    parser.add_argument(
        "-n", "--namespace", default="", metavar="NS", help="whose pods are looked at (default: all namespaces)"
    )
    parser.add_argument("-o", "--output", choices=("table", "short", "json"), default="table", help="(default: table)")
    parser.add_argument(
        "--wait",
        type=_seconds,
        default="5m",
        metavar="TIME",
        help="how long to look again at what may become true by itself; 0 for once (default: %(default)s)",
    )
    add_connection(parser)
    add_control_plane(parser, "where meshwright is, or will be")
    parser.add_argument(
        "--trust-domain",
        default=os.environ.get("MESHWRIGHT_TRUST_DOMAIN", ""),
        metavar="NAME",
        help="the root that identities should hang from ($MESHWRIGHT_TRUST_DOMAIN, default: the one installed)",
    )
    parser.add_argument_group(
        "exit status", "0: all is well, though there may be warnings (‼). 1: something is not (×). 2: bad usage."
    )


def run(args: argparse.Namespace) -> int:
    """Return 0 when nothing failed, 1 when something did. Warnings are no failure."""
    return asyncio.run(check(args, clock=lambda: datetime.now(UTC)))


async def check(args: argparse.Namespace, *, clock: Callable[[], datetime]) -> int:
    """Look at a cluster as the flags say, and write what was found. ``clock`` gives this machine's time, in UTC."""
    options = Options(
        control_plane=args.control_plane_namespace, namespace=args.namespace, trust_domain=args.trust_domain
    )
    stage = Stage.PRE if args.pre else Stage.PROXY if args.proxy else Stage.POST
    table = Table(open_terminal(), is_short=args.output == "short")
    waiting = Waiting(sys.stderr)
    patience = Patience(seconds=args.wait, clock=time.monotonic, told=waiting.told)
    results: list[Result] = []
    async with Inquiry(partial(connect, args.kubeconfig, args.context), options, clock=clock) as inquiry:
        async for result in run_checks(inquiry, stage, patience):
            waiting.clear()
            results.append(result)
            if args.output != "json":
                table.show(result)
    if args.output == "json":
        write_report(results, sys.stdout)
    else:
        table.end(results)
    return FAILED if has_failed(results) else WELL


def _seconds(text: str) -> float:
    try:
        return parse_millis(text) / 1000
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"'{text}' is no time to wait; write {error}") from error
