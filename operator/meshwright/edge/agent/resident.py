"""``meshwright agent run``: the process that stays, and how it ends."""

import fcntl
import logging
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from meshwright.edge.agent.board import Board, Ending, Fatal
from meshwright.edge.agent.disk import (
    State,
    StateFile,
    link,
    make_folder,
    make_run_folder,
    make_uid,
    read_json,
    remove,
    write_json,
)
from meshwright.edge.agent.envoy import OwnEnvoy
from meshwright.edge.agent.fingerprint import MACHINE_ID, PRODUCT_UUID, find_difference, take_fingerprint
from meshwright.edge.agent.following import Follower, load_config
from meshwright.edge.agent.keeper import Keeper
from meshwright.edge.agent.own_leaf import OwnLeaf
from meshwright.edge.agent.probing import run_probes
from meshwright.edge.agent.redirecting import is_redirected_as_wished
from meshwright.edge.agent.session import Session
from meshwright.edge.agent.settings import Places, Settings
from meshwright.edge.agent.standing import make_standing, serve_standing
from meshwright.edge.agent.wire import Registrar
from meshwright.edge.envoy_program import EnvoyError, find_envoy

log = logging.getLogger("meshwright.agent")

RESTART = 75
"""What it ends with when it must be started again, because only root may do what is next: BSD ``sysexits.h``
EX_TEMPFAIL."""

_JOIN_SECONDS = 2.0
_STACK_BYTES = 256 * 1024
_SECOND_STOP = 2
_EVER = 1e6


