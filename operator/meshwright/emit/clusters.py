"""Clusters and their endpoints: where a request can go. Knows no routes and no listeners.

A cluster is a function of the Service's port and of who is behind it, so that it can be made for any name, whenever a
proxy asks. Each endpoint says who it is, or that it is nobody; the cluster says how to speak to each. One that says
neither cannot be reached.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from ipaddress import ip_address

from meshwright.emit.names import BLACKHOLE, INBOUND, PASSTHROUGH, Address, ServicePortName
from meshwright.emit.tls import PLAINTEXT, emit_client_tls, emit_impossible_tls
from meshwright.emit.typed import ADS, extension, seconds, socket_address, typed
from meshwright.model.desired import Json
from meshwright.model.identity import MachineIdentity, ServiceAccount, TrustDomain, Whom
from meshwright.model.pod import Pod
from meshwright.model.proxy import EndpointSlice, ProxySettings, SliceEndpoint
from meshwright.model.ref import Kind, Ref
from meshwright.model.units import Millis, Namespace, Port
from meshwright.model.workload import ExternalWorkload, Protocol, ServicePort, Workload

_HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_LIMIT = 1_000_000
_MATCHED = "envoy.transport_socket_match"
_NO_WORKLOADS: Mapping[Ref, Workload] = {}
_NO_IPS: Mapping[str, Workload] = {}
_NO_IDENTITY = ProxySettings()
_PEER, _POD, _NOBODY = "peer", "pod", "plaintext"
_MACHINE, _SERVER_NAME, _EXTERNAL = "machine", "server-name", "external-workload"
"""What an endpoint says of itself: a pod's identity and name, or that it is nobody; of a machine its identity, what TLS
calls it, and its name. Machines choose their identities, so those have a key of their own: none can read as a pod's."""

_KINDS = {kind.word: kind for kind in (Kind.POD, Kind.EXTERNAL_WORKLOAD)}


def emit_service_cluster(
    name: str,
    port: ServicePortName,
    protocol: Protocol,
    settings: ProxySettings,
    whom: Iterable[Whom] = (),
    own: Ref | None = None,
) -> Json:
    """Return the Cluster called ``name`` that is the endpoints of ``port``, asked for by the port's own name.

    ``name`` is the port's name, or one of the Service's addresses. ``whom``: who its pods and machines are. ``own``:
    the workload of the proxy that gets it, when that is one of them, ``None`` otherwise: a proxy's connections to its
    own workload reach the application, not the proxy.

    Source: Envoy ``api/envoy/config/cluster/v3/cluster.proto`` ``transport_socket_matches``; linkerd2-proxy
    ``linkerd/app/outbound/src/http/concrete.rs`` (``NoClientTls::Loopback``).
    """
    said = None if own is None else _own_word(own, port.service.namespace)
    return {
        "name": name,
        "type": "EDS",
        "eds_cluster_config": {"service_name": str(port), "eds_config": ADS},
        **_balanced(protocol, settings.connect_timeout_ms),
        **({} if settings.trust is None else _by_identity(whom, said, settings.trust, settings)),
    }


def emit_address_cluster(
    address: Address, settings: ProxySettings, workload: Workload | None = None, own: Ref | None = None
) -> Json:
    """Return the Cluster for an address that is no Service's: a pod's, a machine's, or another. It is that very
    address.

    ``workload``: whose address it is, ``None`` for nobody's; ``own``: the workload of the proxy that gets it.
    """
    tls: Json = {}
    if (
        settings.trust is not None
        and workload is not None
        and workload.ref != own
        and is_reached_by_tls(workload, address.port, settings)
    ):
        whom = find_whom(workload)
        tls["transport_socket"] = (
            emit_impossible_tls(settings.trust, settings)
            if whom is None
            else emit_client_tls(whom, settings.trust, settings)
        )
    return {
        "name": str(address),
        "type": "STATIC",
        "load_assignment": {
            "cluster_name": str(address),
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": socket_address(address.ip, address.port)}}]}],
        },
        **_balanced(Protocol.DETECT, settings.connect_timeout_ms),
        **tls,
    }


def emit_blackhole(settings: ProxySettings) -> Json:
    """Return the Cluster without endpoints, for what must fail."""
    return {
        "name": BLACKHOLE,
        "type": "STATIC",
        "connect_timeout": seconds(settings.connect_timeout_ms),
        "load_assignment": {"cluster_name": BLACKHOLE},
    }


