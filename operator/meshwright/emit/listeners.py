"""Listeners: how a connection is taken, and which way it goes.

Connections come by redirection (iptables), so that the address they were made to is known. HTTP inside the Service
ranges goes by scope; HTTP to any other address, and everything that is not HTTP, goes to a cluster named by that
address. No Service stands in a listener but by an address that is not HTTP.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from meshwright.emit.connections import (
    DESTINATION,
    emit_direct,
    emit_fixed_tcp,
    emit_inbound_bytes,
    emit_inbound_http,
    emit_ingress,
    emit_scoped,
    emit_set_cluster,
    emit_tcp,
)
from meshwright.emit.held import Held, find_held, find_rest, find_undetected
from meshwright.emit.names import BLACKHOLE, DIRECT, METADATA, Address
from meshwright.emit.tls import emit_server_tls
from meshwright.emit.typed import extension, seconds, socket_address
from meshwright.model.desired import Json
from meshwright.model.identity import TrustDomain
from meshwright.model.inbound import Inbound
from meshwright.model.pod import PortRanges
from meshwright.model.proxy import ProxySettings
from meshwright.model.units import Port
from meshwright.model.workload import ServicePort

OUTBOUND_LISTENER = "outbound"
INBOUND_LISTENER = "inbound"

_HTTP = {"application_protocols": ["http/1.0", "http/1.1", "h2c"]}
_MAX_OPAQUE_CHAINS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Opaque:
    """What of the Services is not HTTP. ``ports``: numbers that have no other meaning anywhere, so that nobody asks
    what a client speaks there. ``addresses``: of Services whose port has another meaning elsewhere. Both sorted."""

    ports: tuple[Port, ...] = ()
    addresses: tuple[Address, ...] = ()


def find_opaque(
    addresses: Iterable[tuple[Address, ServicePort]], ports: Iterable[ServicePort], usual: Iterable[Port]
) -> Opaque:
    """Return what of the Services is not HTTP. ``addresses``: all that Services are reached at; ``ports``: all their
    ports, also of those without an address; ``usual``: numbers that are not HTTP where no Service has them."""
    numbers: dict[bool, set[Port]] = {True: set(), False: set()}
    for port in ports:
        numbers[port.is_routable].add(port.port)
    mixed = numbers[True]
    return Opaque(
        ports=tuple(sorted((numbers[False] | set(usual)) - mixed)),
        addresses=tuple(sorted(at for at, port in addresses if not port.is_routable and at.port in mixed)),
    )


def emit_outbound_listener(settings: ProxySettings, opaque: Opaque | None = None, *, is_ingress: bool = False) -> Json:
    """Return the listener for connections the application makes.

    A connection made to the listener's own port was not redirected, and would be sent to itself for ever: it is
    closed. ``opaque``: ``None`` when nothing is known of the Services. An ingress controller's proxy asks what every
    client speaks, and goes by what a request names before it goes by the address.

    Source: Envoy ``api/envoy/config/listener/v3/listener_components.proto`` ``FilterChainMatch`` (order of matching).
    """
    known = opaque or Opaque(ports=settings.opaque_ports)
    if is_ingress:
        known = Opaque()
    services = {"prefix_ranges": [_cidr(text) for text in settings.service_ranges], **_HTTP}
    scoped = emit_ingress(DESTINATION, settings) if is_ingress else emit_scoped(DESTINATION, settings)
    direct = emit_ingress(DIRECT, settings) if is_ingress else emit_direct(settings)
    bytes_only = [emit_set_cluster(DESTINATION), emit_tcp("none", settings)]
    chains: list[Json] = [
        {"name": "services", "filter_chain_match": services, "filters": [scoped]},
        {"name": "direct", "filter_chain_match": dict(_HTTP), "filters": [direct]},
    ]
    for port in sorted({address.port for address in known.addresses}):
        # Once a port is matched, chains without one are not looked at: all of them stand again for that port.
        ips = [address.ip for address in known.addresses if address.port == port]
        ranges = [{"address_prefix": ip, "prefix_len": 128 if ":" in ip else 32} for ip in ips]
        own: Json = {"name": "opaque", "filter_chain_match": {"prefix_ranges": ranges}, "filters": bytes_only}
        chains += [
            {
                **chain,
                "name": f"{chain['name']}-{port}",
                "filter_chain_match": {"destination_port": port, **chain["filter_chain_match"]},
            }
            for chain in (own, *chains[:2])
        ]
    return {
        **_redirected(OUTBOUND_LISTENER, settings.outbound_port, _as_ranges(known.ports), settings),
        "traffic_direction": "OUTBOUND",
        "filter_chains": [*chains, _closed(settings.outbound_port)],
        "default_filter_chain": {"name": "tcp", "filters": bytes_only},
    }


def emit_inbound_listener(settings: ProxySettings, inbound: Inbound) -> Json:
    """Return the listener for connections made to the application: on to the address they were made to.

    Where proxies have identities, their TLS is told from an application's own by the name it asks for, and HTTP within
    it by ALPN; everything else is taken as it comes. Requests are judged by the routes, all other connections here:
    ports where other callers may have chains of their own, so that another policy for one port cuts connections at no
    other. A connection whose chain has changed is cut when Envoy has drained it. What came to a port before it had
    chains of its own is among the rest: all of that is cut when such a port comes to let in fewer.

    Source: Envoy ``docs/root/configuration/listeners/lds.rst`` (filter chain only update).
    """
    usual = _as_ranges(settings.opaque_ports) if inbound.opaque is None else inbound.opaque
    rest = find_rest(inbound)
    # The proxy's own port is closed, whatever is said of it.
    held = [find_held(inbound, governed) for governed in inbound.ports if governed.port != settings.inbound_port]
    own = [each for each in held if not each.limits_bytes_as(rest)]
    shared = _redirected(INBOUND_LISTENER, settings.inbound_port, find_undetected(usual, held), settings)
    if settings.trust is not None:
        original, *others = shared["listener_filters"]
        inspector = extension(
            "envoy.filters.listener.tls_inspector", "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector"
        )
        shared["listener_filters"] = [original, inspector, *others]
    apart = _set_apart(rest, own)
    chains = [
        *_inbound_chains(rest, settings, inbound, apart),
        *_opaque_chains(rest, held, inbound, settings),
        *(chain for each in own for chain in _inbound_chains(each, settings, inbound)),
    ]
    return {
        **shared,
        "traffic_direction": "INBOUND",
        "filter_chains": [*chains, _closed(settings.inbound_port)],
        "default_filter_chain": {"name": "tcp", "filters": emit_inbound_bytes(rest, has_tls=False), **apart},
    }


def dev_listener(destination: Address, bind: Address, settings: ProxySettings) -> Json:
    """Return a listener at ``bind`` that stands for ``destination``, a Service's ClusterIP and port.

    It does what the outbound listener does for a connection made to ``destination``, without any redirection: for
    clients on a machine that has no cluster network.
    """
    text = str(destination)
    bound = PortRanges(((bind.port, bind.port),) if destination.port in settings.opaque_ports else ())
    return {
        "name": f"dev/{text}",
        "address": socket_address(bind.ip, bind.port),
        "traffic_direction": "OUTBOUND",
        **_detected(bound, settings),
        "filter_chains": [
            {"name": "services", "filter_chain_match": dict(_HTTP), "filters": [emit_scoped(text, settings)]},
        ],
        "default_filter_chain": {"name": "tcp", "filters": [emit_tcp(text, settings)]},
    }


def _set_apart(rest: Held, own: Iterable[Held]) -> Json:
    """Return the field of the rest's chains for bytes that says at which ports fewer are let in: with another value
    they are other chains."""
    if not rest.authorizations and not rest.is_audit:
        return {}
    ports = [str(each.port) for each in own if not each.is_open and not each.is_audit]
    return {"metadata": {"filter_metadata": {METADATA: {"apart": ports}}}} if ports else {}


def _inbound_chains(held: Held, settings: ProxySettings, inbound: Inbound, apart: Json | None = None) -> Iterable[Json]:
    """Yield the chains of a port, or those for the rest, which lack the last: it is the listener's default.

    HTTP and bytes are told apart where both are taken. Where only HTTP is, nobody waits to see; whatever is not HTTP
    gets HTTP's answer, an error, and TLS that is not the mesh's is closed.
    """
    suffix = "" if held.port is None else f"-{held.port}"
    at: Json = {} if held.port is None else {"destination_port": held.port}
    is_detected = held.is_http and held.is_tcp
    if (trust := settings.trust) is not None:
        mesh = {**at, "transport_protocol": "tls", "server_names": [_called(inbound, trust)]}
        if held.is_http:
            yield {
                "name": f"mesh-http{suffix}",
                "filter_chain_match": {
                    **mesh,
                    **({"application_protocols": ["h2", "http/1.1"]} if is_detected else {}),
                },
                "transport_socket": emit_server_tls(trust, settings, is_http=True),
                "filters": [emit_inbound_http(settings, is_authenticated=True, access_log=inbound.access_log)],
            }
        if held.is_tcp:
            yield {
                "name": f"mesh-tcp{suffix}",
                "filter_chain_match": mesh,
                "transport_socket": emit_server_tls(trust, settings, is_http=False),
                "filters": emit_inbound_bytes(held, has_tls=True),
                **(apart or {}),
            }
    if held.is_http:
        transport: Json = {} if trust is None else {"transport_protocol": "raw_buffer"}
        yield {
            "name": f"http{suffix}",
            "filter_chain_match": {**at, **(_HTTP if is_detected else {}), **transport},
            "filters": [emit_inbound_http(settings, is_authenticated=False, access_log=inbound.access_log)],
        }
    if held.port is None:
        return
    if held.is_tcp:
        # No chain is tried again with less: what is not TLS and not HTTP needs one, and so does others' TLS.
        plain = emit_inbound_bytes(held, has_tls=False)
        if is_detected and trust is not None:
            raw = {**at, "transport_protocol": "raw_buffer"}
            yield {"name": f"raw{suffix}", "filter_chain_match": raw, "filters": plain}
        yield {"name": f"tcp{suffix}", "filter_chain_match": at, "filters": plain}
    elif trust is not None:
        yield {
            "name": f"closed{suffix}",
            "filter_chain_match": at,
            "filters": [emit_fixed_tcp("closed", BLACKHOLE)],
        }


def _called(inbound: Inbound, trust: TrustDomain) -> str:
    """Return the names by which the mesh's TLS asks for the workload. TLS inspection gives names in small letters."""
    return inbound.server_name.lower() or f"*.{trust.suffix}"


