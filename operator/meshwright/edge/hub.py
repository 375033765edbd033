"""What proxies have asked for, the bytes they get, and who must hear of a change. No network, no Kubernetes.

A resource is made when a proxy first asks for it, encoded when it first has to be sent, and both once for all proxies.
Its version is a hash of its content, so a proxy that comes back, to this server or to another, is sent only what
changed meanwhile.
"""

import asyncio
import logging
from collections import Counter as Counting
from collections import defaultdict
from collections.abc import AsyncIterator, Collection, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge

from meshwright.edge.protobuf import EncodeError, TypeUrl, encode_resource, make_version
from meshwright.model.desired import Json
from meshwright.model.problem import Problem, Reason
from meshwright.model.proxy import Proxy

log = logging.getLogger(__name__)

LINGERING = frozenset({TypeUrl.CLUSTER, TypeUrl.ENDPOINTS, TypeUrl.ROUTES})
"""Kinds that others name: a proxy keeps them for a while after they are gone."""


class Source(Protocol):
    """Where resources come from. Every answer is about now, and cheap to ask for again."""

    def names(self, kind: TypeUrl) -> Collection[str]:
        """Return the names a proxy gets that asks for all of a kind."""

    def variant(self, kind: TypeUrl, name: str, proxy: Proxy) -> str:
        """Return which content of a resource ``proxy`` gets; equal texts mean equal content."""

    def make(self, kind: TypeUrl, name: str, variant: str) -> Json | None:
        """Return a resource, ``None`` when there is none."""

    def make_fallback(self, kind: TypeUrl, name: str) -> Json | None:
        """Return what to send in place of a resource that never could be encoded, ``None`` for nothing."""

    def may_keep(self, kind: TypeUrl, name: str) -> bool:
        """Return whether a proxy that refuses a resource may go on with what it had; else it gets the fallback. Of
        what it may not keep, every proxy has one of its own."""


class Listening(Protocol):
    """A proxy's stream, as the hub sees it."""

    @property
    def proxy(self) -> Proxy:
        """Return whose it is."""

    def touched(self, kind: TypeUrl, names: Iterable[str]) -> None:
        """Hear that resources may have changed."""


@dataclass(slots=True)
class Entry:
    """One content of one resource. ``wire`` is made when it is first sent; then ``resource`` is let go.

    ``endpoints``: the name a cluster's endpoints go by, ``""`` otherwise. ``last_good``: an earlier content, kept
    until this one proves to be encodable.
    """

    version: str
    resource: Json | None
    endpoints: str = ""
    wire: bytes | None = None
    last_good: "Entry | None" = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejection:
    """A resource that somebody refused: a proxy (``node``), or protobuf here (``node`` is ``""``)."""

    kind: TypeUrl
    name: str
    version: str
    reason: str
    node: str
    count: int

    @property
    def problem(self) -> Problem:
        by = f"proxy {self.node}" if self.node else "the encoder"
        return Problem(
            field=f"{self.kind.word} {self.name}",
            reason=Reason.INVALID_OBJECT,
            message=f"version {self.version} was refused by {by}: {self.reason}",
        )


@dataclass(slots=True, kw_only=True)
class Metrics:
    """What is counted. Each hub has its own, in ``registry``."""

    registry: CollectorRegistry = field(default_factory=CollectorRegistry)
    streams: Gauge = field(init=False)
    sent: Counter = field(init=False)
    removed: Counter = field(init=False)
    encoded: Counter = field(init=False)
    rejections: Counter = field(init=False)
    rejected: Gauge = field(init=False)

    def __post_init__(self) -> None:
        made = self.registry
        self.streams = Gauge("meshwright_xds_streams", "Proxies connected.", registry=made)
        self.sent = Counter("meshwright_xds_sent", "Resources sent to proxies.", ["kind"], registry=made)
        self.removed = Counter("meshwright_xds_removed", "Removals sent to proxies.", ["kind"], registry=made)
        self.encoded = Counter("meshwright_xds_encoded", "Resources encoded.", ["kind"], registry=made)
        self.rejections = Counter(
            "meshwright_xds_rejections", "Resources refused by a proxy or the encoder.", ["kind"], registry=made
        )
        self.rejected = Gauge(
            "meshwright_xds_rejected_resources", "Resources whose current content was refused.", registry=made
        )


Key = tuple[TypeUrl, str]


@dataclass(slots=True)
class _Expected:
    """Versions that have yet to be taken; ``taken`` is set when there are none left."""

    missing: dict[Key, str]
    taken: asyncio.Event = field(default_factory=asyncio.Event)


