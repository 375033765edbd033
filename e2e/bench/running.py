"""Processes of ours that are measured, as they would run in a pod."""

import asyncio
import re
import subprocess
import sys
import time
from pathlib import Path

import aiohttp

from tests.envoy import free_port


class Running:
    """A process of ours with its HTTP endpoints."""

    def __init__(self, process: subprocess.Popen[bytes], metrics_port: int) -> None:
        self.process = process
        self.started = time.monotonic()
        self._url = f"http://127.0.0.1:{metrics_port}"

    async def is_ready(self) -> bool:
        try:
            async with aiohttp.ClientSession() as session, session.get(f"{self._url}/readyz") as answer:
                return answer.status == 200
        except aiohttp.ClientError:
            return False

    async def ready(self) -> float:
        """Return the seconds from start to ready."""
        while not await self.is_ready():
            assert self.process.poll() is None, "the process ended"
            await asyncio.sleep(0.02)
        return time.monotonic() - self.started

    async def writes(self) -> dict[str, float]:
        """Return how many writes there were, by kind; none while nobody answers yet."""
        total: dict[str, float] = {}
        try:
            async with aiohttp.ClientSession() as session, session.get(f"{self._url}/metrics") as answer:
                page = await answer.text()
        except aiohttp.ClientError:
            return total
        for kind, value in re.findall(r'^meshwright_writes_total\{kind="(\w+)",.*\} (\S+)$', page, re.MULTILINE):
            total[kind] = total.get(kind, 0) + float(value)
        return total

    def stop(self) -> None:
        """End it, if it has not ended."""
        self.process.terminate()
        self.process.wait(30)


def start(command: str, kubeconfig: Path, *flags: str, log: Path) -> Running:
    port = free_port()
    args = [sys.executable, "-m", "meshwright.cli", command, "--kubeconfig", str(kubeconfig)]
    with log.open("ab") as output:
        process = subprocess.Popen([*args, "--metrics-port", str(port), *flags], stdout=output, stderr=output)
    return Running(process, port)
