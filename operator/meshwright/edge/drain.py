"""Wait until nobody uses a proxy any more: what its container runs, once, when it is asked to stop.

A program of its own, that loads little: it must start fast, in a container that is about to end.
"""

import http.client
import re
import socket
import sys
import time
from contextlib import closing
from urllib.parse import quote

from meshwright.emit.admin import DRAIN_PATH

_LEAVE = f"{DRAIN_PATH}?graceful&skip_exit&inboundonly"
"""Has Envoy ask callers, with each answer, to come back on another connection, and goes on taking new ones.

Source: Envoy ``docs/root/operations/admin.rst`` (drain_listeners).
"""

_PAUSE_SECONDS = 0.25
_ANSWER_SECONDS = 2.0
_COUNT = re.compile(r": (\d+)$", re.MULTILINE)


def wait_until_idle(pipe: str, ports: tuple[str, ...], seconds: float) -> bool:
    """Wait until Envoy has no connection at ``ports``, or is gone; return whether that was within ``seconds``.

    ``pipe``: where its administration listens, ``@`` first when in Linux' abstract namespace. Callers are asked to
    leave. Connections that the application makes are waited for, too: it may not be done yet.
    """
    end = time.monotonic() + seconds
    is_asked, counted = False, rf"^listener\..*_({'|'.join(ports)})\.downstream_cx_active$"
    while True:
        try:
            if not is_asked:
                _ask(pipe, "POST", _LEAVE)
                is_asked = True
            if not sum(map(int, _COUNT.findall(_ask(pipe, "GET", f"/stats?filter={quote(counted)}")))):
                return True
        except TimeoutError:
            pass  # it is busy, and so not idle
        except (OSError, http.client.HTTPException):
            return True
        if time.monotonic() >= end:
            return False
        time.sleep(max(0.0, min(_PAUSE_SECONDS, end - time.monotonic())))


def _ask(pipe: str, method: str, path: str) -> str:
    with socket.socket(socket.AF_UNIX) as there:
        there.settimeout(_ANSWER_SECONDS)
        there.connect(f"\0{pipe[1:]}" if pipe.startswith("@") else pipe)
        with closing(http.client.HTTPConnection("localhost")) as connection:
            connection.sock = there
            connection.request(method, path, headers={"connection": "close"})
            return connection.getresponse().read().decode(errors="replace")


if __name__ == "__main__":
    if not wait_until_idle(sys.argv[1], tuple(sys.argv[2].split(",")), float(sys.argv[3])):
        print(f"meshwright proxy: connections are left after {sys.argv[3]} s; ending", file=sys.stderr)
