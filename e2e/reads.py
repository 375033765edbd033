"""Reads of the API server that cost no process each: through one `kubectl proxy`, which logs in as kubectl does."""

import contextlib
import http.client
import json
import socket
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from meshwright.edge.api_resource import Resource

Json = dict[str, Any]

DISCOVERY = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
"""Source: kubernetes KEP-3352, aggregated discovery."""
SCRIPT = '"$@" & read -r _; kill $!'
"""The proxy ends with whoever holds the other end of its standard input."""
PATIENCE = 30
"""Seconds until kubectl has started."""


class ReadError(Exception):
    """The API server refused, or did not answer; the message says which."""


def read_resource(group: str, version: str, said: Json) -> Resource:
    """Return one resource of a discovery document."""
    is_namespaced, kind = said["scope"] == "Namespaced", said["responseKind"]["kind"]
    return Resource(group=group, version=version, plural=said["resource"], kind=kind, is_namespaced=is_namespaced)


class Reader:
    """Gets and lists, from many threads at once. ``command``: kubectl, up to where its subcommand stands."""

    def __init__(self, command: list[str]) -> None:
        self._command = command
        self._lock = threading.Lock()
        self._proxy: subprocess.Popen[bytes] | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._resources: dict[str, Resource] = {}

    def get(self, kind: str, name: str, namespace: str) -> Json | None:
        """Return an object, ``None`` when there is none. Raises ReadError."""
        return self._ask(self._find(kind).path(namespace, name))

    def list(self, kind: str, namespace: str, labels: str) -> list[Json]:
        """Return the objects of a kind that a label selector selects, each with its kind. Raises ReadError."""
        resource = self._find(kind)
        query = f"?{urlencode({'labelSelector': labels})}" if labels else ""
        found = self._ask(resource.path(namespace) + query)
        return [{"kind": resource.kind, **item} for item in (found or {"items": ()})["items"]]

    def close(self) -> None:
        if self._proxy is not None:
            assert self._proxy.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                self._proxy.stdin.close()
            self._proxy.wait()
            self._proxy = None
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def _find(self, word: str) -> Resource:
        """Return what kubectl takes a word like ``pod``, ``servers.policy.linkerd.io`` for. Raises ReadError."""
        if word not in self._resources:
            self._resources = self._discover()
        try:
            return self._resources[word]
        except KeyError:
            raise ReadError(f"the server has no resource {word!r}") from None

    def _discover(self) -> dict[str, Resource]:
        found: dict[str, Resource] = {}
        for root in ("/api", "/apis"):
            for group in (self._ask(root, accept=DISCOVERY) or {"items": ()})["items"]:
                name = group["metadata"].get("name", "")
                for version in group["versions"]:  # the one that is preferred comes first
                    for each in version["resources"]:
                        resource = read_resource(name, version["version"], each)
                        for word in (each["resource"], each.get("singularResource", "")):
                            found.setdefault(word, resource)
                            found.setdefault(f"{word}.{name}", resource)
        return found

    def _ask(self, path: str, *, accept: str = "application/json") -> Json | None:
        there = http.client.HTTPConnection("localhost", timeout=60)
        try:
            there.sock = socket.socket(socket.AF_UNIX)
            there.sock.connect(str(self._socket()))
            there.request("GET", path, headers={"Accept": accept})
            answer = there.getresponse()
            text = answer.read().decode(errors="replace")
        except (OSError, http.client.HTTPException) as error:
            raise ReadError(f"no answer for {path}: {type(error).__name__}: {error}") from error
        finally:
            there.close()
        if answer.status == http.HTTPStatus.NOT_FOUND:
            return None
        if answer.status != http.HTTPStatus.OK:
            raise ReadError(f"{answer.status} for {path}: {text.strip()}")
        found = json.loads(text)
        assert isinstance(found, dict)
        return found

    def _socket(self) -> Path:
        """Return where the proxy listens; the first to ask starts it."""
        with self._lock:
            if self._folder is None:
                self._folder = tempfile.TemporaryDirectory(prefix="mw-reads-")
            socket_, log = (Path(self._folder.name) / name for name in ("socket", "log"))
            if self._proxy is None:
                words = ["sh", "-c", SCRIPT, "sh", *self._command, "proxy", f"--unix-socket={socket_}"]
                with log.open("wb") as out:
                    # In a session of its own: Ctrl-C would end the shell, and not what it has in the background.
                    self._proxy = subprocess.Popen(
                        words, stdin=subprocess.PIPE, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
                    )
                deadline = time.monotonic() + PATIENCE
                while b"Starting to serve" not in log.read_bytes():
                    if time.monotonic() > deadline:
                        raise ReadError(f"kubectl proxy does not start: {log.read_text()}")
                    time.sleep(0.02)
            return socket_
