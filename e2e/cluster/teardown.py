"""Takes a cluster away, whatever is left of it: looks at the machine, not only at the record."""

import contextlib
import os
import shutil
import signal
from pathlib import Path

from e2e.cluster import groups, network
from e2e.cluster.places import HOST_LINK, NETNS, Places
from e2e.cluster.record import Record, is_alive, read_boot, read_record
from e2e.cluster.shell import run

OUTSIDE = (
    "/run/containerd",
    "/opt/containerd",
    "/var/lib/cni",
    "/var/lib/kubelet",
    "/var/log/containers",
    "/var/log/pods",
    "/var/run/kubernetes",
    "/usr/libexec/kubernetes",
    "/etc/cni",
)
"""Folders that kubelet, containerd and the CNI plugins make, whatever they are told."""

SYSCTLS = ("vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops")
"""What kubelet sets for the whole machine. (Its two keyring limits are set only if lower.)"""


def read_sysctls() -> dict[str, str]:
    return {name: Path("/proc/sys", name).read_text().strip() for name in SYSCTLS}


def select_mounts(mounts: str, state: Path) -> list[str]:
    """Return the mount points below ``state`` in the text of /proc/mounts, the latest first."""
    points = [line.split()[1].encode().decode("unicode_escape") for line in mounts.splitlines()]
    return [point for point in reversed(points) if point == str(state) or point.startswith(f"{state}/")]


def find_leftovers(places: Places) -> list[str]:
    """Return what of a cluster is on this machine, in words; empty: nothing."""
    found = []
    if members := groups.list_members():
        found.append(f"{len(members)} processes")
    if mounts := select_mounts(Path("/proc/mounts").read_text(), places.state):
        found.append(f"{len(mounts)} mounts")
    if Path(f"/sys/class/net/{HOST_LINK}").exists():
        found.append(f"the interface {HOST_LINK}")
    if places.netns.exists():
        found.append(f"the network namespace {NETNS}")
    if groups.has_groups():
        found.append("control groups")
    if places.record.exists():
        found.append("a record")
    return found


def read_record_or_none(places: Places) -> Record | None:
    """Return the record; a damaged one counts as none."""
    try:
        return read_record(places.record)
    except ValueError:
        return None


def tear_down(places: Places) -> list[str]:
    """Remove everything of the cluster but its logs, and return what there was, in words. Nothing there: nothing done.

    All is killed at once: what the programs would tidy up themselves is tidied up here, so that it makes no difference
    whether they still live.

    Raises:
        ClusterError: a process stays in spite of SIGKILL.
    """
    there = find_leftovers(places)
    record = read_record_or_none(places)
    if record is not None and record.boot == read_boot():
        for program in record.programs.values():
            if is_alive(program):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(program.pid, signal.SIGKILL)
    groups.kill_members()
    while mounts := select_mounts(Path("/proc/mounts").read_text(), places.state):
        for point in mounts:
            run(["umount", "--lazy", point], accept_failure=True)
    network.disconnect()
    groups.remove_groups()
    if places.state.is_dir():
        for entry in places.state.iterdir():
            if entry != places.logs:
                shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
    if record is not None:
        restore_machine(record)
    return there


def restore_machine(record: Record) -> None:
    """Set the kernel's settings back, delete the folders that came into being with the cluster."""
    for name, value in record.sysctls.items():
        if name in SYSCTLS and record.boot == read_boot():
            with contextlib.suppress(OSError):
                Path("/proc/sys", name).write_text(value)
    for made in record.made:
        if made in OUTSIDE:
            shutil.rmtree(made, ignore_errors=True)
    for results in Path("/var/lib/cni/results").glob(f"{NETNS}-*"):
        results.unlink()
    for link in Path("/var/log/containers").glob("*"):
        if link.is_symlink() and not link.exists():
            link.unlink()
