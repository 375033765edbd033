"""One kind's list and watch, told as changes. Knows nothing of what the objects mean.

A `Reflector` is the truth about which objects of a kind exist: listing again compares with what it told before, so that
a deletion is told even when its event was lost (the watch's version expired, a stream was cut, the kind went away).

Source of the protocol: kubernetes.io ``docs/reference/using-api/api-concepts`` (watch, bookmarks, 410 Gone, chunked
lists); of the compared versions KEP-5504: resourceVersions of one resource are decimal numbers that only grow.
"""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import Enum

from meshwright.edge.api_resource import Resource
from meshwright.edge.backoff import Backoff
from meshwright.edge.client import ApiError, Client, Json, Page, Unreachable
from meshwright.model.ref import Kind, Ref
from meshwright.model.units import Namespace

MISSES = 3
"""How often a kind is missing before it counts as gone, where its definition may not be read."""

Put = Callable[[Ref, Json | None], None]
"""Takes one change: the object as it is now, ``None`` when it is gone. Called in the reflector's loop, never raises."""


class State(Enum):
    """How much is known of a kind.

    ``STARTING``: nothing yet. ``SYNCED``: all of it; what was told is what the server has, but for changes under way.
    ``ABSENT``: the server does not have this kind; all its objects were told as gone. ``FORBIDDEN``: we may not read
    it; ``FAILING``: the server cannot be asked. In the last two, what was told last stands.
    """

    STARTING = "starting"
    SYNCED = "synced"
    ABSENT = "absent"
    FORBIDDEN = "forbidden"
    FAILING = "failing"

    @property
    def is_settled(self) -> bool:
        """Whether decisions that need all objects of the kind may be taken."""
        return self in (State.SYNCED, State.ABSENT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Seconds. A range is drawn from anew each time, so that replicas and kinds do not move in step."""

    watch: tuple[float, float] = (240.0, 300.0)
    silence: float = 90.0
    relist: tuple[float, float] = (600.0, 1800.0)
    reconnect: float = 0.1
    retry_first: float = 0.25
    retry_cap: float = 30.0
    absent: tuple[float, float] = (30.0, 60.0)
    proven: float = 5.0
    """A stream that lived this long, or told anything, ends a row of failures."""
    spread: float = 1.0
    """Within this time all who waited for a server that was away ask it again."""


def drop_managed_fields(raw: Json) -> Json:
    """Return ``raw`` itself, without ``metadata.managedFields``: nobody reads them, and they are half of an object."""
    raw["metadata"].pop("managedFields", None)
    return raw


def is_older(version: str, than: str) -> bool:
    """Return whether a resourceVersion is older than another of the same object; ``False`` when they do not tell."""
    return version.isdecimal() and than.isdecimal() and int(version) < int(than)


class _Expired(Exception):
    """The version to go on from is no longer kept: list again."""


class Reflector:
    """Tells ``put`` every object of a kind, and every change after that, for as long as `run` runs.

    ``resource`` is where it is served, ``versions`` where it may be instead: the first that is served is taken.
    ``namespace``: the only one, ``""`` for all. ``labels``, ``fields``: selectors (what no longer matches is gone).
    ``project`` may shrink each object before it is told; it must leave name, namespace, uid and resourceVersion.
    ``changed`` is called after each change of `state`. Everything happens in one event loop.

    >>> reflector = Reflector(client=client, kind=Kind.SERVICE, resource=SERVICES, put=store.put)
    >>> task = asyncio.create_task(reflector.run())
    >>> await reflector.wait_settled()
    """

    def __init__(
        self,
        *,
        client: Client,
        kind: Kind,
        resource: Resource,
        versions: tuple[Resource, ...] = (),
        put: Put,
        changed: Callable[["Reflector"], None] | None = None,
        namespace: str = "",
        labels: str = "",
        fields: str = "",
        project: Callable[[Json], Json] = drop_managed_fields,
        timing: Timing | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self.kind = kind
        self.resource = resource
        self._versions = versions or (resource,)
        self._client = client
        self._put = put
        self._changed = changed
        self._namespace = namespace
        self._labels = labels
        self._fields = fields
        self._project = project
        self._timing = timing or Timing()
        self._rng = rng or random.Random()
        self._known: dict[Ref, tuple[str, str]] = {}  # uid and resourceVersion of what was told
        self._backoff = Backoff(first=self._timing.retry_first, cap=self._timing.retry_cap, rng=self._rng)
        self._settled = asyncio.Event()
        self._version = ""
        self._relist_at = 0.0
        self._is_poked = False
        self._is_open = False
        self._scope: asyncio.Timeout | None = None
        self._waiters: list[asyncio.Event] = []
        self.state = State.STARTING
        self.reason = ""
        """Why the state is not SYNCED, for people."""
        self.heard_at = 0.0
        """When the server last told anything at all of this kind, on the monotonic clock; 0.0: never."""
        self.active_at = time.monotonic()
        """When this reflector last did anything, failed attempts too: a healthy one is never still for long."""
        self.relists = 0
        self.expired = 0
        self.failures = 0
        self.deletions_found = 0
        """Deletions no event told of."""
        self.events = 0

    def __len__(self) -> int:
        return len(self._known)

    def uid(self, ref: Ref) -> str:
        """Return the uid of an object as told last, ``""`` when there is none."""
        return self._known[ref][0] if ref in self._known else ""

    async def wait_settled(self) -> None:
        """Return once the kind is SYNCED or ABSENT for the first time (at once, if it ever was)."""
        await self._settled.wait()

    def poke(self) -> None:
        """Look again now: end the stream or the wait under way and list. Safe to call at any time, in the loop."""
        self._is_poked = True
        self._backoff.reset()
        scope, self._scope = self._scope, None
        if scope is not None:
            scope.reschedule(asyncio.get_running_loop().time())

    async def relist(self) -> None:
        """Look again now, and return once a list that began after this call was told (or the kind is absent)."""
        listed = asyncio.Event()
        self._waiters.append(listed)
        self.poke()
        await listed.wait()

    async def run(self) -> None:
        """List and watch until cancelled. Survives everything the server or the network does."""
        while True:
            pause = await self._turn()
            async with self._interruptible():
                if not self._is_poked:
                    await self._rest(pause)

    async def _rest(self, seconds: float) -> None:
        """Wait before the next turn: not longer than the server is away, as soon as anybody has found that it is back.

        The waits of an outage have grown long by then, those of every kind: without this some kinds would be read half
        a minute after others.
        """
        if self._client.is_reachable:
            await asyncio.sleep(seconds)
            return
        try:
            async with asyncio.timeout(seconds):
                await self._client.wait_reachable()
        except TimeoutError:
            return
        self._backoff.reset()
        await asyncio.sleep(self._draw((0.0, min(seconds, self._timing.spread))))

    async def _turn(self) -> float:
        """List if needed, watch one stream to its end, and return how long to wait before the next turn."""
        self.active_at = started = time.monotonic()
        self._is_open = False
        told = self.events
        try:
            if self._is_poked or not self._version or started >= self._relist_at:
                await self._list()
            started = time.monotonic()
            async with self._interruptible():
                if not self._is_poked:
                    await self._follow()
        except _Expired:
            self.expired += 1
            self._version = ""
        except Unreachable as error:
            # The version is still good: the next stream goes on from it and misses nothing.
            self._failed(State.SYNCED if self._is_open else State.FAILING, str(error))
        except ApiError as error:
            return await self._refused(error)
        finally:
            if self.events > told or (self._is_open and time.monotonic() - started >= self._timing.proven):
                self._backoff.reset()
        return self._timing.reconnect if self.events > told else self._backoff.next()

    async def _refused(self, error: ApiError) -> float:
        wait = max(self._backoff.next(), error.retry_after or 0.0)
        match error.status:
            case 404 if self.resource.is_custom:
                self._version = ""
                return await self._missing(error)
            case 401 | 403:  # a server that has just started forbids what it has not read the roles of
                self._version = ""
                self._failed(State.FORBIDDEN, str(error))
            case 429 | 503:  # asked to wait: the version stays good
                self._failed(State.FAILING, str(error))
            case _:
                self._version = ""
                self._failed(State.FAILING, str(error))
        return wait

    async def _missing(self, error: ApiError) -> float:
        """Find out whether the kind is gone for good; then, and only then, its objects are too."""
        served: frozenset[str] | None
        try:
            served = await self._client.served_versions(self.resource)
        except ApiError as answer:
            # Where we may not ask, a kind that stays missing counts as gone.
            is_new = self.state is not State.ABSENT and self._backoff.failures < MISSES
            served = None if is_new or answer.status not in (401, 403) else frozenset()
        except Unreachable:
            served = None
        found = next((other for other in self._versions if served is not None and other.version in served), None)
        if served is None or found is not None:
            self.resource = found or self.resource
            self._failed(State.FAILING, f"not served: {error}")
            return self._backoff.next()
        for ref in tuple(self._known):
            self._tell_gone(ref)
        self._release(self._waiters)
        self._backoff.reset()
        self._become(State.ABSENT, "the API server does not have this kind")
        return self._draw(self._timing.absent)

    def _failed(self, state: State, reason: str) -> None:
        self.failures += 1
        self._become(state, reason)

    async def _list(self) -> None:
        """Read all pages, then tell the difference at once: a half-read list changes nothing."""
        self._is_poked = False
        waiters = self._waiters.copy()
        self._relist_at = 0.0  # should this attempt fail, the next turn lists too
        found: dict[Ref, Json] = {}
        version = token = ""
        while True:
            page = await self._page(token)
            self._heard()
            for raw in page.items:
                if (ref := self._ref_of(raw)) is not None:
                    found[ref] = self._project(raw)
            version, token = page.resource_version, page.token
            if not token:
                break
        for ref in [ref for ref in self._known if ref not in found]:
            self.deletions_found += 1
            self._tell_gone(ref)
        for ref, raw in found.items():
            if self._known.get(ref) != _mark(raw):
                self._tell(ref, raw)
        self.relists += 1
        self._version = version
        self._relist_at = time.monotonic() + self._draw(self._timing.relist)
        self._become(State.SYNCED, "")
        self._release(waiters)

    async def _page(self, token: str) -> Page:
        try:
            return await self._client.list_page(
                self.resource, namespace=self._namespace, labels=self._labels, fields=self._fields, token=token
            )
        except ApiError as error:
            if error.status == 410:
                raise _Expired from error
            raise

    async def _follow(self) -> None:
        """Tell what one stream tells, until it ends."""
        left = max(1.0, self._relist_at - time.monotonic())
        try:
            async with self._client.watch(
                self.resource,
                resource_version=self._version,
                namespace=self._namespace,
                labels=self._labels,
                fields=self._fields,
                seconds=max(1, round(min(self._draw(self._timing.watch), left))),
                silence_seconds=self._timing.silence,
            ) as events:
                self._is_open = True
                self._heard()
                self._become(State.SYNCED, "")
                async for event in events:
                    self._take(event)
        except ApiError as error:
            if error.status == 410:
                raise _Expired from error
            raise

    def _take(self, event: Json) -> None:
        raw: Json = event["object"]
        if event.get("type") == "ERROR":
            raise ApiError(int(raw.get("code") or 500), str(raw.get("reason") or "Unknown"), raw)
        self._heard()
        meta = raw.get("metadata") or {}
        match event.get("type"):
            case "ADDED" | "MODIFIED":
                self.events += 1
                if (ref := self._ref_of(raw)) is not None and self._known.get(ref) != _mark(raw):
                    self._tell(ref, self._project(raw))
            case "DELETED":
                self.events += 1
                ref = self._ref_of(raw)
                # A DELETED of an object that was made anew under its name since is old news.
                if ref is not None and ref in self._known and self._known[ref][0] == str(meta.get("uid") or ""):
                    self._tell_gone(ref)
            case "BOOKMARK":
                self.events += 1
        self._version = str(meta.get("resourceVersion") or self._version)

    def _release(self, waiters: list[asyncio.Event]) -> None:
        for waiter in tuple(waiters):
            waiter.set()
            self._waiters.remove(waiter)

    def _tell(self, ref: Ref, raw: Json) -> None:
        self._known[ref] = _mark(raw)
        self._put(ref, raw)

    def _tell_gone(self, ref: Ref) -> None:
        del self._known[ref]
        self._put(ref, None)

    def _ref_of(self, raw: Json) -> Ref | None:
        meta = raw.get("metadata") or {}
        if not meta.get("name"):
            return None
        return Ref(self.kind, Namespace(str(meta.get("namespace") or "")), str(meta["name"]))

    def _heard(self) -> None:
        self.heard_at = self.active_at = time.monotonic()

    def _become(self, state: State, reason: str) -> None:
        if state is State.SYNCED and state is self.state:
            return
        was, self.state, self.reason = self.state, state, reason
        if state.is_settled:
            self._settled.set()
        if was is not state and self._changed is not None:
            self._changed(self)

    def _draw(self, bounds: tuple[float, float]) -> float:
        return self._rng.uniform(*bounds)

    @asynccontextmanager
    async def _interruptible(self) -> AsyncIterator[None]:
        """Run a body that `poke` may end early, without an error."""
        scope = asyncio.timeout(None)
        try:
            async with scope:
                self._scope = scope
                yield
        except TimeoutError:
            if not scope.expired():
                raise
        finally:
            self._scope = None


def _mark(raw: Json) -> tuple[str, str]:
    meta = raw["metadata"]
    return str(meta.get("uid") or ""), str(meta.get("resourceVersion") or "")
