"""Events about pods that asked for a proxy and got none, or not the one they asked for: for `kubectl describe`.

Nobody waits for them, they are bounded in number, and one that cannot be written is dropped.
"""

import asyncio
import logging
import time
from typing import Literal

from meshwright.edge.client import ApiError, Client, Json, Unreachable
from meshwright.edge.events import digest, make_event, shorten, write_event
from meshwright.model.injection import Injected, Skip
from meshwright.model.units import Namespace

log = logging.getLogger(__name__)

REPORTER = "meshwright.dev/webhook"
QUIET_SECONDS = 300.0
_MOST_WAITING, _MOST_KNOWN = 200, 5000


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
                await write_event(self._client, event)
            except (ApiError, Unreachable) as error:
                log.warning("an event could not be written: %s", error)

    def _queue(self, regarding: Json, type_: Literal["Normal", "Warning"], reason: str, note: str) -> None:
        about = f"{reason}\n{shorten(note)}"
        key = digest(regarding, about)
        now = time.monotonic()
        if now - self._told.get(key, -self._quiet_seconds) < self._quiet_seconds or self._waiting.full():
            return
        if len(self._told) >= _MOST_KNOWN:
            self._told = {known: at for known, at in self._told.items() if now - at < self._quiet_seconds}
            while len(self._told) >= _MOST_KNOWN:
                self._told.pop(next(iter(self._told)))
        self._told[key] = now
        self._waiting.put_nowait(
            make_event(
                regarding,
                reason=reason,
                note=note,
                about=about,
                type_=type_,
                action="Inject",
                reporter=REPORTER,
                instance=self._instance,
            )
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
