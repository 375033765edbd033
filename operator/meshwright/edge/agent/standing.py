"""What the agent says of itself, over a local socket: nothing of it is secret.

Source: ``unix(7)``.
"""

import contextlib
import json
import os
import socket
import struct
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from meshwright import __version__
from meshwright.edge.agent.addresses import Candidate
from meshwright.edge.agent.board import Board
from meshwright.edge.agent.disk import StateFile, make_run_folder
from meshwright.edge.agent.settings import Settings
from meshwright.edge.agent.wire import stamp
from meshwright.model.enrollment import Health

_SECONDS = 2.0
_MAX_BYTES = 256 * 1024


def make_standing(settings: Settings, kept: StateFile, board: Board) -> dict[str, Any]:
    """Return how the agent is, as JSON. Ages are in seconds, ``None`` for never."""
    now, state = time.monotonic(), kept.state
    credential, registration, config, report = board.credential, board.registration, board.config, board.report()
    lease = registration.lease_ms / 1000 - (now - board.beaten) if registration else None
    found: dict[str, Any] = {
        "version": __version__,
        "pid": os.getpid(),
        "group": f"{settings.namespace}/{settings.group}",
        "mode": settings.mode.value,
        "registrar": settings.registrar,
        "uid": state.uid if state else "",
        "epoch": state.epoch if state else 0,
        "fenced": state.fenced if state else "",
        "registered": bool(registration and lease is not None and lease > 0),
        "workload": registration.workload if registration else (state.workload if state else ""),
        "ready": board.is_ready,
        "leaseSeconds": None if lease is None else round(lease, 1),
        "beatenSecondsAgo": round(now - board.beaten, 1) if board.beaten else None,
        "health": report.health.value,
        "healthMessage": report.message,
        "probe": _report(board, now),
        "proxy": {
            "ready": board.proxy.health is Health.PASSING,
            "message": board.proxy.message,
            "pid": board.proxy_pid or None,
        },
        "certificate": None,
        "addresses": _addresses(board.addresses),
        "candidates": _addresses(board.candidates),
        "loaded": {"config": config.hash if config else "", "bundle": config.bundle_hash if config else ""},
        "faults": [{"at": at, "what": what, "message": message} for at, what, message in board.faults],
    }
    if credential is not None:
        found["certificate"] = {
            "identity": credential.identity,
            "from": stamp(datetime.fromtimestamp(credential.not_before, UTC)),
            "until": stamp(datetime.fromtimestamp(credential.not_after, UTC)),
            "seconds": round(credential.not_after - time.time()),
        }
    return found


def serve_standing(path: Path, make: Callable[[], dict[str, Any]]) -> socket.socket:
    """Answer whoever connects to the socket at ``path``; return it, to be closed.

    Raises:
        OSError: there can be no socket there.
    """
    make_run_folder(path.parent)
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    os.chmod(path, 0o666)
    listener.listen(8)
    threading.Thread(target=_answer_all, args=(listener, make), name="status", daemon=True).start()
    return listener


def ask_standing(path: Path) -> dict[str, Any] | None:
    """Return what the agent at ``path`` says of itself, ``None`` when none is there. Never raises."""
    content = b""
    try:
        with socket.socket(socket.AF_UNIX) as there:
            there.settimeout(_SECONDS)
            there.connect(str(path))
            # What it says of itself is not to be trusted by root, which will end this process.
            pid, _, _ = struct.unpack("3i", there.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
            while (piece := there.recv(65536)) and len(content) < _MAX_BYTES:
                content += piece
        found = json.loads(content)
    except (OSError, ValueError):
        return None
    return {**found, "pid": pid} if isinstance(found, dict) else None


def _answer_all(listener: socket.socket, make: Callable[[], dict[str, Any]]) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        with connection, contextlib.suppress(OSError):
            connection.settimeout(_SECONDS)
            connection.sendall(json.dumps(make()).encode() + b"\n")


def _report(board: Board, now: float) -> dict[str, Any] | None:
    if board.probe is None:
        return None
    report = board.probe
    return {"health": report.health.value, "message": report.message, "secondsAgo": round(now - report.at, 1)}


def _addresses(candidates: tuple[Candidate, ...]) -> list[dict[str, str]]:
    return [{"ip": str(each.ip), "interface": each.interface} for each in candidates]
