"""kubectl for tests: real commands, JSON answers, waiting without sleeping blindly."""

import json
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
Json = dict[str, Any]


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Kube:
    """One cluster, through its kubectl. ``inside`` goes before each command (entering a network namespace)."""

    kubectl: Path
    kubeconfig: Path
    inside: tuple[str, ...] = ()

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

    def get(self, *args: str) -> Json:
        """Return ``kubectl get … -o json``."""
        found = json.loads(self.run("get", *args, "-o", "json"))
        assert isinstance(found, dict)
        return found

    def items(self, *args: str) -> list[Json]:
        items = self.get(*args)["items"]
        assert isinstance(items, list)
        return items

    def apply(self, manifests: str) -> None:
        """Apply YAML, as a user would with ``kubectl apply -f -``."""
        self.run("apply", "-f", "-", stdin=manifests)

    def patch(self, kind: str, name: str, namespace: str, patch: Json) -> None:
        self.run("-n", namespace, "patch", kind, name, "--type=merge", "-p", json.dumps(patch))

    def delete(self, *args: str) -> None:
        self.run("delete", "--ignore-not-found", *args)

    def exists(self, *args: str) -> bool:
        return bool(self.run("get", "--ignore-not-found", *args, "-o", "name").strip())

    def condition(self, kind: str, name: str, namespace: str, condition: str) -> Json:
        """Return the condition of meshwright's first parent entry of a route. Raises KeyError when it has none yet."""
        for parent in self.get(kind, name, "-n", namespace).get("status", {}).get("parents", []):
            if parent["controllerName"].startswith("meshwright.dev/"):
                for found in parent["conditions"]:
                    if found["type"] == condition:
                        return dict(found)
        raise KeyError(f"{kind} {namespace}/{name} has no condition {condition} of ours yet")

    def app(self, namespace: str, pod: str, *args: str, timeout: float = 120) -> Json:
        """Run the test application as a client inside a pod and return the JSON that it prints."""
        out = self.run(
            "-n", namespace, "exec", pod, "-c", "app", "--", "python3", "/app/app.py", *args, timeout=timeout
        )
        answer = json.loads(out)
        assert isinstance(answer, dict)
        return answer

    def start_app(self, namespace: str, pod: str, *args: str) -> subprocess.Popen[str]:
        """Start the client in the background; its JSON is on stdout when it ends."""
        command = self.command("-n", namespace, "exec", pod, "-c", "app", "--", "python3", "/app/app.py", *args)
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
