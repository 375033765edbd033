"""Container images without an engine: layers as tar files that are the same whenever their content is, and an archive.

Source: the OCI image specification, ``manifest.md``, ``config.md`` and ``image-layout.md``.
"""

import hashlib
import io
import json
import os
import platform
import stat
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LAYER = "application/vnd.oci.image.layer.v1.tar"
CONFIG = "application/vnd.oci.image.config.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One uncompressed layer: where it is, and the sha256 of the file in hex."""

    path: Path
    digest: str

    @property
    def size_bytes(self) -> int:
        return self.path.stat().st_size


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How containers of an image start."""

    entrypoint: tuple[str, ...]
    user: str = ""
    labels: Mapping[str, str]
    env: tuple[str, ...] = (f"PATH={PATH}",)


def compute_digest(path: Path) -> str:
    """Return the sha256 of a file in hex."""
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def encode(whole: Mapping[str, Any]) -> bytes:
    return json.dumps(whole, sort_keys=True, separators=(",", ":")).encode()


def describe(media_type: str, digest: str, size_bytes: int) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": size_bytes}


def make_config(settings: Settings, diffs: Iterable[str], machine: str = "") -> bytes:
    """Return the image's configuration. No time is in it: the same layers and settings give the same image."""
    start: dict[str, Any] = {
        "Entrypoint": list(settings.entrypoint),
        "Env": list(settings.env),
        "Labels": dict(settings.labels),
    }
    if settings.user:
        start["User"] = settings.user
    return encode(
        {
            "architecture": ARCHITECTURES.get(machine or platform.machine(), "amd64"),
            "os": "linux",
            "config": start,
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{diff}" for diff in diffs]},
        }
    )


def make_manifest(config: bytes, layers: Iterable[tuple[str, int]]) -> bytes:
    """Return the manifest of a configuration and its layers, each a digest and a size in bytes."""
    return encode(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": describe(CONFIG, hashlib.sha256(config).hexdigest(), len(config)),
            "layers": [describe(LAYER, digest, size) for digest, size in layers],
        }
    )


def make_index(name: str, manifest: bytes) -> bytes:
    """Return the archive's index: one image, named as containerd and others look for it."""
    entry = describe(MANIFEST, hashlib.sha256(manifest).hexdigest(), len(manifest))
    entry["annotations"] = {
        "io.containerd.image.name": name,
        "org.opencontainers.image.ref.name": name.rpartition(":")[2],
    }
    return encode({"schemaVersion": 2, "manifests": [entry]})


def make_image(settings: Settings, layers: Iterable[Layer]) -> tuple[bytes, bytes, str]:
    """Return the configuration, the manifest and the image's digest (``sha256:…``), which is the manifest's."""
    found = tuple(layers)
    config = make_config(settings, (layer.digest for layer in found))
    manifest = make_manifest(config, ((layer.digest, layer.size_bytes) for layer in found))
    return config, manifest, f"sha256:{hashlib.sha256(manifest).hexdigest()}"


def write_archive(path: Path, name: str, settings: Settings, layers: Iterable[Layer]) -> str:
    """Write the image as an OCI archive and return its digest. A killed writer leaves the old archive."""
    found = tuple(layers)
    config, manifest, digest = make_image(settings, found)
    making = path.with_suffix(f".{os.getpid()}")
    with tarfile.open(making, "w", format=tarfile.PAX_FORMAT) as archive:
        add_bytes(archive, "oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
        add_bytes(archive, "index.json", make_index(name, manifest))
        for blob in (config, manifest):
            add_bytes(archive, f"blobs/sha256/{hashlib.sha256(blob).hexdigest()}", blob)
        for layer in {layer.digest: layer for layer in found}.values():
            archive.add(layer.path, f"blobs/sha256/{layer.digest}", recursive=False)
    making.rename(path)
    return digest


def add_bytes(archive: tarfile.TarFile, name: str, data: bytes, *, mode: int = 0o644) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(data), mode
    archive.addfile(entry, io.BytesIO(data))


def write_layer(
    path: Path, trees: Mapping[str, Path], *, files: Mapping[str, bytes], links: Mapping[str, str]
) -> Layer:
    """Write a layer and return it.

    ``trees``: where in the image -> a folder to copy. ``files``: programs to write, all executable. ``links``: where ->
    what a symbolic link points to. Entries are in order of their names, owned by root, without times.
    """
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        for inside, folder in sorted(trees.items()):
            for found in sorted(folder.rglob("*")):
                entry = archive.gettarinfo(found, f"{inside}/{found.relative_to(folder)}")
                executable = entry.isdir() or bool(found.lstat().st_mode & stat.S_IXUSR)
                entry.mode = 0o755 if executable else 0o644
                entry.uid = entry.gid = entry.mtime = 0
                entry.uname = entry.gname = ""
                if entry.isreg():
                    with found.open("rb") as opened:
                        archive.addfile(entry, opened)
                else:
                    archive.addfile(entry)
        for inside, data in sorted(files.items()):
            add_bytes(archive, inside, data, mode=0o755)
        for inside, target in sorted(links.items()):
            entry = tarfile.TarInfo(inside)
            entry.type, entry.linkname, entry.mode = tarfile.SYMTYPE, target, 0o777
            archive.addfile(entry)
    return Layer(path=path, digest=compute_digest(path))
