"""The cluster's own control groups: every program and container is in one of them, so none can be overlooked.

On cgroup v1 each controller is a tree of its own, on v2 there is one tree.
"""

import contextlib
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from e2e.cluster.places import NETNS
from e2e.cluster.say import ClusterError

PROGRAMS = "programs"
"""Name of the group for the node's own programs; kubelet makes ``kubepods`` beside it."""

SHARES = {"cpu.shares": "4096", "cpu.weight": "400"}
"""All pods together would have no more of the processors than one other program; by the file's name on v1 and v2."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trees:
    """The mounted trees: ``v1`` one for each controller, empty on a v2 machine; ``v2`` the one unified tree, if any.

    A machine on v1 may have an empty unified tree besides; container runtimes make groups in it, too.
    """

    v1: tuple[Path, ...]
    v2: tuple[Path, ...]

    @property
    def all(self) -> tuple[Path, ...]:
        return self.v1 + self.v2


def select_trees(mounts: str) -> Trees:
    """Return the cgroup trees in the text of /proc/mounts."""
    rows = [line.split() for line in mounts.splitlines()]
    found = {
        kind: tuple(Path(row[1]) for row in rows if row[2] == kind and row[1].startswith("/sys/fs/cgroup"))
        for kind in ("cgroup", "cgroup2")
    }
    return Trees(v1=found["cgroup"], v2=found["cgroup2"][:1])


def find_trees() -> Trees:
    return select_trees(Path("/proc/mounts").read_text())


def make_groups() -> Path:
    """Make the groups in every tree and return the file into which a program writes its pid to join."""
    trees = find_trees()
    if not trees.all:
        raise ClusterError("no cgroup file system is mounted at /sys/fs/cgroup")
    for tree in trees.v1:
        (tree / NETNS).mkdir(exist_ok=True)
        # a new cpuset is empty, and nothing can run in it until it has processors and memory nodes
        for name in ("cpuset.cpus", "cpuset.mems"):
            if (tree / name).exists():
                (tree / NETNS / name).write_text((tree / name).read_text())
    if not trees.v1:
        (tree,) = trees.v2
        (tree / NETNS).mkdir(exist_ok=True)
        for above in (tree, tree / NETNS):
            for controller in (above / "cgroup.controllers").read_text().split():
                with contextlib.suppress(OSError):
                    (above / "cgroup.subtree_control").write_text(f"+{controller}")
    for tree in trees.all:
        for name, share in SHARES.items():
            if (tree / NETNS / name).exists():
                (tree / NETNS / name).write_text(share)
    home = next((tree for tree in trees.v1 if tree.name == "pids"), trees.all[0])
    (home / NETNS / PROGRAMS).mkdir(exist_ok=True)
    return home / NETNS / PROGRAMS / "cgroup.procs"


def list_members() -> set[int]:
    """Return the pids of everything that runs in our groups."""
    members: set[int] = set()
    for tree in find_trees().all:
        for file in (tree / NETNS).rglob("cgroup.procs"):
            with contextlib.suppress(OSError):
                members.update(int(pid) for pid in file.read_text().split())
    return members


def kill_members(*, seconds: float = 20) -> None:
    """Kill everything in our groups and wait until it is gone. Raises ClusterError when something stays."""
    deadline = time.monotonic() + seconds
    while members := list_members():
        if time.monotonic() > deadline:
            raise ClusterError(f"processes that SIGKILL does not end: {sorted(members)}")
        for pid in members:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        time.sleep(0.05)


def remove_groups() -> None:
    """Remove our groups from every tree, innermost first."""
    for tree in find_trees().all:
        for folder, _, _ in os.walk(tree / NETNS, topdown=False):
            for _attempt in range(20):
                try:
                    Path(folder).rmdir()
                    break
                except FileNotFoundError:
                    break
                except OSError:  # busy: the kernel has not yet buried the last process
                    time.sleep(0.05)


def has_groups() -> bool:
    return any((tree / NETNS).exists() for tree in find_trees().all)
