"""``meshwright uninject``: manifests without the proxies that `meshwright inject` gave them."""

import argparse
import sys
from collections import Counter

from meshwright.edge.inject_command import (
    DONE,
    UNREADABLE,
    add_file_arguments,
    name_object,
    read_manifests,
    report_untouched,
    write_objects,
)
from meshwright.edge.terminal import Paint, open_terminal
from meshwright.emit.inject import uninject


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``meshwright uninject``."""
    add_file_arguments(parser)
    parser.add_argument_group("exit status", "0: done. 2: something could not be read, and nothing was written.")


def run(args: argparse.Namespace) -> int:
    """Write the objects to stdout and which had a proxy to stderr; return 0 or 2."""
    terminal = open_terminal(sys.stderr)
    manifests = read_manifests(args.paths, terminal)
    if manifests is None:
        return UNREADABLE
    objects, untouched = [], Counter[str]()
    for raw in (manifest.raw for manifest in manifests):
        bare = uninject(raw)
        objects.append(raw if bare is None else bare)
        if bare is None:
            untouched[str(raw["kind"]).lower()] += 1
        else:
            terminal.say(f"{name_object(raw)} {terminal.paint('uninjected', Paint.GREEN)}")
    write_objects(objects, args.output, sys.stdout)
    report_untouched(untouched, terminal)
    return DONE
