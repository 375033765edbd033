"""A mesh on one machine: the compiler, delivery and a real Envoy, with stand-ins for what a cluster would run.

What a cluster would give out is given out here: Services get loopback addresses to be called at, pods and machines get
loopback addresses with a stand-in behind each. No other address is ever called.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Collection, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from enum import Enum

from meshwright.edge.catalog import Catalog, Key, compiled_ref, find_kind
from meshwright.edge.delivered import Delivery
from meshwright.edge.local_envoy import Envoy, run_envoy
from meshwright.edge.local_objects import LocalObjects
from meshwright.edge.local_pods import Population, place_machines, populate
from meshwright.edge.local_slices import LocalSlices, Origin
from meshwright.edge.loopback import Block, any_port, find_port, lowest_free_port, shift
from meshwright.edge.manifests import Manifest
from meshwright.edge.protobuf import TypeUrl, make_version
from meshwright.edge.standin import Behaviour, Endpoint, StandIns
from meshwright.edge.xds import serve_hub
from meshwright.emit.bootstrap import emit_bootstrap
from meshwright.emit.listeners import dev_listener
from meshwright.emit.names import Address, ServicePortName
from meshwright.emit.proxy import addresses_of
from meshwright.model.config import Config
from meshwright.model.desired import Desired, Json, RouteStatus, UnitName
from meshwright.model.problem import Problem
from meshwright.model.proxy import OutboundUnit, Proxy, ProxySettings
from meshwright.model.ref import Kind, Ref, ServiceName
from meshwright.model.snapshot import Parsed
from meshwright.model.units import Namespace, Port
from meshwright.model.workload import ExternalWorkload, Service, ServicePort
from meshwright.parse.delivered import parse_slice, parse_unit
from meshwright.parse.kinds import parse_object
from meshwright.pipeline import Compiler

_LIVE_SECONDS = 2.0
_LISTENER_SECONDS = 0.01
_LOOK_SECONDS = 0.1
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
    proxy had taken all of it that it uses, where ``reach`` is `Reach.LIVE`. ``has_moved``: Services can be called
    elsewhere now, or there are others."""

    objects: tuple[str, ...]
    compile_ms: float
    live_ms: float
    reach: "Reach"
    notes: tuple[str, ...] = ()
    has_moved: bool = False


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
        self.statuses: dict[Ref, RouteStatus] = {}
        self.frontends: dict[ServicePortName, Frontend] = {}
        self._stand_ins = stand_ins
        self._block = block
        self._lowest = lowest_free_port()
        self._compiler = Compiler(Config())
        self._catalog = Catalog()
        self._objects = LocalObjects()
        self._services: dict[Ref, Service] = {}
        self._neighbours = LocalSlices(self._lowest, options.port_offset)
        self._placed: dict[Key, tuple[tuple[tuple[Manifest, Problem], ...], tuple[str, ...]]] = {}
        self._ports: dict[ServiceName, set[ServicePortName]] = {}
        self._homeless: dict[ServiceName, list[str]] = {}
        self._idle: tuple[str, ...] = ()
        self._unit_services: dict[UnitName, ServiceName] = {}

    @property
    def admin_port(self) -> Port:
        return self.delivery.settings.admin_port

    async def apply(self, catalog: Catalog, changed: Collection[Key] | None = None) -> Change:
        """Make everything be as ``catalog`` says, and wait until the proxy has it.

        ``changed``: the only objects that may be others than in the catalog before, ``None`` when any may. It costs
        what these cost.
        """
        started = time.perf_counter()
        before, self._catalog = self._catalog, catalog
        if changed is None:
            changed = before.keys() | catalog.keys()
        keys = sorted(key for key in changed if _raw(before.find(key)) != _raw(catalog.find(key)))
        refs = self._objects.take(catalog.compiled, {ref for key in keys if (ref := compiled_ref(key))})
        raws = self._objects.raws
        updates: dict[Ref, Parsed | None] = {
            ref: parse_object(raws[ref]) if ref in raws else None for ref in sorted(refs)
        }
        self._place_machines(updates)
        desired = self._compiler.update(updates)
        compile_ms = (time.perf_counter() - started) * 1000
        self._remember(updates, desired)
        others = [key for key in keys if compiled_ref(key) is None]
        self._populate(others)
        # What is written elsewhere now is pointed at where it stands now.
        self._point_at(self._placed.keys() & set(changed) - set(others))
        moved = self._neighbours.settle()
        is_staffed_anew = moved.is_staffed_anew or bool(self._idle)
        wanted = self._neighbours.stand_ins if is_staffed_anew else {}
        started = time.perf_counter()
        if is_staffed_anew:
            # New stand-ins before the proxy hears of them, old ones until it has heard.
            before_them = self._stand_ins.running
            self._idle = await self._stand_ins.apply({**before_them, **wanted})
        for ref, piece in moved.slices.items():
            self.delivery.put_slice(ref, parse_slice(piece) if piece is not None else None)
        routes = self._deliver(updates, desired)
        listeners, has_moved = self._listen({ServiceName(ref.namespace, ref.name) for ref in refs})
        reach = await self._wait_until_live(routes, listeners)
        live_ms = (time.perf_counter() - started) * 1000
        if is_staffed_anew and before_them.keys() - wanted.keys():
            await asyncio.sleep(_GOODBYE_SECONDS)
            self._idle = await self._stand_ins.apply(wanted)
        unbound = [text for _, texts in sorted(self._homeless.items()) for text in texts]
        return Change(
            objects=(*map(str, sorted(refs)), *sorted(map(_say, others))),
            compile_ms=compile_ms,
            live_ms=live_ms,
            reach=reach,
            notes=(*(note for _, notes in self._placed.values() for note in notes), *self._idle, *unbound),
            has_moved=has_moved,
        )

    @property
    def stand_ins(self) -> dict[Endpoint, Behaviour]:
        """Return the stand-ins that run."""
        return self._stand_ins.running

    @property
    def workload_problems(self) -> tuple[tuple[Manifest, Problem], ...]:
        """Return what is wrong with workloads."""
        return tuple(found for problems, _ in self._placed.values() for found in problems)

    def _place_machines(self, updates: dict[Ref, Parsed | None]) -> None:
        """Put the machines in ``updates`` at addresses of this machine, with a stand-in for each."""
        for ref in [ref for ref in updates if ref.kind is Kind.EXTERNAL_WORKLOAD]:
            parsed = updates[ref]
            machines = {ref: parsed} if isinstance(parsed, ExternalWorkload) else {}
            placed, population = place_machines(machines, self._block)
            updates |= placed
            self._settle_in((ref.kind.value, ref.namespace, ref.name), population)

    def _populate(self, keys: Iterable[Key]) -> None:
        """Take workloads, pods and EndpointSlices as they are now."""
        for key in keys:
            manifest = self._catalog.find(key)
            if (kind := find_kind(key)) is Kind.ENDPOINT_SLICE:
                ref = Ref(kind, key[1], key[2])
                self._neighbours.put_pieces(Origin.WRITTEN, ref, [manifest.raw] if manifest is not None else [])
            else:
                self._settle_in(key, populate(self._catalog.alone(key), self._block))

    def _point_at(self, keys: Iterable[Key]) -> None:
        for key in keys:
            problems, notes = self._placed[key]
            if problems and (manifest := self._catalog.find(key)) is not None:
                self._placed[key] = (tuple((manifest, problem) for _, problem in problems), notes)

    def _settle_in(self, owner: Key, population: Population) -> None:
        self._neighbours.put_population(owner, population)
        self._placed.pop(owner, None)
        if population.problems or population.notes:
            self._placed[owner] = (population.problems, population.notes)

    def _remember(self, updates: Mapping[Ref, Parsed | None], desired: Desired) -> None:
        for ref, parsed in updates.items():
            if isinstance(parsed, Service):
                self._services[ref] = parsed
            else:
                self._services.pop(ref, None)
            if ref.kind is Kind.SERVICE:
                self._neighbours.put_service(ref, self._objects.raws[ref] if ref in self._services else None)
        for ref, problems in desired.problems.items():
            self.problems.pop(ref, None)
            if problems:
                self.problems[ref] = problems
        for route, status in desired.statuses.items():
            self.statuses.pop(route, None)
            if isinstance(status, RouteStatus):
                self.statuses[route] = status
        for service, slices in desired.slices.items():
            self._neighbours.put_pieces(Origin.MACHINES, service.ref, slices.values())

    def _deliver(self, updates: Mapping[Ref, Parsed | None], desired: Desired) -> dict[str, str | None]:
        """Hand on Services and units; return the RouteConfigurations that are now others, with their versions."""
        services: dict[ServiceName, Service | None] = {}
        for ref, parsed in updates.items():
            if ref.kind is Kind.SERVICE and (parsed is None or isinstance(parsed, Service)):
                services[ServiceName(ref.namespace, ref.name)] = parsed
        units: dict[UnitName, OutboundUnit | None] = {}
        for name, manifest in desired.units.items():
            unit = parse_unit(manifest) if manifest is not None and name.name.startswith("mw-out-") else None
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

    def _route_versions(self, services: Iterable[ServiceName | None]) -> dict[str, str | None]:
        names = [str(name) for service in services if service for name in self._ports.get(service, ())]
        return {name: self._version(TypeUrl.ROUTES, name) for name in names}

    def _listen(self, services: set[ServiceName]) -> tuple[set[str], bool]:
        """Open a listener for every port of ``services`` that has none, and close those of ports that are gone.

        Returns the names of the listeners that have changed, and whether any port can be called elsewhere, or is
        another, than before.
        """
        wanted: dict[ServicePortName, tuple[Address, ServicePort]] = {}
        services = services | self._homeless.keys()
        for name in services:
            if service := self._services.get(name.ref):
                for address, port in addresses_of(service):
                    wanted.setdefault(ServicePortName(name, port.port), (address, port))
        changed: set[str] = set()
        has_moved = False
        for gone in {port for name in services for port in self._ports.pop(name, ())} - wanted.keys():
            changed.add(self.frontends[gone].listener)
            self.delivery.put_listener(self.frontends.pop(gone).listener, None)
            has_moved = True
        for name in services:
            self._homeless.pop(name, None)
        # A Service may have both 80 and 8080: who can keep his number goes first.
        for place, (destination, port) in sorted(
            wanted.items(), key=lambda item: (item[0].port < self._lowest, item[0])
        ):
            ports = self._ports.setdefault(place.service, set())
            old = self.frontends.get(place)
            if old and (old.destination, old.port) == (destination, port):
                ports.add(place)
                continue
            if old and old.destination != destination:
                self.delivery.put_listener(old.listener, None)
            bind = old.bind if old else self._find_place(place, ports)
            if bind is None:
                text = f"Service {place.service} port {place.port}: no port is free for it on this machine"
                self._homeless.setdefault(place.service, []).append(text)
                continue
            ports.add(place)
            frontend = Frontend(service=place.service, port=port, destination=destination, bind=bind)
            self.frontends[place] = frontend
            self.delivery.put_listener(frontend.listener, dev_listener(destination, bind, self.delivery.settings))
            changed.add(frontend.listener)
            has_moved = True
        return changed, has_moved

    def _find_place(self, name: ServicePortName, others: Iterable[ServicePortName]) -> Address | None:
        ip = self._block.service(str(name.service))
        taken = {self.frontends[other].bind.port for other in others}
        first = shift(name.port, self._lowest, self.options.port_offset)
        wanted = [port for port in (first, first + self.options.port_offset, 0) if port not in taken]
        port = find_port(ip, wanted)
        return Address(ip, port) if port else None

    async def _wait_until_live(self, routes: Mapping[str, str | None], listeners: Iterable[str]) -> Reach:
        """Wait until the proxy has taken these routes, as far as it uses them, and all of these listeners."""
        hub = self.delivery.hub
        awaited_listeners = {name: self._version(TypeUrl.LISTENER, name) for name in listeners}
        awaited_routes = {
            name: version
            for name, version in routes.items()
            if version is not None and hub.is_wanted(TypeUrl.ROUTES, name)
        }
        if not (awaited_routes or awaited_listeners):
            return Reach.FIRST_USE if routes else Reach.NONE
        seconds = _LIVE_SECONDS + _LISTENER_SECONDS * len(awaited_listeners)
        try:
            sent = {name: version for name, version in awaited_listeners.items() if version is not None}
            async with (
                hub.expect(TypeUrl.ROUTES, awaited_routes) as taken,
                hub.expect(TypeUrl.LISTENER, sent) as listed,
                asyncio.timeout(seconds),
            ):
                while not taken.is_set():
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(taken.wait(), _LOOK_SECONDS)
                        break
                    # What the proxy had already is not sent again, so it does not answer.
                    found = await self.envoy.route_versions()
                    if all(found.get(name) == version for name, version in awaited_routes.items()):
                        break
                while awaited_listeners:
                    # It opens a listener some time after it took it, and says so only when asked.
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(listed.wait(), _LOOK_SECONDS)
                    started = time.perf_counter()
                    listening = await self.envoy.listener_versions()
                    if all(listening.get(name) == version for name, version in awaited_listeners.items()):
                        break
                    await asyncio.sleep(max(0.001, time.perf_counter() - started))
        except TimeoutError:
            return Reach.LATE
        return Reach.LIVE

    def _version(self, kind: TypeUrl, name: str) -> str | None:
        resource = self.delivery.make(kind, name, self.delivery.variant(kind, name, self.options.proxy))
        return make_version(resource) if resource is not None else None


def _raw(manifest: Manifest | None) -> Json | None:
    return manifest.raw if manifest is not None else None


def _say(key: Key) -> str:
    word, namespace, name = key
    return f"{word.partition('.')[0]} {namespace}/{name}"
