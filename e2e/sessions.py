"""The test application's client, kept running in a pod: what it is asked to do costs no process, here or there."""

import contextlib
import json
import subprocess
import threading
from typing import Any

Json = dict[str, Any]


class SessionError(Exception):
    """A command was not answered; the message is what was said instead."""


class Session:
    """One client in one pod, asked by one thread at a time. ``command`` starts it; a new one is where it has ended."""

    def __init__(self, command: list[str]) -> None:
        self._command = command
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None

    def ask(self, words: tuple[str, ...], *, timeout: float) -> Json:
        """Return what comes of a command. Raises SessionError: it failed, or the pod or the way there is gone."""
        with self._lock:
            if self._process is not None and self._process.poll() is not None:
                self._end()
            if self._process is None:
                pipe = subprocess.PIPE
                self._process = subprocess.Popen(
                    self._command, stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT, text=True
                )
            process = self._process
            clock = threading.Timer(timeout, process.kill)
            clock.start()
            try:
                return self._exchange(process, words)
            except (OSError, SessionError) as error:
                self._end()
                raise SessionError(str(error)) from error
            finally:
                clock.cancel()

    def _exchange(self, process: "subprocess.Popen[str]", words: tuple[str, ...]) -> Json:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(words) + "\n")
        process.stdin.flush()
        said = []
        for line in process.stdout:
            if line.startswith("{"):
                found = json.loads(line)
                assert isinstance(found, dict)
                return found
            said.append(line)
        raise SessionError("".join(said).strip() or "it ended without a word")

    def close(self) -> None:
        with self._lock:
            self._end()

    def _end(self) -> None:
        if (process := self._process) is None:
            return
        self._process = None
        assert process.stdin is not None
        assert process.stdout is not None
        process.kill()
        process.wait()
        with contextlib.suppress(OSError):
            process.stdin.close()
        process.stdout.close()
