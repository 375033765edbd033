"""One proxy's side of delta ADS: what it asks for, and what it is sent. It waits for nothing and knows no network.

Source: Envoy ``docs/root/api-docs/xds_protocol.rst``, ``api/envoy/service/discovery/v3/discovery.proto``.
"""

import asyncio
import logging
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest

from meshwright.edge.hub import Entry, Hub
from meshwright.edge.protobuf import TypeUrl, join_response
from meshwright.model.proxy import Proxy
from meshwright.parse.shape import quote

log = logging.getLogger(__name__)

WILD = frozenset({TypeUrl.LISTENER, TypeUrl.SCOPE})
"""Kinds that a proxy gets all of when it names none; of the others only what it names."""

MAX_NAMES, MAX_NAME_LENGTH, MAX_UNANSWERED = 50_000, 1024, 4_000
"""What one stream may cost: resources asked for of a kind, and responses that wait for an answer."""

SLICE_SECONDS = 0.02
"""About how long a stream may work on its responses before others have a turn."""
_FEW = 32

_MAX_REASON_LENGTH = 1000
_KINDS: Mapping[str, TypeUrl] = {kind.value: kind for kind in TypeUrl}


@dataclass(slots=True)
class _Subscription:
    """What a stream wants of one kind. ``known``: the versions the proxy has, or refused."""

    names: set[str] = field(default_factory=set)
    is_wild: bool = False
    known: dict[str, str] = field(default_factory=dict)
    owes_answer: bool = False

    def wants(self, name: str) -> bool:
        return self.is_wild or name in self.names


@dataclass(frozen=True, slots=True)
class _Sent:
    """One response that has not been answered."""

    kind: TypeUrl
    versions: Mapping[str, str]


_Due = OrderedDict[str, bool]
"""Names to look at; the value says whether to send what the proxy has already."""


@dataclass(slots=True)
class _Draft:
    """A response that is being made: what to send, by name, and what to remove."""

    found: dict[str, Entry] = field(default_factory=dict)
    removed: dict[str, None] = field(default_factory=dict)