def run_agent(
    settings: Settings, places: Places, *, machine_id: Path = MACHINE_ID, product_uuid: Path = PRODUCT_UUID
) -> int:
    """Run until asked to stop; return the exit status.

    Raises:
        Fatal: it cannot go on.
        OSError: a folder cannot be written to.
    """
    os.umask(0o077)
    make_folder(places.state)
    with (places.state / ".lock").open("wb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Fatal(f"another agent runs with {places.state}; one folder is one machine in one group") from None
        remove(places.failure)
        program = _find_program(settings)
        kept = open_state(places, settings, machine_id=machine_id, product_uuid=product_uuid)
        return _Resident(settings, places, kept, program).run()


def open_state(
    places: Places, settings: Settings, *, machine_id: Path = MACHINE_ID, product_uuid: Path = PRODUCT_UUID
) -> StateFile:
    """Return this machine's state; on a copy of the machine it was made on, a new one, without the other's key."""
    kept = StateFile(places.state)
    now = take_fingerprint(places.redirected, machine_id=machine_id, product_uuid=product_uuid)
    if kept.state is None:
        kept.write(State(uid=make_uid(), fingerprint=now))
        return kept
    if differing := find_difference(kept.state.fingerprint, now):
        log.warning(
            "this is a copy of another machine (%s differ): it forgets who that one was, and joins by itself",
            ", ".join(differing),
        )
        OwnLeaf(settings, places, kept).forget()
        remove(places.config)
        kept.write(State(uid=make_uid(), fingerprint=now))
    elif kept.state.namespace and (kept.state.namespace, kept.state.group) != (settings.namespace, settings.group):
        log.warning(
            "agent.json names group %s/%s, and this machine was in %s/%s: it joins anew",
            *(settings.namespace, settings.group, kept.state.namespace, kept.state.group),
        )
        OwnLeaf(settings, places, kept).forget()
        remove(places.config)
        kept.write(State(uid=make_uid(), fingerprint=now))
    elif dict(kept.state.fingerprint) != dict(now):
        kept.change(fingerprint=tuple((dict(kept.state.fingerprint) | dict(now)).items()))
    return kept


class _Resident:
    """The threads, from their start to their end."""

    def __init__(self, settings: Settings, places: Places, kept: StateFile, program: Path) -> None:
        self._settings = settings
        self._places = places
        self._board = Board()
        self._stops = 0
        self._stopped = threading.Event()
        self._board.change(config=load_config(places.config))
        self._envoy = OwnEnvoy(settings, places, self._board, program)
        self._session = Session(settings, self._registrar(), kept, self._board, read_version(program))
        follower = Follower(settings, self._registrar(), self._board, places.config, lambda: self._session.path)
        keeper = Keeper(settings, OwnLeaf(settings, places, kept), self._registrar(), kept, self._board)
        self._kept = kept
        self._tasks: dict[str, Callable[[], None]] = {
            "certificate": keeper.run,
            "session": self._session.run,
            "configuration": follower.run,
            "proxy": self._envoy.run,
            "probe": lambda: run_probes(self._board, settings.allowed_probe_hosts),
            "redirect": self._watch_redirect,
        }

    def run(self) -> int:
        """Return the exit status, once everything has ended.

        Raises:
            Fatal: it cannot go on.
        """
        board = self._board
        threading.stack_size(_STACK_BYTES)
        threads = [threading.Thread(target=self._guard, args=(task,), name=name) for name, task in self._tasks.items()]
        for how in (signal.SIGTERM, signal.SIGINT):
            signal.signal(how, self._stop)
        board.on_change.append(self._note_end)
        make_run_folder(self._places.run)
        link(self._places.identity_link, self._places.identity)
        listener = serve_standing(self._places.socket, lambda: make_standing(self._settings, self._kept, board))
        for thread in threads:
            thread.daemon = True
            thread.start()
        try:
            self._stopped.wait()
            log.info("ending")
            board.end()
            is_kind = board.fatal is None or board.fatal.status == RESTART
            if is_kind and self._settings.drain_seconds:
                self._drain()
            for thread in threads:
                thread.join(_JOIN_SECONDS)
            self._envoy.stop()
        finally:
            listener.close()
            self._places.socket.unlink(missing_ok=True)
        if board.fatal is not None:
            raise board.fatal
        return 0

    def _registrar(self) -> Registrar:
        return Registrar(self._settings.registrar, self._settings.trust, self._places.bundle)

    def _drain(self) -> None:
        """Have nobody sent here any more, and wait until nobody is here; a second signal ends that."""
        seconds = self._settings.drain_seconds

        def drain() -> None:
            self._session.drain(seconds)
            self._envoy.drain(seconds)

        log.info("drain: up to %.0f s until connections have ended; another signal ends at once", seconds)
        waiter = threading.Thread(target=drain, name="drain", daemon=True)
        waiter.start()
        while waiter.is_alive() and self._stops < _SECOND_STOP:
            waiter.join(0.1)

    def _watch_redirect(self) -> None:
        """End with `RESTART` when the registrar wants other ports or ranges skipped than root has put in place."""
        board = self._board
        while True:
            config = board.wait_for(lambda: board.config)
            if not is_redirected_as_wished(self._settings, config, self._places):
                raise Fatal(
                    "the group wants other ports, or ranges, to be skipped; ending, to be started again with them "
                    "(`meshwright agent redirect` puts them in place, as root)",
                    status=RESTART,
                )
            board.pause(_EVER, lambda: board.config, config)

    def _guard(self, task: Callable[[], None]) -> None:
        try:
            task()
        except Ending:
            pass
        except Fatal as fatal:
            self._board.end(fatal)
        except OSError as error:
            self._board.end(Fatal(f"{error.filename or 'the disk'}: {error.strerror or error}"))
        finally:
            if not self._board.is_ending:
                self._board.end(Fatal(f"the part `{threading.current_thread().name}` has failed; this is a bug"))

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        self._stops += 1
        self._stopped.set()

    def _note_end(self) -> None:
        if self._board.is_ending:
            self._stopped.set()


def note_failure(places: Places, message: str) -> None:
    """Keep why the agent has ended, for `meshwright agent status`. Never raises."""
    try:
        write_json(places.failure, {"at": time.time(), "message": message})
    except OSError:
        log.warning("%s cannot be written", places.failure)


def read_failure(places: Places) -> str:
    """Return why the agent has ended, ``""`` when it does not say. Never raises."""
    noted = read_json(places.failure)
    return str(noted.get("message") or "") if isinstance(noted, dict) else ""


def read_version(program: Path) -> str:
    """Return Envoy's version, ``""`` when it does not say. Never raises."""
    try:
        done = subprocess.run((program, "--version"), capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    parts = done.stdout.partition("version:")[2].split("/")
    return parts[1] if len(parts) > 1 else ""


def _find_program(settings: Settings) -> Path:
    if settings.envoy:
        if not os.access(settings.envoy, os.X_OK):
            raise Fatal(f"agent.json: envoy: {settings.envoy} cannot be run", status=2)
        return Path(settings.envoy)
    try:
        return find_envoy()
    except EnvoyError as error:
        raise Fatal(str(error), status=2) from None
