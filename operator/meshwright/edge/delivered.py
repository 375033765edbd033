"""What delivery knows of the cluster, kept as it changes, and which resources each change touches.

Reads nothing itself: reflectors, or files, tell it. Whatever cannot be read leaves the last good one in force.
"""

import asyncio
import logging
from collections.abc import Collection, Mapping
from dataclasses import replace

from prometheus_client import Gauge

from meshwright.edge.directory import Directory
from meshwright.edge.hub import Hub, Metrics
from meshwright.edge.members import Change, Members
from meshwright.edge.policies import Policies
from meshwright.edge.protobuf import TypeUrl
from meshwright.edge.units import OutboundUnits, is_inbound, read_unit
from meshwright.edge.unread import Unread
from meshwright.emit.clusters import emit_endpoints, find_at
from meshwright.emit.inbound_routes import emit_inbound_routes
from meshwright.emit.inbound_unit import DEFAULTS_NAME
from meshwright.emit.listeners import (
    INBOUND_LISTENER,
    OUTBOUND_LISTENER,
    emit_inbound_listener,
    emit_outbound_listener,
)
from meshwright.emit.names import (
    ADDRESS_HEADER,
    DIRECT,
    INBOUND_ROUTES,
    POLICY_LOG_BUCKET,
    Address,
    ServicePortName,
    parse_name,
    read_authority,
    write_authorities,
)
from meshwright.emit.policy_log import emit_bucket
from meshwright.emit.proxy import make_cluster
from meshwright.emit.scopes import choose_virtual_host, emit_direct_routes, emit_route_configuration, emit_scope
from meshwright.model.desired import Json, UnitName
from meshwright.model.inbound import PolicyDefaults, ServerPolicy
from meshwright.model.pod import Pod
from meshwright.model.problem import Problem
from meshwright.model.proxy import EndpointSlice, OutboundUnit, Proxy, ProxySettings, read_node_id
from meshwright.model.ref import Kind, Ref, ServiceName
from meshwright.model.units import Namespace
from meshwright.model.workload import ExternalWorkload, NamespaceObject, Service
from meshwright.parse.delivered import parse_slice
from meshwright.parse.kinds import parse_object
from meshwright.parse.pod import parse_pod

log = logging.getLogger(__name__)

_INGRESS = "ingress"
_OWN = {TypeUrl.LISTENER: (INBOUND_LISTENER,), TypeUrl.ROUTES: (INBOUND_ROUTES,)}
"""What each proxy has of its own: how it takes connections, and what becomes of requests in them."""

_MANY, _MOST_RETIRED = 32, 500
"""From so many on proxies are not looked for one by one among all: all look themselves if something changed."""


