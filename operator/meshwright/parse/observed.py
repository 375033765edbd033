"""What a proxy writes down of calls, read back: lines of its log, and the labels of its counters."""

import json
from collections.abc import Mapping
from ipaddress import ip_address

from meshwright.model.access import EVERYBODY
from meshwright.model.identity import TrustDomain
from meshwright.model.observed import COUNTED, Called, Client, Counted, Observed, read_counted
from meshwright.model.ref import Ref
from meshwright.model.units import Namespace, Port

_REASONS = {"audit": False, "denied": True}
COUNTERS = {
    "inbound_http_authz_allow_total": (True, False),
    "inbound_http_authz_deny_total": (True, True),
    "inbound_tcp_authz_allow_total": (False, False),
    "inbound_tcp_authz_deny_total": (False, True),
}
"""The counters that are read: of HTTP or not, of refusals or not."""


def parse_line(text: str, pod: Ref, trust: TrustDomain) -> Observed | None:
    """Return the call that a line in the log of ``pod``'s proxy tells of, ``None`` for any other line. Never raises."""
    if not text.startswith("{"):
        return None
    try:
        line = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(line, dict):
        return None
    fields = {str(key): str(value) for key, value in line.items() if value is not None}
    is_denied, port = _REASONS.get(fields.get("reason", "")), _read_port(fields.get("server.port", ""))
    if is_denied is None or port is None:
        return None
    labels = {key.replace("server.", "srv_").replace("route.", "route_"): value for key, value in fields.items()}
    return Observed(
        at=fields.get("timestamp", ""),
        is_denied=is_denied,
        pod=pod,
        called=_read_called(labels, pod.namespace, port),
        client=_read_client(
            fields.get("client.id", ""), fields.get("client.uri", ""), fields.get("client.ip", ""), trust
        ),
        what=f"{fields.get('method', '')} {fields.get('path', '')}".strip(),
    )


def parse_counter(name: str, labels: Mapping[str, str], value: float, pod: Ref, trust: TrustDomain) -> Counted | None:
    """Return what one counter of ``pod``'s proxy says, ``None`` when it is not about who was let in. ``name`` without
    Envoy's prefix. Never raises."""
    kind, port = COUNTERS.get(name), _read_port(labels.get("srv_port", ""))
    if kind is None or port is None or not 1 <= value < 1e18:
        return None
    if labels.get(COUNTED) == "":  # it never had a route: no request that could be read
        return None
    is_http, is_denied = kind
    authorization = labels.get("authz", "").removeprefix("~") or (str(EVERYBODY.source) if is_http else "unknown")
    by = "" if is_denied else "audit" if authorization == "default/audit" else authorization
    return Counted(
        pod=pod,
        called=_read_called(labels, pod.namespace, port),
        client=_read_client(labels.get("client_id", ""), "", "", trust),
        by=by,
        times=int(value),
        is_http=is_http,
    )


def _read_called(labels: Mapping[str, str], namespace: Namespace, port: Port) -> Called:
    labels = {**labels, **read_counted(labels.get(COUNTED, ""))}
    is_server = labels.get("srv_kind") == "server"
    has_route = labels.get("route_kind", "default") not in ("", "default")
    name = labels.get("srv_name", "")
    return Called(
        namespace=namespace,
        port=port,
        server=name if is_server else "",
        default="" if is_server else name,
        route_group=labels.get("route_group", "") if has_route else "",
        route_kind=labels.get("route_kind", "") if has_route else "",
        route=labels.get("route_name", "") if has_route else "",
    )


def _read_client(dns: str, uri: str, address: str, trust: TrustDomain) -> Client:
    """Return who called, by the first of several names; ``-`` is Envoy's word for none."""
    names = [name for text in (dns, uri) for name in text.split(",") if name not in ("", "-")]
    for name in names:
        account = trust.read_dns(name) or trust.read_uri(name)
        if account is not None:
            return Client(account=account)
    if names:
        return Client(identity=names[0])
    try:
        return Client(address=str(ip_address(address)))
    except ValueError:
        return Client()


def _read_port(text: str) -> Port | None:
    return Port(int(text)) if text.isascii() and text.isdigit() and 1 <= int(text) <= 65535 else None
