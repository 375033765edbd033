"""One proxy's side of delta ADS: what it asks for, and what it is sent. It waits for nothing and knows no network.

Source: Envoy ``docs/root/api-docs/xds_protocol.rst``, ``api/envoy/service/discovery/v3/discovery.proto``.
"""

import asyncio
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest

from meshwright.edge.hub import Hub
from meshwright.edge.protobuf import TypeUrl, join_response
from meshwright.model.proxy import Proxy
from meshwright.parse.shape import quote

log = logging.getLogger(__name__)

WILD = frozenset({TypeUrl.LISTENER, TypeUrl.SCOPE})
"""Kinds that a proxy gets all of when it names none; of the others only what it names."""

MAX_NAMES, MAX_NAME_LENGTH, MAX_UNANSWERED = 50_000, 1024, 4_000
"""What one stream may cost: resources asked for of a kind, and responses that wait for an answer."""

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


class Stream:
    """One proxy's side of the protocol: requests in, responses out. It does not wait and knows no network.

    ``wake`` is set when there is something to send, or the stream is to end.
    """

    def __init__(self, hub: Hub, proxy: Proxy) -> None:
        self.proxy = proxy
        self.wake = asyncio.Event()
        self.is_ending = False
        self._hub = hub
        self._subscriptions: dict[TypeUrl, _Subscription] = {}
        self._due: dict[TypeUrl, dict[str, bool]] = {}
        self._apart: list[tuple[TypeUrl, tuple[str, ...]]] = []
        self._unanswered: dict[str, _Sent] = {}
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
        if len(subscription.names) > MAX_NAMES or any(len(name) > MAX_NAME_LENGTH for name in names):
            self._give_up(f"it asks for more than {MAX_NAMES} {kind.word}s, or for a name that is too long")

    def touched(self, kind: TypeUrl, names: Iterable[str]) -> None:
        """Look at resources again before the next response."""
        due = self._due.setdefault(kind, {})
        for name in names:
            due.setdefault(name, False)
        self.wake.set()

    def responses(self) -> list[bytes]:
        """Return what is to be sent now, in this order: what is named before what names it."""
        due, self._due = self._due, {}
        apart, self._apart = self._apart, []
        found: list[bytes] = []
        for kind, names in apart:
            found += self._respond(kind, dict.fromkeys(names, True), due)
        for kind in TypeUrl:
            if kind in due:
                found += self._respond(kind, due[kind], due)
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

    def _subscribe(self, kind: TypeUrl, subscription: _Subscription, name: str, *, is_first: bool) -> None:
        """A name asked for is always answered, but for one that a returning proxy says it has already."""
        if name not in subscription.names:
            subscription.names.add(name)
            self._hub.subscribe(self, kind, name)
        is_kept = is_first and name in subscription.known
        self._due.setdefault(kind, {})[name] = not is_kept
        self.wake.set()

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
        """Take an ACK, or a NACK: then find out which resource it is about, by sending halves until it is one."""
        sent = self._unanswered.pop(request.response_nonce, None)
        if sent is None:
            return
        if not request.HasField("error_detail"):
            self._hub.accept(sent.kind, sent.versions)
            return
        reason = _make_line(request.error_detail.message)
        names = tuple(sent.versions)
        if len(names) == 1:
            self._hub.reject(sent.kind, names[0], sent.versions[names[0]], reason, node=self.proxy.node_id)
            return
        log.warning("%s refused %d %s at once: %s", self.proxy.node_id, len(names), sent.kind.word, reason)
        for half in (names[: len(names) // 2], names[len(names) // 2 :]):
            if half:
                self._apart.append((sent.kind, half))
        self.wake.set()

    def _has(self, kind: TypeUrl, name: str) -> bool:
        return kind in self._subscriptions and name in self._subscriptions[kind].known

    def _respond(
        self, kind: TypeUrl, names: Mapping[str, bool], due: dict[TypeUrl, dict[str, bool]]
    ) -> Iterable[bytes]:
        """Return at most one response about ``names`` (value: whether to send what the proxy has already)."""
        subscription = self._subscriptions.get(kind)
        if subscription is None:
            return ()
        versions: dict[str, str] = {}
        wires: list[bytes] = []
        removed: list[str] = []
        for name, is_forced in names.items():
            if not subscription.wants(name):
                continue
            entry = self._hub.current(kind, name, self.proxy)
            known = subscription.known.get(name)
            if entry is not None and entry.version == known and not is_forced:
                continue
            entry = entry and self._hub.encode(kind, name, entry)
            if entry is None:
                if is_forced or known is not None:
                    removed.append(name)
                    subscription.known.pop(name, None)
                continue
            if (entry.version == known and not is_forced) or entry.wire is None:
                continue
            versions[name] = subscription.known[name] = entry.version
            wires.append(entry.wire)
            if entry.endpoints and (known is not None or self._has(TypeUrl.ENDPOINTS, entry.endpoints)):
                # A cluster waits for its endpoints, also when Envoy has them for another one and does not ask again.
                due.setdefault(TypeUrl.ENDPOINTS, {})[entry.endpoints] = True
        if not (versions or removed or subscription.owes_answer):
            return ()
        subscription.owes_answer = False
        self._nonce += 1
        nonce = str(self._nonce)
        self._unanswered[nonce] = _Sent(kind, versions)
        if len(self._unanswered) > MAX_UNANSWERED:
            self._give_up(f"it has not answered {MAX_UNANSWERED} responses")
        self._hub.metrics.sent.labels(kind.word).inc(len(versions))
        self._hub.metrics.removed.labels(kind.word).inc(len(removed))
        return (join_response(kind, nonce, wires, removed),)


def _make_line(text: str) -> str:
    """Return what a proxy says as one line of a length that can be shown."""
    line = "".join(each if each.isprintable() else " " for each in text[: _MAX_REASON_LENGTH + 1])
    return f"{line[:_MAX_REASON_LENGTH]}…" if len(line) > _MAX_REASON_LENGTH else line
