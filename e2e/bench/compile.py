"""How fast manifests compile: all at once, and one edit among many."""

import gc
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from e2e.bench.sizes import Progress
from e2e.bench.synthetic import make_all, make_route
from meshwright.model.config import Config
from meshwright.parse.kinds import parse_object
from meshwright.pipeline import Compiler

EDITS = 300
ROUNDS = 3


def measure_one(routes: int) -> dict[str, Any]:
    """Return the figures for ``routes`` routes; call it in a process of its own, for the peak memory to be its own."""
    raws = make_all(routes)
    started = time.perf_counter()
    parsed = [parse_object(raw) for raw in raws]
    parse_seconds = time.perf_counter() - started
    snapshot = {value.ref: value for value in parsed if value is not None}
    compiler = Compiler(Config())
    started = time.perf_counter()
    compiler.update(snapshot)
    compile_seconds = time.perf_counter() - started
    gc.collect()
    gc.freeze()
    edits_ms = []
    for edit in range(EDITS):
        value = parse_object(make_route(edit * 7919 % routes, weight=10 + edit % 80))
        assert value is not None
        started = time.perf_counter()
        desired = compiler.update({value.ref: value})
        edits_ms.append((time.perf_counter() - started) * 1000)
        assert len(desired.units) <= 1
    edits_ms.sort()
    return {
        "routes": routes,
        "parse_routes_per_second": round(routes / parse_seconds),
        "compile_routes_per_second": round(routes / compile_seconds),
        "peak_rss_mib": peak_mib(),
        "edit_p50_ms": round(statistics.median(edits_ms), 3),
        "edit_p99_ms": round(edits_ms[int(len(edits_ms) * 0.99)], 3),
    }


def measure(sizes: Sequence[int]) -> dict[str, Any]:
    """Return the figures of every size, and the ratio of one edit's cost at the largest to that at the smallest.

    The sizes take turns, and of each the round with the fastest edit counts: others work on the machine, too.
    """
    progress = Progress("compile")
    rounds = []
    for number in range(ROUNDS):
        progress(f"round {number + 1} of {ROUNDS}: {', '.join(map(str, sizes))} routes")
        rounds.append([run_apart("e2e.bench.compile", f"measure_one({size})") for size in sizes])
    rows = [min(of_size, key=lambda row: float(row["edit_p50_ms"])) for of_size in zip(*rounds, strict=True)]
    return {"rows": rows, "edit_p50_ratio": round(rows[-1]["edit_p50_ms"] / rows[0]["edit_p50_ms"], 2)}


def peak_mib() -> int:
    """Return the most memory this process ever held; getrusage would count the process it was forked from, too."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) // 1024
    raise RuntimeError("/proc/self/status has no VmHWM")


def run_apart(module: str, call: str) -> dict[str, Any]:
    """Return what ``call``, of one of our modules, returns in a process of its own."""
    code = f"import json; from {module} import *; print(json.dumps({call}))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True, env=environment)
    return dict(json.loads(done.stdout.splitlines()[-1]))
