"""What the API server holds, as far as it was told: inputs to compile, our outputs, and the routes' statuses.

`put` is cheap, and is called for every event. Raw inputs wait here until the next round parses them, so that of many
changes of one object only the newest is parsed. Knows nothing of what should be.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from meshwright.edge.client import Json
from meshwright.edge.resources import LOCAL_OUTPUTS, OUTPUTS, ROUTES
from meshwright.edge.watch import is_older
from meshwright.emit.slices import LABEL_SERVICE
from meshwright.model.ref import Kind, Ref, ServiceName


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenRoute:
    """A route as last seen, as much of it as writing its status needs. ``status`` is raw, ``{}`` when there is none.

    ``intent`` is what parse can see of it, short of the spec: the generation stands for that.
    """

    uid: str
    resource_version: str
    generation: int
    status: Json
    intent: tuple[Any, ...]


class Store:
    """All that was told of the cluster. Belongs to the event loop.

    ``stir`` is called when inputs wait for a round; ``touch`` with each output or route that may need a write now.
    """

    def __init__(self, *, stir: Callable[[], None], touch: Callable[[Ref], None]) -> None:
        self._stir = stir
        self._touch = touch
        self._waiting: dict[Ref, Json | None] = {}
        self.outputs: dict[Ref, Json] = {}
        self.routes: dict[Ref, SeenRoute] = {}

    @property
    def waiting(self) -> int:
        """How many inputs wait for a round."""
        return len(self._waiting)

    def put(self, ref: Ref, raw: Json | None) -> None:
        """Take a change from a reflector: the object as it is now, ``None`` when it is gone."""
        if ref.kind in OUTPUTS or ref.kind in LOCAL_OUTPUTS:
            if self._put_output(ref, raw):
                self._touch(ref)
        elif ref.kind in ROUTES:
            self._put_route(ref, raw)
        else:
            self._queue(ref, raw)

    def take(self) -> dict[Ref, Json | None]:
        """Return the inputs that wait, by ref, and forget that they did."""
        taken, self._waiting = self._waiting, {}
        return taken

    def slices(self) -> dict[ServiceName, dict[str, Json]]:
        """Return our EndpointSlices as stored, by Service and name."""
        found: dict[ServiceName, dict[str, Json]] = {}
        for ref, raw in self.outputs.items():
            if ref.kind is Kind.ENDPOINT_SLICE:
                service = str((raw["metadata"].get("labels") or {}).get(LABEL_SERVICE) or "")
                found.setdefault(ServiceName(ref.namespace, service), {})[ref.name] = raw
        return found

    def wrote(self, ref: Ref, raw: Json) -> None:
        """Take the answer to a write of ours, so that no plan is made from what was there before it."""
        if ref.kind in OUTPUTS or ref.kind in LOCAL_OUTPUTS:
            raw["metadata"].pop("managedFields", None)
            self._put_output(ref, raw)
        elif ref in self.routes and self._is_news(self.routes[ref].resource_version, raw):
            self.routes[ref] = seen_route(raw)

    def _put_output(self, ref: Ref, raw: Json | None) -> bool:
        """Return whether it is news."""
        old = self.outputs.get(ref)
        if raw is None:
            return self.outputs.pop(ref, None) is not None
        if old is not None and old["metadata"].get("uid") == raw["metadata"].get("uid"):
            version = str(old["metadata"].get("resourceVersion") or "")
            if version == raw["metadata"].get("resourceVersion") or not self._is_news(version, raw):
                return False
        self.outputs[ref] = raw
        return True

    def _put_route(self, ref: Ref, raw: Json | None) -> None:
        old = self.routes.get(ref)
        if raw is None:
            self.routes.pop(ref, None)
            self._queue(ref, None)
            return
        new = seen_route(raw)
        if old is not None and old.uid == new.uid and not self._is_news(old.resource_version, raw):
            return
        self.routes[ref] = new
        if old is None or old.intent != new.intent or ref in self._waiting:
            self._queue(ref, raw)
        elif old.status != new.status:
            self._touch(ref)  # somebody wrote a status: is ours still in it?

    def _is_news(self, version: str, raw: Json) -> bool:
        return not is_older(str(raw["metadata"].get("resourceVersion") or ""), version)

    def _queue(self, ref: Ref, raw: Json | None) -> None:
        self._waiting[ref] = raw
        self._stir()


def seen_route(raw: Json) -> SeenRoute:
    """Return what is kept of a route."""
    meta = raw["metadata"]
    generation = int(meta.get("generation") or 0)
    intent = (
        meta.get("uid"),
        generation or raw.get("spec"),
        meta.get("labels"),
        meta.get("annotations"),
        meta.get("deletionTimestamp"),
    )
    return SeenRoute(
        uid=str(meta.get("uid") or ""),
        resource_version=str(meta.get("resourceVersion") or ""),
        generation=generation,
        status=raw.get("status") or {},
        intent=intent,
    )
