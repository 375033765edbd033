"""A set of manifest files that people edit while we look: what they hold now, and when that changes.

A file that becomes unreadable keeps what it held before.
"""

import asyncio
import time
from collections.abc import Iterable
from pathlib import Path

from meshwright.edge.manifests import Manifest, Place, Reading, UnreadableError, list_files, read_files

POLL_SECONDS = 0.025
SETTLE_SECONDS = 0.01
_MAX_SHARE = 0.1
_Stamp = tuple[int, int, int]


class Folder:
    """The files below ``paths``."""

    def __init__(self, paths: Iterable[Path]) -> None:
        self._paths = tuple(paths)
        self._stamps: dict[Path, _Stamp] = {}
        self._readings: dict[Path, Reading] = {}
        self._broken: dict[Path, UnreadableError] = {}
        self._missing: UnreadableError | None = None

    @property
    def unreadable(self) -> tuple[UnreadableError, ...]:
        """Return what is wrong with files and paths that cannot be read now."""
        return ((self._missing,) if self._missing else ()) + tuple(self._broken.values())

    @property
    def reading(self) -> Reading:
        """Return all that the files hold, of a broken one what it held last, in the order of files."""
        readings = [self._readings[file] for file in self._stamps if file in self._readings]
        manifests: list[Manifest] = []
        skipped: list[Place] = []
        for reading in readings:
            manifests += reading.manifests
            skipped += reading.skipped
        return Reading(manifests=tuple(manifests), unreadable=self.unreadable, skipped=tuple(skipped))

    def look(self) -> tuple[Path, ...]:
        """Read what has changed since the last look; return those files, gone ones too. Never raises."""
        try:
            files = list_files(self._paths)
        except UnreadableError as error:
            # Editors and git take files away for a moment: nothing is forgotten before there is something else.
            is_known = self._missing is not None
            self._missing = error
            return () if is_known else (Path(error.place.file),)
        self._missing = None
        stamps = {file: stamp for file in files if (stamp := _stamp(file))}
        changed = [file for file, stamp in stamps.items() if self._stamps.get(file) != stamp]
        gone = [file for file in self._stamps if file not in stamps]
        for file in gone:
            self._readings.pop(file, None)
            self._broken.pop(file, None)
        for file in changed:
            reading = read_files([file])
            if reading.unreadable:
                self._broken[file] = reading.unreadable[0]
            else:
                self._broken.pop(file, None)
                self._readings[file] = reading
        self._stamps = stamps
        return (*changed, *gone)

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

    def _look_at_stamps(self) -> dict[Path, _Stamp]:
        try:
            files = list_files(self._paths)
        except UnreadableError:
            return {}
        return {file: stamp for file in files if (stamp := _stamp(file))}


def _stamp(file: Path) -> _Stamp | None:
    try:
        stat = file.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size, stat.st_ino