def emit_inbound_cluster(settings: ProxySettings) -> Json:
    """Return the Cluster that is this proxy's own application: the address the connection was made to."""
    return _original(INBOUND, settings)


def emit_passthrough(settings: ProxySettings) -> Json:
    """Return the Cluster that is whatever address a connection was made to."""
    return _original(PASSTHROUGH, settings)


def is_reached_by_tls(workload: Workload, port: Port, settings: ProxySettings) -> bool:
    """Return whether connections to ``port`` of a pod or a machine reach a proxy that speaks TLS there: not where it is
    asked for its own state, by whoever wants to know. An ExternalWorkload says whom to expect, and so has a proxy."""
    has_proxy = isinstance(workload, ExternalWorkload) or workload.is_meshed
    return has_proxy and port not in workload.skipped_inbound and port != settings.admin_port


def find_whom(workload: Workload) -> Whom | None:
    """Return who answers for a workload where it has a proxy, ``None`` when it does not say, so that nobody may."""
    return workload.account if isinstance(workload, Pod) else workload.whom


def list_addresses(workload: Workload) -> tuple[str, ...]:
    """Return the workload's addresses, canonical."""
    return workload.addresses if isinstance(workload, Pod) else workload.ips


def write_place(workload: Ref, ip: str) -> str:
    """Return what `find_at` finds a workload by: its address, and of a machine its namespace as well. The cluster gives
    out pods' addresses; machines' are written down by whoever may write in a namespace, and count there alone: nobody
    says how another namespace's callers speak to an address, which may be the API server's."""
    return ip if workload.kind is Kind.POD else f"{workload.namespace}/{ip}"


def find_at(by_ip: Mapping[str, Workload], ip: str, namespace: Namespace) -> Workload | None:
    """Return who is at an address, as ``namespace`` sees it: a pod, else a machine of that namespace.

    ``by_ip``: workloads by `write_place`; of several at one place the first by name. What each says of itself is worth
    as much or as little: who is there must prove it.
    """
    found = by_ip.get(ip)
    return by_ip.get(f"{namespace}/{ip}") if found is None else found


def workload_behind(
    namespace: Namespace, endpoint: SliceEndpoint, by_ip: Mapping[str, Workload] = _NO_IPS
) -> Ref | None:
    """Return the pod or machine that an endpoint of a slice in ``namespace`` says it is, and when it says none, the one
    at its address; ``None`` when there is none.

    ``by_ip``: as for `find_at`. Whoever writes slices by hand writes addresses only: what is there is no less
    meshed.
    """
    word, _, name = endpoint.target.partition("/")
    if (kind := _KINDS.get(word)) is not None and name:
        return Ref(kind, namespace, name)
    workload = find_at(by_ip, address_alone(endpoint), namespace)
    return None if workload is None else workload.ref


def address_alone(endpoint: SliceEndpoint) -> str:
    """Return the address, as workloads have theirs, of an endpoint that does not say which pod or machine it is; ``""``
    when it does. Never raises."""
    if endpoint.target.partition("/")[0] in _KINDS or not endpoint.addresses:
        return ""
    try:
        return str(ip_address(endpoint.addresses[0]))
    except ValueError:
        return ""


def workloads_behind(slices: Iterable[EndpointSlice], by_ip: Mapping[str, Workload] = _NO_IPS) -> frozenset[Ref]:
    """Return the pods and machines that the endpoints of ``slices`` are, ready or not."""
    found = (
        workload_behind(piece.service.namespace, endpoint, by_ip) for piece in slices for endpoint in piece.endpoints
    )
    return frozenset(ref for ref in found if ref is not None)


def find_identities(
    slices: Iterable[EndpointSlice], workloads: Mapping[Ref, Workload], by_ip: Mapping[str, Workload] = _NO_IPS
) -> tuple[Whom, ...]:
    """Return who the meshed pods and the machines behind a Service are, ready or not, each once, sorted, pods first.

    One that is not ready yet counts, so that a cluster knows who it is before an endpoint says so.
    """
    accounts: set[ServiceAccount] = set()
    machines: set[MachineIdentity] = set()
    for ref in workloads_behind(slices, by_ip):
        match workloads.get(ref):
            case Pod(is_meshed=True, account=account):
                accounts.add(account)
            case ExternalWorkload(whom=MachineIdentity() as machine):
                machines.add(machine)
    return (*sorted(accounts), *sorted(machines))


