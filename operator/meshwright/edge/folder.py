"""A set of manifest files that people edit while we look: what they hold now, and when that changes.

A file that becomes unreadable keeps what it held before.
"""

import asyncio
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from meshwright.edge.manifests import (
    CHART,
    SUFFIXES,
    Manifest,
    Place,
    Reading,
    UnreadableError,
    list_files,
    read_files,
)

POLL_SECONDS = 0.025
SETTLE_SECONDS = 0.01
_MAX_SHARE = 0.1
_Stamp = tuple[int, int, int]
_Order = tuple[int, tuple[str, ...]]


class Folder:
    """The files below ``paths``."""

    def __init__(self, paths: Iterable[Path]) -> None:
        self._paths = tuple(paths)
        self._stamps: dict[str, _Stamp] = {}
        self._orders: dict[str, _Order] = {}
        self._readings: dict[str, Reading] = {}
        self._broken: dict[str, UnreadableError] = {}
        self._missing: UnreadableError | None = None

    @property
    def unreadable(self) -> tuple[UnreadableError, ...]:
        """Return what is wrong with files and paths that cannot be read now."""
        return ((self._missing,) if self._missing else ()) + tuple(self._broken.values())

    @property
    def reading(self) -> Reading:
        """Return all that the files hold, of a broken one what it held last, in the order of files."""
        manifests: list[Manifest] = []
        skipped: list[Place] = []
        for file in sorted(self._readings, key=self._orders.__getitem__):
            manifests += self._readings[file].manifests
            skipped += self._readings[file].skipped
        return Reading(manifests=tuple(manifests), unreadable=self.unreadable, skipped=tuple(skipped))

    @property
    def files(self) -> tuple[Path, ...]:
        """Return the files that hold something."""
        return tuple(map(Path, self._readings))

    def held(self, file: Path) -> tuple[Manifest, ...]:
        """Return what one file holds, or held before it broke; nothing when it is gone."""
        reading = self._readings.get(str(file))
        return reading.manifests if reading is not None else ()

    def order(self, file: Path) -> _Order:
        """Return what to sort files by: the path they were found below, then their own."""
        return self._orders.get(str(file), (len(self._paths), file.parts))

    def look(self) -> tuple[Path, ...]:
        """Read what has changed since the last look; return those files, gone ones too. Never raises."""
        try:
            stamps = self._scan()
        except UnreadableError as error:
            # Editors and git take files away for a moment: nothing is forgotten before there is something else.
            is_known = self._missing is not None
            self._missing = error
            return () if is_known else (Path(error.place.file),)
        self._missing = None
        changed = [file for file, stamp in stamps.items() if self._stamps.get(file) != stamp]
        gone = [file for file in self._stamps if file not in stamps]
        for file in gone:
            self._readings.pop(file, None)
            self._broken.pop(file, None)
            del self._orders[file]
        if any(file not in self._orders for file in changed):
            self._orders = _find_orders(self._paths, stamps)
        changed.sort(key=self._orders.__getitem__)
        for file in changed:
            earlier = self._readings.get(file)
            reading = read_files([Path(file)], known=earlier.pieces if earlier is not None else None)
            if reading.unreadable:
                self._broken[file] = reading.unreadable[0]
            else:
                self._broken.pop(file, None)
                self._readings[file] = reading
        self._stamps = stamps
        return tuple(map(Path, (*changed, *gone)))

    async def changes(self) -> tuple[Path, ...]:
        """Wait until files have changed and are written to no more, and return them."""
        while True:
            started = time.perf_counter()
            stamps = self._look_at_stamps()
            if stamps != self._stamps:
                # An editor empties a file and then fills it: what is read in between would be half of it.
                await asyncio.sleep(SETTLE_SECONDS)
                if self._look_at_stamps() == stamps and (changed := self.look()):
                    return changed
            await asyncio.sleep(max(POLL_SECONDS, (time.perf_counter() - started) / _MAX_SHARE))

    def _look_at_stamps(self) -> dict[str, _Stamp]:
        try:
            return self._scan()
        except UnreadableError:
            return {}

    def _scan(self) -> dict[str, _Stamp]:
        """Return the stamps of the files that `list_files` names, in no order: one stat for each.

        Raises:
            UnreadableError: as `list_files`.
        """
        stamps: dict[str, _Stamp] = {}
        for path in self._paths:
            is_file = path.is_file()
            found = dict(_look_at(str(path)) if is_file else _walk(str(path)))
            if not found:
                list_files((path,))  # says what is wrong, unless it is there again
            stamps |= found
        return stamps


def _find_orders(paths: Iterable[Path], files: Iterable[str]) -> dict[str, _Order]:
    """Return the order of each of ``files``: the first of ``paths`` that it is or lies below, then its parts."""
    roots = {path.parts: number for number, path in reversed(tuple(enumerate(paths)))}
    orders: dict[str, _Order] = {}
    for file in files:
        parts = Path(file).parts
        above = (parts[:length] for length in range(len(parts) + 1))
        orders[file] = (min(roots[each] for each in above if each in roots), parts)
    return orders


def _walk(folder: str) -> Iterator[tuple[str, _Stamp]]:
    """Yield the manifest files below ``folder``, as `list_files` has it, and their stamps."""
    prefix = "" if folder == "." else os.path.join(folder, "")
    if os.path.isfile(f"{prefix}{CHART}"):
        yield from _look_at(f"{prefix}{CHART}")
        return
    try:
        with os.scandir(folder) as entries:
            found = [entry for entry in entries if not entry.name.startswith(".")]
    except OSError:
        return
    for entry in found:
        if entry.is_dir():
            if not entry.is_symlink():
                yield from _walk(f"{prefix}{entry.name}")
        elif entry.name.endswith(SUFFIXES) and entry.is_file():
            yield from _look_at(f"{prefix}{entry.name}")


def _look_at(file: str) -> Iterator[tuple[str, _Stamp]]:
    try:
        stat = os.stat(file)
    except OSError:
        return
    yield file, (stat.st_mtime_ns, stat.st_size, stat.st_ino)
