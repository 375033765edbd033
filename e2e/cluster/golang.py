"""Builds the cluster's Go programs from the modules pinned below ``gomod/``, once.

A build's folder is named by the hash of everything that decides its content, so what is there is right, and a changed
pin is a new folder. It appears by a rename: a build that was killed leaves nothing that looks finished.
"""

import base64
import hashlib
import json
import os
import re
import shutil
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from e2e.cluster import wheels
from e2e.cluster.places import Places
from e2e.cluster.say import ClusterError, note
from e2e.cluster.shell import QUIET, run

OLDEST_GO = (1, 26)
FLAGS = ("-mod=readonly", "-trimpath", "-buildvcs=false")
C_FLAGS, C_ENVIRONMENT = ("-tags=netgo,osusergo",), {"CGO_ENABLED": "1", "CGO_CFLAGS": "-O1"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """One module below ``gomod/``: the programs built from it, and the files taken from the module as they are."""

    name: str
    module: str = ""
    """The path whose version counts; empty: only our own sources."""
    programs: tuple[tuple[str, str], ...] = ()
    """(name of the program, package)."""
    crds: str = ""
    """Folder in the module; its YAML files are copied to ``crds/``."""
    uses_c: bool = False
    """Whether parts are written in C. Only those are compiled with cgo: what others share stays as it was built."""
    minutes: float = 0.0
    """On two cores, with nothing built before."""


ETCD = Tool(
    name="etcd", module="go.etcd.io/etcd/server/v3", programs=(("etcd", "go.etcd.io/etcd/server/v3"),), minutes=1
)
KUBERNETES = Tool(
    name="kubernetes",
    module="k8s.io/kubernetes",
    programs=tuple(
        (name, f"k8s.io/kubernetes/cmd/{name}")
        for name in ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy")
    ),
    minutes=5,
)
COREDNS = Tool(
    name="coredns",
    module="github.com/coredns/coredns",
    programs=(("coredns", "github.com/coredns/coredns"),),
    minutes=1.5,
)
CERT_MANAGER = Tool(
    name="cert-manager",
    module="github.com/cert-manager/cert-manager",
    programs=(("cert-manager", "."),),
    crds="deploy/crds",
    minutes=1.5,
)
GATEWAY_API = Tool(name="gateway-api", module="sigs.k8s.io/gateway-api", crds="config/crd/standard")
PAUSE = Tool(name="pause", programs=(("pause", "."),))
SPIRE = Tool(name="spire", module="github.com/spiffe/spire", programs=(("spire", "."),), uses_c=True, minutes=5)
"""For machines outside the cluster. Its database is SQLite."""
TOOLS = (ETCD, KUBERNETES, COREDNS, CERT_MANAGER, GATEWAY_API, PAUSE, SPIRE)


def read_version(go_mod: str, module: str) -> str:
    """Return the version that ``go_mod`` requires of ``module``, like ``"v1.35.4"``. Raises ValueError: it does not."""
    found = re.search(rf"^(?:require\s+|\t){re.escape(module)} (v\S+)", go_mod, re.MULTILINE)
    if not found:
        raise ValueError(f"{module} is not required in this go.mod")
    return found[1]


def make_linker_flags(tool: Tool, version: str) -> str:
    """Return the value of ``-ldflags``: no symbols; for Kubernetes also the version, which the API server serves."""
    flags = ["-s", "-w"]
    if tool is KUBERNETES:
        major, minor, _ = version.removeprefix("v").split(".")
        for package in ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version"):
            flags += [f"-X {package}.gitVersion={version}", f"-X {package}.gitMajor={major}"]
            flags += [f"-X {package}.gitMinor={minor}"]
    return " ".join(flags)


def compute_build_hash(sources: Iterable[tuple[str, bytes]], *, go_version: str, recipe: str) -> str:
    """Return 16 hex digits that change when a source, its name, the compiler or the recipe does; not with the order."""
    whole = hashlib.sha256()
    for part in (go_version.encode(), recipe.encode(), *(b for n, c in sorted(sources) for b in (n.encode(), c))):
        whole.update(len(part).to_bytes(8, "big") + part)
    return whole.hexdigest()[:16]


def compute_module_sum(archive: Path) -> str:
    """Return a module archive's ``h1:`` sum, as go.sum has it.

    Source: ``Hash1`` in golang.org/x/mod ``sumdb/dirhash/hash.go``.
    """
    with zipfile.ZipFile(archive) as opened:
        lines = [f"{hashlib.sha256(opened.read(name)).hexdigest()}  {name}\n" for name in sorted(opened.namelist())]
    return "h1:" + base64.b64encode(hashlib.sha256("".join(lines).encode()).digest()).decode()


def find_go(places: Places) -> tuple[Path, str]:
    """Return a Go compiler and its version, like ``"go1.26.8"``: the machine's, else the one pinned in tools.lock."""
    for candidate in (shutil.which("go"), "/usr/local/go/bin/go", "/usr/lib/go/bin/go"):
        if candidate and Path(candidate).exists():
            said = run([candidate, "env", "GOVERSION"], environ={"GOTOOLCHAIN": "local"}, accept_failure=True).strip()
            numbers = re.match(r"go(\d+)\.(\d+)", said)
            if numbers and (int(numbers[1]), int(numbers[2])) >= OLDEST_GO:
                return Path(candidate), said
    return wheels.install_go(places)


def folder_of(tool: Tool, places: Places, go_version: str) -> Path:
    """Return where the tool's build is or will be."""
    home = places.gomod / tool.name
    sources = [(path.name, path.read_bytes()) for path in sorted(home.iterdir()) if path.is_file()]
    recipe = repr((FLAGS, tool.programs, tool.crds, make_linker_flags(tool, version_of(tool, places))))
    if tool.uses_c:
        recipe += repr((C_FLAGS, C_ENVIRONMENT))
    return places.bin / f"{tool.name}-{compute_build_hash(sources, go_version=go_version, recipe=recipe)}"


def version_of(tool: Tool, places: Places) -> str:
    """Return the tool's version, ``"v0.0.0"`` for our own sources."""
    if not tool.module:
        return "v0.0.0"
    return read_version((places.gomod / tool.name / "go.mod").read_text(), tool.module)


def build_all(places: Places) -> dict[str, Path]:
    """Return each tool's folder by its name, building what is missing. Raises ClusterError when a build fails."""
    go, go_version = find_go(places)
    folders = {tool.name: folder_of(tool, places, go_version) for tool in TOOLS}
    missing = [tool for tool in TOOLS if not folders[tool.name].is_dir()]
    for tool in missing:
        version = version_of(tool, places)
        about = f", about {tool.minutes:g} min on two cores" if tool.minutes else ""
        note(f"building {tool.name} {version} with {go_version}{about}; once, kept in {places.bin}")
        build(tool, folders[tool.name], go=go, places=places)
    return folders


def build(tool: Tool, folder: Path, *, go: Path, places: Places) -> None:
    """Fill ``folder`` with the tool's programs and files."""
    for stale in places.bin.glob(f".{tool.name}-*"):
        shutil.rmtree(stale)
    making = places.bin / f".{folder.name}-{os.getpid()}"
    making.mkdir(parents=True)
    home = places.gomod / tool.name
    environ = {"CGO_ENABLED": "0", "GOFLAGS": "", "GOTOOLCHAIN": "local", "GOWORK": "off"}
    if tool.uses_c:
        environ |= C_ENVIRONMENT
    flags = [*FLAGS, *(C_FLAGS if tool.uses_c else ()), "-ldflags", make_linker_flags(tool, version_of(tool, places))]
    match tool.programs:
        case ():
            pass
        case ((name, package),):
            run([*QUIET, go, "build", *flags, "-o", making / name, package], cwd=home, environ=environ)
        case many:
            packages = [package for _, package in many]
            run([*QUIET, go, "build", *flags, "-o", f"{making}/", *packages], cwd=home, environ=environ)
    if tool.crds:
        copy_crds(tool, making / "crds", go=go, places=places)
    making.rename(folder)


def copy_crds(tool: Tool, target: Path, *, go: Path, places: Places) -> None:
    """Copy the module's CRDs, its archive checked against our go.sum.

    The go command answers with an error beside the archive when a module asks for a newer Go than ours; for YAML files
    that does not matter, so the answer is read and not the exit code.
    """
    home = places.gomod / tool.name
    version = version_of(tool, places)
    said = run(
        [go, "mod", "download", "-json", f"{tool.module}@{version}"],
        cwd=home,
        environ={"GOFLAGS": "-mod=mod", "GOTOOLCHAIN": "local", "GOWORK": "off"},
        accept_failure=True,
    )
    archive = json.loads(said or "{}").get("Zip", "")
    if not archive or not Path(archive).is_file():
        raise ClusterError(f"{tool.module} {version} cannot be downloaded by `go mod download`:\n{said}")
    expected = f"{tool.module} {version} {compute_module_sum(Path(archive))}"
    if expected not in (home / "go.sum").read_text().splitlines():
        raise ClusterError(f"{archive} is not what {home / 'go.sum'} says: delete it and start again")
    target.mkdir()
    prefix = f"{tool.module}@{version}/{tool.crds}/"
    with zipfile.ZipFile(archive) as opened:
        for name in opened.namelist():
            if name.startswith(prefix) and name.endswith(".yaml") and "kustomization" not in name:
                (target / name.removeprefix(prefix).replace("/", "-")).write_bytes(opened.read(name))
