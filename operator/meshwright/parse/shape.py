"""Reading one flat part of an object: what it holds, and a Problem for every field that is wrong.

A *shape* is a pydantic dataclass whose fields all have defaults and whose nested parts are ``Any``, to be read one by
one: so a bad field costs itself only, never its neighbours.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar, get_args, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.alias_generators import to_camel
from pydantic.fields import FieldInfo

from meshwright.model.problem import Problem, Reason

SHAPE = ConfigDict(alias_generator=to_camel, extra="ignore")
"""The configuration of every shape: camelCase in manifests, fields we do not know are nobody's concern."""

Shape = TypeVar("Shape")
Reader = Callable[[object, str, list[Problem]], Shape | None]
"""Given a value, its path and where to put problems: the shape, ``None`` when the value is not an object."""

_MAX_QUOTED = 40
_MAX_DIGITS = 10**20
_ANYTHING = "a value of the right type"


def make_reader(shape: type[Shape], reason: Reason, required: tuple[str, ...] = ()) -> Reader[Shape]:
    """Return the function that reads a value as ``shape``; its problems get ``reason``.

    A field that is wrong counts as absent and gives a Problem, which asks for what the field's ``description`` says;
    one of ``required`` (as written in manifests) that is missing likewise. ``null`` is absent, as the API server reads
    it. Never raises.
    """
    validate = TypeAdapter(shape).validator.validate_python
    hints = get_type_hints(shape, include_extras=True)
    wanted = {_find_alias(name, hint): _find_description(hint) for name, hint in hints.items()}

    def read(value: object, field: str, problems: list[Problem]) -> Shape | None:
        if not isinstance(value, dict):
            problems.append(Problem(field, reason, f"found {quote(value)}; write an object"))
            return None
        if all(value.get(name) is not None for name in required):
            try:
                read_at_once: Shape = validate(value)
            except ValidationError:
                pass
            else:
                return read_at_once
        return read_what_is_right(value, field, problems)

    def read_what_is_right(value: Mapping[object, object], field: str, problems: list[Problem]) -> Shape:
        rest = {name: item for name, item in value.items() if name in wanted and item is not None}
        problems += [
            Problem(f"{field}.{name}", reason, f"it is missing; write {wanted[name]}")
            for name in required
            if name not in rest
        ]
        try:
            read_without_nulls: Shape = validate(rest)
        except ValidationError as error:
            for detail in error.errors(include_url=False, include_context=False):
                name = str(detail["loc"][0])
                if name in rest:
                    found = quote(rest.pop(name))
                    problems.append(Problem(f"{field}.{name}", reason, f"found {found}; write {wanted[name]}"))
            read_the_rest: Shape = validate(rest)
            return read_the_rest
        return read_without_nulls

    return read


def make_text_reader(leaf: Any, reason: Reason) -> Reader[str]:
    """Return the function that reads one text of type ``leaf``; ``None``, with a Problem, for anything else."""
    validate = TypeAdapter(leaf).validator.validate_python
    wanted = _find_description(leaf)

    def read(value: object, field: str, problems: list[Problem]) -> str | None:
        try:
            text: str = validate(value)
        except ValidationError:
            problems.append(Problem(field, reason, f"found {quote(value)}; write {wanted}"))
            return None
        return text

    return read


def read_items(value: object, field: str, problems: list[Problem], reason: Reason) -> Sequence[Any]:
    """Return the elements of a list; empty when it is absent, ``null`` or, with a Problem, not a list."""
    if value is None:
        return ()
    if isinstance(value, list):
        return value
    problems.append(Problem(field, reason, f"found {quote(value)}; write a list"))
    return ()


def read_few(value: object, field: str, problems: list[Problem], reason: Reason, most: int) -> Sequence[Any]:
    """Return the elements of a list as ``read_items`` does, all of them; more than ``most`` give a Problem."""
    items = read_items(value, field, problems, reason)
    if len(items) > most:
        problems.append(Problem(field, reason, f"found {len(items)} entries; write at most {most}"))
    return items


def read_pairs(value: object, field: str, problems: list[Problem], reason: Reason) -> tuple[tuple[str, str], ...]:
    """Return the sorted pairs of a map of texts; what is not a text is left out, with a Problem."""
    if value is None:
        return ()
    if not isinstance(value, dict):
        problems.append(Problem(field, reason, f"found {quote(value)}; write a map of texts"))
        return ()
    pairs = []
    for key, item in value.items():
        if is_text(key) and is_text(item):
            pairs.append((key, item))
        else:
            message = f"found {quote(item)}; write a text, in quotes if need be"
            problems.append(
                Problem(f"{field}[{shorten(key) if isinstance(key, str) else quote(key)}]", reason, message)
            )
    return tuple(sorted(pairs))


def is_text(value: object) -> bool:
    """Return whether ``value`` is a text that can be written as UTF-8 (JSON admits half of a surrogate pair)."""
    return isinstance(value, str) and (value.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in value))


def quote(value: object) -> str:
    """Return a few words that show ``value`` in a message, whatever it is. UTF-8 can encode them."""
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case str():
            return _quote_text(value)
        case int():
            return str(value) if abs(value) < _MAX_DIGITS else "a number of more than 20 digits"
        case float():
            return repr(value)
        case dict():
            return "an object" if value else "an empty object"
        case list():
            return f"a list of {len(value)}" if value else "an empty list"
        case _:
            return f"a {type(value).__name__}"


def shorten(text: str) -> str:
    """Return ``text``, its middle left out when it is too long to be shown, as UTF-8 can encode it."""
    if len(text) > 2 * _MAX_QUOTED:
        text = f"{text[:_MAX_QUOTED]}…{text[-_MAX_QUOTED:]}"
    return text.encode(errors="backslashreplace").decode()


def _quote_text(text: str) -> str:
    if text == "":
        return "an empty text"
    if len(text) <= _MAX_QUOTED:
        return json.dumps(shorten(text), ensure_ascii=False)
    return f'{json.dumps(shorten(text[:_MAX_QUOTED]), ensure_ascii=False)[:-1]}…" ({len(text)} characters)'


def _find_alias(name: str, hint: object) -> str:
    said = (part.alias for part in _walk_infos(hint) if part.alias is not None)
    return next(said, to_camel(name))


def _find_description(hint: object) -> str:
    said = (part.description for part in _walk_infos(hint) if part.description is not None)
    return next(said, _ANYTHING)


def _walk_infos(hint: object) -> Iterator[FieldInfo]:
    """Yield what ``Annotated`` says about a type and, in ``X | None``, about X."""
    for part in (*getattr(hint, "__metadata__", ()), *get_args(hint)):
        if isinstance(part, FieldInfo):
            yield part
        else:
            yield from _walk_infos(part)
