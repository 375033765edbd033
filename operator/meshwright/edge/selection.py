"""What pods have to do with Servers, looked at now and then: which Servers select none, or lost a port to an older one.

Nothing that is compiled depends on it. Pods are followed by their metadata alone, while this replica leads and there
is a Server for pods; when labels or Servers have changed, their namespaces are judged once every few seconds.
"""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache

from meshwright.edge.client import Client, Json
from meshwright.edge.resources import RESOURCES
from meshwright.edge.watch import Reflector, State, Timing
from meshwright.link.selection import SeenPod, Shortfall, judge_selection
from meshwright.model.policy import Server
from meshwright.model.problem import Problem
from meshwright.model.ref import Kind, Ref
from meshwright.model.snapshot import Parsed
from meshwright.model.units import Namespace

log = logging.getLogger(__name__)

PODS = replace(RESOURCES[Kind.POD], is_partial=True)
NOT_ENDED = "status.phase!=Succeeded,status.phase!=Failed"
LOOK_SECONDS = 3.0
MAX_LOGGED = 20

Labels = tuple[tuple[str, str], ...]
Tell = Callable[[Ref, Mapping[str, Problem]], None]


class Selection:
    """Follows pods and judges Servers beside them. Belongs to the event loop.

    ``is_leading``: whether anybody wants to know. ``tell`` hears of each Server whose shortfalls are others now, by
    what stays the same of them; ``{}``: it has none any more. Pods that may not be read are none that are judged.
    """

    def __init__(
        self,
        *,
        client: Client,
        is_leading: Callable[[], bool],
        tell: Tell,
        timing: Timing | None = None,
        seconds: float = LOOK_SECONDS,
    ) -> None:
        self._client = client
        self._is_leading = is_leading
        self._tell = tell
        self._timing = timing
        self._seconds = seconds
        self._servers: defaultdict[Namespace, dict[Ref, Server]] = defaultdict(dict)
        self._pods: defaultdict[Namespace, dict[str, Labels]] = defaultdict(dict)
        self._dirty: set[Namespace] = set()
        self._found: dict[Ref, tuple[Shortfall, ...]] = {}
        self._reflector: Reflector | None = None
        self._following: asyncio.Task[None] | None = None

    @property
    def problems(self) -> dict[Ref, tuple[Problem, ...]]:
        """Return what is wrong, while pods are followed."""
        found = self._found if self._following is not None else {}
        return {ref: tuple(each.problem for each in shortfalls) for ref, shortfalls in found.items()}

    @property
    def pod_count(self) -> int:
        """Return how many pods are known."""
        return sum(map(len, self._pods.values()))

    def put(self, changes: Mapping[Ref, Parsed | None]) -> None:
        """Take what was parsed anew; ``None`` is gone."""
        for ref, value in changes.items():
            if ref.kind is not Kind.SERVER:
                continue
            servers = self._servers[ref.namespace]
            servers.pop(ref, None)
            if isinstance(value, Server) and not value.selects_external:
                servers[ref] = value
            self._dirty.add(ref.namespace)
            if not servers:
                del self._servers[ref.namespace]

    async def run(self) -> None:
        """Look now and then until cancelled. Raises only for a bug."""
        try:
            while True:
                await asyncio.sleep(self._seconds)
                if not self._is_leading() or not (self._servers or self._found):
                    await self._stop()
                    continue
                self._start()
                if self._reflector is not None and self._reflector.relists and self._dirty:
                    await self._look()
        finally:
            await self._stop()

    def _start(self) -> None:
        if self._following is not None:
            if self._following.done():
                self._following.result()
            return
        self._reflector = Reflector(
            client=self._client,
            kind=Kind.POD,
            resource=PODS,
            put=self._put_pod,
            changed=_log_state,
            fields=NOT_ENDED,
            project=_trim,
            timing=self._timing,
        )
        self._following = asyncio.create_task(self._reflector.run())

    async def _stop(self) -> None:
        """Follow pods no longer. What was found stands until somebody looks again."""
        if self._following is None:
            return
        task, self._following, self._reflector = self._following, None, None
        self._pods.clear()
        self._dirty.update(self._servers, (ref.namespace for ref in self._found))
        task.cancel()
        # Not `await task`: its cancellation could not be told from one of whoever waits here, which must not be lost.
        await asyncio.wait((task,))
        if not task.cancelled():
            task.result()

    def _put_pod(self, ref: Ref, raw: Json | None) -> None:
        pods = self._pods[ref.namespace]
        old = pods.pop(ref.name, None)
        if raw is not None:
            pods[ref.name] = raw["metadata"]["labels"]
        elif not pods:
            del self._pods[ref.namespace]
        if old is None or raw is None or pods[ref.name] != old:
            self._dirty.add(ref.namespace)

    async def _look(self) -> None:
        dirty, self._dirty = self._dirty, set()
        for namespace in sorted(dirty):
            servers = tuple(self._servers.get(namespace, {}).values())
            found: dict[Ref, tuple[Shortfall, ...]] = {}
            if servers:
                pods = dict(self._pods.get(namespace, {}))
                found = await asyncio.to_thread(_judge, servers, pods)
            self._publish(namespace, found)

    def _publish(self, namespace: Namespace, found: Mapping[Ref, tuple[Shortfall, ...]]) -> None:
        before = {ref for ref in self._found if ref.namespace == namespace}
        news = [ref for ref in sorted(before | set(found)) if self._found.get(ref, ()) != found.get(ref, ())]
        for ref in news:
            shortfalls = found.get(ref, ())
            self._found.pop(ref, None)
            if shortfalls:
                self._found[ref] = shortfalls
            self._tell(ref, {each.about: each.problem for each in shortfalls})
        for ref in news[:MAX_LOGGED]:
            for each in found.get(ref, ()):
                log.info("%s: %s", ref, each.problem)


def _judge(servers: tuple[Server, ...], pods: Mapping[str, Labels]) -> dict[Ref, tuple[Shortfall, ...]]:
    return judge_selection(servers, (SeenPod(name=name, labels=labels) for name, labels in pods.items()))


def _trim(raw: Json) -> Json:
    """Return of a pod what is read of it, its labels as sorted pairs that other pods may share."""
    meta = raw["metadata"]
    labels = meta.get("labels") or {}
    pairs = tuple(sorted(_share_pair(key, text) for key, text in labels.items() if isinstance(text, str)))
    kept = {key: meta[key] for key in ("name", "namespace", "uid", "resourceVersion") if key in meta}
    return {"metadata": {**kept, "labels": _share(pairs)}}


def _log_state(reflector: Reflector) -> None:
    level = logging.INFO if reflector.state is State.SYNCED else logging.WARNING
    log.log(level, "the labels of pods: %s %s", reflector.state.value, reflector.reason)


@lru_cache(maxsize=4096)
def _share(labels: Labels) -> Labels:
    """Return an equal value, the same one for all who ask: pods of one Deployment are alike, and there are many."""
    return labels


@lru_cache(maxsize=16384)
def _share_pair(key: str, text: str) -> tuple[str, str]:
    """Return the pair: pods that differ in one label have the others in common."""
    return key, text
