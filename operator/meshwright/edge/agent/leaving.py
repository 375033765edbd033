"""Taking a machine out of its group for good."""

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from meshwright.edge.agent.disk import StateFile, read_json
from meshwright.edge.agent.envoy import find_running
from meshwright.edge.agent.installing import UNIT_FOLDER, has_systemd
from meshwright.edge.agent.own_leaf import OwnLeaf
from meshwright.edge.agent.programs import LeafError
from meshwright.edge.agent.session import make_path
from meshwright.edge.agent.settings import Places, Settings
from meshwright.edge.agent.standing import ask_standing
from meshwright.edge.agent.unit import UNIT
from meshwright.edge.agent.wire import CallFailed, Registrar

_END_SECONDS = 90.0
_GONE = (404, 410)


class LeaveError(Exception):
    """The machine has not left. The text says why, and what to do."""


def stop_agent(places: Places, say: Callable[[str], None]) -> None:
    """Have the agent and its Envoy end, and not begin again.

    Raises:
        LeaveError: they do not end.
    """
    if has_systemd() and (UNIT_FOLDER / UNIT).exists():
        subprocess.run(("systemctl", "disable", "--now", UNIT), capture_output=True, check=False, timeout=_END_SECONDS)
        say(f"stopped {UNIT}")
    standing = ask_standing(places.socket)
    if standing is not None and isinstance(standing.get("pid"), int):
        os.kill(standing["pid"], signal.SIGTERM)
        say(f"stopped the agent, process {standing['pid']}")
    end = time.monotonic() + _END_SECONDS
    while not _is_free(places):
        if time.monotonic() > end:
            raise LeaveError(f"the agent of {places.state} does not end; stop it, and come again")
        time.sleep(0.05)
    noted = read_json(places.state / "envoy.pid")
    if isinstance(noted, dict) and (pid := find_running(noted)) and _is_owned_alike(pid, places.state):
        os.kill(pid, signal.SIGTERM)
        say(f"stopped Envoy, process {pid}, which no agent looked after")


def tell_registrar(settings: Settings, places: Places) -> str:
    """Have the registrar forget this machine, and return words about it.

    Raises:
        LeaveError: it was not told, or does not agree.
    """
    kept = StateFile(places.state)
    if kept.state is None or kept.state.epoch == 0:
        return "this machine has never registered"
    try:
        credential = OwnLeaf(settings, places, kept).find()
    except LeafError as error:
        raise LeaveError(f"the certificate in place cannot be used: {error}; {_HOW_ALONE}") from None
    if credential is None:
        raise LeaveError(f"there is no certificate to show the registrar; {_HOW_ALONE}")
    registrar = Registrar(settings.registrar, settings.trust, places.bundle)
    path = f"{make_path(settings, kept.state.uid)}?epoch={kept.state.epoch}"
    try:
        with _left_alone(places):
            answer = registrar.call("DELETE", path, shown=credential.shown)
    except CallFailed as error:
        raise LeaveError(f"{error}; {_HOW_ALONE}") from None
    finally:
        registrar.close()
    if not answer.is_good and answer.status not in _GONE:
        raise LeaveError(f"the registrar refused ({answer}); {_HOW_ALONE}")
    return f"the registrar has forgotten {kept.state.workload or kept.state.uid}"


@contextlib.contextmanager
def _left_alone(places: Places) -> Iterator[None]:
    """Be the agent's user for the time of the block: what root connects to is turned to a proxy that has ended."""
    noted = read_json(places.redirected)
    uid = noted.get("uid") if isinstance(noted, dict) else None
    if os.geteuid() != 0 or not isinstance(uid, int):
        yield
        return
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)


def remove_all(settings: Settings, places: Places, *, unit_folder: Path = UNIT_FOLDER) -> list[str]:
    """Remove the state, the token, the settings and the unit, and return what was removed.

    Raises:
        OSError: something cannot be removed.
    """
    removed = []
    token = places.token(settings)
    for path in (token, unit_folder / UNIT, places.settings, places.redirected, places.socket):
        if path.exists():
            path.unlink()
            removed.append(str(path))
    if places.state.exists():
        shutil.rmtree(places.state)
        removed.append(str(places.state))
    return removed


_HOW_ALONE = (
    "with --local it leaves without being heard: its endpoint goes when its lease has ended, and its ExternalWorkload "
    "some time after that"
)


def _is_owned_alike(pid: int, folder: Path) -> bool:
    """Whether a process is the folder's owner's: who can write there must not have root end what is not theirs."""
    try:
        return Path(f"/proc/{pid}").stat().st_uid == folder.stat().st_uid
    except OSError:
        return False


def _is_free(places: Places) -> bool:
    """Whether no agent runs with this folder."""
    try:
        with (places.state / ".lock").open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return True
    except BlockingIOError:
        return False
    return True
