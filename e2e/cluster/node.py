"""Starts and stops the node's programs, each in the node's network namespace and in our control group."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from e2e.cluster.network import ENTER
from e2e.cluster.places import Places
from e2e.cluster.record import Program, Record, is_alive, read_start_ticks, write_record
from e2e.cluster.say import ClusterError

ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
"""All that programs inherit: no proxy settings and no KUBECONFIG of the user's."""

LISTENING = "0A"


class Node:
    """The programs of one cluster, with its record kept up to date. Two threads may start programs at once."""

    def __init__(self, places: Places, record: Record) -> None:
        self.places = places
        self.record = record
        self.writing = threading.Lock()

    def start(self, name: str, argv: tuple[str, ...] = ()) -> None:
        """Start a program; without ``argv`` as it was started before. Does not wait. Nothing happens if it runs.

        Raises:
            ClusterError: no program of this name was ever started.
        """
        known = self.record.programs.get(name)
        if known is None and not argv:
            raise ClusterError(f"no program {name!r}; there are: {', '.join(self.record.programs)}")
        if known is not None and is_alive(known):
            return
        argv = argv or (known.argv if known else ())
        pid = spawn(argv, join=self.record.join, log=self.log_of(name), home=self.places.state)
        program = Program(argv=argv, pid=pid, start_ticks=read_start_ticks(pid) or -1, began=time.time())
        self.note(name, program)

    def stop(self, name: str) -> None:
        """Stop a program: SIGTERM, then SIGKILL. Raises ClusterError: no such program."""
        self._end(name, (signal.SIGTERM, 10.0), (signal.SIGKILL, 10.0))

    def kill(self, name: str) -> None:
        """Have a program die at once, of SIGKILL. Raises ClusterError: no such program."""
        self._end(name, (signal.SIGKILL, 10.0))

    def _end(self, name: str, *ways: tuple[signal.Signals, float]) -> None:
        """Send a program these signals until it is gone, each with its patience."""
        if (program := self.record.programs.get(name)) is None:
            raise ClusterError(f"no program {name!r}; there are: {', '.join(self.record.programs)}")
        for number, patience in ways:
            deadline = time.monotonic() + patience
            if is_alive(program):
                os.kill(program.pid, number)
            while is_alive(program) and time.monotonic() < deadline:
                time.sleep(0.02)
        bury(program.pid)
        self.note(name, Program(argv=program.argv))

    @contextlib.contextmanager
    def frozen(self, *names: str) -> Iterator[None]:
        """Stop programs with SIGSTOP for the time of the block: connections stay, nothing is read or tried."""
        programs = [program for name in names if is_alive(program := self.record.programs[name])]
        for program in programs:
            os.kill(program.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for program in programs:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(program.pid, signal.SIGCONT)

    def wait(self, name: str, is_ready: Callable[[], bool], *, seconds: float = 60) -> None:
        """Wait until ``is_ready``. Raises ClusterError, with the end of the log: the program died, or took too long."""
        deadline = time.monotonic() + seconds
        while not is_ready():
            program = self.record.programs[name]
            bury(program.pid)
            if not is_alive(program):
                raise ClusterError(f"{name} died.\n{self.tail(name)}")
            if time.monotonic() > deadline:
                raise ClusterError(f"{name} is not ready after {seconds:.0f} s.\n{self.tail(name)}")
            time.sleep(0.05)

    def is_listening(self, name: str, port: int) -> bool:
        """Tell if someone in the program's network namespace listens on a TCP port. Never raises."""
        pid = self.record.programs[name].pid
        for table in ("tcp", "tcp6"):
            with contextlib.suppress(OSError):
                if port in select_listening(Path(f"/proc/{pid}/net/{table}").read_text()):
                    return True
        return False

    def log_of(self, name: str) -> Path:
        return self.places.logs / f"{name}.log"

    def tail(self, name: str, lines: int = 20) -> str:
        """Return the last lines of a program's log and where the rest is."""
        log = self.log_of(name)
        text = log.read_text(errors="replace") if log.exists() else ""
        last = "\n".join("    " + line[:300] for line in text.splitlines()[-lines:])
        return f"Its last lines:\n{last}\nThe rest: {log}"

    def note(self, name: str, program: Program) -> None:
        with self.writing:
            self.record.programs[name] = program
            write_record(self.places.record, self.record)

    def save(self) -> None:
        with self.writing:
            write_record(self.places.record, self.record)


def spawn(argv: tuple[str, ...], *, join: str, log: Path, home: Path) -> int:
    """Start a program that outlives us and return its pid. ``join``: the control group's file to write it to.

    The shell and nsenter replace themselves, so that the pid stays the program's.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    whole = ["/bin/sh", "-c", 'echo $$ > "$0" && exec "$@"', join, *ENTER, *argv]
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, str(log), flags, 0o644),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    ]
    return os.posix_spawn(whole[0], whole, {**ENVIRONMENT, "HOME": str(home)}, file_actions=actions, setsid=True)


def bury(pid: int) -> None:
    """Take the exit status of a dead child of ours, so that no zombie stays. Never raises."""
    if pid:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)


def select_listening(table: str) -> set[int]:
    """Return the ports in state LISTEN in the text of /proc/PID/net/tcp or tcp6."""
    rows = (line.split() for line in table.splitlines()[1:])
    return {int(row[1].rpartition(":")[2], 16) for row in rows if row[3] == LISTENING}