class Hub:
    """Resources by kind and name, and the streams that want them. Belongs to one event loop.

    ``linger``: for how many seconds a resource that is gone is still there for those who had it.
    """

    def __init__(self, source: Source, *, linger: float = 30.0, metrics: Metrics | None = None) -> None:
        self.source = source
        self.metrics = metrics or Metrics()
        self.rejections: dict[Key, Rejection] = {}
        self._linger = linger
        self._entries: dict[Key, dict[str, Entry | None]] = {}
        self._stale: dict[Key, dict[str, Entry]] = {}
        self._fallbacks: dict[Key, Entry | None] = {}
        self._timers: dict[Key, asyncio.TimerHandle] = {}
        self._named: defaultdict[Key, set[Listening]] = defaultdict(set)
        self._wild: defaultdict[TypeUrl, set[Listening]] = defaultdict(set)
        self._at_host: defaultdict[Key, set[str]] = defaultdict(set)
        self._streams: defaultdict[Proxy, Counting[Listening]] = defaultdict(Counting)
        """The streams of each proxy, and how much each has subscribed to."""
        self._expected: list[_Expected] = []

    def subscribe(self, stream: Listening, kind: TypeUrl, name: str | None) -> None:
        """Tell ``stream`` of changes of ``name`` from now on; ``None``: of all resources of the kind."""
        streams = self._wild[kind] if name is None else self._named[kind, name]
        if stream not in streams:
            streams.add(stream)
            self._streams[stream.proxy][stream] += 1
        if name is None:
            return
        if host := _host(name):
            self._at_host[kind, host].add(name)

    def unsubscribe(self, stream: Listening, kind: TypeUrl, name: str | None) -> None:
        """Take back a subscription. What nobody wants is forgotten, and made again when somebody does."""
        streams = self._wild[kind] if name is None else self._named[kind, name]
        if stream in streams:
            streams.discard(stream)
            self._uncount(stream)
        if name is None:
            return
        key = (kind, name)
        if not streams:
            del self._named[key]
            if host := _host(name):
                self._at_host[kind, host].discard(name)
                if not self._at_host[kind, host]:
                    del self._at_host[kind, host]
            if not self._wild[kind]:
                self._forget(key)

    def touch(self, touched: Mapping[TypeUrl, Iterable[str]]) -> None:
        """Say that resources may have changed; who subscribed to them looks, and is sent what did."""
        waiting: defaultdict[Listening, dict[TypeUrl, list[str]]] = defaultdict(dict)
        for kind, names in touched.items():
            for name in names:
                key = (kind, name)
                streams = self._named.get(key, set()) | self._wild[kind]
                if not streams:
                    self._forget(key)
                    continue
                self._retire(key)
                for stream in streams:
                    waiting[stream].setdefault(kind, []).append(name)
        for stream, kinds in waiting.items():
            for kind, found in kinds.items():
                stream.touched(kind, found)

    def names_at(self, kind: TypeUrl, host: str) -> tuple[str, ...]:
        """Return the names asked for now that are ``host``, a colon and a port."""
        return tuple(self._at_host.get((kind, host), ()))

    def turn(self, proxy: Proxy, touched: Mapping[TypeUrl, Iterable[str]]) -> None:
        """Say that ``proxy`` may get another variant of resources. No variant's content has changed."""
        streams = tuple(self._streams.get(proxy, ()))
        for kind, names in touched.items():
            for name in names:
                named = self._named.get((kind, name), ())
                for stream in streams:
                    if stream in named or stream in self._wild[kind]:
                        stream.touched(kind, (name,))

    def current(self, kind: TypeUrl, name: str, proxy: Proxy) -> Entry | None:
        """Return a resource as ``proxy`` should have it now, ``None`` when it should not.

        It may not have been encoded yet, and it may turn out that it cannot be.
        """
        variant = self.source.variant(kind, name, proxy)
        entries = self._entries.setdefault((kind, name), {})
        if variant not in entries:
            entries[variant] = self._make(kind, name, variant)
        return entries[variant]

    def encode(self, kind: TypeUrl, name: str, entry: Entry) -> Entry | None:
        """Return ``entry`` with its bytes; when it has none, the last content that had, else the fallback, else
        ``None``."""
        if entry.wire is None:
            resource = entry.resource
            if resource is not None:
                try:
                    entry.wire = encode_resource(kind, name, entry.version, resource)
                    self.metrics.encoded.labels(kind.word).inc()
                except EncodeError as error:
                    self.reject(kind, name, entry.version, str(error), node="")
                    entry.last_good = entry.last_good or self._make_fallback(kind, name)
            entry.resource = None
        if entry.wire is None:
            return entry.last_good
        entry.last_good = None
        return entry

    def reject(self, kind: TypeUrl, name: str, version: str, reason: str, *, node: str) -> None:
        """Note that a resource was refused."""
        earlier = self.rejections.get((kind, name))
        count = earlier.count + 1 if earlier and earlier.version == version else 1
        self.rejections[kind, name] = Rejection(
            kind=kind, name=name, version=version, reason=reason, node=node, count=count
        )
        self.metrics.rejections.labels(kind.word).inc()
        self.metrics.rejected.set(len(self.rejections))
        log.error("%s %s, version %s, refused by %s: %s", kind.word, name, version, node or "the encoder", reason)

    def find_refuge(self, kind: TypeUrl, name: str) -> Entry | None:
        """Return what a proxy gets that refuses a resource, ``None`` when it may go on with what it had."""
        if self.source.may_keep(kind, name):
            return None
        key = (kind, name)
        if key not in self._fallbacks:
            self._fallbacks[key] = self._make_fallback(kind, name)
        return self._fallbacks[key]

    def accept(self, kind: TypeUrl, versions: Mapping[str, str], *, node: str = "") -> None:
        """Note that a proxy took resources: what was refused before in another version is well again. Where each proxy
        has one of its own, only the same proxy can say so."""
        for expected in self._expected:
            for name, version in versions.items():
                if expected.missing.get((kind, name)) == version:
                    del expected.missing[kind, name]
            if not expected.missing:
                expected.taken.set()
        if not self.rejections:
            return
        for name, version in versions.items():
            rejection = self.rejections.get((kind, name))
            if rejection is None or rejection.version == version or not self._is_current(kind, name, version):
                continue
            if rejection.node in ("", node) or self.source.may_keep(kind, name):
                del self.rejections[kind, name]
        self.metrics.rejected.set(len(self.rejections))

    @asynccontextmanager
    async def expect(self, kind: TypeUrl, versions: Mapping[str, str]) -> AsyncIterator[asyncio.Event]:
        """Give an event that is set once proxies, any of them, have said that they took all of ``versions``.

        Only what is said while the context lasts counts.
        """
        expected = _Expected({(kind, name): version for name, version in versions.items()})
        if not expected.missing:
            expected.taken.set()
        self._expected.append(expected)
        try:
            yield expected.taken
        finally:
            self._expected.remove(expected)

    def is_wanted(self, kind: TypeUrl, name: str) -> bool:
        """Return whether a proxy has asked for a resource."""
        return bool(self._wild.get(kind)) or (kind, name) in self._named

    def problems(self) -> tuple[Problem, ...]:
        """Return what was refused and has not been replaced by something better, sorted."""
        return tuple(sorted(rejection.problem for rejection in self.rejections.values()))

    def close(self) -> None:
        """Let go of all timers."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    def _uncount(self, stream: Listening) -> None:
        counts = self._streams[stream.proxy]
        counts[stream] -= 1
        if not counts[stream]:
            del counts[stream]
        if not counts:
            del self._streams[stream.proxy]

    def _make(self, kind: TypeUrl, name: str, variant: str) -> Entry | None:
        old = self._stale.get((kind, name), {}).get(variant)
        resource = self.source.make(kind, name, variant)
        if resource is None:
            if old is None or kind not in LINGERING or self._linger <= 0:
                return None
            self._later((kind, name))
            return old
        version = make_version(resource)
        if old is not None and old.version == version:
            return old
        return Entry(version, resource, endpoints=_endpoints_name(resource), last_good=_encoded(old))

    def _make_fallback(self, kind: TypeUrl, name: str) -> Entry | None:
        resource = self.source.make_fallback(kind, name)
        if resource is None:
            return None
        version = make_version(resource)
        return Entry(version, None, wire=encode_resource(kind, name, version, resource))

    def _retire(self, key: Key) -> None:
        """Make way for new content, and keep the old as the last good one."""
        if (timer := self._timers.pop(key, None)) is not None:
            timer.cancel()
        self._fallbacks.pop(key, None)
        if (entries := self._entries.pop(key, None)) is not None:
            kept = {variant: _good(entry) for variant, entry in entries.items()}
            self._stale[key] = {variant: entry for variant, entry in kept.items() if entry is not None}

    def _later(self, key: Key) -> None:
        """Look at a resource again when it has lingered long enough; it is dropped then if it is still gone."""
        if key not in self._timers:
            self._timers[key] = asyncio.get_running_loop().call_later(self._linger, self._expire, key)

    def _expire(self, key: Key) -> None:
        self._forget(key)
        kind, name = key
        for stream in self._named.get(key, set()) | self._wild[kind]:
            stream.touched(kind, (name,))

    def _forget(self, key: Key) -> None:
        if (timer := self._timers.pop(key, None)) is not None:
            timer.cancel()
        self._entries.pop(key, None)
        self._stale.pop(key, None)
        self._fallbacks.pop(key, None)
        if self.rejections.pop(key, None) is not None:
            self.metrics.rejected.set(len(self.rejections))

    def _is_current(self, kind: TypeUrl, name: str, version: str) -> bool:
        entries = self._entries.get((kind, name), {})
        return any(entry is not None and entry.version == version for entry in entries.values())


def _host(name: str) -> str:
    return name.rpartition(":")[0]


def _good(entry: Entry | None) -> Entry | None:
    """Return the newest content that is encoded or may be encodable; ``None`` when there is none."""
    return entry if entry is None or entry.wire is not None or entry.resource is not None else entry.last_good


def _encoded(entry: Entry | None) -> Entry | None:
    """Return the newest content that is encoded; ``None`` when there is none."""
    return entry if entry is None or entry.wire is not None else entry.last_good


def _endpoints_name(resource: Mapping[str, Any]) -> str:
    return str((resource.get("eds_cluster_config") or {}).get("service_name") or "")
