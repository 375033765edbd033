"""What link says of the machines behind one Service."""

from dataclasses import dataclass
from enum import StrEnum

from meshwright.model.ref import Ref
from meshwright.model.units import Port


class Family(StrEnum):
    """An address family; the value is the ``addressType`` of a slice and the entry of ``Service.spec.ipFamilies``."""

    IPV4 = "IPv4"
    IPV6 = "IPv6"


@dataclass(frozen=True, slots=True, order=True)
class MemberPort:
    """A Service port as a member serves it: the Service port's name (``""``: unnamed), the member's own number, and
    the transport (``TCP``)."""

    name: str
    port: Port
    transport: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One workload behind a Service, as one endpoint.

    ``addresses`` are of one family, in the order written, never empty. ``hostname`` is set for headless Services,
    ``zone`` is ``None`` when not known.
    """

    workload: Ref
    uid: str
    addresses: tuple[str, ...]
    is_ready: bool
    hostname: str | None = None
    zone: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberGroup:
    """Members that can share a slice: one family, the same ports (sorted, ``()``: none resolved).

    ``members`` is sorted by the workload's ref, each once, never empty.
    """

    family: Family
    ports: tuple[MemberPort, ...]
    members: tuple[Member, ...]


MemberGroups = tuple[MemberGroup, ...]
"""All groups of one Service, sorted by family and ports; ``()`` when it has no members."""