def _opaque_chains(rest: Held, held: Iterable[Held], inbound: Inbound, settings: ProxySettings) -> Iterable[Json]:
    """Yield the chains for the mesh's connections to ports where the workload says that even HTTP is passed on.

    Of very many only the first have a chain: on the others HTTP that was told as such by the caller's proxy is taken
    as such here.
    """
    if (trust := settings.trust) is None or inbound.opaque is None:
        return
    governed = {each.port for each in held}
    ports = (port for low, high in inbound.opaque.ranges for port in range(low, high + 1) if port not in governed)
    tcp = {
        "transport_socket": emit_server_tls(trust, settings, is_http=False),
        "filters": emit_inbound_bytes(rest, has_tls=True),
    }
    for port, _ in zip(ports, range(_MAX_OPAQUE_CHAINS), strict=False):
        match = {"destination_port": port, "transport_protocol": "tls", "server_names": [_called(inbound, trust)]}
        yield {"name": f"mesh-tcp-{port}", "filter_chain_match": match, **tcp}


def _redirected(name: str, port: Port, opaque: PortRanges, settings: ProxySettings) -> Json:
    """Return what both listeners for redirected connections share. Where servers speak first, nobody waits."""
    original = extension(
        "envoy.filters.listener.original_dst", "envoy.extensions.filters.listener.original_dst.v3.OriginalDst"
    )
    detected = _detected(opaque, settings)
    return {
        "name": name,
        "address": socket_address(settings.bind_address, port),
        **detected,
        "listener_filters": [original, *detected["listener_filters"]],
    }


