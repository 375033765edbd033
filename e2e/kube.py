"""kubectl for tests: real commands, JSON answers, waiting without sleeping blindly."""

import argparse
import json
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from e2e.reads import Reader, ReadError
from e2e.sessions import Session, SessionError

T = TypeVar("T")
Json = dict[str, Any]
APP = ("python3", "/app/app.py")
"""The test application, where pods have it."""


class KubectlError(AssertionError):
    """A kubectl command failed; the message has its arguments and what it said."""


def eventually(
    look: Callable[[], T], *, until: Callable[[T], bool] = bool, seconds: float = 60, every: float = 0.2
) -> T:
    """Return what ``look`` returns once ``until`` holds for it.

    Raises:
        AssertionError: it did not hold within ``seconds``; the message shows the last value, or the last error of
            a kubectl call (one that fails is tried again).
    """
    deadline = time.monotonic() + seconds
    while True:
        last: object
        try:
            value = look()
            if until(value):
                return value
            last = value
        except (KubectlError, KeyError, IndexError) as error:
            last = error
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s; last seen: {last}")
        time.sleep(every)


class Kube:
    """One cluster, through its kubectl. ``inside`` goes before each command (entering a network namespace).

    Reads and the test application's commands, asked again and again, go through processes that stay until `close`.
    """

    def __init__(self, *, kubectl: Path, kubeconfig: Path, inside: tuple[str, ...] = ()) -> None:
        self.kubectl = kubectl
        self.kubeconfig = kubeconfig
        self.inside = inside
        self._reader = Reader(self.command())
        self._sessions: dict[tuple[str, str], Session] = {}
        self._lock = threading.Lock()

    def close(self) -> None:
        for session in self._sessions.values():
            session.close()
        self._reader.close()

    def command(self, *args: str) -> list[str]:
        return [*self.inside, str(self.kubectl), f"--kubeconfig={self.kubeconfig}", *args]

    def run(self, *args: str, stdin: str | None = None, timeout: float = 120) -> str:
        """Return what the command printed. Raises KubectlError when it fails."""
        done = subprocess.run(
            self.command(*args), input=stdin, capture_output=True, text=True, timeout=timeout, check=False
        )
        if done.returncode:
            raise KubectlError(f"kubectl {' '.join(args)}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout

    def get(self, kind: str, name: str, *where: str) -> Json:
        """Return an object, as ``kubectl get KIND NAME -n NAMESPACE -o json``; ``where`` is empty outside of any."""
        found = self._read(lambda: self._reader.get(kind, name, read_flags(where).namespace))
        if found is None:
            raise KubectlError(f"there is no {kind} {' '.join((name, *where))}")
        return strip(found)

    def exists(self, kind: str, name: str, *where: str) -> bool:
        return self._read(lambda: self._reader.get(kind, name, read_flags(where).namespace)) is not None

    def items(self, kinds: str, *flags: str) -> list[Json]:
        """Return what ``kubectl get KIND[,KIND] [-n NAMESPACE | -A] [-l LABELS] [--show-managed-fields]`` lists."""
        said, reader = read_flags(flags), self._reader
        found = self._read(
            lambda: [item for kind in kinds.split(",") for item in reader.list(kind, said.namespace, said.labels)]
        )
        return found if said.is_managed_shown else [strip(item) for item in found]

    def _read(self, look: Callable[[], T]) -> T:
        try:
            return look()
        except ReadError as error:
            raise KubectlError(str(error)) from error

    def apply(self, manifests: str) -> None:
        """Apply YAML, as a user would with ``kubectl apply -f -``."""
        self.run("apply", "-f", "-", stdin=manifests)

    def patch(self, kind: str, name: str, namespace: str, patch: Json) -> None:
        self.run("-n", namespace, "patch", kind, name, "--type=merge", "-p", json.dumps(patch))

    def delete(self, *args: str) -> None:
        self.run("delete", "--ignore-not-found", *args)

    def condition(self, kind: str, name: str, namespace: str, condition: str) -> Json:
        """Return the condition of meshwright's first parent entry of a route. Raises KeyError when it has none yet."""
        for parent in self.get(kind, name, "-n", namespace).get("status", {}).get("parents", []):
            if parent["controllerName"].startswith("meshwright.dev/"):
                for found in parent["conditions"]:
                    if found["type"] == condition:
                        return dict(found)
        raise KeyError(f"{kind} {namespace}/{name} has no condition {condition} of ours yet")

    def app(self, namespace: str, pod: str, *args: str, timeout: float = 120) -> Json:
        """Return what comes of a command of the test application's, given to its client in a pod."""
        with self._lock:
            if (session := self._sessions.get((namespace, pod))) is None:
                command = self.command("-n", namespace, "exec", "-i", pod, "-c", "app", "--", *APP, "session")
                session = self._sessions[namespace, pod] = Session(command)
        try:
            return session.ask(args, timeout=timeout)
        except SessionError as error:
            raise KubectlError(f"{' '.join(args)} in {namespace}/{pod}: {error}") from error

    def start_app(self, namespace: str, pod: str, *args: str) -> subprocess.Popen[str]:
        """Start the client in the background; its JSON is on stdout when it ends."""
        command = self.command("-n", namespace, "exec", pod, "-c", "app", "--", *APP, *args)
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Flags:
    """What flags of ``kubectl get`` say. ``namespace`` is empty for all of them."""

    namespace: str
    labels: str
    is_managed_shown: bool


def read_flags(flags: Sequence[str]) -> Flags:
    parser = argparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("-n", dest="namespace", default="default")
    parser.add_argument("-A", dest="namespace", action="store_const", const="")
    parser.add_argument("-l", dest="labels", default="")
    parser.add_argument("--show-managed-fields", dest="is_managed_shown", action="store_true")
    return Flags(**vars(parser.parse_args(flags)))


def strip(item: Json) -> Json:
    """Return an object as kubectl shows it: without who manages which field."""
    return {**item, "metadata": {key: value for key, value in item["metadata"].items() if key != "managedFields"}}
