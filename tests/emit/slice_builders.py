"""Numbered members of a Service, and slices as the API server shows them."""

import json

from meshwright.model.desired import Json
from meshwright.model.linked_members import Family, Member, MemberGroup, MemberPort
from meshwright.model.units import Port
from tests.workloads import make_group, make_member

PORTS = (MemberPort("sql", Port(5432), "TCP"),)


def member(number: int, *, is_ready: bool = True, address: str | None = None, uid: str = "") -> Member:
    own = address or f"10.0.{number // 200}.{number % 200 + 1}"
    return make_member(f"vm-{number:03}", own, is_ready=is_ready, uid=uid)


def group(*members: Member, ports: tuple[MemberPort, ...] = PORTS, family: Family = Family.IPV4) -> MemberGroup:
    return make_group(*members, ports=ports, family=family)


def numbered(*numbers: int | range) -> MemberGroup:
    flat = (n for part in numbers for n in (part if isinstance(part, range) else (part,)))
    return group(*(member(n) for n in sorted(flat)))


def observed(slices: dict[str, Json]) -> dict[str, Json]:
    """Return what the API server shows of slices that were written: its own metadata, empty lists as null."""
    shown: dict[str, Json] = json.loads(json.dumps(slices))
    for raw in shown.values():
        raw["metadata"] |= {
            "uid": "x",
            "resourceVersion": "7",
            "generation": 2,
            "creationTimestamp": "2026-01-01T00:00:00Z",
        }
        raw["ports"] = raw["ports"] or None
        raw["endpoints"] = raw["endpoints"] or None
    return shown


def names_in(raw: Json) -> list[str]:
    return [endpoint["targetRef"]["name"] for endpoint in raw["endpoints"]]


def changed(before: dict[str, Json], after: dict[str, Json]) -> set[str]:
    return {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
