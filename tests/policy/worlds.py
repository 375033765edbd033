"""The table's cases as the package sees them."""

from meshwright.edge.access.world import World, make_world
from meshwright.link.decide import decide
from meshwright.model.config import Config
from meshwright.model.inbound import PolicyDefaults
from meshwright.model.policy import AccessPolicy
from meshwright.model.request import Caller, Decision, Request
from meshwright.model.units import Namespace, Port
from tests.policy.table import Expected, Raw, Row, Table


def world_of(table: Table) -> World:
    installed = PolicyDefaults(
        access=AccessPolicy(table.installed.get("access", "all-unauthenticated")),
        probe_networks=tuple(table.installed.get("probes", PolicyDefaults().probe_networks)),
    )
    return make_world(table.objects, Config(policy=installed), Namespace("default"))


def decide_row(world: World, row: Row) -> Decision:
    inbound = world.govern(world.places[Namespace(row.namespace), row.name])
    return decide(inbound, Caller(**row.caller), Port(row.port), request_of(row.request))


def request_of(raw: Raw | None) -> Request | None:
    if raw is None:
        return None
    path, _, query = raw["path"].partition("?")
    pairs = tuple(part.partition("=") for part in query.split("&") if part)
    return Request(
        method=raw["method"],
        path=path,
        host=raw["host"],
        headers=tuple((name, value) for name, value in raw["headers"]),
        query=tuple((name, value) for name, _, value in pairs),
    )


def shown(decision: Decision) -> Expected:
    return Expected(
        outcome=decision.outcome.value,
        server=decision.server.name if decision.server else "",
        default=decision.default,
        route=decision.route.name if decision.route else "",
        by=str(decision.by) if decision.by else "",
    )
