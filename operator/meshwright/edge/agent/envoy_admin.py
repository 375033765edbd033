"""What the machine's Envoy says of itself, at its administration.

Source: Envoy ``docs/root/operations/admin.rst`` (ready, listeners, config_dump, stats),
``api/envoy/admin/v3/config_dump.proto`` ListenersConfigDump.DynamicListener.error_state.
"""

import contextlib
import http.client
import json
import re
import socket
from dataclasses import dataclass

_SECONDS = 1.0
_MAX_TEXT = 400
_REFUSED = "/config_dump?resource=dynamic_listeners"
_REFUSALS = "/stats?filter=update_rejected$"
_COUNT = re.compile(r": (\d+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """``has_begun``: it has been answered all that it asked for at first, be it that it refused that. ``is_listening``:
    it takes connections at the port asked for. ``refused``: which listeners it would not have, and why; ``""`` for
    none."""

    has_begun: bool = False
    is_listening: bool = False
    refused: str = ""


def look_at_envoy(pipe: str, port: int) -> Look:
    """Return how the Envoy is whose administration listens at ``pipe`` (``@`` first: in Linux' abstract namespace),
    and that should listen at ``port``. Never raises: one that does not answer has not begun."""
    try:
        if ask_envoy(pipe, "/ready") is None:
            return Look()
        if re.search(rf":{port}$", ask_envoy(pipe, "/listeners") or "", re.MULTILINE):
            return Look(has_begun=True, is_listening=True)
        return Look(has_begun=True, refused=find_refused(pipe))
    except (OSError, http.client.HTTPException):
        return Look()


def find_refused(pipe: str) -> str:
    """Return which listeners Envoy would not have, and why; ``""`` when there is none, or it does not answer."""
    found: dict[str, str] = {}
    with contextlib.suppress(OSError, http.client.HTTPException, ValueError, LookupError, TypeError, AttributeError):
        for listener in json.loads(ask_envoy(pipe, _REFUSED) or "{}").get("configs", ()):
            if details := listener.get("error_state", {}).get("details"):
                found.setdefault(str(details), listener.get("name") or "listeners")  # all at once, after each by name
    return " ".join("; ".join(f"{name}: {details}" for details, name in found.items()).split())[:_MAX_TEXT]


def count_refusals(pipe: str) -> int | None:
    """Return how many updates of any kind Envoy has refused so far, ``None`` when it does not answer."""
    with contextlib.suppress(OSError, http.client.HTTPException):
        if (text := ask_envoy(pipe, _REFUSALS)) is not None:
            return sum(map(int, _COUNT.findall(text)))
    return None


def ask_envoy(pipe: str, path: str) -> str | None:
    """Return what Envoy's administration at ``pipe`` answers, ``None`` when that is not 200.

    Raises:
        OSError, http.client.HTTPException: it does not answer.
    """
    with socket.socket(socket.AF_UNIX) as there:
        there.settimeout(_SECONDS)
        there.connect(f"\0{pipe[1:]}" if pipe.startswith("@") else pipe)
        with contextlib.closing(http.client.HTTPConnection("localhost")) as connection:
            connection.sock = there
            connection.request("GET", path, headers={"connection": "close"})
            answer = connection.getresponse()
            content = answer.read()
            return content.decode(errors="replace") if answer.status == 200 else None
