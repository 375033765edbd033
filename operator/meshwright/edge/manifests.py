"""Manifests as people keep them: YAML and JSON in files, in folders and on stdin, with the line of everything in them.

Texts are read as kubectl reads them: timestamps stay texts, keys are texts, a key written twice is refused. What the
objects mean is not known here.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import yaml

from meshwright.edge.documents import Piece, Place, UnreadableError, read_pieces, word_of
from meshwright.model.desired import Json

__all__ = ["Manifest", "Place", "Reading", "UnreadableError", "list_files", "read_files", "read_text"]

SUFFIXES = (".yaml", ".yml", ".json")
CHART = "Chart.yaml"
STDIN = Path("-")
_CASES = {"manifests", "cases"}
"""What a file for `meshwright policy test` consists of. It may stand beside the manifests that it is about."""

_STEP = re.compile(r"\.?([^.\[\]]+)|\[([^\]]*)\]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """One object as written: a mapping with ``apiVersion`` and ``kind``. ``place`` is its first line.

    ``piece``: the text around it, which begins at line ``begin``. ``path``: the number of its document there, then of
    its item in each List.
    """

    raw: Json
    place: Place
    piece: Piece | None = field(default=None, compare=False, repr=False)
    begin: int = 1
    path: tuple[int, ...] = ()

    def locate(self, field: str) -> Place:
        """Return where ``field`` stands (``spec.rules[1].filters``), or the last part of its path that is written."""
        place, node = self.place, self._node()
        for name, index in _STEP.findall(field):
            found = _step(node, name or index)
            if found is None:
                break
            mark, node = found
            place = Place(self.place.file, self.begin + mark.start_mark.line)
        return place

    def _node(self) -> yaml.Node | None:
        if self.piece is None or not self.path:
            return None
        node = self.piece.nodes[self.path[0]]
        for index in self.path[1:]:
            items = _step(node, "items")
            item = _step(items[1], str(index)) if items else None
            node = item[1] if item else None
        return node


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What a set of files holds. ``skipped``: documents that have nothing of a Kubernetes object. ``pieces``: what the
    texts consist of, by their text."""

    manifests: tuple[Manifest, ...] = ()
    unreadable: tuple[UnreadableError, ...] = ()
    skipped: tuple[Place, ...] = ()
    pieces: Mapping[str, Piece] = field(default_factory=dict, compare=False, repr=False)


def list_files(paths: Iterable[Path]) -> tuple[Path, ...]:
    """Return the manifest files named by ``paths``: files as they are, folders with all below them, sorted.

    Hidden files and folders are left out, and in folders all but ``.yaml``, ``.yml`` and ``.json``. Of a Helm chart
    there is only its Chart.yaml, which stands for templates that nobody can read. ``-`` is stdin.

    Raises:
        UnreadableError: a path does not exist, or a folder holds no manifest file.
    """
    files: dict[Path, None] = {}
    for path in paths:
        if path == STDIN or path.is_file():
            files[path] = None
        elif path.is_dir():
            found = sorted(_walk(path))
            if not found:
                raise UnreadableError(Place(str(path), 0), f"no {', '.join(SUFFIXES)} file in this folder")
            files |= dict.fromkeys(found)
        else:
            raise UnreadableError(Place(str(path), 0), "there is no such file or folder")
    return tuple(files)


def _walk(folder: Path) -> Iterator[Path]:
    if (chart := folder / CHART).is_file():
        yield chart
        return
    for entry in folder.iterdir():
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            if not entry.is_symlink():
                yield from _walk(entry)
        elif entry.suffix in SUFFIXES and entry.is_file():
            yield entry


