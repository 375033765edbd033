"""One proxy's whole Envoy configuration: as resources to be asked for, or as one static file.

The only place that knows how units, Services and endpoints become what one proxy gets.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from meshwright.emit.admin import emit_admin_listener
from meshwright.emit.bootstrap import emit_own_clusters, emit_process
from meshwright.emit.clusters import (
    emit_address_cluster,
    emit_blackhole,
    emit_endpoints,
    emit_passthrough,
    emit_service_cluster,
    find_at,
    find_identities,
    find_port,
    list_addresses,
    workloads_behind,
    write_place,
)
from meshwright.emit.connections import HCM_FILTER, ON_DEMAND_FILTER, TCP_FILTER
from meshwright.emit.inbound_routes import emit_inbound_routes
from meshwright.emit.listeners import (
    INBOUND_LISTENER,
    OUTBOUND_LISTENER,
    emit_inbound_listener,
    emit_outbound_listener,
    find_opaque,
)
from meshwright.emit.names import (
    ADDRESS_HEADER,
    BLACKHOLE,
    DIRECT,
    INBOUND_ROUTES,
    PASSTHROUGH,
    Address,
    ServicePortName,
    parse_name,
    write_authorities,
)
from meshwright.emit.policy_log import BOUNDING_FILTER
from meshwright.emit.scopes import choose_virtual_host, emit_direct_routes, emit_route_configuration, emit_scope
from meshwright.model.desired import Json
from meshwright.model.identity import Whom
from meshwright.model.inbound import Inbound
from meshwright.model.pod import Pod
from meshwright.model.proxy import EndpointSlice, OutboundUnit, Proxy, ProxySettings, Resources
from meshwright.model.ref import Ref, ServiceName
from meshwright.model.units import Namespace
from meshwright.model.workload import Service, ServicePort, Workload


def tcp_ports(service: Service) -> Iterator[ServicePort]:
    """Yield the ports of a Service that a proxy can carry, the first of each number."""
    for port in service.ports:
        if find_port(service.ports, port.port) is port:
            yield port


def addresses_of(service: Service) -> Iterator[tuple[Address, ServicePort]]:
    """Yield each address and port that clients reach the Service at; nothing without a ClusterIP."""
    if service.has_frontend:
        for ip in service.addresses:
            for port in tcp_ports(service):
                yield Address(ip, port.port), port


@dataclass(frozen=True, slots=True, kw_only=True)
class Peers:
    """Who is behind the Services and addresses: what clusters must know to name whom they speak to.

    ``identities``: of a Service's pods and machines; ``by_ip``: a pod or a machine by each of its addresses, as
    `find_at` has them.
    """

    identities: Mapping[ServiceName, tuple[Whom, ...]] = field(default_factory=dict)
    by_ip: Mapping[str, Workload] = field(default_factory=dict)


def make_cluster(
    name: str,
    services: Mapping[ServiceName, Service],
    owner: ServicePortName | None,
    settings: ProxySettings,
    peers: Peers = Peers(),
    own: Ref | None = None,
    namespace: Namespace = Namespace(""),
) -> Json | None:
    """Return the Cluster called ``name``, ``None`` when there cannot be one.

    A Service port's name gives its endpoints, while the Service has that port. An address gives the endpoints of
    ``owner``, the Service's port it belongs to, and if ``None`` that very address; but not the ports that proxies
    listen on, which would lead a connection back to the proxy it came from. ``own``: the workload of the proxy that
    gets the cluster, if it is behind it; ``namespace``: that proxy's.
    """
    if name == BLACKHOLE:
        return emit_blackhole(settings)
    match parse_name(name):
        case ServicePortName() as named:
            owner = named
        case Address() as address if owner is None:
            is_proxys = address.port in (settings.outbound_port, settings.inbound_port)
            there = find_at(peers.by_ip, address.ip, namespace)
            return None if is_proxys else emit_address_cluster(address, settings, there, own)
        case None:
            return None
    assert owner is not None
    service = services.get(owner.service)
    port = find_port(service.ports, owner.port) if service else None
    if port is None:
        return None
    return emit_service_cluster(name, owner, port.protocol, settings, peers.identities.get(owner.service, ()), own)


def assemble(
    proxy: Proxy,
    units: Iterable[OutboundUnit],
    services: Iterable[Service],
    slices: Iterable[EndpointSlice],
    settings: ProxySettings,
    workloads: Iterable[Workload] = (),
    inbound: Inbound | None = None,
) -> Resources:
    """Return everything that ``proxy`` can ask for, by name. Clusters for addresses of no Service are not in it: there
    is one for each.

    Should two Services claim one address, it is the first one's, by namespace and name. ``workloads``: all that is
    known of pods and machines. ``inbound``: who may call the proxy's own workload; ``None``: everybody.
    """
    by_name = {service.name: service for service in sorted(services, key=lambda service: service.name)}
    by_ref = {workload.ref: workload for workload in workloads}
    own_workload = by_ref.get(own := proxy.ref)
    own_pod = own_workload if isinstance(own_workload, Pod) else None
    is_ingress = own_pod is not None and own_pod.is_ingress
    producers: dict[ServiceName, OutboundUnit] = {}
    consumers: dict[ServiceName, OutboundUnit] = {}
    for unit in units:
        if not unit.is_consumer:
            producers[unit.service] = unit
        elif unit.name.namespace == proxy.namespace:
            consumers[unit.service] = unit
    of_service: dict[ServiceName, list[EndpointSlice]] = defaultdict(list)
    for piece in slices:
        of_service[piece.service].append(piece)
    scopes: dict[str, Json] = {DIRECT: emit_scope(DIRECT, DIRECT)} if is_ingress else {}
    if inbound is None:
        inbound = Inbound() if own_pod is None else Inbound(opaque=own_pod.opaque, access_log=own_pod.access_log)
    routes: dict[str, Json] = {INBOUND_ROUTES: emit_inbound_routes(inbound)}
    if is_ingress:
        routes[DIRECT] = emit_direct_routes(ADDRESS_HEADER)
    clusters: dict[str, Json] = {BLACKHOLE: emit_blackhole(settings)}
    endpoints: dict[str, Json] = {}
    by_ip: dict[str, Workload] = {}
    for ref in sorted(by_ref):
        for ip in list_addresses(by_ref[ref]):
            by_ip.setdefault(write_place(ref, ip), by_ref[ref])
    peers = Peers(identities={name: find_identities(of_service[name], by_ref, by_ip) for name in by_name})
    for service in by_name.values():
        own_here = own if own in workloads_behind(of_service[service.name], by_ip) else None
        for port in tcp_ports(service):
            name = ServicePortName(service.name, port.port)
            unit_host = choose_virtual_host(
                port.port, proxy.namespace, producers.get(service.name), consumers.get(service.name)
            )
            routes[str(name)] = emit_route_configuration(name, unit_host)
            clusters[str(name)] = _cluster(str(name), by_name, name, settings, peers, own_here)
            endpoints[str(name)] = emit_endpoints(name, port.name, of_service[service.name], by_ref, settings, by_ip)
            if is_ingress:
                scopes |= {text: emit_scope(text, name) for text in write_authorities(name)}
        for address, port in addresses_of(service):
            name = ServicePortName(service.name, port.port)
            if str(address) not in scopes:
                scopes[str(address)] = emit_scope(address, name)
                clusters[str(address)] = _cluster(str(address), by_name, name, settings, peers, own_here)
    opaque = find_opaque(
        (each for service in by_name.values() for each in addresses_of(service)),
        (port for service in by_name.values() for port in tcp_ports(service)),
        settings.opaque_ports,
    )
    return Resources(
        listeners={
            OUTBOUND_LISTENER: emit_outbound_listener(settings, opaque, is_ingress=is_ingress),
            INBOUND_LISTENER: emit_inbound_listener(settings, inbound),
        },
        scopes=scopes,
        routes=routes,
        clusters=clusters,
        endpoints=endpoints,
    )


def _cluster(
    name: str,
    services: Mapping[ServiceName, Service],
    owner: ServicePortName,
    settings: ProxySettings,
    peers: Peers,
    own: Ref | None,
) -> Json:
    made = make_cluster(name, services, owner, settings, peers, own)
    assert made is not None, name
    return made


def flatten(proxy: Proxy, resources: Resources, settings: ProxySettings) -> Json:
    """Return one configuration file that makes an Envoy do what ``resources`` say, without any delivery server.

    ``envoy --mode validate`` reads it whole. What is fetched on first use otherwise is all there; an address that no
    resource knows is passed on to itself.
    """
    clusters = [
        emit_passthrough(settings),
        *emit_own_clusters(settings),
        *(_static_cluster(cluster, resources.endpoints) for _, cluster in sorted(resources.clusters.items())),
    ]
    listeners = [_static_listener(listener, resources) for _, listener in sorted(resources.listeners.items())]
    return {
        **emit_process(proxy, settings),
        "static_resources": {"listeners": [emit_admin_listener(settings), *listeners], "clusters": clusters},
    }


def _static_cluster(cluster: Mapping[str, Any], endpoints: Mapping[str, Mapping[str, Any]]) -> Json:
    if cluster["type"] != "EDS":
        return dict(cluster)
    found = endpoints.get(cluster["eds_cluster_config"]["service_name"], {})
    rest = {key: value for key, value in cluster.items() if key != "eds_cluster_config"}
    return {**rest, "type": "STATIC", "load_assignment": {**found, "cluster_name": cluster["name"]}}


def _static_listener(listener: Mapping[str, Any], resources: Resources) -> Json:
    """Return the listener with routes inside. Bytes to a Service's address go to its cluster, others to themselves."""
    chains = [
        {**chain, "filters": [_static_filter(each, resources) for each in chain["filters"]]}
        for chain in listener["filter_chains"]
    ]
    default = listener["default_filter_chain"]
    static_default = {**default, "filters": [_static_filter(each, resources) for each in default["filters"]]}
    ranges = next((chain["filter_chain_match"].get("prefix_ranges") for chain in listener["filter_chains"]), None)
    if ranges:
        chains.append({**static_default, "name": "services-tcp", "filter_chain_match": {"prefix_ranges": ranges}})
        passed = {**static_default["filters"][-1]["typed_config"], "cluster": PASSTHROUGH}
        static_default = {**static_default, "filters": [{"name": TCP_FILTER, "typed_config": passed}]}
    return {**listener, "filter_chains": chains, "default_filter_chain": static_default}