def emit_endpoints(
    port: ServicePortName,
    port_name: str,
    slices: Iterable[EndpointSlice],
    workloads: Mapping[Ref, Workload] = _NO_WORKLOADS,
    settings: ProxySettings = _NO_IDENTITY,
    by_ip: Mapping[str, Workload] = _NO_IPS,
) -> Json:
    """Return the ClusterLoadAssignment of a Service's port: its ready endpoints, sorted, grouped by zone.

    A slice counts when it has a port called ``port_name`` (as in the Service; ``""`` for an unnamed one). A pod that
    stands in an IPv4 and in an IPv6 slice is one endpoint with two addresses, IPv4 first. Without any, it is empty:
    requests get 503 at once.

    Where proxies have identities, each endpoint says who it is. An endpoint that is a pod or a machine not in
    ``workloads`` is left out until it is: whether it may be spoken to in the clear is not known. So is a machine of
    which nobody can read who it is. One that says neither is the workload that ``by_ip`` has at its address, else
    nobody.

    Source: kubernetes.io ``docs/concepts/services-networking/endpoint-slices`` (ports by name, conditions);
    Envoy ``api/envoy/config/endpoint/v3/endpoint_components.proto`` ``Endpoint.additional_addresses``.
    """
    found: dict[tuple[str, str, _Peer], set[tuple[bool, str, Port]]] = defaultdict(set)
    for piece in slices:
        if (number := piece.ports.get(port_name)) is None:
            continue
        for endpoint in piece.endpoints:
            if not endpoint.is_ready or not endpoint.addresses:
                continue
            peer: _Peer | None = ()
            if settings.trust is not None:
                ref = workload_behind(piece.service.namespace, endpoint, by_ip)
                peer = _read_peer(ref, number, workloads, settings, settings.trust, piece.service.namespace)
            if peer is not None:
                address = endpoint.addresses[0]
                key = (endpoint.zone, endpoint.target or address, peer)
                found[key].add((":" in address, address, number))
    zones: dict[str, list[tuple[_Peer, list[tuple[bool, str, Port]]]]] = defaultdict(list)
    for (zone, _, peer), addresses in sorted(found.items()):
        zones[zone].append((peer, sorted(addresses)))
    return {
        "cluster_name": str(port),
        "endpoints": [
            {
                **({"locality": {"zone": zone}} if zone else {}),
                "lb_endpoints": [
                    endpoint | _metadata(peer) for peer, addresses in members for endpoint in _lb_endpoints(addresses)
                ],
            }
            for zone, members in sorted(zones.items())
        ],
    }


_Peer = tuple[tuple[str, str], ...]
"""What an endpoint says of itself: pairs for its metadata."""


def _read_peer(
    ref: Ref | None,
    port: Port,
    workloads: Mapping[Ref, Workload],
    settings: ProxySettings,
    trust: TrustDomain,
    namespace: Namespace,
) -> _Peer | None:
    """Return what an endpoint says of itself, ``None`` when that is not known."""
    if ref is None:
        return ((_PEER, _NOBODY),)
    if (workload := workloads.get(ref)) is None:
        return None
    if not is_reached_by_tls(workload, port, settings):
        return ((_PEER, _NOBODY),)
    if isinstance(workload, Pod):
        return ((_PEER, trust.uri(workload.account)), _own_word(ref, namespace))
    if (machine := workload.whom) is None:
        return None
    return (*_say(machine), _own_word(ref, namespace))


def _say(machine: MachineIdentity) -> _Peer:
    return ((_MACHINE, machine.name), (_SERVER_NAME, machine.server_name))


def _own_word(ref: Ref, namespace: Namespace) -> tuple[str, str]:
    """Return what a workload says of its name among the endpoints of a Service in ``namespace``."""
    key = _POD if ref.kind is Kind.POD else _EXTERNAL
    return key, ref.name if ref.namespace == namespace else f"{ref.namespace}/{ref.name}"


def _metadata(peer: _Peer) -> Json:
    return {"metadata": {"filter_metadata": {_MATCHED: dict(peer)}}} if peer else {}


