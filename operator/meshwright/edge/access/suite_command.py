"""``meshwright policy test``: whether policy is as its authors expect, without a cluster."""

import argparse
import sys
from pathlib import Path

from meshwright.edge.access.cases import Outturn, Suite, explain_miss, read_suite, run_suite
from meshwright.edge.check.show import FAILED, PASSED
from meshwright.edge.compile_command import report_unreadable
from meshwright.edge.documents import Place, UnreadableError
from meshwright.edge.explain_command import add_config_arguments, read_config, read_world
from meshwright.edge.terminal import Paint, Terminal, open_terminal
from meshwright.model.units import Namespace

MET, MISSED, UNREADABLE = 0, 1, 2

TEACH = """\
a file of cases, policy-test.yaml:
  manifests: [shop/, policy.yaml]          # beside this file
  cases:
    - name: the web shop reads the cart    # may be left out
      from: shop/web                       # as of `meshwright explain access --from`
      to: shop/cart:8080
      path: /cart/42                       # method, path, host, headers; or grpc: shop.Cart/Get; or tcp: true
      expect: allowed                      # allowed, audited, denied, not found
    - {from: 192.0.2.7, to: shop/cart:8080, expect: denied}

in a pipeline:
  meshwright policy test policy-test.yaml

`meshwright explain access` says more about one case.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``meshwright policy test``."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = TEACH
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="files of cases, see below")
    parser.add_argument(
        "-n", "--namespace", default="default", help="for manifests that name no namespace (default: default)"
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="show only what is not as expected")
    add_config_arguments(parser)
    parser.add_argument_group(
        "exit status", "0: all is as expected. 1: some is not. 2: bad usage, or something cannot be read."
    )


def run(args: argparse.Namespace) -> int:
    """Return 0 when every case is met, 1 when some is not, 2 when something cannot be read."""
    terminal, errors = open_terminal(sys.stdout), open_terminal(sys.stderr)
    met = missed = 0
    is_readable = True
    for file in args.files:
        suite, faults = _read(file)
        report_unreadable(faults, errors)
        world = read_world(list(suite.paths), read_config(args), Namespace(args.namespace), errors) if suite else None
        is_readable = is_readable and not faults and world is not None
        if suite is None or world is None:
            continue
        if len(args.files) > 1:
            terminal.say(str(file))
        for outturn in run_suite(suite, world):
            met, missed = met + outturn.is_met, missed + (not outturn.is_met)
            if not (args.quiet and outturn.is_met):
                _say(outturn, terminal)
    if not (met or missed):
        return UNREADABLE
    mark = terminal.paint(FAILED, Paint.RED) if missed or not is_readable else terminal.paint(PASSED, Paint.GREEN)
    terminal.say(f"{mark} {met} of {met + missed} cases as expected")
    return UNREADABLE if not is_readable else MISSED if missed else MET


def _read(file: Path) -> tuple[Suite | None, tuple[UnreadableError, ...]]:
    try:
        return read_suite(file.read_text(encoding="utf-8"), str(file))
    except UnreadableError as error:
        return None, (error,)
    except IsADirectoryError:
        return None, (UnreadableError(Place(str(file), 0), "this is a folder; name the files of cases in it"),)
    except (OSError, UnicodeDecodeError) as error:
        why = "this is not UTF-8 text" if isinstance(error, UnicodeDecodeError) else error.strerror or str(error)
        return None, (UnreadableError(Place(str(file), 0), why),)


def _say(outturn: Outturn, terminal: Terminal) -> None:
    case = outturn.case
    if outturn.is_met:
        terminal.say(f"{terminal.paint(PASSED, Paint.GREEN)} {case.name}: {case.expected}")
        return
    terminal.say(f"{terminal.paint(FAILED, Paint.RED)} {case.name}")
    found = outturn.fault or (outturn.answer.decision.outcome.value if outturn.answer else "")
    terminal.say(f"    {case.place}: expected {case.expected}, {'but ' if outturn.fault else 'found '}{found}")
    for line in explain_miss(outturn):
        terminal.say(terminal.paint(f"    {line}", Paint.DIM))
