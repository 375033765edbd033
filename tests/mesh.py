"""Small Services, units and endpoints, and a whole mesh of one real Envoy for edge tests."""

from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from meshwright.edge.delivered import Delivery
from meshwright.edge.protobuf import TypeUrl
from meshwright.edge.xds import serve_hub
from meshwright.emit.bootstrap import emit_bootstrap
from meshwright.emit.listeners import dev_listener
from meshwright.emit.manifest import make_unit_name
from meshwright.emit.names import Address
from meshwright.model.proxy import EndpointSlice, OutboundUnit, Proxy, ProxySettings, SliceEndpoint
from meshwright.model.ref import Kind, Ref, ServiceName
from meshwright.model.units import Millis, Namespace, Port
from meshwright.model.workload import Protocol, Service, ServicePort
from tests.envoy import Envoy, Fetched, Upstream, fetch, free_port, run_envoy

SHOP = Namespace("shop")


def make_service(
    name: str,
    address: str,
    *more: str,
    namespace: Namespace = SHOP,
    port: int = 80,
    protocol: Protocol = Protocol.DETECT,
    uid: str = "uid-1",
) -> Service:
    """Return a Service with one port, called http."""
    return Service(
        ref=Ref(Kind.SERVICE, namespace, name),
        uid=uid,
        type="ClusterIP",
        addresses=(address, *more),
        is_headless=False,
        ports=(ServicePort(name="http", port=Port(port), target=Port(8080), protocol=protocol),),
        selector=None,
    )


def make_slice(
    service: ServiceName, *upstreams: Upstream | tuple[str, int], name: str = "", target: str = ""
) -> EndpointSlice:
    """Return an EndpointSlice for the port called http. All endpoints must have one port, and are ``target``."""
    places = [(each.host, each.port) if isinstance(each, Upstream) else each for each in upstreams]
    return EndpointSlice(
        ref=Ref(Kind.ENDPOINT_SLICE, service.namespace, name or f"{service.name}-1"),
        service=service,
        family="IPv4",
        ports={"http": Port(places[0][1])} if places else {},
        endpoints=tuple(SliceEndpoint(addresses=(host,), target=target) for host, _ in places),
    )


def make_unit(
    service: ServiceName, *routes: Mapping[str, Any], namespace: Namespace | None = None, port: int = 80
) -> OutboundUnit:
    """Return a unit with one port; ``namespace``: the consumer's, ``None`` for the Service's own."""
    host = {"name": f"{service}/{port}", "domains": ["*"], "routes": [*routes]}
    return OutboundUnit(
        name=make_unit_name(service, namespace or service.namespace), service=service, ports={Port(port): host}
    )


def to(cluster: str, **match: Any) -> dict[str, Any]:
    """Return a route of everything, or of what matches, to a cluster."""
    return {
        "match": {"prefix": "/", **match},
        "route": {"cluster": cluster, "timeout": "0s", "idle_timeout": "0s"},
    }


NOTHING_MATCHES = {"match": {"prefix": "/"}, "direct_response": {"status": 404}}


@dataclass(kw_only=True)
class Mesh:
    """A delivery server on loopback that can be stopped and started, and what proxies know."""

    delivery: Delivery
    settings: ProxySettings
    port: int
    doors: dict[str, int]

    def put(self, *things: Service | OutboundUnit | EndpointSlice) -> None:
        for thing in things:
            match thing:
                case Service():
                    self.delivery.put_service(thing.name, thing)
                    for ip in thing.addresses:
                        for port in thing.ports:
                            self.open_door(Address(ip, port.port))
                case OutboundUnit():
                    self.delivery.put_unit(thing.name, thing)
                case EndpointSlice():
                    self.delivery.put_slice(thing.ref, thing)

    def open_door(self, destination: Address) -> None:
        """Have proxies listen on loopback in place of a destination."""
        if str(destination) in self.doors:
            return
        bind = Address("127.0.0.1", Port(free_port()))
        self.doors[str(destination)] = bind.port
        listener = dev_listener(destination, bind, self.settings)
        self.delivery.put_listener(listener["name"], listener)

    def listeners(self) -> dict[str, Mapping[str, Any]]:
        """Return the listeners at the doors, by name."""
        found = {name: self.delivery.make(TypeUrl.LISTENER, name, "") for name in self.delivery.names(TypeUrl.LISTENER)}
        return {name: listener for name, listener in found.items() if listener is not None}

    async def get(self, destination: str, path: str = "/", **more: Any) -> Fetched:
        """Return the answer to a request made to ``destination``, an address and port."""
        return await fetch(self.doors[destination], path, **more)

    def count(self, name: str, kind: str) -> float:
        """Return a counter of the delivery server's, for one kind of resource."""
        registry = self.delivery.hub.metrics.registry
        return registry.get_sample_value(f"meshwright_xds_{name}_total", {"kind": kind}) or 0.0

    def sent(self) -> float:
        """Return how many resources and removals were sent to proxies so far."""
        kinds = ("Cluster", "ClusterLoadAssignment", "Listener", "RouteConfiguration", "ScopedRouteConfiguration")
        return sum(self.count("sent", kind) + self.count("removed", kind) for kind in kinds)

    @asynccontextmanager
    async def proxy(self, namespace: str = "shop", name: str = "client") -> AsyncIterator[Envoy]:
        """Run an Envoy in ``namespace``. Only one at a time can have the doors."""
        proxy = Proxy(Namespace(namespace), name)
        bootstrap = emit_bootstrap(proxy, f"127.0.0.1:{self.port}", self.settings)
        async with run_envoy(bootstrap) as envoy:
            yield envoy

    @asynccontextmanager
    async def serve(self) -> AsyncIterator["Running"]:
        """Let the delivery server run; it can be stopped and started meanwhile."""
        running = Running(self)
        await running.start()
        try:
            yield running
        finally:
            await running.stop()


class Running:
    """The delivery server of a mesh."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        self._stack = AsyncExitStack()

    async def start(self) -> None:
        await self._stack.enter_async_context(serve_hub(self._mesh.delivery.hub, "127.0.0.1", self._mesh.port))

    async def stop(self) -> None:
        await self._stack.aclose()


def make_mesh(
    things: Iterable[Service | OutboundUnit | EndpointSlice] = (), *, linger: float = 30.0, first_use_ms: int = 3000
) -> Mesh:
    """Return a mesh that is not served yet. Listeners bind to 127.0.0.1, on free ports."""
    settings = ProxySettings(
        bind_address="127.0.0.1",
        admin_port=Port(free_port()),
        first_use_ms=Millis(first_use_ms),
        detect_ms=Millis(200),
        connect_timeout_ms=Millis(250),
    )
    delivery = Delivery(settings, listeners={}, linger=linger)
    mesh = Mesh(delivery=delivery, settings=settings, port=free_port(), doors={})
    mesh.put(*things)
    return mesh