def _static_filter(each: Mapping[str, Any], resources: Resources) -> Json:
    config = {key: value for key, value in each["typed_config"].items() if key != "on_demand"}
    if "access_log" in config:
        config["access_log"] = [_static_log(log) for log in config["access_log"]]
    if each["name"] == HCM_FILTER:
        config["http_filters"] = [part for part in config["http_filters"] if part["name"] != ON_DEMAND_FILTER]
        if "scoped_routes" in config:
            config["scoped_routes"] = _static_scopes(config["scoped_routes"], resources)
        elif "rds" in config:
            config["route_config"] = resources.routes[config.pop("rds")["route_config_name"]]
        elif config["stat_prefix"] == "direct":
            config["route_config"] = _to_passthrough(config["route_config"])
    return {**each, "typed_config": config}


def _static_log(log: Mapping[str, Any]) -> Json:
    """Return an access log without the bound that a delivery server sets."""
    filters = log.get("filter", {}).get("and_filter", {}).get("filters", ())
    kept = [each for each in filters if each.get("extension_filter", {}).get("name") != BOUNDING_FILTER]
    if len(kept) == len(filters):
        return dict(log)
    return {**log, "filter": kept[0] if len(kept) == 1 else {"and_filter": {"filters": kept}}}


def _static_scopes(scoped: Mapping[str, Any], resources: Resources) -> Json:
    return {
        "name": scoped["name"],
        "scope_key_builder": scoped["scope_key_builder"],
        "scoped_route_configurations_list": {
            "scoped_route_configurations": [
                {
                    "name": scope["name"],
                    "key": scope["key"],
                    "route_configuration": _static_routes(resources.routes[scope["route_configuration_name"]]),
                }
                for _, scope in sorted(resources.scopes.items())
            ]
        },
    }


def _static_routes(routes: Mapping[str, Any]) -> Mapping[str, Any]:
    return _to_passthrough(routes) if routes["name"] == DIRECT else routes


def _to_passthrough(routes: Mapping[str, Any]) -> Json:
    [host] = routes["virtual_hosts"]
    [route] = host["routes"]
    action = {key: value for key, value in route["route"].items() if key != "cluster_header"}
    return {**routes, "virtual_hosts": [{**host, "routes": [{**route, "route": {**action, "cluster": PASSTHROUGH}}]}]}