class Delivery:
    """What proxies must know, as it is now, and the `hub` that they get their resources from.

    ``listeners``: what proxies listen on, by name; ``None`` for the two listeners of a sidecar. ``defaults``: what
    holds until a ConfigMap in ``control_plane`` says who may call; ``None``: nobody may (see ``knows_defaults``), or
    everybody where proxies have no identities.

    A proxy gets what its own workload, a pod or a machine, may have, and nothing meant for another: consumers' routes
    of its own namespace, who may call its workload and how that is taken, and its own workload behind a Service as the
    application itself.

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
        defaults: PolicyDefaults | None = None,
        control_plane: Namespace = Namespace("meshwright"),
    ) -> None:
        self.settings = settings
        self.hub = Hub(self, linger=linger, metrics=metrics)
        self._unread = Unread(self.hub.metrics.registry)
        self.broken: Mapping[Ref, Problem] = self._unread.problems
        self._is_sidecar = listeners is None
        self._listeners = dict(listeners or {})
        self._directory = Directory(settings.opaque_ports)
        self._units = OutboundUnits()
        self._members = Members()
        self._control_plane = control_plane
        self._policies = Policies(
            self._members.workloads,
            self._directory.inherited,
            usual=settings.opaque_ports,
            defaults=PolicyDefaults() if defaults is None and settings.trust is None else defaults,
            admits_strangers=settings.trust is None,
        )
        self._server_of: dict[Ref, Ref] = {}
        self.knows_defaults = asyncio.Event()
        if self._policies.defaults:
            self.knows_defaults.set()
        self._ingresses: set[Ref] = set()
        made = self.hub.metrics.registry
        self._objects = Gauge("meshwright_xds_objects", "Objects known.", ["kind"], registry=made)

    @property
    def pods(self) -> Mapping[Ref, Pod]:
        """Return all pods as they are now: a view."""
        return self._members.pods

    @property
    def machines(self) -> Mapping[Ref, ExternalWorkload]:
        """Return all ExternalWorkloads as they are now: a view."""
        return self._members.machines

    def put(self, ref: Ref, raw: Json | None) -> None:
        """Take one object as the API server has it, ``None`` when it is gone. Never raises.

        Kinds that delivery has no use for are ignored.
        """
        match ref.kind:
            case Kind.CONFIG_MAP:
                self._put_unit_manifest(ref, raw)
            case Kind.SERVICE:
                name = ServiceName(ref.namespace, ref.name)
                self._unread.read(ref, raw, Service, lambda service: self.put_service(name, service))
            case Kind.ENDPOINT_SLICE:
                self.put_slice(ref, parse_slice(raw) if raw is not None else None)
            case Kind.POD:
                self.put_pod(ref, parse_pod(raw) if raw is not None else None)
            case Kind.EXTERNAL_WORKLOAD:
                self._unread.read(ref, raw, ExternalWorkload, lambda machine: self.put_machine(ref, machine))
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
        self._units.put(name, unit)
        self._objects.labels("unit").set(len(self._units))
        self.hub.touch(
            {
                TypeUrl.ROUTES: {
                    str(ServicePortName(each.service, port)) for each in (old, unit) if each for port in each.ports
                }
            }
        )

    def put_policy(self, server: Ref, policy: ServerPolicy | None) -> None:
        """Take the policy of a Server, ``None`` when it is gone."""
        self._turn(self._policies.put_policy(server, policy))
        self._objects.labels("server").set(len(self._policies))

    def put_defaults(self, defaults: PolicyDefaults) -> None:
        """Take what the installation says of inbound policy."""
        self._turn(self._policies.put_defaults(defaults))
        self.knows_defaults.set()

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
        self._turn(self._policies.put_workload(ref))
        if (ref in self._ingresses) != bool(pod and pod.is_ingress):
            self._ingresses ^= {ref}
            names = self._directory.authorities()
            self.hub.turn(Proxy.of(ref), {TypeUrl.LISTENER: (OUTBOUND_LISTENER,), TypeUrl.SCOPE: names})

    def put_machine(self, ref: Ref, machine: ExternalWorkload | None) -> None:
        """Take an ExternalWorkload, ``None`` when it is gone."""
        if machine == self.machines.get(ref):
            return
        change = self._members.put_machine(ref, machine)
        self._objects.labels("external workload").set(len(self.machines))
        self._tell(change)
        self._turn(self._policies.put_workload(ref))

    def put_namespace(self, name: Namespace, namespace: NamespaceObject | None) -> None:
        """Take a namespace, ``None`` when it is gone: its Services and workloads go by what it says of opaque ports,
        and, where the installation has it so, its workloads by what it says of inbound policy."""
        self._turn(self._policies.put_access(name, namespace.access if namespace is not None else None))
        services = self._directory.inherit(name, namespace.opaque if namespace is not None else None)
        if services is None:
            return
        for service in services:
            self.put_service(service.name, service)
        self._turn(self._policies.look_again(name))

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
        strays = self._directory.find_strays(self.settings.service_ranges) if self._is_sidecar else ()
        return tuple(sorted((*broken, *self.hub.problems(), *strays)))

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
        own = proxy.ref
        match kind:
            case TypeUrl.LISTENER | TypeUrl.ROUTES if self._is_sidecar and name in _OWN[kind]:
                return self._policies.variant(own)
            case TypeUrl.LISTENER if name == OUTBOUND_LISTENER:
                return _INGRESS if own in self._ingresses else ""
            case TypeUrl.SCOPE:
                return _INGRESS if own in self._ingresses and name not in self._directory.owners else ""
            case TypeUrl.CLUSTER if self.settings.trust is not None:
                return self._for_whom(proxy, name)
            case TypeUrl.ROUTES if isinstance(port := parse_name(name), ServicePortName):
                consumer = self._units.consumer(port.service, proxy.namespace)
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
                owner, own = self._directory.owner(name), read_node_id(variant)
                its, namespace = (own.ref, own.namespace) if own is not None else (None, Namespace(variant))
                services, peers = self._directory.services, self._members.peers
                return make_cluster(name, services, owner, self.settings, peers, its, namespace)
            case TypeUrl.TOKEN_BUCKET:
                return emit_bucket(self.settings.policy_lines_per_second) if name == POLICY_LOG_BUCKET else None
            case TypeUrl.ROUTES if name == INBOUND_ROUTES:
                inbound = self._policies.find(variant)
                return emit_inbound_routes(inbound) if self._is_sidecar else None
            case TypeUrl.ROUTES if name == DIRECT:
                return emit_direct_routes(ADDRESS_HEADER)
            case TypeUrl.ROUTES | TypeUrl.ENDPOINTS:
                port = parse_name(name)
                if not isinstance(port, ServicePortName) or (found := self._directory.find_port(port)) is None:
                    return None
                if kind is TypeUrl.ENDPOINTS:
                    slices, by_ip = self._members.slices(port.service), self._members.peers.by_ip
                    return emit_endpoints(port, found.name, slices, self._members.workloads, self.settings, by_ip)
                consumer = self._units.consumer(port.service, Namespace(variant))
                producer = self._units.producer(port.service)
                return emit_route_configuration(
                    port, choose_virtual_host(port.port, Namespace(variant), producer, consumer)
                )

    def make_fallback(self, kind: TypeUrl, name: str) -> Json | None:
        """Return the routes of a port as if it had no policy; of inbound policy, that nobody is let in."""
        if self._is_sidecar and name in _OWN.get(kind, ()):
            return self.make(kind, name, "")
        port = parse_name(name) if kind is TypeUrl.ROUTES else None
        return emit_route_configuration(port, None) if isinstance(port, ServicePortName) else None

    def may_keep(self, kind: TypeUrl, name: str) -> bool:
        """Return whether a proxy that refuses a resource may go on with an older one: not with inbound policy."""
        return not (self._is_sidecar and name in _OWN.get(kind, ()))

    def _make_listener(self, name: str, variant: str) -> Json | None:
        if not self._is_sidecar or name in self._listeners:
            return self._listeners.get(name)
        if name == OUTBOUND_LISTENER:
            return emit_outbound_listener(self.settings, self._directory.opaque(), is_ingress=variant == _INGRESS)
        if name == INBOUND_LISTENER:
            return emit_inbound_listener(self.settings, self._policies.find(variant))
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

    def _for_whom(self, proxy: Proxy, cluster: str) -> str:
        """Return for whom alone a cluster is made: its own workload's proxy, or a namespace with a machine there."""
        match self._directory.owner(cluster) or parse_name(cluster):
            case ServicePortName(service=service):
                return proxy.node_id if self._members.is_behind(proxy.ref, service) else ""
            case Address(ip=ip) if (there := find_at(self._members.peers.by_ip, ip, proxy.namespace)) is not None:
                if there.ref == proxy.ref:
                    return proxy.node_id
                return proxy.namespace if isinstance(there, ExternalWorkload) else ""
            case _:
                return ""

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
        for ref, service in change.moved if is_named else ():
            self.hub.turn(Proxy.of(ref), {TypeUrl.CLUSTER: self._directory.names_of(service, has_addresses=True)})

    def _turn(self, workloads: Collection[Ref]) -> None:
        """Have the proxies of ``workloads`` look again at what is their own."""
        is_much = len(workloads) > _MANY or self._policies.retired > _MOST_RETIRED + self._policies.variant_count
        if self._is_sidecar and is_much:
            self._policies.retired = 0
            self.hub.touch(_OWN)
        elif self._is_sidecar:
            for ref in workloads:
                self.hub.turn(Proxy.of(ref), _OWN)

    def _put_unit_manifest(self, ref: Ref, raw: Json | None) -> None:
        unit = read_unit(ref, raw, self._control_plane) if raw is not None else None
        is_unread = isinstance(unit, Problem) and raw is not None and is_inbound(raw) and ref not in self._server_of
        self._turn(self._policies.put_unread(ref, is_unread=is_unread))
        if isinstance(unit, Problem):
            self._unread.add(ref, unit)
            return
        self._unread.mend(ref)
        server = unit.server if isinstance(unit, ServerPolicy) else None
        if (old := self._server_of.pop(ref, None)) is not None and old != server:
            self.put_policy(old, None)
        match unit:
            case ServerPolicy():
                self._server_of[ref] = unit.server
                self.put_policy(unit.server, unit)
            case PolicyDefaults():
                self.put_defaults(unit)
            case None if (ref.namespace, ref.name) == (self._control_plane, DEFAULTS_NAME):
                log.error("%s is gone; what it said of inbound policy stays in force", ref)
        self.put_unit(UnitName(ref.namespace, ref.name), unit if isinstance(unit, OutboundUnit) else None)