def read_files(files: Iterable[Path], stdin: Iterable[str] = (), known: Mapping[str, Piece] | None = None) -> Reading:
    """Return everything in ``files``, in order; a file that cannot be read takes nothing else down. Never raises.

    ``known``: the pieces of an earlier reading, which are not parsed again.
    """
    manifests: list[Manifest] = []
    unreadable: list[UnreadableError] = []
    skipped: list[Place] = []
    pieces: dict[str, Piece] = {}
    for file in files:
        name = "stdin" if file == STDIN else str(file)
        try:
            text = "".join(stdin) if file == STDIN else _decode(file.read_bytes(), name)
            reading = read_text(text, name, known)
        except UnreadableError as error:
            unreadable.append(error)
        except OSError as error:
            unreadable.append(UnreadableError(Place(name, 0), error.strerror or str(error)))
        else:
            manifests += reading.manifests
            skipped += reading.skipped
            pieces |= reading.pieces
    return Reading(manifests=tuple(manifests), unreadable=tuple(unreadable), skipped=tuple(skipped), pieces=pieces)


def read_text(text: str, file: str, known: Mapping[str, Piece] | None = None) -> Reading:
    """Return the objects of one text, the items of Lists each on their own.

    Raises:
        UnreadableError: it is neither YAML nor JSON, or a document is no Kubernetes object.
    """
    if (path := Path(file)).name == CHART:
        message = f"this is a Helm chart; read what it renders: helm template {path.parent} | meshwright compile -"
        raise UnreadableError(Place(file, 1), message)
    manifests: list[Manifest] = []
    skipped: list[Place] = []
    pieces: dict[str, Piece] = {}
    for piece, begin in read_pieces(text, file, known or {}):
        pieces[piece.text] = piece
        for number, (raw, line) in enumerate(piece.documents):
            place = Place(file, begin + line)
            if raw is None or (isinstance(raw, dict) and raw.keys() == _CASES):
                continue
            if isinstance(raw, list) or (isinstance(raw, dict) and not raw.keys() & {"apiVersion", "kind", "metadata"}):
                skipped.append(place)
            else:
                manifests += _objects(Manifest(raw=raw, place=place, piece=piece, begin=begin, path=(number,)))
    return Reading(manifests=tuple(manifests), skipped=tuple(skipped), pieces=pieces)


def _objects(manifest: Manifest) -> Iterator[Manifest]:
    """Yield the manifest, or when it is a List, what it consists of.

    Raises:
        UnreadableError: it is no Kubernetes object.
    """
    raw, place = manifest.raw, manifest.place
    if not isinstance(raw, dict):
        raise UnreadableError(place, f"a manifest is a mapping with apiVersion and kind, found {word_of(raw)}")
    for key in ("apiVersion", "kind"):
        if not isinstance(raw.get(key), str):
            found = f"{word_of(raw[key])} as its" if key in raw else "no"
            raise UnreadableError(place, f"this object has {found} {key}; it needs a text there")
    kind: str = raw["kind"]
    if not kind.endswith("List") or not isinstance(raw.get("items"), list):
        yield manifest
        return
    # Items of a typed list may leave out what the list's own kind says.
    implied = {"apiVersion": raw["apiVersion"], "kind": kind.removesuffix("List")} if kind != "List" else {}
    for index, item in enumerate(raw["items"]):
        yield from _objects(
            replace(
                manifest,
                raw=implied | item if isinstance(item, dict) else item,
                place=manifest.locate(f"items[{index}]"),
                path=(*manifest.path, index),
            )
        )


def _step(node: yaml.Node | None, name: str) -> tuple[yaml.Node, yaml.Node] | None:
    """Return the node to point at and the node to go on from, one step down; ``None`` when there is no such part."""
    match node:
        case yaml.MappingNode():
            return next(((key, value) for key, value in node.value if key.value == name), None)
        case yaml.SequenceNode() if name.isdecimal() and int(name) < len(node.value):
            return node.value[int(name)], node.value[int(name)]
        case _:
            return None


def _decode(data: bytes, name: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UnreadableError(Place(name, line), "this is not UTF-8 text; save the file as UTF-8") from error
