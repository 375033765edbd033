"""Who owns which field of an object, and what that makes of an apply. A small model of server-side apply.

Every leaf of a manifest has owners; maps are gone into, lists are one leaf. Source of the rules: kubernetes.io
``docs/reference/using-api/server-side-apply``.
"""

from collections.abc import Iterator
from typing import Any

Json = dict[str, Any]
Path = tuple[str, ...]
Owned = dict[Path, set[str]]

UNOWNED = {("apiVersion",), ("kind",)} | {
    ("metadata", name) for name in ("name", "namespace", "uid", "resourceVersion", "generation", "creationTimestamp")
}


class Conflict(Exception):
    """Another manager owns a field that an apply would change."""


def leaves(value: Json, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    for key, inner in value.items():
        here = (*path, key)
        if isinstance(inner, dict) and inner:
            yield from leaves(inner, here)
        elif here not in UNOWNED:
            yield here, inner


def own_changes(owned: Owned, old: Json, new: Json, manager: str) -> None:
    """Make ``manager`` the only owner of each leaf that differs; leaves that are gone have no owner."""
    before, after = dict(leaves(old)), dict(leaves(new))
    for path in before.keys() - after.keys():
        owned.pop(path, None)
    for path, value in after.items():
        if path not in before or before[path] != value:
            owned[path] = {manager}


def apply_fields(owned: Owned, old: Json, intent: Json, manager: str, *, is_forced: bool) -> Json:
    """Return ``old`` with the manager's whole ``intent``; updates ``owned``.

    Raises:
        Conflict: another manager owns a leaf that would change, and ``is_forced`` is not set.
    """
    have, wanted = dict(leaves(old)), dict(leaves(intent))
    others = {
        path: owners - {manager}
        for path, value in wanted.items()
        if (owners := owned.get(path, set())) - {manager} and have.get(path) != value
    }
    if others and not is_forced:
        told = "; ".join(f"{'.'.join(path)} of {', '.join(sorted(owners))}" for path, owners in sorted(others.items()))
        raise Conflict(f"Apply failed with {len(others)} conflicts: {told}")
    new = old
    for path in [path for path, owners in owned.items() if manager in owners and path not in wanted]:
        owned[path].discard(manager)
        if not owned[path]:
            del owned[path]
            _drop(new, path)
    for path, value in wanted.items():
        _set(new, path, value)
        owned[path] = {manager} | (owned.get(path, set()) if path not in others else set())
    return new


def merge_patch(target: Any, patch: Any) -> Any:
    """Return ``target`` with a JSON merge patch (RFC 7386) applied."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merge_patch(result.get(key), value)
    return result


def _set(target: Json, path: Path, value: Any) -> None:
    for key in path[:-1]:
        target = target.setdefault(key, {})
    target[path[-1]] = value


def _drop(target: Json, path: Path) -> None:
    for key in path[:-1]:
        inner = target.get(key)
        if not isinstance(inner, dict):
            return
        target = inner
    target.pop(path[-1], None)
