"""A mesh on one machine: the compiler, delivery and a real Envoy, with stand-ins for what a cluster would run.

What a cluster would give out is given out here: Services get loopback addresses to be called at, pods and machines get
loopback addresses with a stand-in behind each. No other address is ever called.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Container, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from enum import Enum

from meshwright.edge.catalog import Catalog
from meshwright.edge.delivered import Delivery
from meshwright.edge.local_envoy import Envoy, run_envoy
from meshwright.edge.local_pods import Population, find_stand_ins, place_machines, populate, settle_slices
from meshwright.edge.loopback import Block, any_port, find_port, lowest_free_port, shift
from meshwright.edge.manifests import Manifest
from meshwright.edge.offline import Pod, fill_in_addresses, make_slices
from meshwright.edge.protobuf import TypeUrl, make_version
from meshwright.edge.standin import StandIns
from meshwright.edge.xds import serve_hub
from meshwright.emit.bootstrap import emit_bootstrap
from meshwright.emit.listeners import dev_listener
from meshwright.emit.names import Address, ServicePortName
from meshwright.emit.proxy import addresses_of
from meshwright.model.config import Config
from meshwright.model.desired import Desired, Json, RouteStatus, UnitName
from meshwright.model.problem import Problem
from meshwright.model.proxy import DEFAULT_SERVICE_RANGES, OutboundUnit, Proxy, ProxySettings
from meshwright.model.ref import Kind, Ref, ServiceName
from meshwright.model.snapshot import Parsed
from meshwright.model.units import Namespace, Port
from meshwright.model.workload import ExternalWorkload, Service, ServicePort
from meshwright.parse.delivered import parse_slice, parse_unit
from meshwright.parse.kinds import parse_object
from meshwright.pipeline import Compiler

_LIVE_SECONDS = 2.0
_GOODBYE_SECONDS = 0.1
LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalOptions:
    """How to run it. ``client``: the namespace whose view is shown. ``port_offset``: added to ports that only root may
    listen on. ``xds_port``: where delivery listens, 0 for any."""

    client: Namespace = Namespace("default")
    port_offset: int = 8000
    xds_port: int = 0

    @property
    def proxy(self) -> Proxy:
        """Return who the Envoy says it is."""
        return Proxy(self.client, "dev")


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What one round did. ``objects`` changed. ``compile_ms``: parsing and compiling. ``live_ms``: from then until the
    proxy had taken all of it that it uses, where ``reach`` is `Reach.LIVE`."""

    objects: tuple[str, ...]
    compile_ms: float
    live_ms: float
    reach: "Reach"
    notes: tuple[str, ...] = ()


class Reach(Enum):
    """How far a change has come: not for this proxy at all; for it, but it has not used that Service yet; taken; not
    taken within two seconds."""

    NONE = "nothing new for this proxy"
    FIRST_USE = "proxy on first use"
    LIVE = "proxy"
    LATE = "proxy not within 2 s"


@dataclass(frozen=True, slots=True, kw_only=True)
class Frontend:
    """Where a Service's port can be called: at ``bind``, which stands for its ClusterIP and port ``destination``."""

    service: ServiceName
    port: ServicePort
    destination: Address
    bind: Address

    @property
    def listener(self) -> str:
        return f"dev/{self.destination}"

    @property
    def url(self) -> str:
        return f"http://{self.bind}"


@asynccontextmanager
async def open_mesh(options: LocalOptions) -> AsyncIterator["LocalMesh"]:
    """Run a mesh, empty at first, while the context lasts.

    Raises:
        EnvoyError: there is no Envoy, or it does not start.
        NoRoomError: there are no loopback addresses.
        OSError: delivery cannot listen.
    """
    async with AsyncExitStack() as stack:
        block = Block()
        stack.callback(block.close)
        admin_port = any_port(LOOPBACK)
        settings = ProxySettings(bind_address=LOOPBACK, admin_port=admin_port)
        delivery = Delivery(settings, listeners={}, linger=2.0)
        stack.callback(delivery.hub.close)
        xds_port = await stack.enter_async_context(serve_hub(delivery.hub, LOOPBACK, options.xds_port, grace=0.2))
        stand_ins = StandIns()
        stack.push_async_callback(stand_ins.close)
        bootstrap = emit_bootstrap(options.proxy, f"{LOOPBACK}:{xds_port}", settings)
        envoy = await stack.enter_async_context(run_envoy(bootstrap, admin_port))
        yield LocalMesh(delivery=delivery, envoy=envoy, stand_ins=stand_ins, block=block, options=options)


