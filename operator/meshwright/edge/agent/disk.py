"""What an agent keeps on disk: written whole or not at all, readable for it alone, and there after a power loss.

Source: POSIX ``rename``, ``fsync``; a file's name is durable once its folder is synchronised (Linux ``fsync(2)``).
"""

import contextlib
import json
import logging
import os
import secrets
import threading
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

_STATE_FILE = "state.json"
_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """Who this machine has been.

    ``uid``: of its own choice; ``epoch``: of its last registration; ``fingerprint``: the machine it was made on, by
    parts. ``namespace``, ``group``: where it has joined, ``""`` before. ``identity`` and ``workload`` are as the
    registrar said, ``""`` before. ``refused``: SHA-256 of the token that the registrar has refused for good, and
    ``refusal`` why. ``fenced``: why this instance may not register again, ``""`` while it may.
    """

    uid: str
    epoch: int = 0
    fingerprint: tuple[tuple[str, str], ...] = ()
    namespace: str = ""
    group: str = ""
    identity: str = ""
    workload: str = ""
    refused: str = ""
    refusal: str = ""
    fenced: str = ""


def make_uid() -> str:
    """Return a new name for this machine: 32 hexadecimal digits."""
    return secrets.token_hex(16)


def make_folder(folder: Path) -> None:
    """Make a folder that only we can read, and its parents.

    Raises:
        OSError: it cannot be made.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)


def make_run_folder(folder: Path) -> None:
    """Make a folder that anybody on this machine may look into: who asks how the agent is need not be root.

    Raises:
        OSError: it cannot be made.
    """
    if not folder.is_dir():
        folder.mkdir(parents=True)
        folder.chmod(0o755)


def link(path: Path, target: Path) -> None:
    """Have ``path`` lead to ``target``, whatever it led to before.

    Raises:
        OSError: it cannot; a folder in its place stays.
    """
    if path.is_symlink() and path.readlink() == target:
        return
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)
    new.symlink_to(target)
    os.replace(new, path)


def write_durably(
    path: Path, content: bytes, *, mode: int = 0o600, owner: tuple[int, int] | None = None, is_exact: bool = False
) -> None:
    """Write a file so that after a crash at any moment it is there as before or as it is now.

    ``owner``: the ids of a user and a group, ``None`` for our own. ``is_exact``: the process's umask takes nothing of
    ``mode``. Both are the file's before it has its name: in a folder of somebody else's a name may mean another file.

    Raises:
        OSError: it cannot be written; what was there still is.
    """
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(content)
        file.flush()
        if is_exact:
            os.fchmod(file.fileno(), mode)
        if owner is not None:
            os.fchown(file.fileno(), *owner)
        os.fsync(file.fileno())
    os.replace(new, path)
    sync(path.parent)


def write_json(path: Path, document: object, *, mode: int = 0o600) -> None:
    """Write a document with `write_durably`."""
    write_durably(path, json.dumps(document, sort_keys=True, indent=1).encode() + b"\n", mode=mode)


def read_json(path: Path) -> Any:
    """Return a document, ``None`` when there is none that can be read. Never raises."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None


def sync(path: Path) -> None:
    """Have a file's content, or a folder's names, survive a power loss.

    Raises:
        OSError: the disk says no.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_all(folder: Path) -> None:
    """Have a folder and every file in it survive a power loss.

    Raises:
        OSError: the disk says no.
    """
    for entry in folder.iterdir():
        if entry.is_file() and not entry.name.startswith("."):
            sync(entry)
    sync(folder)


def remove(path: Path) -> None:
    """Remove a file for good; one that is not there is removed already.

    Raises:
        OSError: it cannot be removed.
    """
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
        sync(path.parent)


class StateFile:
    """``state.json``, and what it says. Who changes it has it on disk when the call returns. For any thread."""

    def __init__(self, folder: Path) -> None:
        make_folder(folder)
        self._path = folder / _STATE_FILE
        self._lock = threading.RLock()
        self.was_corrupt = False
        """Whether what was there could not be read, and was set aside."""
        self.state: State | None = self._read()

    @property
    def known(self) -> State:
        """Return the state. Only once there is one."""
        assert self.state is not None
        return self.state

    def write(self, state: State) -> State:
        """Keep ``state``.

        Raises:
            OSError: it cannot be written.
        """
        with self._lock:
            write_json(self._path, {"version": _VERSION, **asdict(state)})
            self.state = state
        return state

    def change(self, **what: Any) -> State:
        """Keep the state with some fields changed; like `write`."""
        with self._lock:
            return self.write(replace(self.known, **what))

    def _read(self) -> State | None:
        try:
            text = self._path.read_bytes()
        except FileNotFoundError:
            return None
        try:
            return _parse(json.loads(text))
        except (ValueError, TypeError, LookupError) as error:
            aside = self._path.with_name(f"{_STATE_FILE}.corrupt-{int(time.time())}")
            os.replace(self._path, aside)
            sync(aside.parent)
            self.was_corrupt = True
            log.error("%s cannot be read (%s); it is now %s, to be looked at", self._path, error, aside.name)
            return None


def _parse(raw: Any) -> State:
    if not isinstance(raw, dict) or raw.get("version") != _VERSION:
        raise ValueError("it is not a state of this version")
    texts = {name: raw[name] for name in State.__slots__ if name not in ("epoch", "fingerprint")}
    epoch, parts = raw["epoch"], raw["fingerprint"]
    if not all(isinstance(text, str) for text in texts.values()) or not texts["uid"]:
        raise ValueError("a field is not a text")
    if isinstance(epoch, bool) or not isinstance(epoch, int) or epoch < 0:
        raise ValueError("epoch is not a number")
    return State(epoch=epoch, fingerprint=tuple((str(name), str(value)) for name, value in parts), **texts)