def _detected(opaque: PortRanges, settings: ProxySettings) -> Json:
    """Return how a listener finds out whether a client speaks HTTP.

    After ``detect_ms`` of silence it does not: the server may be the one to speak first. On ``opaque`` ports, those
    the listener sees, nobody asks.
    """
    ranges = [{"destination_port_range": {"start": low, "end": high + 1}} for low, high in opaque.ranges]
    skipped: Json = {}
    if len(ranges) == 1:
        skipped = {"filter_disabled": ranges[0]}
    elif ranges:
        skipped = {"filter_disabled": {"or_match": {"rules": ranges}}}
    return {
        "listener_filters_timeout": seconds(settings.detect_ms),
        "continue_on_listener_filters_timeout": True,
        "listener_filters": [
            {
                **extension(
                    "envoy.filters.listener.http_inspector",
                    "envoy.extensions.filters.listener.http_inspector.v3.HttpInspector",
                ),
                **skipped,
            }
        ],
    }


def _as_ranges(ports: Iterable[Port]) -> PortRanges:
    return PortRanges(tuple((port, port) for port in sorted(ports)))


def _closed(port: Port) -> Json:
    return {
        "name": "loop",
        "filter_chain_match": {"destination_port": port},
        "filters": [emit_fixed_tcp("loop", BLACKHOLE)],
    }


def _cidr(text: str) -> Json:
    address, _, length = text.partition("/")
    return {"address_prefix": address, "prefix_len": int(length)}
