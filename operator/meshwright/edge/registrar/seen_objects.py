"""ExternalWorkloads and ExternalGroups as the API server has them: as much of each as it takes to write it next.

Told by a watch and by the answers to our own writes, in any order: the newest version counts. What is kept is bytes:
there may be thousands, and each is looked at when it is written, and seldom else.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import orjson

from meshwright.edge.client import Json
from meshwright.edge.watch import is_older
from meshwright.model.ref import Ref

T = TypeVar("T")

_KEPT = ("uid", "resourceVersion", "generation", "labels", "annotations", "deletionTimestamp", "creationTimestamp")


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenObject(Generic[T]):
    """One object: its uid and version, what it is parsed to, and the rest of what is kept, as JSON. ``is_told``: the
    watch has told of it; else only the answer to a write has."""

    uid: str
    version: str
    parsed: T
    content: bytes
    is_told: bool

    @property
    def raw(self) -> Json:
        """Return the object: what is kept of its metadata, its spec and its status."""
        found: Json = orjson.loads(self.content)
        return found


class SeenObjects(Generic[T]):
    """All objects of a kind. ``changed`` hears what each that is another now is ``parse``d to, ``None``: gone."""

    def __init__(self, *, parse: Callable[[Json], T], changed: Callable[[Ref, T | None], None]) -> None:
        self._parse = parse
        self._changed = changed
        self._seen: dict[Ref, SeenObject[T]] = {}
        self._deleted: dict[Ref, str] = {}
        """What was deleted here and is not told as gone yet, at the version that it had."""

    def __len__(self) -> int:
        return len(self._seen)

    def __contains__(self, ref: object) -> bool:
        return ref in self._seen

    def get(self, ref: Ref) -> SeenObject[T] | None:
        return self._seen.get(ref)

    def refs(self) -> tuple[Ref, ...]:
        """Return what all are called."""
        return tuple(self._seen)

    def put(self, ref: Ref, raw: Json | None) -> None:
        """Take what the watch tells. That one is gone is no news of another that was made since under its name."""
        if raw is None:
            self._deleted.pop(ref, None)
            if (old := self._seen.get(ref)) is not None and old.is_told:
                self._drop(ref)
        else:
            self._take(ref, raw, is_told=True)

    def wrote(self, ref: Ref, raw: Json) -> None:
        """Take the answer to a write, or to a read."""
        self._take(ref, raw, is_told=False)

    def deleted(self, ref: Ref) -> None:
        """We deleted it, or found that it is gone: what the watch still has to tell of it is old."""
        if (old := self._seen.get(ref)) is not None:
            self._deleted[ref] = old.version
        self._drop(ref)

    def _drop(self, ref: Ref) -> None:
        if self._seen.pop(ref, None) is not None:
            self._changed(ref, None)

    def _take(self, ref: Ref, raw: Json, *, is_told: bool) -> None:
        meta = raw["metadata"]
        uid, version = str(meta.get("uid") or ""), str(meta.get("resourceVersion") or "")
        old = self._seen.get(ref)
        if old is not None and is_older(version, old.version):
            return
        if ref in self._deleted and not is_older(self._deleted[ref], version):
            return
        is_same = old is not None and (old.uid, old.version) == (uid, version)
        if old is not None and is_same:
            content, parsed, is_told = old.content, old.parsed, old.is_told or is_told
        else:
            is_told = is_told or (old is not None and old.uid == uid and old.is_told)
            parsed = self._parse(raw)
            kept = {key: meta[key] for key in _KEPT if key in meta}
            where = {"name": ref.name, "namespace": str(ref.namespace)}
            content = orjson.dumps(
                {
                    "apiVersion": raw.get("apiVersion"),
                    "kind": ref.kind.word,
                    "metadata": {**where, **kept},
                    "spec": raw.get("spec") or {},
                    "status": raw.get("status") or {},
                }
            )
        self._seen[ref] = SeenObject(uid=uid, version=version, parsed=parsed, content=content, is_told=is_told)
        if not is_same:
            self._changed(ref, parsed)
