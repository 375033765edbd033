"""The machine's own Envoy: started once it can be somebody, started again when it dies, and found again when the agent
was the one that died.

Source: ``pidfd_open(2)``, ``proc(5)`` (a process is named by its id and when it began); Envoy
``docs/root/operations/admin.rst`` (ready).
"""

import contextlib
import hashlib
import json
import logging
import os
import select
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

from meshwright.edge.agent.backoff import Backoff
from meshwright.edge.agent.board import Board, Ending, Report
from meshwright.edge.agent.disk import read_json, write_json
from meshwright.edge.agent.envoy_admin import count_refusals, find_refused, look_at_envoy
from meshwright.edge.agent.settings import Places, Settings
from meshwright.edge.drain import wait_until_idle
from meshwright.edge.envoy_program import envoy_flags
from meshwright.edge.leaf_files import LeafFolder
from meshwright.emit.admin import admin_pipe
from meshwright.emit.bootstrap import emit_bootstrap
from meshwright.model.desired import Json
from meshwright.model.enrollment import Health, MachineConfig, Trouble
from meshwright.model.proxy import Proxy
from meshwright.model.ref import Kind

log = logging.getLogger("meshwright.agent")

BOOTSTRAP_FILE = "envoy.json"
_WHAT = "proxy"
_STEADY_SECONDS = 60.0
_LOOK_SECONDS = 0.1
_END_SECONDS = 5.0
_SLOW_SECONDS = 15.0
_REFUSALS_SECONDS = 30.0
_EVER = 1e6
_ENDED = "-"


