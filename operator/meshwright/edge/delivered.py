"""What delivery knows of the cluster, kept as it changes, and which resources each change touches.

Reads nothing itself: reflectors, or files, tell it. Whatever cannot be read leaves the last good one in force.
"""

import logging
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import Any

from prometheus_client import Gauge

from meshwright.edge.hub import Hub, Metrics
from meshwright.edge.protobuf import TypeUrl
from meshwright.emit.clusters import emit_endpoints, find_port
from meshwright.emit.listeners import (
    INBOUND_LISTENER,
    OUTBOUND_LISTENER,
    emit_inbound_listener,
    emit_outbound_listener,
)
from meshwright.emit.manifest import make_unit_name
from meshwright.emit.names import Address, ServicePortName, parse_name
from meshwright.emit.proxy import addresses_of, make_cluster, tcp_ports
from meshwright.emit.scopes import choose_virtual_host, emit_route_configuration, emit_scope
from meshwright.model.config import LABEL_UNIT
from meshwright.model.desired import Json, UnitName
from meshwright.model.problem import Problem, Reason
from meshwright.model.proxy import EndpointSlice, OutboundUnit, Proxy, ProxySettings
from meshwright.model.ref import Kind, Ref, ServiceName
from meshwright.model.units import Namespace
from meshwright.model.workload import Service
from meshwright.parse.delivered import parse_slice, parse_unit
from meshwright.parse.kinds import parse_object

log = logging.getLogger(__name__)

UNIT_SELECTOR = f"{LABEL_UNIT}=outbound"
"""The label selector of the policy ConfigMaps that delivery reads."""


