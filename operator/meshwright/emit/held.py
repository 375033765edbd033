"""What holds at one port, put together: whose it is, who may, and what is taken as HTTP."""

from collections.abc import Iterable
from dataclasses import dataclass

from meshwright.emit.rbac import is_everywhere
from meshwright.model.access import authorize_access
from meshwright.model.inbound import Authorization, GovernedPort, Inbound, ServerPolicy
from meshwright.model.pod import PortRanges
from meshwright.model.policy import AccessPolicy, Proof
from meshwright.model.ref import Ref
from meshwright.model.units import Port

ROUTE_KINDS = {"HTTPRoute": "httproute", "GRPCRoute": "grpcroute"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """What holds at a port. ``port`` ``None``: at all that nothing else is said of.

    ``authorizations``: sorted by source. ``is_http``: HTTP is taken as such; ``is_tcp``: other bytes are taken.
    """

    port: Port | None
    policy: ServerPolicy | None
    access: AccessPolicy
    authorizations: tuple[Authorization, ...]
    is_audit: bool
    is_http: bool
    is_tcp: bool

    @property
    def labels(self) -> dict[str, str]:
        """Return whose port it is, in the words of metrics; empty ones are left out.

        Source: linkerd2 ``policy-controller/grpc/src/inbound.rs`` (metadata of Servers and default policies).
        """
        if self.policy is None:
            return {"srv_kind": "default", "srv_name": self.access.value}
        return describe("srv", self.policy.server, "server")

    @property
    def is_open(self) -> bool:
        """Whether everybody may, from everywhere, and shows nothing."""
        return any(each.proof is Proof.NOTHING and is_everywhere(each.networks) for each in self.authorizations)

    def limits_bytes_as(self, other: "Held") -> bool:
        """Return whether bytes are treated, and told of, as at ``other``."""
        return (self.labels, self.authorizations, self.is_audit, self.is_http, self.is_tcp) == (
            other.labels,
            other.authorizations,
            other.is_audit,
            other.is_http,
            other.is_tcp,
        )


def describe(prefix: str, ref: Ref, kind: str) -> dict[str, str]:
    """Return what an object is called in the words of metrics."""
    return {
        f"{prefix}_group": ref.kind.group,
        f"{prefix}_kind": kind,
        f"{prefix}_namespace": ref.namespace,
        f"{prefix}_name": ref.name,
    }


def find_rest(inbound: Inbound) -> Held:
    """Return what holds at the ports that nothing else is said of."""
    access = authorize_access(inbound.access, inbound.defaults)
    return Held(
        port=None,
        policy=None,
        access=inbound.access,
        authorizations=() if access is None else (access,),
        is_audit=inbound.access is AccessPolicy.AUDIT,
        is_http=True,
        is_tcp=True,
    )


def find_held(inbound: Inbound, governed: GovernedPort) -> Held:
    """Return what holds at a port. A Server decides on its own; else the workload's default does."""
    if (policy := governed.policy) is None:
        access = authorize_access(governed.access, inbound.defaults)
        return Held(
            port=governed.port,
            policy=None,
            access=governed.access,
            authorizations=() if access is None else (access,),
            is_audit=governed.access is AccessPolicy.AUDIT,
            is_http=not governed.is_opaque,
            is_tcp=True,
        )
    return Held(
        port=governed.port,
        policy=policy,
        access=policy.access,
        authorizations=tuple(sorted(policy.authorizations, key=lambda each: str(each.source))),
        is_audit=policy.is_audit,
        is_http=policy.protocol.is_http,
        is_tcp=policy.protocol.is_tcp,
    )


def find_undetected(usual: PortRanges, held: Iterable[Held]) -> PortRanges:
    """Return where nobody waits to see what a client speaks: ``usual`` ports, but where one of ``held`` says otherwise,
    and those where only one thing is taken. Adjacent ranges are one."""
    known = {each.port: not (each.is_http and each.is_tcp) for each in held if each.port is not None}
    parts: list[tuple[int, int]] = [(port, port) for port, is_undetected in known.items() if is_undetected]
    for low, high in usual.ranges:
        start: int = low
        for port in sorted(port for port in known if low <= port <= high):
            if start < port:
                parts.append((start, port - 1))
            start = port + 1
        if start <= high:
            parts.append((start, high))
    joined: list[tuple[int, int]] = []
    for first, last in sorted(parts):
        if joined and first == joined[-1][1] + 1:
            joined[-1] = (joined[-1][0], last)
        else:
            joined.append((first, last))
    return PortRanges(tuple((Port(first), Port(last)) for first, last in joined))
