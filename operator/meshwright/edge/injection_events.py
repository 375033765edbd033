"""Events about pods that asked for a proxy and got none, or not the one they asked for: for `kubectl describe`.

Nobody waits for them, they are bounded in number, and one that cannot be written is dropped.
Source: kubernetes/api ``events/v1/types.go`` Event.
"""

import asyncio
import hashlib
import logging
import time
from datetime import UTC, datetime

from meshwright.edge.client import ApiError, Client, Json, Resource, Unreachable
from meshwright.model.config import FIELD_MANAGER
from meshwright.model.injection import Injected, Skip
from meshwright.model.units import Namespace

log = logging.getLogger(__name__)

EVENTS = Resource(group="events.k8s.io", version="v1", plural="events", kind="Event")
REPORTER = "meshwright.dev/webhook"
QUIET_SECONDS = 300.0
_MOST_WAITING, _MOST_KNOWN, _LONGEST_NOTE, _LONGEST_NAME = 200, 5000, 1000, 230


class Events:
    """Writes events, each thing about each object at most once in ``quiet_seconds``. ``instance``: this replica."""

    def __init__(self, *, client: Client, instance: str, quiet_seconds: float = QUIET_SECONDS) -> None:
        self._client = client
        self._instance = instance
        self._quiet_seconds = quiet_seconds
        self._waiting: asyncio.Queue[Json] = asyncio.Queue(maxsize=_MOST_WAITING)
        self._told: dict[str, float] = {}

    def tell(self, pod: Json, namespace: Namespace, injected: Injected) -> None:
        """Queue what there is to say about one pod: nothing when it was injected without a warning, or did not ask.

        A word that was meant to ask and is none is told, too.
        """
        regarding = find_regarding(pod, namespace)
        warnings = injected.warnings
        match injected.skip:
            case None:
                pass
            case Skip.NOT_ASKED | Skip.DISABLED:
                warnings = tuple(text for text in warnings if "/inject]" in text)
            case Skip.ALREADY_INJECTED:
                pass  # by us, a moment ago: the API server asks again when others have changed the pod
            case skip:
                self._queue(regarding, "Warning", "InjectionSkipped", f"{skip}: {injected.message}")
        if warnings:
            self._queue(regarding, "Warning", "InjectionSettings", "; ".join(warnings))

    async def run(self) -> None:
        """Write what is queued until cancelled."""
        while True:
            event = await self._waiting.get()
            try:
                await self._client.create(EVENTS, event, manager=FIELD_MANAGER)
            except ApiError as error:
                if error.status != 409:  # 409: it is there, and says the same
                    log.warning("an event could not be written: %s", error)
            except Unreachable as error:
                log.warning("an event could not be written: %s", error)

    def _queue(self, regarding: Json, type_: str, reason: str, note: str) -> None:
        note = note if len(note) <= _LONGEST_NOTE else f"{note[: _LONGEST_NOTE - 1]}…"
        identity = "\n".join((regarding["namespace"], regarding["kind"], regarding["name"], regarding.get("uid", "")))
        key = hashlib.sha256(f"{identity}\n{reason}\n{note}".encode()).hexdigest()[:16]
        now = time.monotonic()
        if now - self._told.get(key, -self._quiet_seconds) < self._quiet_seconds or self._waiting.full():
            return
        if len(self._told) >= _MOST_KNOWN:
            self._told = {known: at for known, at in self._told.items() if now - at < self._quiet_seconds}
            while len(self._told) >= _MOST_KNOWN:
                self._told.pop(next(iter(self._told)))
        self._told[key] = now
        self._waiting.put_nowait(
            {
                "apiVersion": EVENTS.api_version,
                "kind": EVENTS.kind,
                "metadata": {
                    "name": f"{regarding['name'][:_LONGEST_NAME].rstrip('-.')}.{key}",
                    "namespace": regarding["namespace"],
                },
                "eventTime": datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
                "reportingController": REPORTER,
                "reportingInstance": self._instance,
                "action": "Inject",
                "reason": reason,
                "regarding": regarding,
                "note": note,
                "type": type_,
            }
        )


def find_regarding(pod: Json, namespace: Namespace) -> Json:
    """Return a reference to what made the pod, which people look at; to the pod itself when nothing did.

    A pod that is being admitted has no UID yet, and perhaps no name.
    """
    metadata = pod.get("metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    owners = metadata.get("ownerReferences")
    for owner in owners if isinstance(owners, list) else ():
        match owner:
            case {"controller": True, "apiVersion": str(version), "kind": str(kind), "name": str(name)}:
                uid = {"uid": str(owner["uid"])} if owner.get("uid") else {}
                return {"apiVersion": version, "kind": kind, "name": name, "namespace": str(namespace), **uid}
    name = str(metadata.get("name") or str(metadata.get("generateName") or "pod").rstrip("-."))
    return {"apiVersion": "v1", "kind": "Pod", "name": name, "namespace": str(namespace)}
