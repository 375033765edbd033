"""Following files while people edit them."""

import asyncio
from pathlib import Path

import pytest

from meshwright.edge.folder import Folder
from meshwright.edge.manifests import list_files


def write(file: Path, *names: str) -> None:
    file.write_text("---\n".join(f"{{apiVersion: v1, kind: Service, metadata: {{name: {name}}}}}\n" for name in names))


def names(folder: Folder) -> list[str]:
    return [manifest.raw["metadata"]["name"] for manifest in folder.reading.manifests]


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    write(tmp_path / "a.yaml", "a1", "a2")
    write(tmp_path / "b.yaml", "b")
    folder = Folder([tmp_path])
    folder.look()
    return folder


def test_a_look_reads_what_is_new_changed_or_gone(folder: Folder, tmp_path: Path) -> None:
    before = names(folder)
    write(tmp_path / "a.yaml", "a3")
    write(tmp_path / "c.yaml", "c")
    (tmp_path / "b.yaml").unlink()

    assert folder.look() == (tmp_path / "a.yaml", tmp_path / "c.yaml", tmp_path / "b.yaml")
    assert (before, names(folder)) == (["a1", "a2", "b"], ["a3", "c"])
    assert folder.look() == ()


def test_a_file_that_breaks_keeps_what_it_held_until_it_is_mended(folder: Folder, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("a: b: c")
    folder.look()
    broken = (names(folder), [error.place.file for error in folder.unreadable])
    write(tmp_path / "a.yaml", "a4")
    folder.look()

    assert broken == (["a1", "a2", "b"], [str(tmp_path / "a.yaml")])
    assert (names(folder), folder.unreadable) == (["a4", "b"], ())


def test_a_folder_that_vanishes_for_a_moment_loses_nothing(folder: Folder, tmp_path: Path) -> None:
    aside = tmp_path.with_name(f"{tmp_path.name}-aside")
    tmp_path.rename(aside)
    vanished = folder.look()
    again = folder.look()
    kept = names(folder)
    aside.rename(tmp_path)
    folder.look()

    assert (vanished, again, kept) == ((tmp_path,), (), ["a1", "a2", "b"])
    assert (names(folder), folder.unreadable) == (["a1", "a2", "b"], ())


async def test_a_change_is_heard_of_once_it_is_whole(folder: Folder, tmp_path: Path) -> None:
    waiting = asyncio.create_task(folder.changes())
    await asyncio.sleep(0)
    write(tmp_path / "b.yaml", "b2")

    assert await asyncio.wait_for(waiting, timeout=60) == (tmp_path / "b.yaml",)
    assert names(folder) == ["a1", "a2", "b2"]


def test_the_files_looked_at_are_those_that_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("b.yaml", "a.json", ".hidden.yaml", "notes.txt", "a/z.yml", "a.b/c.yaml", "chart/Chart.yaml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write(tmp_path / name, "x")
    write(tmp_path / "chart" / "templates.yaml", "x")
    (tmp_path / "link.yaml").symlink_to(tmp_path / "b.yaml")
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "dangling.yaml").symlink_to(tmp_path / "nowhere")
    monkeypatch.chdir(tmp_path)

    for paths in ([Path()], [tmp_path], [Path("b.yaml"), Path(), Path("a")], [Path("a"), Path()]):
        assert Folder(paths).look() == list_files(paths)


def test_a_path_that_is_no_file_or_empty_is_said(tmp_path: Path) -> None:
    folders = [Folder([tmp_path]), Folder([tmp_path / "gone"])]

    assert [folder.look() for folder in folders] == [(tmp_path,), (tmp_path / "gone",)]
    assert [error.place.file for folder in folders for error in folder.unreadable] == [
        str(tmp_path),
        str(tmp_path / "gone"),
    ]


def test_of_a_file_that_changed_only_the_parts_that_did_are_read_again(folder: Folder, tmp_path: Path) -> None:
    before = {id(manifest.raw) for manifest in folder.held(tmp_path / "a.yaml")}
    write(tmp_path / "a.yaml", "a0", "a1", "a2")
    folder.look()
    after = folder.held(tmp_path / "a.yaml")

    assert [(each.raw["metadata"]["name"], each.place.line, id(each.raw) in before) for each in after] == [
        ("a0", 1, False),
        ("a1", 3, False),
        ("a2", 5, True),
    ]