def _by_identity(
    whom: Iterable[Whom], own: tuple[str, str] | None, trust: TrustDomain, settings: ProxySettings
) -> Json:
    """Return how to speak to each endpoint by what it says of itself, the first match counting, and to one who says
    nothing that is known: not at all."""
    matches = [] if own is None else [_match("own", dict((own,)), PLAINTEXT)]
    for each in whom:
        match each:
            case ServiceAccount():
                name, said = str(each), {_PEER: trust.uri(each)}
            case MachineIdentity():
                name, said = each.server_name, dict(_say(each))
        matches.append(_match(name, said, emit_client_tls(each, trust, settings)))
    matches.append(_match(_NOBODY, {_PEER: _NOBODY}, PLAINTEXT))
    return {"transport_socket_matches": matches, "transport_socket": emit_impossible_tls(trust, settings)}


def _match(name: str, said: Mapping[str, str], socket: Json) -> Json:
    return {"name": name, "match": dict(said), "transport_socket": socket}


def _lb_endpoints(addresses: list[tuple[bool, str, Port]]) -> list[Json]:
    """Return one endpoint for a pod with at most one address a family, else one for each address."""
    sockets = [socket_address(ip, port) for _, ip, port in addresses]
    if len({is_v6 for is_v6, _, _ in addresses}) < len(addresses):
        return [{"endpoint": {"address": socket}} for socket in sockets]
    more = {"additional_addresses": [{"address": socket} for socket in sockets[1:]]} if sockets[1:] else {}
    return [{"endpoint": {"address": sockets[0], **more}}]


def find_port(ports: Iterable[ServicePort], number: Port) -> ServicePort | None:
    """Return the TCP port called ``number``, ``None`` when there is none."""
    return next((port for port in ports if port.port == number and port.transport == "TCP"), None)


def _balanced(protocol: Protocol, connect_timeout_ms: Millis) -> Json:
    """Return what every cluster says, so that none of Envoy's defaults cuts traffic short.

    No panic (all endpoints out means 503, not traffic to the dead), changes of health at once, the least loaded
    endpoint of all, and no limits but the machine's: Envoy's own are 1,024 requests and 3 retries at a time.

    Source: Envoy ``api/envoy/config/cluster/v3/{cluster,circuit_breaker}.proto``.
    """
    return {
        "connect_timeout": seconds(connect_timeout_ms),
        "common_lb_config": {"healthy_panic_threshold": {"value": 0}, "update_merge_window": "0s"},
        "circuit_breakers": {
            "thresholds": [
                {
                    "max_connections": _LIMIT,
                    "max_pending_requests": _LIMIT,
                    "max_requests": _LIMIT,
                    "max_retries": _LIMIT,
                }
            ]
        },
        "load_balancing_policy": {
            "policies": [
                {
                    "typed_extension_config": extension(
                        "envoy.load_balancing_policies.least_request",
                        "envoy.extensions.load_balancing_policies.least_request.v3.LeastRequest",
                        selection_method="FULL_SCAN",
                    )
                }
            ]
        },
        "upstream_connection_options": {
            "tcp_keepalive": {"keepalive_time": 60, "keepalive_interval": 10, "keepalive_probes": 3}
        },
        "typed_extension_protocol_options": {_HTTP_OPTIONS: _http_options(protocol)},
    }


def _original(name: str, settings: ProxySettings) -> Json:
    return {
        "name": name,
        "type": "ORIGINAL_DST",
        "lb_policy": "CLUSTER_PROVIDED",
        "connect_timeout": seconds(settings.connect_timeout_ms),
        "circuit_breakers": _balanced(Protocol.DETECT, settings.connect_timeout_ms)["circuit_breakers"],
        "typed_extension_protocol_options": {_HTTP_OPTIONS: _http_options(Protocol.DETECT)},
    }


def _http_options(protocol: Protocol) -> Json:
    match protocol:
        case Protocol.HTTP1:
            return typed(_HTTP_OPTIONS, explicit_http_config={"http_protocol_options": {}})
        case Protocol.HTTP2:
            return typed(_HTTP_OPTIONS, explicit_http_config={"http2_protocol_options": {}})
        case Protocol.DETECT | Protocol.OPAQUE:
            both: Json = {"http_protocol_options": {}, "http2_protocol_options": {}}
            return typed(_HTTP_OPTIONS, use_downstream_protocol_config=both)
