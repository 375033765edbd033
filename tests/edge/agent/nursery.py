"""Starts agents as programs of their own, without loading Python and meshwright anew for each: one program that has
loaded them is forked.

``python -m tests.edge.agent.nursery`` is that program. It reads one line of JSON for each child, and answers one.

Source: ``pidfd_open(2)``, ``fork(2)``.
"""

import contextlib
import gc
import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

TREE = Path(__file__).parents[3]
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join(("operator", ".")),
    # The stand-in for Envoy asks for `python3`: this one, and not a script of a version manager's that looks for one.
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
}
"""What agents are started with."""


class Child:
    """A program that was started; what `subprocess.Popen` would say of it."""

    def __init__(self, nursery: "Nursery", pid: int) -> None:
        self.pid = pid
        self._nursery = nursery
        self._pidfd = os.pidfd_open(pid)
        self._status: int | None = None

    def send_signal(self, how: int) -> None:
        if self._status is None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, how)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def poll(self) -> int | None:
        if self._status is None and select.select([self._pidfd], [], [], 0)[0]:
            self._reap()
        return self._status

    def wait(self, timeout: float) -> int:
        if self._status is None:
            if not select.select([self._pidfd], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired("agent", timeout)
            self._reap()
        assert self._status is not None
        return self._status

    def _reap(self) -> None:
        self._status = self._nursery.ask(wait=self.pid)
        os.close(self._pidfd)


class Nursery:
    """The program that is forked, started when it is first needed."""

    def __init__(self) -> None:
        self._program: subprocess.Popen[bytes] | None = None

    def start(self, words: list[str], stdout: Path, stderr: Path, environment: dict[str, str]) -> Child:
        """Run ``meshwright`` with ``words``. What it says is appended to files."""
        pid = self.ask(words=words, stdout=str(stdout), stderr=str(stderr), environment=environment)
        return Child(self, pid)

    def ask(self, **what: Any) -> int:
        if self._program is None:
            self._program = subprocess.Popen(
                (sys.executable, "-m", "tests.edge.agent.nursery"),
                cwd=TREE,
                env=ENVIRONMENT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
        assert self._program.stdin is not None
        assert self._program.stdout is not None
        self._program.stdin.write(json.dumps(what).encode() + b"\n")
        self._program.stdin.flush()
        return int(self._program.stdout.readline())

    def close(self) -> None:
        if self._program is not None:
            self._program.communicate()
            self._program = None


NURSERY = Nursery()


def _run(asked: dict[str, Any]) -> None:
    """Be the child. Does not return."""
    status = 70
    try:
        os.setsid()
        os.environ.update(asked["environment"])
        append = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        for number, path, flags in (
            (0, os.devnull, os.O_RDONLY),
            (1, asked["stdout"], append),
            (2, asked["stderr"], append),
        ):
            fd = os.open(path, flags, 0o644)
            os.dup2(fd, number)
            os.close(fd)
        from meshwright.cli import main

        status = main(asked["words"])
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    except Exception:  # noqa: BLE001 - a child must not go on as its parent
        import traceback

        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def main() -> None:
    import meshwright.cli
    import meshwright.edge.agent.leaving
    import meshwright.edge.agent.resident
    import meshwright.edge.agent_command
    import meshwright.edge.logs  # noqa: F401

    gc.collect()
    gc.freeze()
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        asked = json.loads(line)
        if "wait" in asked:
            answer = os.waitstatus_to_exitcode(os.waitpid(asked["wait"], 0)[1])
        elif not (answer := os.fork()):
            answers.close()
            _run(asked)
        print(answer, file=answers, flush=True)


if __name__ == "__main__":
    main()
