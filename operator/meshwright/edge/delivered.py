"""What delivery knows of the cluster, kept as it changes, and which resources each change touches.

Reads nothing itself: reflectors, or files, tell it. Whatever cannot be read leaves the last good one in force.
"""

import logging
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from ipaddress import ip_address, ip_network

from prometheus_client import Gauge

from meshwright.edge.directory import Directory
from meshwright.edge.hub import Hub, Metrics
from meshwright.edge.members import Change, Members
from meshwright.edge.protobuf import TypeUrl
from meshwright.emit.clusters import emit_endpoints
from meshwright.emit.listeners import (
    INBOUND_LISTENER,
    OUTBOUND_LISTENER,
    emit_inbound_listener,
    emit_outbound_listener,
)
from meshwright.emit.manifest import make_unit_name
from meshwright.emit.names import (
    ADDRESS_HEADER,
    DIRECT,
    Address,
    ServicePortName,
    parse_name,
    read_authority,
    write_authorities,
)
from meshwright.emit.proxy import make_cluster
from meshwright.emit.scopes import choose_virtual_host, emit_direct_routes, emit_route_configuration, emit_scope
from meshwright.model.config import LABEL_UNIT
from meshwright.model.desired import Json, UnitName
from meshwright.model.pod import AccessLog, Pod
from meshwright.model.problem import Problem, Reason
from meshwright.model.proxy import EndpointSlice, OutboundUnit, Proxy, ProxySettings
from meshwright.model.ref import Kind, Ref, ServiceName
from meshwright.model.units import Namespace
from meshwright.model.workload import NamespaceObject, Service
from meshwright.parse.delivered import parse_slice, parse_unit
from meshwright.parse.kinds import parse_object
from meshwright.parse.pod import parse_pod
from meshwright.parse.ports import parse_port_list

log = logging.getLogger(__name__)

UNIT_SELECTOR = f"{LABEL_UNIT}=outbound"
"""The label selector of the policy ConfigMaps that delivery reads."""

_INGRESS = "ingress"


