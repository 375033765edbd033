"""Which proxies may have a stream: what is decided, and the decision where everybody may."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

import grpc

from meshwright.model.proxy import Proxy, read_node_id
from meshwright.model.ref import Ref

_FOR_EVER = datetime.max.replace(tzinfo=UTC)


class Refused(Exception):
    """A stream that may not be. ``reason`` is a CamelCase word, the text says what does not fit."""

    def __init__(self, code: grpc.StatusCode, reason: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason


class Caller(Protocol):
    """A stream's other end, as gRPC knows it."""

    def auth_context(self) -> Mapping[str, Iterable[bytes]]:
        """Return what the TLS handshake has proved; ``{}`` without TLS."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Guest:
    """A proxy that was let in: ``uid`` is its workload's, ``identity`` what its certificate says it is, ``until`` when
    it must have shown a newer one."""

    proxy: Proxy
    uid: str = ""
    identity: str = ""
    until: datetime = _FOR_EVER


class Gate(Protocol):
    """Decides which streams there are."""

    async def admit(self, node_id: str, caller: Caller) -> Guest:
        """Return who asks.

        Raises:
            Refused: nobody who may.
        """

    def may_stay(self, guest: Guest) -> bool:
        """Return whether a proxy that was let in may still be served."""

    def listen(self, look: Callable[[Ref], None]) -> None:
        """Call ``look`` after each change of a workload: its proxy may have to go."""


class OpenGate:
    """A `Gate` that believes everybody, as is right on loopback."""

    async def admit(self, node_id: str, caller: Caller) -> Guest:
        return Guest(proxy=read_node(node_id))

    def may_stay(self, guest: Guest) -> bool:
        return True

    def listen(self, look: Callable[[Ref], None]) -> None:
        pass


def read_node(node_id: str) -> Proxy:
    """Return the proxy that a node's id names.

    Raises:
        Refused: it names none.
    """
    if (proxy := read_node_id(node_id)) is None:
        wanted = "node.id must be <namespace>/<pod> or <namespace>/externalworkload/<name>"
        raise Refused(grpc.StatusCode.INVALID_ARGUMENT, "BadNode", wanted)
    return proxy
