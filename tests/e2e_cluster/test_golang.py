"""Pins and hashes of the Go builds."""

import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from e2e.cluster.golang import (
    KUBERNETES,
    PAUSE,
    SPIRE,
    TOOLS,
    Tool,
    compute_build_hash,
    compute_module_sum,
    folder_of,
    make_linker_flags,
    read_version,
    version_of,
)
from e2e.cluster.places import Places, find_places

SOURCES = [("go.mod", b"module x\n"), ("go.sum", b"")]


def test_the_hash_does_not_depend_on_the_order_of_files() -> None:
    assert compute_build_hash(SOURCES, go_version="go1.26.8", recipe="r") == compute_build_hash(
        list(reversed(SOURCES)), go_version="go1.26.8", recipe="r"
    )


@pytest.mark.parametrize(
    ("sources", "go_version", "recipe"),
    [
        ([("go.mod", b"module y\n"), ("go.sum", b"")], "go1.26.8", "r"),
        ([("go.mod", b"module x\n"), ("main.go", b"")], "go1.26.8", "r"),
        ([("go.mod", b"module x\n")], "go1.26.8", "r"),
        ([("go.mod", b"module x\ngo.sum")], "go1.26.8", "r"),
        (SOURCES, "go1.26.9", "r"),
        (SOURCES, "go1.26.8", "s"),
    ],
)
def test_the_hash_changes_with_everything_that_decides_the_build(
    sources: list[tuple[str, bytes]], go_version: str, recipe: str
) -> None:
    before = compute_build_hash(SOURCES, go_version="go1.26.8", recipe="r")
    assert compute_build_hash(sources, go_version=go_version, recipe=recipe) != before


@pytest.mark.parametrize("tool", TOOLS, ids=lambda tool: tool.name)
def test_every_tool_has_its_pins(tool: Tool) -> None:
    places = find_places()
    assert version_of(tool, places).startswith("v")
    if tool.module:
        wanted = f"{tool.module} {version_of(tool, places)} h1:"
        assert wanted in (places.gomod / tool.name / "go.sum").read_text()


def test_kubernetes_staging_modules_are_all_of_the_same_release() -> None:
    places = find_places()
    version = version_of(KUBERNETES, places).replace("v1.", "v0.")
    lines = (places.gomod / "kubernetes" / "go.mod").read_text().splitlines()
    replaced = [line.split() for line in lines if line.startswith("replace ")]
    assert len(replaced) > 25
    assert [words for words in replaced if words[1] != words[3] or words[4] != version] == []


def test_a_version_is_read_from_either_form_of_require() -> None:
    assert read_version("require k8s.io/kubernetes v1.35.4\n", "k8s.io/kubernetes") == "v1.35.4"
    assert read_version("require (\n\tgo.x/a v1.2.3 // indirect\n)\n", "go.x/a") == "v1.2.3"


def test_a_module_that_is_not_required_has_no_version() -> None:
    with pytest.raises(ValueError, match="not required"):
        read_version("require k8s.io/kubernetes/v2 v2.0.0\n", "k8s.io/kubernetes")


def test_kubernetes_is_told_its_version() -> None:
    flags = make_linker_flags(KUBERNETES, "v1.35.4")
    assert "-X k8s.io/component-base/version.gitVersion=v1.35.4" in flags
    assert "-X k8s.io/component-base/version.gitMinor=35" in flags
    assert make_linker_flags(PAUSE, "v0.0.0") == "-s -w"


def test_a_new_go_means_a_new_folder(tmp_path: Path) -> None:
    places = Places(repo=find_places().repo, cache=tmp_path)
    one, other = (folder_of(PAUSE, places, version) for version in ("go1.26.8", "go1.26.9"))
    assert one != other
    assert one.parent == other.parent == tmp_path / "bin"


def test_a_module_archive_has_the_sum_that_go_computes(tmp_path: Path) -> None:
    """Two empty files, by hand: h1 is the sha256 of the lines of ``sha256sum``, sorted by name."""
    archive = tmp_path / "m.zip"
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr("m@v1/b", "")
        opened.writestr("m@v1/a", "")
    assert compute_module_sum(archive) == "h1:YqwikLFMt5OkA89Tx2kVZIHOhLXSR2qnmbs204ItdxY="


def test_what_has_parts_in_c_is_built_in_another_folder() -> None:
    places = find_places()
    pure = replace(SPIRE, uses_c=False)
    assert folder_of(SPIRE, places, "go1.26.8") != folder_of(pure, places, "go1.26.8")