class Stream:
    """One proxy's side of the protocol: requests in, responses out. It does not wait and knows no network.

    ``wake`` is set when there is something to send, or the stream is to end. ``clock``: seconds.
    """

    def __init__(self, hub: Hub, proxy: Proxy, *, clock: Callable[[], float] = time.perf_counter) -> None:
        self.proxy = proxy
        self.wake = asyncio.Event()
        self.is_ending = False
        self._hub = hub
        self._subscriptions: dict[TypeUrl, _Subscription] = {}
        self._clock = clock
        self._due: dict[TypeUrl, _Due] = {}
        self._apart: deque[tuple[TypeUrl, _Due]] = deque()
        self._drafts: dict[TypeUrl, _Draft] = {}
        self._awaited: set[str] = set()  # endpoints of clusters that were sent before any were asked for
        self._unanswered: dict[str, _Sent] = {}
        self._refused: dict[tuple[TypeUrl, str], str] = {}  # versions that the proxy gets the fallback in place of
        self._nonce = 0

    def take(self, request: DeltaDiscoveryRequest) -> None:
        """Take what the proxy says: what it wants from now on, and what it thinks of an earlier response."""
        kind = _KINDS.get(request.type_url)
        if kind is None:
            log.warning("%s asks for %s, which is not served", self.proxy.node_id, quote(request.type_url))
            return
        if self.is_ending:
            return
        if len(request.initial_resource_versions) > MAX_NAMES:
            self._give_up(f"it says that it has more than {MAX_NAMES} {kind.word}s")
            return
        if len(request.resource_names_subscribe) > MAX_NAMES:
            self._give_up(f"it asks for more than {MAX_NAMES} {kind.word}s")
            return
        subscription = self._subscriptions.get(kind)
        is_first = subscription is None
        if subscription is None:
            subscription = _Subscription(known=dict(request.initial_resource_versions))
            self._subscriptions[kind] = subscription
        if request.response_nonce:
            self._answer(request)
        for name in request.resource_names_unsubscribe:
            self._unsubscribe(kind, subscription, name)
        names = list(request.resource_names_subscribe)
        if is_first and not names and kind in WILD:
            names = ["*"]
        for name in names:
            if name == "*":
                self._subscribe_all(kind, subscription)
            else:
                self._subscribe(kind, subscription, name, is_first=is_first)
        if is_first and kind is TypeUrl.ENDPOINTS:
            self._awaited.clear()
        if len(subscription.names) > MAX_NAMES or any(len(name) > MAX_NAME_LENGTH for name in names):
            self._give_up(f"it asks for more than {MAX_NAMES} {kind.word}s, or for a name that is too long")

    def touched(self, kind: TypeUrl, names: Iterable[str]) -> None:
        """Look at resources again before the next response."""
        due = self._due.setdefault(kind, OrderedDict())
        for name in names:
            due.setdefault(name, False)
        self.wake.set()

    @property
    def is_behind(self) -> bool:
        """Return whether there is more to look at than a few names, or something that was refused."""
        return bool(self._apart) or sum(map(len, self._due.values())) > _FEW

    def responses(self) -> list[bytes]:
        """Return what is to be sent next, in this order: what is named before what names it.

        It ends with the resource after which ``SLICE_SECONDS`` are over; ``wake`` is set then. What names something
        waits until all that may be named is sent. Clusters are followed by the endpoints that they wait for. Of what a
        proxy gets all of, it gets all at once: half of the scopes would cut off the other half.
        """
        found: list[bytes] = []
        ends = self._clock() + SLICE_SECONDS
        while self._apart and self._clock() < ends:
            kind, due = self._apart[0]
            draft = _Draft()
            self._look(kind, due, draft, ends)
            found += self._send(kind, draft)
            if not due:
                self._apart.popleft()
        is_behind = bool(self._apart)
        for kind in TypeUrl:
            if is_behind and kind is not TypeUrl.ENDPOINTS:
                break
            if (next_due := self._due.get(kind)) is None:
                continue
            if kind is TypeUrl.LISTENER and found:
                break  # it takes long to encode: routes, which may withdraw a permission, do not wait for it
            draft = self._drafts.setdefault(kind, _Draft())
            if is_behind:
                self._look(kind, next_due, draft, self._clock() + SLICE_SECONDS, is_asked_only=True)
            else:
                self._look(kind, next_due, draft, ends)
            if not next_due:
                del self._due[kind]
            if not (next_due and kind in WILD):
                found += self._send(kind, self._drafts.pop(kind))
            if is_behind or (next_due and kind is not TypeUrl.CLUSTER):
                break
            is_behind = bool(next_due)
        if self._due or self._apart:
            self.wake.set()
        return found

    def end(self) -> None:
        """Have the stream closed after what is under way."""
        self.is_ending = True
        self.wake.set()

    def _give_up(self, why: str) -> None:
        """End a stream that would take what others need."""
        log.warning("%s is sent away: %s", self.proxy.node_id, why)
        self.end()

    def leave(self) -> None:
        """Take back all subscriptions."""
        for kind, subscription in self._subscriptions.items():
            for name in subscription.names:
                self._hub.unsubscribe(self, kind, name)
            if subscription.is_wild:
                self._hub.unsubscribe(self, kind, None)
        self._subscriptions.clear()
        self._drafts.clear()

    def _subscribe(self, kind: TypeUrl, subscription: _Subscription, name: str, *, is_first: bool) -> None:
        """A name asked for is always answered, but for one that a returning proxy says it has already."""
        if name not in subscription.names:
            subscription.names.add(name)
            self._hub.subscribe(self, kind, name)
        if is_first and name in subscription.known and not (kind is TypeUrl.ENDPOINTS and name in self._awaited):
            self.touched(kind, (name,))
        else:
            self._ask(kind, name)
        self.wake.set()

    def _ask(self, kind: TypeUrl, name: str) -> None:
        """Have a resource sent even if the proxy has it already. Endpoints that are asked for come before others."""
        due = self._due.setdefault(kind, OrderedDict())
        due[name] = True
        if kind is TypeUrl.ENDPOINTS:
            due.move_to_end(name, last=False)

    def _subscribe_all(self, kind: TypeUrl, subscription: _Subscription) -> None:
        if not subscription.is_wild:
            subscription.is_wild = True
            self._hub.subscribe(self, kind, None)
        subscription.owes_answer = not subscription.known
        self.touched(kind, {*self._hub.source.names(kind), *subscription.known})

    def _unsubscribe(self, kind: TypeUrl, subscription: _Subscription, name: str) -> None:
        if name == "*":
            if subscription.is_wild:
                subscription.is_wild = False
                self._hub.unsubscribe(self, kind, None)
            return
        if name in subscription.names:
            subscription.names.discard(name)
            self._hub.unsubscribe(self, kind, name)
        subscription.known.pop(name, None)

    def _answer(self, request: DeltaDiscoveryRequest) -> None:
        """Take an ACK, or a NACK: then find out which resource it is about, by sending halves until it is one. What
        the proxy may not keep in place of that one is replaced."""
        sent = self._unanswered.pop(request.response_nonce, None)
        if sent is None:
            return
        if not request.HasField("error_detail"):
            self._hub.accept(sent.kind, sent.versions, node=self.proxy.node_id)
            return
        reason = _make_line(request.error_detail.message)
        names = tuple(sent.versions)
        if len(names) == 1:
            name, version = names[0], sent.versions[names[0]]
            self._hub.reject(sent.kind, name, version, reason, node=self.proxy.node_id)
            refuge = self._hub.find_refuge(sent.kind, name)
            if refuge is not None and refuge.version != version:
                self._refused[sent.kind, name] = version
                self.touched(sent.kind, (name,))
            return
        log.warning("%s refused %d %s at once: %s", self.proxy.node_id, len(names), sent.kind.word, reason)
        for half in (names[: len(names) // 2], names[len(names) // 2 :]):
            if half:
                self._apart.append((sent.kind, OrderedDict.fromkeys(half, True)))
        self.wake.set()

    def _look(self, kind: TypeUrl, due: _Due, draft: _Draft, ends: float, *, is_asked_only: bool = False) -> None:
        """Move names from ``due`` to ``draft``: at least one, and then more until ``ends``; maybe only those asked for,
        which are the first."""
        subscription = self._subscriptions.get(kind)
        if subscription is None:
            if kind is TypeUrl.ENDPOINTS:
                self._awaited.update(due)
            due.clear()
            return
        while due:
            name, is_forced = next(iter(due.items()))
            if is_asked_only and not is_forced:
                return
            del due[name]
            if subscription.wants(name):
                self._look_at(kind, subscription, draft, name, is_forced=is_forced)
            if self._clock() >= ends:
                return

    def _look_at(
        self, kind: TypeUrl, subscription: _Subscription, draft: _Draft, name: str, *, is_forced: bool
    ) -> None:
        entry = self._hub.current(kind, name, self.proxy)
        known = subscription.known.get(name)
        if entry is not None and entry.version == self._refused.get((kind, name)):
            entry = self._hub.find_refuge(kind, name)
        if entry is not None and entry.version == known and not is_forced:
            return
        entry = entry and self._hub.encode(kind, name, entry)
        if entry is None:
            if is_forced or known is not None:
                draft.found.pop(name, None)
                draft.removed[name] = None
                subscription.known.pop(name, None)
            return
        if (entry.version == known and not is_forced) or entry.wire is None:
            return
        draft.removed.pop(name, None)
        draft.found[name] = entry
        subscription.known[name] = entry.version
        if entry.endpoints and (known is not None or self._may_have_endpoints(entry.endpoints)):
            # A cluster waits for its endpoints, also when Envoy has them for another one and does not ask again.
            self._ask(TypeUrl.ENDPOINTS, entry.endpoints)

    def _may_have_endpoints(self, name: str) -> bool:
        """Return whether the proxy has endpoints; one that returns says so only when it first asks for any."""
        subscription = self._subscriptions.get(TypeUrl.ENDPOINTS)
        return subscription is None or name in subscription.known

    def _send(self, kind: TypeUrl, draft: _Draft) -> Iterable[bytes]:
        """Return at most one response: what was drafted, and is still wanted."""
        subscription = self._subscriptions.get(kind)
        if subscription is None:
            return ()
        found = {name: entry for name, entry in draft.found.items() if subscription.wants(name)}
        if not (found or draft.removed or subscription.owes_answer):
            return ()
        subscription.owes_answer = False
        self._nonce += 1
        nonce = str(self._nonce)
        self._unanswered[nonce] = _Sent(kind, {name: entry.version for name, entry in found.items()})
        if len(self._unanswered) > MAX_UNANSWERED:
            self._give_up(f"it has not answered {MAX_UNANSWERED} responses")
        self._hub.metrics.sent.labels(kind.word).inc(len(found))
        self._hub.metrics.removed.labels(kind.word).inc(len(draft.removed))
        return (join_response(kind, nonce, (entry.wire for entry in found.values() if entry.wire), draft.removed),)


def _make_line(text: str) -> str:
    """Return what a proxy says as one line of a length that can be shown."""
    line = "".join(each if each.isprintable() else " " for each in text[: _MAX_REASON_LENGTH + 1])
    return f"{line[:_MAX_REASON_LENGTH]}…" if len(line) > _MAX_REASON_LENGTH else line
