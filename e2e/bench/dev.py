"""How long after a file is saved in ``meshwright dev`` real traffic follows."""

import asyncio
import contextlib
import json
import os
import re
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import aiohttp

from e2e.bench.sizes import Progress
from e2e.bench.synthetic import make_all

EDITS = 60
_WORKLOAD = """\
apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec: {{selector: {{app: {name}}}, ports: [{{port: 8080}}]}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}, annotations: {{dev.meshwright.dev/text: "{name}"}}}}
spec: {{template: {{metadata: {{labels: {{app: {name}}}}}}}}}
---
"""
_ROUTE = """\
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: web}}
spec:
  parentRefs: [{{group: "", kind: Service, name: web}}]
  rules: [{{backendRefs: [{{name: {backend}, port: 8080}}]}}]
"""


async def measure_size(routes: int) -> dict[str, Any]:
    """Return the milliseconds from saving a route until a request went to its new backend, with ``routes`` others
    in a file beside it."""
    progress = Progress(f"dev, {routes} routes")
    progress("starting")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "services.yaml").write_text("".join(_WORKLOAD.format(name=each) for each in ("web", "a", "b")))
        (folder / "others.yaml").write_text("".join(f"---\n{json.dumps(each)}\n" for each in make_all(routes)))
        _save(folder, "a")
        started = time.monotonic()
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "meshwright.cli", "dev", str(folder)),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "NO_COLOR": "1"},
        )
        rest = asyncio.create_task(asyncio.sleep(0))
        try:
            url = await _find_url(process, seconds=30 + routes / 50)
            assert process.stdout is not None
            rest = asyncio.create_task(_read_away(process.stdout))  # else it would stand still when the pipe is full
            start_seconds = time.monotonic() - started
            progress(f"{EDITS} edits until traffic follows")
            took = await _measure_edits(folder, url)
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGINT)
            await process.wait()
            rest.cancel()
    took.sort()
    return {
        "routes": routes,
        "start_s": round(start_seconds, 1),
        "edits": EDITS,
        "edit_p50_ms": round(statistics.median(took), 1),
        "edit_p99_ms": round(took[int(len(took) * 0.99)], 1),
    }


async def measure(sizes: Sequence[int]) -> dict[str, Any]:
    """Return the figures of every size, one row each, and the ratio of the largest to the smallest."""
    rows = [await measure_size(routes) for routes in sizes]
    return {"rows": rows, "edit_p50_ratio": round(rows[-1]["edit_p50_ms"] / rows[0]["edit_p50_ms"], 2)}


async def _read_away(output: asyncio.StreamReader) -> None:
    while await output.read(65536):
        pass


def _save(folder: Path, backend: str) -> None:
    (folder / "route.yaml").write_text(_ROUTE.format(backend=backend))


async def _find_url(process: asyncio.subprocess.Process, *, seconds: float) -> str:
    assert process.stdout is not None
    async with asyncio.timeout(seconds):
        while line := (await process.stdout.readline()).decode():
            if found := re.search(r"default/web\b.*?(http://\S+)", line):
                return found.group(1)
    raise AssertionError("meshwright dev ended without a URL for default/web")


async def _measure_edits(folder: Path, url: str) -> list[float]:
    took = []
    async with aiohttp.ClientSession() as session:

        async def until(name: str) -> None:
            async with asyncio.timeout(30):
                while True:
                    async with session.get(url) as answer:
                        if (await answer.text()).strip() == name:
                            return
                    await asyncio.sleep(0.0005)

        await until("a")
        for edit in range(EDITS):
            name = "ba"[edit % 2]
            started = time.monotonic()
            _save(folder, name)
            await until(name)
            took.append((time.monotonic() - started) * 1000)
            await asyncio.sleep(0.05 + edit * 0.001)  # so that saves fall at different times between two looks
    return took
