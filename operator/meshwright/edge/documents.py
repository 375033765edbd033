"""The text of a manifest file as values: YAML and JSON, read piece by piece, with the line of everything in them.

Texts are read as kubectl reads them: timestamps stay texts, keys are texts, a key written twice is refused. Nothing
here knows what an object is.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

import yaml

from meshwright.model.desired import Json

_MERGE = "tag:yaml.org,2002:merge"
_TEXT = "tag:yaml.org,2002:str"
_JSON_SCALARS = frozenset(f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float", "str"))
_TEMPLATE = "if this is a Helm template, render it first (helm template …) and read the result"
_MARKER = re.compile(r"^---(?=[ \t\r\n]|\Z)", re.MULTILINE)
# Directives speak of more than one document, and libyaml counts these as line breaks.
_INDIVISIBLE = re.compile(r"^%|\r(?!\n)|[\x85\u2028\u2029]", re.MULTILINE)


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


class Piece:
    """Some whole documents of a text, read: ``documents`` are their values, each with its line in the piece, from 0.

    It says the same wherever in whichever file it stands.
    """

    __slots__ = ("_nodes", "documents", "is_json", "text")

    def __init__(
        self,
        text: str,
        documents: tuple[tuple[Any, int], ...],
        *,
        is_json: bool = False,
        nodes: tuple[yaml.Node | None, ...] | None = None,
    ) -> None:
        self.text = text
        self.documents = documents
        self.is_json = is_json
        self._nodes = nodes

    @property
    def nodes(self) -> tuple[yaml.Node | None, ...]:
        """Return the documents with the lines of all their parts, ``None`` for one that has none.

        Found out only when asked for: most objects have no problems to point at.
        """
        if self._nodes is None:
            # JSON's only use of a tab is as a blank; YAML has none in an indentation.
            text = self.text.replace("\t", " ") if self.is_json else self.text
            try:
                self._nodes = tuple(filter(None, yaml.compose_all(text, Loader=_LOADER)))
            except yaml.YAMLError:
                self._nodes = (None,) * len(self.documents)
        return self._nodes


def read_pieces(text: str, file: str, known: Mapping[str, Piece]) -> Iterator[tuple[Piece, int]]:
    """Yield the pieces of a text, each with the line where it begins, from 1.

    ``known``: pieces by their text, which are not read again.

    Raises:
        UnreadableError: it is neither YAML nor JSON.
    """
    if text.lstrip()[:1] in ("{", "["):
        whole = known.get(text)
        if (whole := whole if whole is not None and whole.is_json else _read_json(text, file)) is not None:
            yield whole, 1
            return
    line = 1
    for part in _split(text):
        piece = known.get(part)
        if piece is None or piece.is_json:
            try:
                piece = _read_yaml(part, file)
            except UnreadableError:
                # As the whole file has it: what is wrong is said with its lines, and what follows may be part of it.
                _read_yaml(text, file)
                raise
        yield piece, line
        line += part.count("\n")


def _split(text: str) -> Iterator[str]:
    """Yield a YAML text in parts that each can be read alone: three dashes at the beginning of a line always begin a
    document, in the middle of a scalar, too.

    Source: YAML 1.2.2, 9.1.2 Document Markers, and libyaml ``scanner.c`` ``yaml_parser_fetch_next_token``.
    """
    begin = 0
    if not _INDIVISIBLE.search(text):
        for marker in _MARKER.finditer(text):
            if marker.start() > begin:
                yield text[begin : marker.start()]
                begin = marker.start()
    yield text[begin:]


# ---- JSON


def _read_json(text: str, file: str) -> Piece | None:
    """Return the text as one piece; ``None`` when it may still be YAML, which may begin with a brace, too: a Helm
    template does, and flow style."""
    try:
        raw = json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_refuse_duplicates)
    except json.JSONDecodeError as error:
        if not file.endswith(".json"):
            return None
        raise UnreadableError(Place(file, error.lineno, error.colno), f"this is not JSON: {error.msg}") from error
    except ValueError as error:
        raise UnreadableError(Place(file, 1), str(error)) from error
    return Piece(text, ((raw, text[: len(text) - len(text.lstrip())].count("\n")),), is_json=True)


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


def _read_yaml(text: str, file: str) -> Piece:
    loader = _LOADER(text)
    documents: list[tuple[Any, int]] = []
    nodes: list[yaml.Node] = []
    try:
        while loader.check_node():
            node = loader.get_node()
            if node is not None:
                nodes.append(node)
                documents.append((_value(node, file, loader, {}), node.start_mark.line))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        raise UnreadableError(Place(file, line, column), _explain(error, text.splitlines(), line)) from error
    except yaml.YAMLError as error:
        raise UnreadableError(Place(file, 1), f"this is not YAML: {error}") from error
    finally:
        loader.dispose()
    is_asked_for = any(isinstance(value, dict) and "items" in value for value, _ in documents)
    return Piece(text, tuple(documents), nodes=tuple(nodes) if is_asked_for else None)


def _value(node: yaml.Node, file: str, loader: yaml.SafeLoader, seen: dict[yaml.Node, Any]) -> Any:
    """Return a node as JSON knows it. A node with several aliases is one value, as deep as it may go."""
    if node.tag == _TEXT and isinstance(node, yaml.ScalarNode):
        return node.value
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
                    raise UnreadableError(_place(key, file), f"<< merges mappings, found {word_of(base)}")
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


def word_of(value: Any) -> str:
    """Return what a value is, in words."""
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
