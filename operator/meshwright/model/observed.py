"""What proxies told of calls: who called what, and whether anybody had allowed it."""

from collections.abc import Mapping
from dataclasses import dataclass

from meshwright.model.identity import ServiceAccount
from meshwright.model.ref import Ref
from meshwright.model.units import Namespace, Port

COUNTED = "srv_route"
"""What counters of requests tell apart, whose they were, as one label: every label costs every request as much as
choosing its route does. Whoever reads the counters can take it apart, once."""

_COUNTED = ("srv_kind", "srv_name", "route_kind", "route_name")
"""Its parts, with slashes between. The namespace is the pod's own."""


def write_counted(labels: Mapping[str, str]) -> str:
    """Return the value of the label `COUNTED`; ``""`` stands for a part that ``labels`` have not."""
    return "/".join(labels.get(label, "") for label in _COUNTED)


def read_counted(text: str) -> dict[str, str]:
    """Return the labels that `write_counted` was given, nothing for any other text."""
    parts = text.split("/")
    return dict(zip(_COUNTED, parts, strict=True)) if len(parts) == len(_COUNTED) else {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """Who called. ``account``: the ServiceAccount behind the identity; ``identity``: what the certificate says, where
    that is no account of this mesh; ``address``: of a caller without identity, ``""`` when it is not known."""

    account: ServiceAccount | None = None
    identity: str = ""
    address: str = ""

    def __str__(self) -> str:
        if self.account is not None:
            return str(self.account)
        return self.identity or (f"{self.address} (no identity)" if self.address else "callers without identity")


@dataclass(frozen=True, slots=True, order=True, kw_only=True)
class Called:
    """What was called: the port of a workload, by the Server that governs it (``""``: none does, the default policy
    ``default`` holds) and the route that took the request, ``""`` without.

    ``route_kind`` and ``route_group`` as in manifests, in lower case.
    """

    namespace: Namespace
    port: Port
    server: str = ""
    default: str = ""
    route_group: str = ""
    route_kind: str = ""
    route: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """One call that nobody had allowed. ``at``: RFC 3339, in UTC; ``is_denied``: it was refused, else audit let it in;
    ``what``: method and path, ``""`` for a connection that is not HTTP. ``pod``: the one called."""

    at: str
    is_denied: bool
    pod: Ref
    called: Called
    client: Client
    what: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """How often, since the called proxy started. ``by``: ``audit`` when nobody had allowed it, ``""`` when it was
    refused, else the authorization that did."""

    pod: Ref
    called: Called
    client: Client
    by: str
    times: int
    is_http: bool = True