class Delivery:
    """What proxies must know, as it is now, and the `hub` that they get their resources from.

    ``listeners``: what proxies listen on, by name; ``None`` for the two listeners of a sidecar.

    A proxy gets what its own pod may have, and nothing meant for another: consumers' routes of its own namespace, the
    listener that takes what its pod says to take, and its own pod behind a Service as the application itself.

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
        self._listeners = dict(listeners or {})
        self._directory = Directory(settings.opaque_ports)
        self._units: dict[UnitName, OutboundUnit] = {}
        self._consumers: dict[tuple[ServiceName, Namespace], OutboundUnit] = {}
        self._producers: dict[ServiceName, OutboundUnit] = {}
        self._members = Members()
        self._ingresses: set[Ref] = set()
        registry = self.hub.metrics.registry
        self._objects = Gauge("meshwright_xds_objects", "Objects known.", ["kind"], registry=registry)
        self._broken = Gauge("meshwright_xds_broken_objects", "Objects that cannot be read.", registry=registry)

    @property
    def pods(self) -> Mapping[Ref, Pod]:
        """Return all pods as they are now: a view."""
        return self._members.pods

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
            case Kind.POD:
                self.put_pod(ref, parse_pod(raw) if raw is not None else None)
            case Kind.NAMESPACE:
                parsed = parse_object(raw) if raw is not None else None
                self.put_namespace(Namespace(ref.name), parsed if isinstance(parsed, NamespaceObject) else None)
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
        if (moved := self._directory.put(name, service)) is None:
            return
        self._objects.labels("service").set(len(self._directory.services))
        ports = {str(port) for port in moved.ports}
        named = {text for port in moved.ports for text in write_authorities(port)} if self._ingresses else set()
        self.hub.touch(
            {
                TypeUrl.CLUSTER: moved.addresses | ports,
                TypeUrl.ENDPOINTS: ports,
                TypeUrl.ROUTES: ports,
                TypeUrl.SCOPE: moved.addresses | named,
                **({TypeUrl.LISTENER: (OUTBOUND_LISTENER,)} if moved.is_opaque_other and self._is_sidecar else {}),
            }
        )

    def put_slice(self, ref: Ref, piece: EndpointSlice | None) -> None:
        """Take an EndpointSlice, ``None`` when it is gone or not one that counts."""
        change = self._members.put_slice(ref, piece)
        self._objects.labels("slice").set(self._members.slice_count)
        self._tell(change)

    def put_pod(self, ref: Ref, pod: Pod | None) -> None:
        """Take a pod, ``None`` when it is gone."""
        old = self.pods.get(ref)
        if pod == old:
            return
        change = self._members.put_pod(ref, pod)
        self._objects.labels("pod").set(len(self.pods))
        self._tell(change)
        proxy = Proxy(ref.namespace, ref.name)
        if _taken(old) != _taken(pod):
            self.hub.turn(proxy, {TypeUrl.LISTENER: (INBOUND_LISTENER,)})
        if bool(old and old.is_ingress) != bool(pod and pod.is_ingress):
            if pod is not None and pod.is_ingress:
                self._ingresses.add(ref)
            authorities = self._directory.authorities()
            if pod is None or not pod.is_ingress:
                self._ingresses.discard(ref)
            self.hub.turn(proxy, {TypeUrl.LISTENER: (OUTBOUND_LISTENER,), TypeUrl.SCOPE: authorities})

    def put_namespace(self, name: Namespace, namespace: NamespaceObject | None) -> None:
        """Take a namespace, ``None`` when it is gone: its Services and pods go by what it says of opaque ports."""
        services = self._directory.inherit(name, namespace.opaque if namespace is not None else None)
        if services is None:
            return
        for service in services:
            self.put_service(service.name, service)
        self.hub.touch({TypeUrl.LISTENER: (INBOUND_LISTENER,) if self._is_sidecar else ()})

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
            self.hub.touch({TypeUrl.LISTENER: (OUTBOUND_LISTENER, INBOUND_LISTENER)})

    def problems(self) -> tuple[Problem, ...]:
        """Return what could not be read, what was refused, and addresses that policy does not reach, sorted."""
        broken = (replace(problem, field=f"{ref} {problem.field}".strip()) for ref, problem in self.broken.items())
        return tuple(sorted((*broken, *self.hub.problems(), *self._strays())))

    def _strays(self) -> Iterator[Problem]:
        """Yield a problem for each address outside the Service ranges: routes are not looked for there."""
        if not self._is_sidecar:
            return
        ranges = [ip_network(text) for text in self.settings.service_ranges]
        for text, owners in self._directory.owners.items():
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
                return {*self._listeners, *((OUTBOUND_LISTENER, INBOUND_LISTENER) if self._is_sidecar else ())}
            case TypeUrl.SCOPE:
                owners = self._directory.owners.keys()
                return owners | self._directory.authorities() if self._ingresses else owners
            case _:
                return ()

    def variant(self, kind: TypeUrl, name: str, proxy: Proxy) -> str:
        own = Ref(Kind.POD, proxy.namespace, proxy.name)
        match kind:
            case TypeUrl.LISTENER if name == INBOUND_LISTENER:
                return self._inbound_of(own)
            case TypeUrl.LISTENER if name == OUTBOUND_LISTENER:
                return _INGRESS if own in self._ingresses else ""
            case TypeUrl.SCOPE:
                return _INGRESS if own in self._ingresses and name not in self._directory.owners else ""
            case TypeUrl.CLUSTER if self.settings.trust is not None and self._is_own(own, name):
                return proxy.node_id
            case TypeUrl.ROUTES if isinstance(port := parse_name(name), ServicePortName):
                consumer = self._consumers.get((port.service, proxy.namespace))
                return proxy.namespace if consumer is not None and port.port in consumer.ports else ""
            case _:
                return ""

    def make(self, kind: TypeUrl, name: str, variant: str) -> Json | None:
        match kind:
            case TypeUrl.LISTENER:
                return self._make_listener(name, variant)
            case TypeUrl.SCOPE:
                return self._make_scope(name, variant)
            case TypeUrl.CLUSTER:
                owner = self._directory.owner(name)
                namespace, _, pod = variant.partition("/")
                own = Ref(Kind.POD, Namespace(namespace), pod) if variant else None
                return make_cluster(name, self._directory.services, owner, self.settings, self._members.peers, own)
            case TypeUrl.ROUTES if name == DIRECT:
                return emit_direct_routes(ADDRESS_HEADER)
            case TypeUrl.ROUTES | TypeUrl.ENDPOINTS:
                port = parse_name(name)
                if not isinstance(port, ServicePortName) or (found := self._directory.find_port(port)) is None:
                    return None
                if kind is TypeUrl.ENDPOINTS:
                    slices = self._members.slices(port.service)
                    return emit_endpoints(port, found.name, slices, self.pods, self.settings, self._members.peers.by_ip)
                consumer = self._consumers.get((port.service, Namespace(variant)))
                producer = self._producers.get(port.service)
                return emit_route_configuration(
                    port, choose_virtual_host(port.port, Namespace(variant), producer, consumer)
                )

    def make_fallback(self, kind: TypeUrl, name: str) -> Json | None:
        """Return the routes of a port as if it had no policy. There is none for anything else."""
        port = parse_name(name) if kind is TypeUrl.ROUTES else None
        return emit_route_configuration(port, None) if isinstance(port, ServicePortName) else None

    def _make_listener(self, name: str, variant: str) -> Json | None:
        if not self._is_sidecar or name in self._listeners:
            return self._listeners.get(name)
        if name == OUTBOUND_LISTENER:
            return emit_outbound_listener(self.settings, self._directory.opaque(), is_ingress=variant == _INGRESS)
        if name == INBOUND_LISTENER:
            opaque, _, style = variant.partition(";")
            ports = parse_port_list(opaque[1:]) if opaque else None
            return emit_inbound_listener(self.settings, ports, AccessLog(style))
        return None

    def _make_scope(self, name: str, variant: str) -> Json | None:
        if (owner := self._directory.owner(name)) is not None:
            return emit_scope(name, owner)
        if variant != _INGRESS:
            return None
        if name == DIRECT:
            return emit_scope(DIRECT, DIRECT)
        port = read_authority(name)
        return None if port is None or self._directory.find_port(port) is None else emit_scope(name, port)

    def _inbound_of(self, own: Ref) -> str:
        """Return how a pod's proxy takes connections: opaque ports, if it or its namespace names any, and its log."""
        pod = self.pods.get(own)
        style = f";{pod.access_log}" if pod is not None and pod.access_log else ""
        said = pod.opaque if pod is not None and pod.opaque is not None else self._directory.inherited(own.namespace)
        return style if said is None else f"={said}{style}"

    def _is_own(self, own: Ref, cluster: str) -> bool:
        """Return whether ``own`` is the pod, or one of those, that a cluster leads to."""
        match self._directory.owner(cluster) or parse_name(cluster):
            case ServicePortName(service=service):
                return self._members.is_behind(own, service)
            case Address(ip=ip):
                pod = self._members.peers.by_ip.get(ip)
                return pod is not None and pod.ref == own
            case None:
                return False

    def _tell(self, change: Change) -> None:
        """Have what a change concerns looked at again: clusters, then endpoints, which say who is in the clusters."""
        is_named = self.settings.trust is not None
        endpoints = {
            name for service in change.services for name in self._directory.names_of(service, has_addresses=False)
        }
        clusters: set[str] = set()
        if is_named:
            clusters.update(
                name for service in change.renamed for name in self._directory.names_of(service, has_addresses=True)
            )
            for ip in change.ips:
                clusters.update(self.hub.names_at(TypeUrl.CLUSTER, f"[{ip}]" if ":" in ip else ip))
        self.hub.touch({TypeUrl.CLUSTER: clusters, TypeUrl.ENDPOINTS: endpoints})
        for pod, service in change.moved if is_named else ():
            proxy = Proxy(pod.namespace, pod.name)
            self.hub.turn(proxy, {TypeUrl.CLUSTER: self._directory.names_of(service, has_addresses=True)})

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


def _taken(pod: Pod | None) -> tuple[object, ...]:
    """Return all of a pod that decides how its proxy takes connections."""
    return (None, AccessLog.NONE) if pod is None else (pod.opaque, pod.access_log)
