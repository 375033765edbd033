"""Image manifests, layers and archives, and what decides when they are made anew."""

import datetime
import hashlib
import json
import os
import tarfile
from pathlib import Path

from e2e.cluster.images import compute_tree_hash, select_loaded, select_month, select_platforms, strip
from e2e.cluster.oci import Layer, Settings, make_config, make_image, make_manifest, write_archive, write_layer
from e2e.cluster.places import find_places
from e2e.cluster.wheels import CLIENTS, GO, read_entry

SETTINGS = Settings(entrypoint=("meshwright",), user="65532:65532", labels={"version": "0.1.0"})


def make_tree(folder: Path) -> Path:
    (folder / "pkg").mkdir(parents=True)
    (folder / "pkg" / "a.py").write_text("a = 1\n")
    (folder / "pkg" / "tool").write_text("#!/bin/sh\n")
    (folder / "pkg" / "tool").chmod(0o700)
    return folder


def test_a_config_says_how_to_start_and_lists_uncompressed_layers() -> None:
    assert json.loads(make_config(SETTINGS, ["aa", "bb"], machine="aarch64")) == {
        "architecture": "arm64",
        "os": "linux",
        "config": {
            "Entrypoint": ["meshwright"],
            "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
            "Labels": {"version": "0.1.0"},
            "User": "65532:65532",
        },
        "rootfs": {"type": "layers", "diff_ids": ["sha256:aa", "sha256:bb"]},
    }


def test_a_manifest_names_config_and_layers_by_digest_and_size() -> None:
    assert json.loads(make_manifest(b"{}", [("aa", 5), ("bb", 6)])) == {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": "sha256:" + hashlib.sha256(b"{}").hexdigest(),
            "size": 2,
        },
        "layers": [
            {"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": "sha256:aa", "size": 5},
            {"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": "sha256:bb", "size": 6},
        ],
    }


def test_a_layer_is_the_same_whenever_it_is_made(tmp_path: Path) -> None:
    one, other = make_tree(tmp_path / "one"), make_tree(tmp_path / "other")
    os.utime(other / "pkg" / "a.py", (1, 1))
    (other / "pkg" / "a.py").chmod(0o600)
    layers = [
        write_layer(
            tmp_path / f"{tree.name}.tar", {"usr/lib": tree}, files={"usr/bin/x": b"x"}, links={"usr/y": "/usr/x"}
        )
        for tree in (one, other)
    ]
    assert layers[0].digest == layers[1].digest == hashlib.sha256(layers[1].path.read_bytes()).hexdigest()


def test_a_layer_holds_trees_programs_and_links(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree")
    layer = write_layer(tmp_path / "l.tar", {"usr/lib": tree}, files={"usr/bin/x": b"x"}, links={"usr/y": "/usr/x"})
    with tarfile.open(layer.path) as opened:
        found = [(entry.name, oct(entry.mode), entry.uid, entry.mtime, entry.linkname) for entry in opened]
    assert found == [
        ("usr/lib/pkg", "0o755", 0, 0, ""),
        ("usr/lib/pkg/a.py", "0o644", 0, 0, ""),
        ("usr/lib/pkg/tool", "0o755", 0, 0, ""),
        ("usr/bin/x", "0o755", 0, 0, ""),
        ("usr/y", "0o777", 0, 0, "/usr/x"),
    ]


def test_every_blob_of_an_archive_is_named_by_its_digest(tmp_path: Path) -> None:
    (tmp_path / "l.tar").write_bytes(b"layer")
    layer = Layer(path=tmp_path / "l.tar", digest=hashlib.sha256(b"layer").hexdigest())
    digest = write_archive(tmp_path / "image.tar", "localhost/x:dev", SETTINGS, [layer, layer])
    assert digest == make_image(SETTINGS, [layer, layer])[2]
    with tarfile.open(tmp_path / "image.tar") as opened:
        blobs = {e.name: data.read() for e in opened if (data := opened.extractfile(e)) is not None}
    index = json.loads(blobs.pop("index.json"))
    assert json.loads(blobs.pop("oci-layout")) == {"imageLayoutVersion": "1.0.0"}
    assert {name.removeprefix("blobs/sha256/") for name in blobs} == {
        hashlib.sha256(data).hexdigest() for data in blobs.values()
    }
    (entry,) = index["manifests"]
    assert entry["digest"] == digest
    assert entry["annotations"]["io.containerd.image.name"] == "localhost/x:dev"


def test_a_tree_hash_tells_names_from_contents() -> None:
    assert compute_tree_hash([("a", b"b")]) != compute_tree_hash([("ab", b"")])
    assert compute_tree_hash([("a", b""), ("b", b"")]) == compute_tree_hash([("b", b""), ("a", b"")])


def test_the_base_layer_is_made_once_a_month() -> None:
    assert select_month(datetime.date(2026, 1, 31)) == "2026-01"


def test_wheels_are_chosen_for_the_glibc_of_the_image() -> None:
    platforms = select_platforms("x86_64")
    assert platforms[0] == "manylinux_2_36_x86_64"
    assert "manylinux_2_37_x86_64" not in platforms
    assert platforms[-1] == "manylinux2014_x86_64"


def test_stripping_keeps_code_and_drops_tests_and_stubs(tmp_path: Path) -> None:
    for name in ("pkg/a.py", "pkg/a.pyi", "pkg/tests/t.py", "pkg/__pycache__/a.pyc", "bin/x", "setuptools/s.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    strip(tmp_path)
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()) == ["pkg/a.py"]


def test_the_digest_of_a_loaded_image_is_found_by_its_whole_name() -> None:
    listing = """\
REF                       TYPE                                       DIGEST     SIZE      PLATFORMS   LABELS
localhost/meshwright:dev2 application/vnd.oci.image.manifest.v1+json sha256:bbb 391.1 MiB linux/amd64 -
localhost/meshwright:dev  application/vnd.oci.image.manifest.v1+json sha256:aaa 391.1 MiB linux/amd64 -
"""
    assert select_loaded(listing, "localhost/meshwright:dev") == "sha256:aaa"
    assert select_loaded(listing, "localhost/meshwright") == ""
    assert select_loaded("", "localhost/meshwright:dev") == ""


def test_the_tools_lock_has_hashes_and_no_addresses() -> None:
    lock = find_places().tools_lock.read_text()
    assert "://" not in lock
    for name in (CLIENTS, GO):
        version, entry = read_entry(lock, name)
        assert entry.startswith(f"{name}=={version} \\\n    --hash=sha256:")
        assert [line for line in entry.splitlines()[1:] if not line.startswith("    --hash=sha256:")] == []
