"""A machine on which a real agent runs, as a program of its own."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from meshwright.edge.agent.disk import read_json
from meshwright.edge.agent.settings import Places
from meshwright.edge.agent.standing import ask_standing
from tests.edge.agent.nursery import ENVIRONMENT, NURSERY, Child
from tests.edge.agent.office import TOKEN
from tests.envoy import free_port

ROOT = Path(__file__).parents[3]
STAND_IN = Path(__file__).parent / "stand_in.py"
SECONDS = 60.0


@dataclass(kw_only=True)
class Machine:
    """A machine. ``settings``: its agent.json."""

    folder: Path
    settings: dict[str, Any]
    program: subprocess.Popen[bytes] | Child | None = None
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def places(self) -> Places:
        return Places(settings=self.folder / "agent.json", state=self.folder / "state", run=self.folder / "run")

    @property
    def flags(self) -> list[str]:
        places = self.places
        return [
            f"--settings={places.settings}",
            f"--state-folder={places.state}",
            f"--run-folder={places.run}",
        ]

    @property
    def log(self) -> str:
        path = self.folder / "log"
        return path.read_text() if path.exists() else ""

    @property
    def state(self) -> dict[str, Any]:
        found = read_json(self.places.state / "state.json")
        assert isinstance(found, dict), found
        return found

    @property
    def token(self) -> Path:
        return self.places.state / "token"

    def give_token(self, token: str = TOKEN) -> None:
        self.places.state.mkdir(mode=0o700, exist_ok=True)
        self.token.write_text(f"{token}\n")

    def start(self, *prefix: str, is_alone: bool = False) -> None:
        """Run the agent. ``is_alone``: as on a real machine, where nobody has loaded it before."""
        self.places.settings.write_text(json.dumps(self.settings))
        if not prefix and not is_alone:
            log_file = self.folder / "log"
            self.program = NURSERY.start(["agent", "run", *self.flags], log_file, log_file, self.environment)
            return
        words = [*prefix, sys.executable, "-m", "meshwright.cli", "agent", "run", *self.flags]
        with (self.folder / "log").open("ab") as log:
            self.program = subprocess.Popen(
                words,
                cwd=ROOT,
                env={**ENVIRONMENT, **self.environment},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def kill(self) -> None:
        """End the agent as a power loss does; its Envoy lives."""
        assert self.program is not None
        self.program.kill()
        self.program.wait(SECONDS)
        self.program = None

    def stop(self) -> int:
        """Ask the agent to end, and return its exit status."""
        assert self.program is not None
        self.program.send_signal(signal.SIGTERM)
        return self.wait()

    def wait(self) -> int:
        """Return the exit status of an agent that ends by itself."""
        assert self.program is not None
        status = self.program.wait(SECONDS)
        self.program = None
        return status

    def standing(self) -> dict[str, Any]:
        return ask_standing(self.places.socket) or {}

    def await_standing(self, is_it: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Return what the agent says of itself once it is so."""
        end = time.monotonic() + SECONDS
        while True:
            found = self.standing()
            if found and is_it(found):
                return found
            assert time.monotonic() < end, f"{found}\n{self.log}"
            assert self.program is None or self.program.poll() is None, self.log
            time.sleep(0.02)

    def await_log(self, text: str) -> None:
        """Return once the agent has logged ``text``."""
        end = time.monotonic() + SECONDS
        while text not in self.log:
            assert time.monotonic() < end, f"no {text!r} in:\n{self.log}"
            time.sleep(0.01)

    def await_ready(self) -> dict[str, Any]:
        return self.await_standing(lambda found: bool(found["ready"]))

    def envoy_pid(self) -> int:
        noted = read_json(self.places.state / "envoy.pid")
        return int(noted["pid"]) if isinstance(noted, dict) else 0

    def end_all(self) -> None:
        if self.program is not None:
            self.program.kill()
            self.program.wait(SECONDS)
        if pid := self.envoy_pid():
            try:
                words = Path(f"/proc/{pid}/cmdline").read_bytes()
            except OSError:
                return
            if str(self.folder).encode() in words:
                os.kill(pid, signal.SIGKILL)


@contextmanager
def machine(folder: Path, registrar: str, pin: str, **more: Any) -> Iterator[Machine]:
    """Make a machine whose agent is not started yet; whatever it starts ends with the context."""
    folder.mkdir(exist_ok=True)
    inbound, outbound, admin = (free_port() for _ in range(3))
    settings = {
        "registrar": registrar,
        "caHashes": [pin],
        "namespace": "shop",
        "group": "ledger",
        "address": "192.0.2.10",
        "drainSeconds": 0,
        "envoy": str(STAND_IN),
        "inboundPort": inbound,
        "outboundPort": outbound,
        "adminPort": admin,
        **more,
    }
    made = Machine(folder=folder, settings={key: value for key, value in settings.items() if value is not None})
    try:
        yield made
    finally:
        made.end_all()
