"""The machine itself: its kind, its rights, and the Debian packages that the cluster is made with."""

import os
import platform
import shutil
from collections.abc import Callable
from pathlib import Path

from e2e.cluster.say import ClusterError, note
from e2e.cluster.shell import run

PACKAGES = {
    "containerd": "containerd",
    "ctr": "containerd",
    "runc": "runc",
    "/usr/lib/cni/ptp": "containernetworking-plugins",
    "mmdebstrap": "mmdebstrap",
    "nft": "nftables",
    "iptables": "iptables",
    "ip": "iproute2",
    "nsenter": "util-linux",
    "conntrack": "conntrack",
    "gcc": "gcc",
    "/usr/include/stdlib.h": "libc6-dev",
}
"""A command (or a file) and the package that brings it."""


def has_command(name: str) -> bool:
    """Tell if a command can be found, or a file is there; the system folders count even when PATH lacks them."""
    if name.startswith("/"):
        return Path(name).exists()
    return shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin:/usr/bin") is not None


def select_missing(has: Callable[[str], bool]) -> list[str]:
    """Return the packages of the commands that ``has`` denies, sorted, each once."""
    return sorted({package for command, package in PACKAGES.items() if not has(command)})


def find_obstacle() -> str:
    """Return why no cluster can be started on this machine, or ``""``. Never raises."""
    if platform.system() != "Linux":
        return f"the test cluster needs Linux, this is {platform.system()}; set KUBECONFIG to use a cluster of yours"
    if os.geteuid() != 0:
        return (
            "the test cluster needs root (network namespaces, mounts, control groups). "
            "Run: sudo -E python3 -m e2e.cluster up, or set KUBECONFIG to use a cluster of yours"
        )
    missing = select_missing(has_command)
    if missing and not has_command("apt-get"):
        return f"missing and not installable here (no apt-get): {' '.join(missing)}"
    return ""


def prepare_machine() -> None:
    """Install what is missing, saying so. Raises ClusterError: with one reason, and the command where one helps."""
    if reason := find_obstacle():
        raise ClusterError(reason)
    if not (missing := select_missing(has_command)):
        return
    install = ["apt-get", "install", "-y", "-q", "--no-install-recommends", *missing]
    note(f"installing Debian packages: {' '.join(missing)}")
    environ = {"DEBIAN_FRONTEND": "noninteractive"}
    try:
        run(install, environ=environ)
    except ClusterError:
        note("apt-get does not find them yet: apt-get update, then once more")
        run(["apt-get", "update", "-q"], environ=environ)
        run(install, environ=environ)
    if still := select_missing(has_command):
        raise ClusterError(f"apt-get installed {' '.join(missing)}, yet {' '.join(still)} is missing")