class OwnEnvoy:
    """Runs one Envoy. ``program``: where it is."""

    def __init__(self, settings: Settings, places: Places, board: Board, program: Path) -> None:
        self._settings = settings
        self._places = places
        self._board = board
        self._program = program
        self._proxy = places.proxy_settings(settings)
        self._pid_file = places.state / "envoy.pid"
        self._child: subprocess.Popen[bytes] | None = None
        self._pidfd = -1
        self._refusals, self._refusals_due = 0, 0.0
        self._woken, self._wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        board.on_change.append(self._poke)

    @property
    def pipe(self) -> str:
        """Where its administration listens."""
        return str(admin_pipe(self._proxy)["pipe"]["path"])

    def run(self) -> None:
        """Have it run until the agent ends; then it still runs.

        Raises:
            Ending: the agent ends.
        """
        board, backoff = self._board, Backoff()
        config = board.wait_for(lambda: board.config)
        board.wait_for(lambda: board.credential)
        while True:
            bootstrap = self._make_bootstrap(board.config or config)
            if bootstrap is None:
                board.pause(_EVER, lambda: self._make_bootstrap(board.config or config))
                continue
            began = time.monotonic()
            try:
                if not self._adopt(bootstrap):
                    self._start(bootstrap)
            except OSError as error:
                self._tell(f"the proxy does not start: {error.strerror}")
            else:
                self._watch(bootstrap)
            if time.monotonic() - began > _STEADY_SECONDS:
                backoff.reset()
            board.pause(backoff.wait())

    def drain(self, seconds: float) -> None:
        """Ask callers to leave, and wait until nobody uses it, or so long. News that they should spreads first."""
        if not seconds or self._pidfd < 0:
            return
        began = time.monotonic()
        news = min(seconds, 1.0)
        ports = str(self._settings.inbound_port), str(self._settings.outbound_port)
        time.sleep(news)
        if not wait_until_idle(self.pipe, ports, max(0.0, seconds - news)):
            log.warning("drain: connections are left after %.0f s; ending", time.monotonic() - began)

    def stop(self) -> None:
        """End it, kindly at first. It has ended when this returns."""
        if self._pidfd < 0:
            return
        for how in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, how)
            if select.select([self._pidfd], [], [], _END_SECONDS)[0]:
                break
        self._reap()

    def _make_bootstrap(self, config: MachineConfig) -> Json | None:
        """Return what it is started with, ``None`` when it cannot be."""
        proxy = Proxy(self._settings.namespace, config.workload, Kind.EXTERNAL_WORKLOAD)
        try:
            return emit_bootstrap(proxy, config.delivery, self._proxy)
        except ValueError as error:
            self._tell(f"the registrar names no delivery: {error}")
            return None

    def make_words(self, path: Path) -> tuple[str, ...]:
        """Return the words that start Envoy with the bootstrap at ``path``."""
        level = self._settings.envoy_log_level
        flags = envoy_flags(str(path), level, self._settings.concurrency)
        # While delivery is away that component warns with each try, every second. What it refuses we say ourselves.
        quiet = ("--component-log-level", "config:error") if level == "warning" else ()
        return (str(self._program), *flags, *quiet)

    def _start(self, bootstrap: Json) -> None:
        folder = LeafFolder(self._proxy)
        with folder.locked():
            folder.write_anchors()
            path = folder.write_document(BOOTSTRAP_FILE, bootstrap)
        # A session of its own: what is typed at a terminal is for the agent, which drains before it ends Envoy.
        self._child = subprocess.Popen(self.make_words(path), stdin=subprocess.DEVNULL, start_new_session=True)
        self._pidfd = os.pidfd_open(self._child.pid)
        identity = {"pid": self._child.pid, "began": _began(self._child.pid), "like": self._likeness(bootstrap)}
        write_json(self._pid_file, identity)
        log.info("proxy: Envoy runs as process %d", self._child.pid)
        self._board.change(proxy_pid=self._child.pid)

    def _adopt(self, bootstrap: Json) -> bool:
        """Take over the Envoy of an agent that died, if it is as it would be started now; end it, if it is not."""
        noted = read_json(self._pid_file)
        if self._child is not None or not isinstance(noted, dict):
            return False
        pid = find_running(noted)
        if not pid:
            return False
        try:
            self._pidfd = os.pidfd_open(pid)
        except OSError:
            return False
        if noted.get("like") != self._likeness(bootstrap):
            log.info("proxy: Envoy of the agent before, process %d, is not as it should be now; ending it", pid)
            self.stop()
            return False
        log.info("proxy: Envoy of the agent before, process %d, goes on", pid)
        self._board.change(proxy_pid=pid)
        return True

    def _likeness(self, bootstrap: Json) -> str:
        text = json.dumps([self.make_words(Path()), bootstrap], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def _watch(self, bootstrap: Json) -> None:
        """Return when it has ended, or was ended because it should be another one.

        Raises:
            Ending: the agent ends.
        """
        board, began, is_ready = self._board, time.monotonic(), False
        while True:
            if board.is_ending:
                raise Ending
            config = board.config
            if config is not None and self._make_bootstrap(config) not in (bootstrap, None):
                log.info("proxy: Envoy must be started anew: delivery, or this machine's name, has changed")
                self._tell("the proxy is started anew, because its configuration has changed")
                self.stop()
                return
            if is_ready:
                self._look_for_refusals()
            elif is_ready := self._look(config, time.monotonic() - began):
                log.info("proxy: Envoy is ready")
                board.mend(_WHAT, "it runs again")
                board.change(proxy=Report(health=Health.PASSING, at=time.monotonic()))
            wait = _REFUSALS_SECONDS if is_ready else _LOOK_SECONDS
            ended, _, _ = select.select([self._pidfd, self._woken], [], [], wait)
            if self._woken in ended:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._woken, 4096)
            if self._pidfd in ended:
                self._tell(f"the proxy (Envoy) has ended {self._reap()}")
                return

    def _look(self, config: MachineConfig | None, seconds: float) -> bool:
        """Return whether it can be used, ``seconds`` after it was started; say why not."""
        port = self._settings.inbound_port
        look = look_at_envoy(self.pipe, port)
        if look.is_listening:
            return True
        if look.refused:
            self._tell(f"the proxy refuses its configuration: {look.refused}", Trouble.REFUSED)
        elif seconds > _SLOW_SECONDS:
            at = config.delivery if config is not None else "?"
            message = (
                f"the proxy has been given nothing to listen for at port {port}: does meshwright xds at {at} know it?"
                if look.has_begun
                else f"the proxy has no configuration yet: does meshwright xds at {at} answer this machine?"
            )
            self._tell(message, Trouble.UNCONFIGURED)
        elif self._board.proxy.trouble is Trouble.DOWN:
            self._tell("the proxy is starting", is_fault=False)
        return False

    def _look_for_refusals(self) -> None:
        """Log, now and then, that Envoy has refused something new: it goes on with what it had."""
        now = time.monotonic()
        if now < self._refusals_due:
            return
        self._refusals_due = now + _REFUSALS_SECONDS
        before, found = self._refusals, count_refusals(self.pipe)
        if found is None:
            return
        self._refusals = found
        if found > before:
            why = find_refused(self.pipe) or "the logs of meshwright xds say which"
            self._board.fault(
                "configuration", f"the proxy has refused {found} updates, and goes on with what it had: {why}"
            )

    def _reap(self) -> str:
        """Forget it, and return how it ended."""
        status = self._child.wait() if self._child is not None else None
        os.close(self._pidfd)
        self._pidfd, self._child = -1, None
        self._refusals, self._refusals_due = 0, 0.0
        self._board.change(proxy_pid=0)
        if status is None:
            return "while another agent's"
        return f"by signal {signal.Signals(-status).name}" if status < 0 else f"with status {status}"

    def _tell(self, message: str, trouble: Trouble = Trouble.DOWN, *, is_fault: bool = True) -> None:
        if is_fault:
            self._board.fault(_WHAT, message)
        now, before = time.monotonic(), self._board.proxy
        if (before.health, before.trouble, before.message) != (Health.FAILING, trouble, message):
            self._board.change(proxy=Report(health=Health.FAILING, trouble=trouble, message=message, at=now))

    def _poke(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.write(self._wake, b"\0")


def find_running(noted: Any) -> int:
    """Return the id of the process that was noted, 0 when it has ended. Never raises."""
    try:
        pid = int(noted["pid"])
        return pid if _began(pid) == noted["began"] != _ENDED else 0
    except (LookupError, TypeError, ValueError):
        return 0


def _began(pid: int) -> str:
    """Return when a process began, as the kernel counts; `_ENDED` when it has ended."""
    try:
        words = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    except OSError:
        return _ENDED
    return _ENDED if words[0] == "Z" else words[19]
