"""What a cluster's ``record.json`` says, and what to make of it: is the cluster there, whole, or a leftover?

A pid alone proves nothing, for pids come again: a program is known by its pid, the moment it began, and the boot.
"""

import dataclasses
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(slots=True, kw_only=True)
class Program:
    """A started program. ``pid`` 0: stopped on purpose. ``start_ticks``: field 22 of /proc/PID/stat."""

    argv: tuple[str, ...]
    pid: int = 0
    start_ticks: int = 0
    began: float = 0.0


@dataclass(slots=True, kw_only=True)
class Record:
    """One cluster, as its starter left it. ``ready`` is set last: without it the start did not end well."""

    boot: str
    began: float
    ready: bool = False
    has_ipv6: bool = False
    join: str = ""
    programs: dict[str, Program] = field(default_factory=dict)
    sysctls: dict[str, str] = field(default_factory=dict)
    """Kernel settings as they were before kubelet changed them."""
    made: list[str] = field(default_factory=list)
    """Folders outside the state folder that did not exist before."""
    versions: dict[str, str] = field(default_factory=dict)


def encode_record(record: Record) -> str:
    return json.dumps(dataclasses.asdict(record), indent=1)


def decode_record(text: str) -> Record:
    """Return what ``encode_record`` wrote. Raises ValueError: anything else."""
    try:
        raw = json.loads(text)
        programs = {name: Program(**{**p, "argv": tuple(p["argv"])}) for name, p in raw.pop("programs").items()}
        return Record(programs=programs, **raw)
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"not a cluster's record: {error}") from error


def read_record(path: Path) -> Record | None:
    """Return the record, ``None`` when there is none. Raises ValueError: it is damaged."""
    try:
        return decode_record(path.read_text())
    except FileNotFoundError:
        return None


def write_record(path: Path, record: Record) -> None:
    """Write it so that a reader sees the old or the new one whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    written = path.with_suffix(f".{os.getpid()}")
    written.write_text(encode_record(record))
    written.rename(path)


def read_start_ticks(pid: int) -> int | None:
    """Return when a living process began, in clock ticks since boot; ``None``: it is dead, or a zombie.

    A zombie is one when its last thread has ended: until then, though killed, it has its sockets.

    Source: proc_pid_stat(5): 3 state, 20 num_threads, 22 starttime.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    rest = stat.rpartition(")")[2].split()  # the name in parentheses may itself hold blanks and parentheses
    is_dead = rest[0] == "X" or (rest[0] == "Z" and int(rest[17]) < 2)
    return None if is_dead else int(rest[19])


def read_boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def is_alive(program: Program, start_ticks_of: Callable[[int], int | None] = read_start_ticks) -> bool:
    """Tell if this very program runs, and not another that was given its pid."""
    return bool(program.pid) and start_ticks_of(program.pid) == program.start_ticks


def find_fault(record: Record, *, boot: str, start_ticks_of: Callable[[int], int | None] = read_start_ticks) -> str:
    """Return why the recorded cluster cannot be used, in words, or ``""`` when every program lives."""
    if record.boot != boot:
        return "the machine was restarted since"
    if not record.ready:
        return "its start was interrupted"
    dead = [name for name, program in record.programs.items() if not is_alive(program, start_ticks_of)]
    return f"not running any more: {', '.join(dead)}" if dead else ""
