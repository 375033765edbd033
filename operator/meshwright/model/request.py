"""One attempt to call a workload, and what becomes of it: what people ask `explain` about."""

from dataclasses import dataclass
from enum import StrEnum

from meshwright.model.inbound import Source
from meshwright.model.ref import Ref


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who calls: from which address, and as whom. ``dns`` and ``uri``: the identity's two forms, ``""`` for none.

    ``has_tls``: the connection is TLS of the mesh, which is so whenever there is an identity.
    """

    address: str
    dns: str = ""
    uri: str = ""
    has_tls: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """An HTTP request. ``path`` without query; ``headers`` (names in lower case) and ``query`` as pairs in order."""

    method: str = "GET"
    path: str = "/"
    host: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    query: tuple[tuple[str, str], ...] = ()

    @property
    def is_grpc(self) -> bool:
        """Whether it is a gRPC call, as proxies tell it: by its content type.

        Source: Envoy ``source/common/grpc/common.cc`` ``Common::hasGrpcContentType``.
        """
        kind = next((value for name, value in self.headers if name == "content-type"), "")
        return kind == "application/grpc" or kind.startswith("application/grpc+")


class Outcome(StrEnum):
    """What becomes of an attempt. ``AUDITED``: let through, but nobody has allowed it. ``NOT_FOUND``: no route of the
    Server takes it. ``REFUSED``: the port does not take what it speaks."""

    ALLOWED = "allowed"
    AUDITED = "audited"
    DENIED = "denied"
    NOT_FOUND = "not found"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True, kw_only=True)
class Missed:
    """An authorization that did not let the caller in, and the first reason why, as a sentence."""

    source: Source
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What becomes of an attempt, and why.

    ``server``: who governs the port, ``None`` for the default policy, called ``default``. ``route``: the attached route
    whose rule took the request, ``None`` without. ``by``: the authorization that let it in, the first by name of
    several; ``None`` when none did. ``missed``: the others that were looked at, sorted by source.
    """

    outcome: Outcome
    server: Ref | None = None
    default: str = ""
    route: Ref | None = None
    by: Source | None = None
    missed: tuple[Missed, ...] = ()
