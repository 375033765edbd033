"""An Envoy on this machine: found, started, asked about itself, and stopped. It never outlives us."""

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from tempfile import TemporaryFile
from typing import IO

import aiohttp
import orjson

from meshwright.edge.envoy_program import EnvoyError, find_envoy
from meshwright.model.desired import Json
from meshwright.model.units import Port

__all__ = ["Envoy", "EnvoyError", "find_envoy", "run_envoy"]

_END_WITH_PARENT = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGTERM)
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""
# ^ PR_SET_PDEATHSIG, Linux prctl(2): whoever kills us ends Envoy, too. In a program of its own, because code between
# fork and exec is not safe beside threads, and gRPC has some.
_READY_SECONDS = 20.0


class Envoy:
    """A running Envoy, as its administration socket shows it."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def get(self, path: str) -> tuple[int, bytes]:
        """Return status and body of an administration page. Status 0: it does not answer."""
        try:
            async with self._session.get(f"http://envoy{path}") as response:
                return response.status, await response.read()
        except (aiohttp.ClientError, OSError):
            return 0, b""

    async def route_versions(self) -> dict[str, str]:
        """Return the versions of the RouteConfigurations it has taken, by name."""
        return await self._versions("dynamic_route_configs", "route_config")

    async def listener_versions(self) -> dict[str, str]:
        """Return the versions of the listeners that take connections, by name."""
        status, body = await self.get("/config_dump?resource=dynamic_listeners&mask=name,active_state.version_info")
        found = orjson.loads(body).get("configs", ()) if status == 200 else ()
        return {each["name"]: each["active_state"].get("version_info", "") for each in found if "active_state" in each}

    async def _versions(self, resource: str, key: str) -> dict[str, str]:
        status, body = await self.get(f"/config_dump?resource={resource}")
        found = orjson.loads(body).get("configs", ()) if status == 200 else ()
        return {each[key]["name"]: each.get("version_info", "") for each in found if key in each}


@asynccontextmanager
async def run_envoy(bootstrap: Json, admin_port: Port, *, workers: int = 1) -> AsyncIterator[Envoy]:
    """Run an Envoy while the context lasts; it is ready when the context begins.

    Raises:
        EnvoyError: there is none, or it ends, or it is not ready within 20 s; with its own last words.
    """
    program = find_envoy()
    # Neither the configuration nor the log has a name on disk: even a killed process leaves nothing behind.
    with TemporaryFile() as log:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", "-c", _END_WITH_PARENT, str(os.getpid())),
            *(program, "--config-yaml", orjson.dumps(bootstrap), "--disable-hot-restart"),
            *("--concurrency", str(workers), "--log-level", "warning", "--drain-time-s", "1"),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        connector = aiohttp.UnixConnector(path=f"\0meshwright-admin-{admin_port}")
        try:
            async with aiohttp.ClientSession(connector=connector) as session:
                envoy = Envoy(session)
                await _wait_until_ready(envoy, process, log)
                yield envoy
        finally:
            await _stop(process)


async def _wait_until_ready(envoy: Envoy, process: asyncio.subprocess.Process, log: IO[bytes]) -> None:
    deadline = asyncio.get_running_loop().time() + _READY_SECONDS
    while (await envoy.get("/ready"))[0] != 200:
        if process.returncode is not None:
            raise EnvoyError(f"Envoy ended at once (status {process.returncode}):\n{_last_words(log)}")
        if asyncio.get_running_loop().time() > deadline:
            raise EnvoyError(f"Envoy is not ready after {_READY_SECONDS:.0f} s:\n{_last_words(log)}")
        await asyncio.sleep(0.01)


async def _stop(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        await asyncio.wait_for(process.wait(), timeout=3)
    except TimeoutError:
        process.kill()
        await process.wait()


def _last_words(log: IO[bytes]) -> str:
    size = log.seek(0, os.SEEK_END)
    log.seek(max(0, size - 3000))
    return log.read().decode(errors="replace").strip() or "(it said nothing)"
