"""``make bench``: the figures, as a table and as JSON. Each claim is a ratio of two things measured in the same run."""

import argparse
import asyncio
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from e2e.bench import apiserver, delivery, dev, identity, inject, latency, machines, podstart, policy, revocation
from e2e.bench import compile as compiling
from e2e.bench.sizes import SERVERS, SIZES, choose_sizes

Json = dict[str, Any]
FOLDER = Path(".bench")
PARTS = (
    *("compile", "dev", "delivery", "identity", "inject", "latency", "policy", "machines"),
    *("podstart", "cluster", "revocation"),
)


def show(title: str, rows: list[Json]) -> None:
    """Print rows of equal keys as a table."""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    cells = [keys, *([str(row.get(key, "")) for key in keys] for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(keys))]
    print(f"\n{title}")
    for line in cells:
        print("  " + "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)))


def main() -> int:
    """Run the parts that were asked for; return 0. A part that cannot run raises."""
    parser = argparse.ArgumentParser(prog="python -m e2e.bench", description=__doc__)
    parser.add_argument(
        "parts",
        nargs="*",
        default=PARTS,
        help=f"of: {' '.join(PARTS)} (default: all); podstart, cluster and revocation are measured on the cluster of "
        "`make cluster`, or on yours by KUBECONFIG",
    )
    parser.add_argument(
        "--routes",
        type=int,
        default=SIZES[-1],
        metavar="N",
        help=f"the largest size; of {', '.join(map(str, SIZES))} the smaller ones are measured, too. Routes, in the "
        "part delivery Services with ten routes each (default: %(default)s)",
    )
    parser.add_argument(
        "--servers",
        type=int,
        default=SERVERS[-1],
        metavar="N",
        help=f"the same for the parts policy and revocation; Servers, of {', '.join(map(str, SERVERS))} "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--machines",
        type=int,
        default=machines.MACHINES,
        metavar="N",
        help="how many machines outside the cluster there are in the part machines (default: %(default)s)",
    )
    args = parser.parse_args()
    for flag in ("routes", "servers", "machines"):
        if getattr(args, flag) < 10:
            parser.error(f"--{flag}: at least 10")
    sizes, servers = choose_sizes(args.routes), choose_sizes(args.servers, SERVERS)
    FOLDER.mkdir(exist_ok=True)
    parts: dict[str, Callable[[], Json]] = {
        "compile": lambda: compiling.measure(sizes),
        "dev": lambda: asyncio.run(dev.measure(sizes)),
        "delivery": lambda: delivery.measure(sizes),
        "identity": lambda: asyncio.run(identity.measure()),
        "inject": lambda: asyncio.run(inject.measure()),
        "latency": latency.measure,
        "policy": lambda: policy.measure(servers),
        "machines": lambda: asyncio.run(machines.measure(args.machines)),
        "podstart": lambda: asyncio.run(podstart.measure()),
        "cluster": lambda: asyncio.run(apiserver.measure(sizes, FOLDER)),
        "revocation": lambda: asyncio.run(revocation.measure(servers, FOLDER)),
    }
    if unknown := set(args.parts) - set(parts):
        parser.error(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(parts)}")
    for name in args.parts:
        print(f"measuring {name} …", file=sys.stderr, flush=True)
        started = time.monotonic()
        figures = parts[name]()
        seconds = round(time.monotonic() - started, 1)
        figures["machine"] = {"cores": os.cpu_count(), "load": os.getloadavg()[0], "seconds": seconds}
        (FOLDER / f"{name}.json").write_text(json.dumps(figures, indent=1) + "\n")
        for table in ("rows", "ways"):
            if rows := figures.pop(table, None):
                show(name, rows)
        show(f"{name}: in one run, {seconds} s", [{key: value for key, value in figures.items() if key != "machine"}])
    return 0


if __name__ == "__main__":
    sys.exit(main())
