"""Manifests as people keep them: YAML and JSON in files, in folders and on stdin, with the line of everything in them.

Texts are read as kubectl reads them: timestamps stay texts, keys are texts, a key written twice is refused. What the
objects mean is not known here.
"""

import json
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import yaml

from meshwright.model.desired import Json

SUFFIXES = (".yaml", ".yml", ".json")
CHART = "Chart.yaml"
STDIN = Path("-")

_MERGE = "tag:yaml.org,2002:merge"
_TEXT = "tag:yaml.org,2002:str"
_JSON_SCALARS = frozenset(f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float", "str"))
_STEP = re.compile(r"\.?([^.\[\]]+)|\[([^\]]*)\]")
_TEMPLATE = "if this is a Helm template, render it first (helm template …) and read the result"


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """Where something stands; lines and columns count from 1. ``column`` 0: the line as a whole."""

    file: str
    line: int
    column: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}" if self.column else f"{self.file}:{self.line}"


class UnreadableError(Exception):
    """A text that is no manifest. ``message`` says what was found and how to mend it, without the place."""

    def __init__(self, place: Place, message: str) -> None:
        super().__init__(f"{place}: {message}")
        self.place = place
        self.message = message


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """One object as written: a mapping with ``apiVersion`` and ``kind``. ``place`` is its first line."""

    raw: Json
    place: Place
    node: yaml.Node | None = None

    def locate(self, field: str) -> Place:
        """Return where ``field`` stands (``spec.rules[1].filters``), or the last part of its path that is written."""
        place, node = self.place, self.node
        for name, index in _STEP.findall(field):
            found = _step(node, name or index)
            if found is None:
                break
            mark, node = found
            place = Place(self.place.file, mark.start_mark.line + 1)
        return place


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What a set of files holds. ``skipped``: documents that have nothing of a Kubernetes object."""

    manifests: tuple[Manifest, ...] = ()
    unreadable: tuple[UnreadableError, ...] = ()
    skipped: tuple[Place, ...] = ()


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


def read_files(files: Iterable[Path], stdin: Iterable[str] = ()) -> Reading:
    """Return everything in ``files``, in order; a file that cannot be read takes nothing else down. Never raises."""
    manifests: list[Manifest] = []
    unreadable: list[UnreadableError] = []
    skipped: list[Place] = []
    for file in files:
        name = "stdin" if file == STDIN else str(file)
        try:
            text = "".join(stdin) if file == STDIN else _decode(file.read_bytes(), name)
            reading = read_text(text, name)
        except UnreadableError as error:
            unreadable.append(error)
        except OSError as error:
            unreadable.append(UnreadableError(Place(name, 0), error.strerror or str(error)))
        else:
            manifests += reading.manifests
            skipped += reading.skipped
    return Reading(manifests=tuple(manifests), unreadable=tuple(unreadable), skipped=tuple(skipped))


def read_text(text: str, file: str) -> Reading:
    """Return the objects of one text, the items of Lists each on their own.

    Raises:
        UnreadableError: it is neither YAML nor JSON, or a document is no Kubernetes object.
    """
    if (path := Path(file)).name == CHART:
        message = f"this is a Helm chart; read what it renders: helm template {path.parent} | meshwright compile -"
        raise UnreadableError(Place(file, 1), message)
    manifests: list[Manifest] = []
    skipped: list[Place] = []
    documents = _json_documents(text, file) if text.lstrip()[:1] in ("{", "[") else _yaml_documents(text, file)
    for raw, line, node in documents:
        if raw is None:
            continue
        if isinstance(raw, list) or (isinstance(raw, dict) and not raw.keys() & {"apiVersion", "kind", "metadata"}):
            skipped.append(Place(file, line))
        else:
            manifests += _objects(raw, Place(file, line), node)
    return Reading(manifests=tuple(manifests), skipped=tuple(skipped))


def _objects(raw: Any, place: Place, node: yaml.Node | None) -> Iterator[Manifest]:
    if not isinstance(raw, dict):
        raise UnreadableError(place, f"a manifest is a mapping with apiVersion and kind, found {_word(raw)}")
    for key in ("apiVersion", "kind"):
        if not isinstance(raw.get(key), str):
            found = f"{_word(raw[key])} as its" if key in raw else "no"
            raise UnreadableError(place, f"this object has {found} {key}; it needs a text there")
    kind: str = raw["kind"]
    if not kind.endswith("List") or not isinstance(raw.get("items"), list):
        yield Manifest(raw=raw, place=place, node=node)
        return
    # Items of a typed list may leave out what the list's own kind says.
    implied = {"apiVersion": raw["apiVersion"], "kind": kind.removesuffix("List")} if kind != "List" else {}
    items = _step(node, "items")
    for index, item in enumerate(raw["items"]):
        child = _step(items[1], str(index)) if items else None
        line = Place(place.file, child[0].start_mark.line + 1) if child else place
        yield from _objects(implied | item if isinstance(item, dict) else item, line, child[1] if child else None)


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


# ---- JSON


def _json_documents(text: str, file: str) -> Iterator[tuple[Any, int, yaml.Node | None]]:
    try:
        raw = json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_refuse_duplicates)
    except json.JSONDecodeError as error:
        if not file.endswith(".json"):
            # YAML may begin with a brace, too: a Helm template does, and flow style.
            yield from _yaml_documents(text, file)
            return
        raise UnreadableError(Place(file, error.lineno, error.colno), f"this is not JSON: {error.msg}") from error
    except ValueError as error:
        raise UnreadableError(Place(file, 1), str(error)) from error
    try:
        # JSON's only use of a tab is as a blank; YAML has none in an indentation.
        node = yaml.compose(text.replace("\t", " "), Loader=_LOADER)
    except yaml.YAMLError:
        node = None
    yield raw, text[: len(text) - len(text.lstrip())].count("\n") + 1, node


def _refuse_constant(word: str) -> float:
    raise ValueError(f"{word} is not a JSON number")


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> Json:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f'the key "{twice}" stands twice in one object; keep one of them')
    return found


# ---- YAML


class _SafeLoader(yaml.CSafeLoader if hasattr(yaml, "CSafeLoader") else yaml.SafeLoader):  # type: ignore[misc]
    """YAML 1.1 without what JSON lacks: a timestamp is a text, and so is ``12:30``."""


_LOADER = cast(type[yaml.SafeLoader], _SafeLoader)
_SafeLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag in _JSON_SCALARS - {_TEXT, "tag:yaml.org,2002:int"}]
    + [(tag, pattern) for tag, pattern in resolvers if tag == _MERGE]
    for first, resolvers in _SafeLoader.yaml_implicit_resolvers.items()
}
_SafeLoader.add_implicit_resolver(
    "tag:yaml.org,2002:int",
    re.compile(r"^(?:[-+]?0b[01_]+|[-+]?0o?[0-7_]+|[-+]?(?:0|[1-9][0-9_]*)|[-+]?0x[0-9a-fA-F_]+)$"),
    list("-+0123456789"),
)


def _yaml_documents(text: str, file: str) -> Iterator[tuple[Any, int, yaml.Node | None]]:
    loader = _LOADER(text)
    try:
        while loader.check_node():
            node = loader.get_node()
            if node is not None:
                yield _value(node, file, loader, {}), node.start_mark.line + 1, node
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        raise UnreadableError(Place(file, line, column), _explain(error, text.splitlines(), line)) from error
    except yaml.YAMLError as error:
        raise UnreadableError(Place(file, 1), f"this is not YAML: {error}") from error
    finally:
        loader.dispose()


def _value(node: yaml.Node, file: str, loader: yaml.SafeLoader, seen: dict[yaml.Node, Any]) -> Any:
    """Return a node as JSON knows it. A node with several aliases is one value, as deep as it may go."""
    if node in seen:
        if seen[node] is ...:
            raise UnreadableError(_place(node, file), "this alias holds itself; write the value out")
        return seen[node]
    seen[node] = ...
    value: Any
    match node:
        case yaml.MappingNode():
            value = _mapping(node, file, loader, seen)
        case yaml.SequenceNode():
            value = [_value(item, file, loader, seen) for item in node.value]
        case _ if node.tag not in _JSON_SCALARS:
            value = node.value
        case _:
            try:
                value = loader.construct_object(node)
            except ValueError:
                value = node.value
            if isinstance(value, float) and not math.isfinite(value):
                raise UnreadableError(_place(node, file), f"{node.value} is not a JSON number; put it in quotes")
    seen[node] = value
    return value


def _mapping(node: yaml.MappingNode, file: str, loader: yaml.SafeLoader, seen: dict[yaml.Node, Any]) -> Json:
    own: Json = {}
    merged: Json = {}
    lines: dict[str, int] = {}
    for key, item in node.value:
        value = _value(item, file, loader, seen)
        if key.tag == _MERGE:
            for base in reversed(value if isinstance(value, list) else [value]):
                if not isinstance(base, dict):
                    raise UnreadableError(_place(key, file), f"<< merges mappings, found {_word(base)}")
                merged |= base
            continue
        if not isinstance(key, yaml.ScalarNode):
            raise UnreadableError(_place(key, file), f"a key must be a text; {_TEMPLATE}")
        if key.value in own:
            raise UnreadableError(
                _place(key, file),
                f'the key "{key.value}" stands twice in a mapping (also on line {lines[key.value]}); keep one of them',
            )
        own[key.value] = value
        lines[key.value] = key.start_mark.line + 1
    return merged | own


def _place(node: yaml.Node, file: str) -> Place:
    return Place(file, node.start_mark.line + 1, node.start_mark.column + 1)


def _explain(error: yaml.MarkedYAMLError, lines: list[str], number: int) -> str:
    problem = error.problem or error.context or "it cannot be read"
    text = lines[number - 1] if number <= len(lines) else ""
    if any("{{" in line for line in lines[max(0, number - 2) : number]):
        return _TEMPLATE
    if "\t" in text[: len(text) - len(text.lstrip())]:
        return "YAML is indented with blanks, this line has a tab; replace it"
    if "mapping values" in problem:
        return "a second ': ' in one line; put the value in quotes, or indent the line less"
    if "<document start>" in problem:
        return "this line belongs to nothing above it; indent it like the lines above, or put --- before it"
    if "sequence entries are not allowed" in problem:
        return "a list cannot begin in the middle of a line; put the '- ' on a line of its own"
    if "expected" in problem:
        return f"this is not YAML: {problem}; check that this line is indented like the ones it belongs to"
    return f"this is not YAML: {problem}"


def _word(value: Any) -> str:
    match value:
        case None:
            return "nothing"
        case dict():
            return "a mapping"
        case list():
            return "a list"
        case str():
            return f'the text "{value[:40]}"'
        case _:
            return json.dumps(value)