class LocalMesh:
    """What runs. ``problems``, ``statuses`` and ``frontends`` are as of the last round."""

    def __init__(
        self, *, delivery: Delivery, envoy: Envoy, stand_ins: StandIns, block: Block, options: LocalOptions
    ) -> None:
        self.delivery = delivery
        self.envoy = envoy
        self.options = options
        self.problems: dict[Ref, tuple[Problem, ...]] = {}
        self.workload_problems: tuple[tuple[Manifest, Problem], ...] = ()
        self.statuses: dict[Ref, RouteStatus] = {}
        self.frontends: dict[ServicePortName, Frontend] = {}
        self._stand_ins = stand_ins
        self._block = block
        self._lowest = lowest_free_port()
        self._compiler = Compiler(Config())
        self._raws: dict[Ref, Json] = {}
        self._workloads: dict[str, Json] = {}
        self._services: dict[Ref, Service] = {}
        self._machines: dict[Ref, ExternalWorkload] = {}
        self._machine_slices: dict[ServiceName, Mapping[str, Json]] = {}
        self._slices: dict[Ref, Json] = {}
        self._unit_services: dict[UnitName, ServiceName] = {}

    @property
    def admin_port(self) -> Port:
        return self.delivery.settings.admin_port

    async def apply(self, catalog: Catalog) -> Change:
        """Make everything be as ``catalog`` says, and wait until the proxy has it."""
        raws = {ref: manifest.raw for ref, manifest in catalog.compiled.items()}
        raws |= fill_in_addresses(_only(raws, Kind.SERVICE), DEFAULT_SERVICE_RANGES)
        started = time.perf_counter()
        changed = {ref for ref in raws.keys() | self._raws.keys() if raws.get(ref) != self._raws.get(ref)}
        updates: dict[Ref, Parsed | None] = {ref: parse_object(raws[ref]) if ref in raws else None for ref in changed}
        machines = self._place_machines(updates)
        desired = self._compiler.update(updates)
        compile_ms = (time.perf_counter() - started) * 1000
        self._raws = raws
        self._remember(updates, desired)
        pods = populate(catalog, self._block)
        self.workload_problems = pods.problems
        slices = settle_slices(self._all_slices(catalog, pods.pods), self._lowest, self.options.port_offset)
        wanted = find_stand_ins(slices, {**pods.roles, **machines.roles})
        # New stand-ins before the proxy hears of them, old ones until it has heard.
        before = self._stand_ins.running
        started = time.perf_counter()
        failures = await self._stand_ins.apply({**before, **wanted})
        self._deliver_slices(slices)
        routes = self._deliver(updates, desired)
        listeners, unbound = self._listen()
        reach = await self._wait_until_live(routes, listeners)
        live_ms = (time.perf_counter() - started) * 1000
        if before.keys() - wanted.keys():
            await asyncio.sleep(_GOODBYE_SECONDS)
            await self._stand_ins.apply(wanted)
        return Change(
            objects=(*map(str, sorted(changed)), *self._changed_workloads(catalog)),
            compile_ms=compile_ms,
            live_ms=live_ms,
            reach=reach,
            notes=(*machines.notes, *pods.notes, *failures, *unbound),
        )

    def _place_machines(self, updates: dict[Ref, Parsed | None]) -> Population:
        """Put the machines in ``updates`` at addresses of this machine, and return the stand-ins of all there are."""
        for ref, parsed in updates.items():
            if isinstance(parsed, ExternalWorkload):
                self._machines[ref] = parsed
            else:
                self._machines.pop(ref, None)
        placed, population = place_machines(self._machines, self._block)
        updates.update({ref: placed[ref] for ref in updates.keys() & placed.keys()})
        return population

    def _remember(self, updates: Mapping[Ref, Parsed | None], desired: Desired) -> None:
        for ref, parsed in updates.items():
            if isinstance(parsed, Service):
                self._services[ref] = parsed
            else:
                self._services.pop(ref, None)
        self.problems |= desired.problems
        for route, status in desired.statuses.items():
            if status is None:
                self.statuses.pop(route, None)
            else:
                self.statuses[route] = status
        self._machine_slices |= desired.slices

    def _all_slices(self, catalog: Catalog, pods: Iterable[Pod]) -> list[Json]:
        made = [piece for ref in self._services for piece in make_slices(self._raws[ref], pods)]
        machines = [piece for slices in self._machine_slices.values() for piece in slices.values()]
        return [*made, *machines, *(manifest.raw for manifest in catalog.slices.values())]

    def _changed_workloads(self, catalog: Catalog) -> list[str]:
        workloads = {
            f"{manifest.raw['kind']} {manifest.raw['metadata']['namespace']}/{manifest.raw['metadata']['name']}": (
                manifest.raw
            )
            for manifest in (*catalog.workloads.values(), *catalog.pods.values(), *catalog.slices.values())
        }
        names = workloads.keys() | self._workloads.keys()
        changed = [name for name in names if workloads.get(name) != self._workloads.get(name)]
        self._workloads = workloads
        return sorted(changed)

    def _deliver_slices(self, slices: Iterable[Json]) -> None:
        found = {
            Ref(Kind.ENDPOINT_SLICE, Namespace(raw["metadata"]["namespace"]), raw["metadata"]["name"]): raw
            for raw in slices
        }
        for ref in self._slices.keys() - found.keys():
            self.delivery.put_slice(ref, None)
        for ref, raw in found.items():
            if self._slices.get(ref) != raw:
                self.delivery.put_slice(ref, parse_slice(raw))
        self._slices = found

    def _deliver(self, updates: Mapping[Ref, Parsed | None], desired: Desired) -> dict[str, str | None]:
        """Hand on Services and units; return the RouteConfigurations that are now others, with their versions."""
        services: dict[ServiceName, Service | None] = {}
        for ref, parsed in updates.items():
            if ref.kind is Kind.SERVICE and (parsed is None or isinstance(parsed, Service)):
                services[ServiceName(ref.namespace, ref.name)] = parsed
        units: dict[UnitName, OutboundUnit | None] = {}
        for name, manifest in desired.units.items():
            unit = parse_unit(manifest) if manifest is not None else None
            assert not isinstance(unit, Problem), "we read what we have written"
            units[name] = unit
        concerned = services.keys() | {self._unit_services.get(name) for name in units}
        concerned |= {unit.service for unit in units.values() if unit}
        self._unit_services |= {name: unit.service for name, unit in units.items() if unit}
        before = self._route_versions(concerned)
        for service_name, service in services.items():
            self.delivery.put_service(service_name, service)
        for name, unit in units.items():
            self.delivery.put_unit(name, unit)
        after = self._route_versions(concerned)
        return {name: after.get(name) for name in before.keys() | after.keys() if before.get(name) != after.get(name)}

    def _route_versions(self, services: Container[ServiceName | None]) -> dict[str, str | None]:
        names = [str(name) for name in self.frontends if name.service in services]
        return {name: self._version(TypeUrl.ROUTES, name) for name in names}

    def _listen(self) -> tuple[set[str], list[str]]:
        """Open a listener for every Service port that has none, and close those of ports that are gone.

        Returns the names of the listeners that have changed, and a sentence for every port without a free place.
        """
        wanted: dict[ServicePortName, tuple[Address, ServicePort]] = {}
        for service in self._services.values():
            for address, port in addresses_of(service):
                wanted.setdefault(ServicePortName(service.name, port.port), (address, port))
        changed: set[str] = set()
        unbound: list[str] = []
        for gone in self.frontends.keys() - wanted.keys():
            changed.add(self.frontends[gone].listener)
            self.delivery.put_listener(self.frontends.pop(gone).listener, None)
        # A Service may have both 80 and 8080: who can keep his number goes first.
        for name, (destination, port) in sorted(
            wanted.items(), key=lambda item: (item[0].port < self._lowest, item[0])
        ):
            old = self.frontends.get(name)
            if old and (old.destination, old.port) == (destination, port):
                continue
            if old and old.destination != destination:
                self.delivery.put_listener(old.listener, None)
            bind = old.bind if old else self._find_place(name)
            if bind is None:
                unbound.append(f"Service {name.service} port {name.port}: no port is free for it on this machine")
                continue
            frontend = Frontend(service=name.service, port=port, destination=destination, bind=bind)
            self.frontends[name] = frontend
            self.delivery.put_listener(frontend.listener, dev_listener(destination, bind, self.delivery.settings))
            changed.add(frontend.listener)
        return changed, unbound

    def _find_place(self, name: ServicePortName) -> Address | None:
        ip = self._block.service(str(name.service))
        taken = {frontend.bind.port for frontend in self.frontends.values() if frontend.bind.ip == ip}
        first = shift(name.port, self._lowest, self.options.port_offset)
        wanted = [port for port in (first, first + self.options.port_offset, 0) if port not in taken]
        port = find_port(ip, wanted)
        return Address(ip, port) if port else None

    async def _wait_until_live(self, routes: Mapping[str, str | None], listeners: Iterable[str]) -> Reach:
        """Wait until the proxy has taken these routes, as far as it uses them, and all of these listeners."""
        awaited_listeners = {name: self._version(TypeUrl.LISTENER, name) for name in listeners}
        taken = await self.envoy.route_versions() if routes else {}
        awaited_routes = {name: version for name, version in routes.items() if name in taken}
        if not (awaited_routes or awaited_listeners):
            return Reach.FIRST_USE if routes else Reach.NONE
        deadline = time.perf_counter() + _LIVE_SECONDS
        while time.perf_counter() < deadline:
            if all(taken.get(name) == version for name, version in awaited_routes.items()):
                listening = await self.envoy.listener_versions() if awaited_listeners else {}
                if all(listening.get(name) == version for name, version in awaited_listeners.items()):
                    return Reach.LIVE
            await asyncio.sleep(0.001)
            taken = await self.envoy.route_versions() if awaited_routes else {}
        return Reach.LATE

    def _version(self, kind: TypeUrl, name: str) -> str | None:
        resource = self.delivery.make(kind, name, self.delivery.variant(kind, name, self.options.proxy))
        return make_version(resource) if resource is not None else None


def _only(raws: Mapping[Ref, Json], kind: Kind) -> dict[Ref, Json]:
    return {ref: raw for ref, raw in raws.items() if ref.kind is kind}