class Delivery:
    """Units, Services and EndpointSlices as they are now, and the `hub` that proxies get their resources from.

    ``listeners``: what proxies listen on, by name; ``None`` for the two listeners of a sidecar.

    >>> delivery = Delivery(ProxySettings())
    >>> async with serve(delivery.hub, "127.0.0.1", 0) as port:
    ...     delivery.put(ref, raw)
    """

    def __init__(
        self,
        settings: ProxySettings,
        *,
        listeners: Mapping[str, Json] | None = None,
        linger: float = 30.0,
        metrics: Metrics | None = None,
    ) -> None:
        self.settings = settings
        self.hub = Hub(self, linger=linger, metrics=metrics)
        self.broken: dict[Ref, Problem] = {}
        self._is_sidecar = listeners is None
        self._listeners = _sidecar_listeners(settings) if listeners is None else dict(listeners)
        self._services: dict[ServiceName, Service] = {}
        self._units: dict[UnitName, OutboundUnit] = {}
        self._consumers: dict[tuple[ServiceName, Namespace], OutboundUnit] = {}
        self._producers: dict[ServiceName, OutboundUnit] = {}
        self._owners: dict[str, list[ServicePortName]] = {}
        self._slices: defaultdict[ServiceName, dict[Ref, EndpointSlice]] = defaultdict(dict)
        self._slice_services: dict[Ref, ServiceName] = {}
        registry = self.hub.metrics.registry
        self._objects = Gauge("meshwright_xds_objects", "Objects known.", ["kind"], registry=registry)
        self._broken = Gauge("meshwright_xds_broken_objects", "Objects that cannot be read.", registry=registry)

    # What changes

    def put(self, ref: Ref, raw: Json | None) -> None:
        """Take one object as the API server has it, ``None`` when it is gone. Never raises.

        Kinds that delivery has no use for are ignored.
        """
        match ref.kind:
            case Kind.CONFIG_MAP:
                self._put_unit_manifest(ref, raw)
            case Kind.SERVICE:
                self._put_service_manifest(ref, raw)
            case Kind.ENDPOINT_SLICE:
                self.put_slice(ref, parse_slice(raw) if raw is not None else None)
            case _:
                pass

    def put_unit(self, name: UnitName, unit: OutboundUnit | None) -> None:
        """Take a unit, ``None`` when it is gone."""
        old = self._units.get(name)
        if unit == old:
            return
        for each in (old, unit):
            if each is not None:
                self._index_unit(each, is_there=each is unit)
        if unit is None:
            del self._units[name]
        else:
            self._units[name] = unit
        self._objects.labels("unit").set(len(self._units))
        self.hub.touch(
            {
                TypeUrl.ROUTES: {
                    str(ServicePortName(each.service, port)) for each in (old, unit) if each for port in each.ports
                }
            }
        )

    def put_service(self, name: ServiceName, service: Service | None) -> None:
        """Take a Service, ``None`` when it is gone."""
        old = self._services.get(name)
        if service == old:
            return
        addresses: set[str] = set()
        ports: set[str] = set()
        for each in (old, service):
            if each is not None:
                ports |= {str(ServicePortName(name, port.port)) for port in tcp_ports(each)}
                addresses |= self._index_addresses(each, is_there=each is service)
        if service is None:
            del self._services[name]
        else:
            self._services[name] = service
        self._objects.labels("service").set(len(self._services))
        self.hub.touch(
            {
                TypeUrl.CLUSTER: addresses | ports,
                TypeUrl.ENDPOINTS: ports,
                TypeUrl.ROUTES: ports,
                TypeUrl.SCOPE: addresses,
            }
        )

    def put_slice(self, ref: Ref, piece: EndpointSlice | None) -> None:
        """Take an EndpointSlice, ``None`` when it is gone or not one that counts."""
        touched = set()
        old_service = self._slice_services.pop(ref, None)
        if old_service is not None:
            old = self._slices[old_service].pop(ref)
            if old != piece:
                touched.add(old_service)
            if not self._slices[old_service]:
                del self._slices[old_service]
        if piece is not None:
            self._slice_services[ref] = piece.service
            self._slices[piece.service][ref] = piece
            if old_service is None or touched:
                touched.add(piece.service)
        self._objects.labels("slice").set(len(self._slice_services))
        names = [
            str(ServicePortName(name, port.port))
            for name in touched
            if (service := self._services.get(name)) is not None
            for port in tcp_ports(service)
        ]
        self.hub.touch({TypeUrl.ENDPOINTS: names})

    def put_listener(self, name: str, listener: Json | None) -> None:
        """Take a listener of every proxy, ``None`` to close it."""
        if listener is None:
            self._listeners.pop(name, None)
        else:
            self._listeners[name] = listener
        self.hub.touch({TypeUrl.LISTENER: (name,)})

    def put_settings(self, settings: ProxySettings) -> None:
        """Take other settings. Proxies get other listeners at once, other clusters as they change."""
        if settings == self.settings:
            return
        self.settings = settings
        if self._is_sidecar:
            for name, listener in _sidecar_listeners(settings).items():
                self.put_listener(name, listener)

    def problems(self) -> tuple[Problem, ...]:
        """Return what could not be read, what was refused, and addresses that policy does not reach, sorted."""
        broken = (replace(problem, field=f"{ref} {problem.field}".strip()) for ref, problem in self.broken.items())
        return tuple(sorted((*broken, *self.hub.problems(), *self._strays())))

    def _strays(self) -> Iterator[Problem]:
        """Yield a problem for each address outside the Service ranges: routes are not looked for there."""
        if not self._is_sidecar:
            return
        ranges = [ip_network(text) for text in self.settings.service_ranges]
        for text, owners in self._owners.items():
            address = parse_name(text)
            if isinstance(address, Address) and not any(ip_address(address.ip) in each for each in ranges):
                yield Problem(
                    field=f"Service {owners[0].service}",
                    reason=Reason.UNSUPPORTED_VALUE,
                    message=f"its address {text} is in none of {', '.join(self.settings.service_ranges)}, so its "
                    "routes do not apply; name all ranges of ClusterIPs with --service-cidr",
                )

    # What proxies are told, as `meshwright.edge.hub.Source`

    def names(self, kind: TypeUrl) -> Collection[str]:
        match kind:
            case TypeUrl.LISTENER:
                return self._listeners.keys()
            case TypeUrl.SCOPE:
                return self._owners.keys()
            case _:
                return ()

    def variant(self, kind: TypeUrl, name: str, proxy: Proxy) -> str:
        if kind is TypeUrl.ROUTES and isinstance(port := parse_name(name), ServicePortName):
            consumer = self._consumers.get((port.service, proxy.namespace))
            if consumer is not None and port.port in consumer.ports:
                return proxy.namespace
        return ""

    def make(self, kind: TypeUrl, name: str, variant: str) -> Json | None:
        match kind:
            case TypeUrl.LISTENER:
                return self._listeners.get(name)
            case TypeUrl.SCOPE:
                owner = self._owner(name)
                address = parse_name(name)
                return emit_scope(address, owner) if owner is not None and isinstance(address, Address) else None
            case TypeUrl.CLUSTER:
                return make_cluster(name, self._services, self._owner(name), self.settings)
            case TypeUrl.ROUTES | TypeUrl.ENDPOINTS:
                port = parse_name(name)
                if not isinstance(port, ServicePortName) or (service := self._services.get(port.service)) is None:
                    return None
                found = find_port(service.ports, port.port)
                if found is None:
                    return None
                if kind is TypeUrl.ENDPOINTS:
                    return emit_endpoints(port, found.name, self._slices.get(port.service, {}).values())
                consumer = self._consumers.get((port.service, Namespace(variant)))
                producer = self._producers.get(port.service)
                return emit_route_configuration(
                    port, choose_virtual_host(port.port, Namespace(variant), producer, consumer)
                )

    def make_fallback(self, kind: TypeUrl, name: str) -> Json | None:
        """Return the routes of a port as if it had no policy. There is none for anything else."""
        port = parse_name(name) if kind is TypeUrl.ROUTES else None
        return emit_route_configuration(port, None) if isinstance(port, ServicePortName) else None

    def _owner(self, address: str) -> ServicePortName | None:
        owners = self._owners.get(address)
        return owners[0] if owners else None

    def _index_unit(self, unit: OutboundUnit, *, is_there: bool) -> None:
        if unit.is_consumer:
            key = (unit.service, unit.name.namespace)
            if is_there:
                self._consumers[key] = unit
            else:
                self._consumers.pop(key, None)
        elif is_there:
            self._producers[unit.service] = unit
        else:
            self._producers.pop(unit.service, None)

    def _index_addresses(self, service: Service, *, is_there: bool) -> set[str]:
        """Return the service's addresses, after adding them to the index or taking them out."""
        found = set()
        for address, port in addresses_of(service):
            found.add(str(address))
            owners = self._owners.setdefault(str(address), [])
            name = ServicePortName(service.name, port.port)
            if is_there:
                owners.append(name)
                owners.sort()
            else:
                owners.remove(name)
                if not owners:
                    del self._owners[str(address)]
        return found

    def _put_unit_manifest(self, ref: Ref, raw: Json | None) -> None:
        name = UnitName(ref.namespace, ref.name)
        unit: OutboundUnit | Problem | None = None
        if raw is not None:
            unit = parse_unit(raw)
            if isinstance(unit, OutboundUnit) and make_unit_name(unit.service, name.namespace) != name:
                unit = Problem("", Reason.INVALID_OBJECT, f"this is not where the policy of {unit.service} is stored")
        if isinstance(unit, Problem):
            self._break(ref, unit)
            return
        self._mend(ref)
        self.put_unit(name, unit)

    def _put_service_manifest(self, ref: Ref, raw: Json | None) -> None:
        parsed = parse_object(raw) if raw is not None else None
        if parsed is not None and not isinstance(parsed, Service):
            problems: Iterable[Problem] = getattr(parsed, "problems", ())
            self._break(ref, next(iter(problems), Problem("", Reason.INVALID_OBJECT, "this is no Service")))
            return
        self._mend(ref)
        self.put_service(ServiceName(ref.namespace, ref.name), parsed)

    def _break(self, ref: Ref, problem: Problem) -> None:
        log.error("%s cannot be read, the last good one stays: %s", ref, problem)
        self.broken[ref] = problem
        self._broken.set(len(self.broken))

    def _mend(self, ref: Ref) -> None:
        if self.broken.pop(ref, None) is not None:
            self._broken.set(len(self.broken))


def _sidecar_listeners(settings: ProxySettings) -> dict[str, Any]:
    return {
        OUTBOUND_LISTENER: emit_outbound_listener(settings),
        INBOUND_LISTENER: emit_inbound_listener(settings),
    }
