"""Inbound policy at size: how fast Servers and who may call them compile, how large their units are, what one
revocation costs the compiler, and (`guarded`) what all that adds to a request.

Needs root for the requests. From the API server to traffic is another part's (`revocation`).
"""

import gc
import statistics
import time
from collections.abc import Sequence
from typing import Any

from e2e.bench import guarded
from e2e.bench.compile import peak_mib, run_apart
from e2e.bench.figures import percentile
from e2e.bench.sizes import Progress
from e2e.bench.synthetic import POLICIES_PER_SERVER, make_all_guarded, place_server
from meshwright.model.config import Config
from meshwright.model.ref import Kind, Ref
from meshwright.model.units import UNIT_KEY, Namespace
from meshwright.parse.kinds import parse_object
from meshwright.pipeline import Compiler

Json = dict[str, Any]
REVOCATIONS = 400
ROUNDS = 3


def measure_one(servers: int) -> Json:
    """Return the figures for ``servers`` Servers; call it in a process of its own, for the peak memory to be its own.

    A revocation is an AuthorizationPolicy that goes, until the compiler has the Server's next unit. All times are of
    the processor, for waiting for one is not part of it.
    """
    raws = make_all_guarded(servers)
    started = time.process_time()
    parsed = [parse_object(raw) for raw in raws]
    parse_seconds = time.process_time() - started
    snapshot = {value.ref: value for value in parsed if value is not None}
    assert len(snapshot) == len(raws)
    compiler = Compiler(Config())
    started = time.process_time()
    compiler.update(snapshot)
    compile_seconds = time.process_time() - started
    sizes = [len(unit["data"][UNIT_KEY]) for unit in compiler.desired.units.values() if unit is not None]
    assert len(sizes) == servers
    assert not compiler.desired.problems
    peak = peak_mib()
    gc.collect()
    gc.freeze()
    took_ms = []
    for number in range(REVOCATIONS):
        name, namespace = place_server(number * 7919 % servers)
        policy = Ref(Kind.AUTHORIZATION_POLICY, Namespace(namespace), f"{name}-{number % POLICIES_PER_SERVER}")
        started = time.process_time()
        desired = compiler.update({policy: None})
        took_ms.append((time.process_time() - started) * 1000)
        assert len(desired.units) == 1
        assert compiler.update({policy: snapshot[policy]}).units.keys() == desired.units.keys()
    return {
        "servers": servers,
        "parse_servers_per_second": round(servers / parse_seconds),
        "compile_servers_per_second": round(servers / compile_seconds),
        "peak_rss_mib": peak,
        "unit_p50_bytes": round(statistics.median(sizes)),
        "unit_max_bytes": max(sizes),
        "revoked_p50_ms": round(statistics.median(took_ms), 3),
        "revoked_p99_ms": round(percentile(took_ms, 0.99), 3),
    }


def measure(sizes: Sequence[int]) -> Json:
    """Return the compiler's figures of every size, one row each, the ratio of a revocation at the largest to that at
    the smallest, and those of `guarded.measure`.

    The sizes take turns, and of each the round with the fastest revocation counts: others work on the machine, too.
    """
    progress = Progress("policy")
    rounds = []
    for number in range(ROUNDS):
        progress(f"round {number + 1} of {ROUNDS}: {', '.join(map(str, sizes))} Servers")
        rounds.append([run_apart("e2e.bench.policy", f"measure_one({size})") for size in sizes])
    rows = [min(of_size, key=lambda row: float(row["revoked_p50_ms"])) for of_size in zip(*rounds, strict=True)]
    return {
        "rows": rows,
        "revoked_p50_ratio": round(rows[-1]["revoked_p50_ms"] / rows[0]["revoked_p50_ms"], 2),
        "revoked_p99_ratio": round(rows[-1]["revoked_p99_ms"] / rows[0]["revoked_p99_ms"], 2),
        **guarded.measure(),
    }
