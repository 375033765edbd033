"""What the registrar knows of machines and no ExternalWorkload says, as ConfigMaps, and read back from them.

When each machine was last heard of, so that the dead are gone in time whoever leads, and who is gone for good.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice

from meshwright.model.config import FIELD_MANAGER, LABEL_MANAGED_BY
from meshwright.model.desired import Json
from meshwright.model.enrollment import InstanceKey
from meshwright.model.instance import Tombstone
from meshwright.model.ref import Kind, Ref
from meshwright.model.units import Namespace

LABEL_CHECKPOINT = "meshwright.dev/checkpoint"
MAX_ENTRIES = 500
_PREFIX = "mw-seen-"
_SEEN, _TOMBSTONES = "seen.json", "tombstones.json"


def emit_checkpoint(
    seen: Mapping[Ref, int], tombstones: Sequence[Tombstone], control_plane: Namespace
) -> dict[str, Json]:
    """Return the ConfigMaps by name, each with at most 500 entries: as few as there must be, ``{}`` for nothing.

    ``seen``: seconds since 1970, by ExternalWorkload.
    """
    rows: list[tuple[Ref, int] | Tombstone] = [*sorted(seen.items()), *sorted(tombstones)]
    waiting = iter(rows)
    made: dict[str, Json] = {}
    while part := list(islice(waiting, MAX_ENTRIES)):
        name = f"{_PREFIX}{len(made)}"
        gone = [_write(row) for row in part if isinstance(row, Tombstone)]
        times = {f"{row[0].namespace}/{row[0].name}": row[1] for row in part if not isinstance(row, Tombstone)}
        made[name] = {
            "apiVersion": "v1",
            "kind": Kind.CONFIG_MAP.word,
            "metadata": {
                "name": name,
                "namespace": str(control_plane),
                "labels": {LABEL_MANAGED_BY: FIELD_MANAGER, LABEL_CHECKPOINT: "true"},
            },
            "data": {_SEEN: _dump(times), _TOMBSTONES: _dump(gone)},
        }
    return made


def read_checkpoint(stored: Iterable[Json]) -> tuple[dict[Ref, int], tuple[Tombstone, ...]]:
    """Return what the ConfigMaps ``stored`` say, of two times the later. What cannot be read is left out. Never
    raises."""
    seen: dict[Ref, int] = {}
    gone: dict[InstanceKey, Tombstone] = {}
    for raw in stored:
        data = raw.get("data") or {}
        times = _load(data.get(_SEEN))
        for text, at in times.items() if isinstance(times, dict) else ():
            namespace, _, name = text.partition("/")
            if name and type(at) is int:
                ref = Ref(Kind.EXTERNAL_WORKLOAD, Namespace(namespace), name)
                seen[ref] = max(at, seen.get(ref, at))
        rows = _load(data.get(_TOMBSTONES))
        for row in rows if isinstance(rows, list) else ():
            if (each := _read(row)) is not None and (each.key not in gone or gone[each.key] < each):
                gone[each.key] = each
    return seen, tuple(sorted(gone.values()))


def _write(each: Tombstone) -> Json:
    key = each.key
    return {
        "namespace": str(key.namespace),
        "group": key.group,
        "uid": key.uid,
        "epoch": each.epoch,
        "until": each.until,
    }


def _read(row: object) -> Tombstone | None:
    match row:
        case {
            "namespace": str(namespace),
            "group": str(group),
            "uid": str(uid),
            "epoch": int(epoch),
            "until": int(until),
        }:
            key = InstanceKey(Namespace(namespace), group, uid)
            return Tombstone(key=key, epoch=epoch, until=until)
    return None


def _dump(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), sort_keys=True)


def _load(text: object) -> object:
    try:
        return json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError):
        return None
