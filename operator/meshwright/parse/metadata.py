"""What every object says of itself: name, age, labels, annotations.

Source: kubernetes/apimachinery ``pkg/apis/meta/v1/types.go`` ObjectMeta.
"""

from dataclasses import dataclass as plain_dataclass
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import Field
from pydantic.dataclasses import dataclass

from meshwright.model.problem import Problem, Reason
from meshwright.model.ref import Ref
from meshwright.parse.leaf import CountNumber, NamespaceText, NameText, Word
from meshwright.parse.shape import SHAPE, make_reader, read_pairs

_INVALID = Reason.INVALID_OBJECT
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_Time = Annotated[
    str,
    Field(
        strict=True,
        pattern=r"^[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])T([01][0-9]|2[0-3])(:[0-5][0-9]){2}Z$",
        description="a time such as 2026-01-31T23:59:59Z",
    ),
]


@plain_dataclass(frozen=True, slots=True, kw_only=True)
class Metadata:
    """An object's metadata.

    ``created``: seconds since the epoch. ``labels``: sorted pairs. ``annotations``: as written, each kind reads those
    it knows. ``faults`` leave the object without a usable name; ``problems`` are all others.
    """

    ref: Ref
    generation: int
    uid: str
    created: int | None
    labels: tuple[tuple[str, str], ...]
    annotations: Any
    is_deleting: bool
    faults: tuple[Problem, ...]
    problems: tuple[Problem, ...]


@dataclass(frozen=True, slots=True, kw_only=True, config=SHAPE)
class _NameShape:
    name: NameText = ""


@dataclass(frozen=True, slots=True, kw_only=True, config=SHAPE)
class _NamespacedShape:
    name: NameText = ""
    namespace: NamespaceText = ""


@dataclass(frozen=True, slots=True, kw_only=True, config=SHAPE)
class _RestShape:
    uid: Word = ""
    generation: CountNumber = 0
    creation_timestamp: _Time | None = None
    deletion_timestamp: Any = None
    labels: Any = None
    annotations: Any = None


_read_name = make_reader(_NameShape, _INVALID, required=("name",))
_read_namespaced = make_reader(_NamespacedShape, _INVALID, required=("name", "namespace"))
_read_rest = make_reader(_RestShape, _INVALID)


def read_metadata(raw: object, ref: Ref, *, is_namespaced: bool) -> Metadata:
    """Return the metadata ``raw`` of the object ``ref``. Never raises."""
    faults: list[Problem] = []
    problems: list[Problem] = []
    if is_namespaced:
        _read_namespaced(raw, "metadata", faults)
    else:
        _read_name(raw, "metadata", faults)
    rest = (_read_rest(raw, "metadata", problems) if isinstance(raw, dict) else None) or _RestShape()
    created = _parse_time(rest.creation_timestamp, problems)
    labels = read_pairs(rest.labels, "metadata.labels", problems, _INVALID)
    return Metadata(
        ref=ref,
        generation=rest.generation,
        uid=rest.uid,
        created=created,
        labels=labels,
        annotations=rest.annotations,
        is_deleting=rest.deletion_timestamp is not None,
        faults=tuple(faults),
        problems=tuple(problems),
    )


def _parse_time(text: str | None, problems: list[Problem]) -> int | None:
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        message = f'found "{text}", a day that no calendar has; write a time such as 2026-01-31T23:59:59Z'
        problems.append(Problem("metadata.creationTimestamp", _INVALID, message))
        return None
    return int((moment - _EPOCH).total_seconds())
