"""Who a byte connection's caller is to its Server, settled before the application hears of it.

Envoy's own RBAC for connections looks when the first byte comes. A server that speaks first would be heard by anyone
who keeps quiet. So the verdict is also reached as soon as the connection is there, or its TLS: as the name of the
authorization that lets the caller in, which is told in logs, too. Without one, the connection goes nowhere.

Source: Envoy ``docs/root/configuration/listeners/network_filters/rbac_filter.rst`` (server-first protocols),
``api/envoy/extensions/filters/network/set_filter_state/v3/set_filter_state.proto`` on_downstream_tls_handshake.
"""

from collections.abc import Iterable, Iterator
from ipaddress import IPv4Network, IPv6Network, ip_network

from meshwright.emit.names import BLACKHOLE, INBOUND
from meshwright.emit.rbac import AUDIT, LOCALHOST, is_everywhere, is_uri
from meshwright.emit.typed import extension
from meshwright.model.desired import Json
from meshwright.model.inbound import Authorization
from meshwright.model.policy import Network, Proof

VERDICT = "meshwright.authz"
"""The filter state that names what lets the caller in."""

NOBODY = "-"
"""The verdict of who is refused."""

_DNS, _URI = "connection.dns_san_peer_certificate", "connection.uri_san_peer_certificate"
_AT_ONCE = 50
_SAFE = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/_-.~:")


def emit_settling(authorizations: Iterable[Authorization], *, is_audit: bool, has_tls: bool) -> Json:
    """Return the filter that reaches the verdict, and sends the connection to the application or nowhere.

    ``has_tls``: of the mesh. The first authorization by name wins: each later one is written down before it. Of a
    certificate with several names of one form only the first is looked at; ours have one.
    """
    tried = sorted((*authorizations, LOCALHOST), key=lambda each: str(each.source), reverse=True)
    lengths = sorted({length for each in tried for network in each.networks for length in _lengths(network)})
    states = [_state(_net(length), f"%DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT({length})%") for length in lengths]
    states.append(_state(VERDICT, AUDIT if is_audit else NOBODY))
    states += [
        _state(VERDICT, f"%CEL({text} ? {quote_cel(str(each.source))} : '')%")
        for each in tried
        for text in _conditions(each, has_tls=has_tls)
    ]
    # Audit refuses nobody, whatever becomes of the verdict.
    cluster = INBOUND if is_audit else f"%CEL(filter_state['{VERDICT}'] == b'{NOBODY}' ? '{BLACKHOLE}' : '{INBOUND}')%"
    return extension(
        "envoy.filters.network.set_filter_state",
        "envoy.extensions.filters.network.set_filter_state.v3.Config",
        on_downstream_tls_handshake=[
            *states,
            {
                "object_key": "envoy.tcp_proxy.cluster",
                "format_string": {"text_format_source": {"inline_string": cluster}},
            },
        ],
    )


def _state(key: str, text: str) -> Json:
    return {
        "object_key": key,
        "factory_key": "envoy.string",
        "format_string": {"text_format_source": {"inline_string": text}},
        "skip_if_empty": True,
    }


def _conditions(authorization: Authorization, *, has_tls: bool) -> Iterator[str]:
    """Yield expressions in CEL, any of which holds for the callers of ``authorization``. None fails where a certificate
    has no name of one form: what fails is written down as nobody's verdict, over one that was reached before."""
    if is_everywhere(authorization.networks):
        where = "true"
    elif authorization.networks:
        where = "(" + " || ".join(_within(network) for network in authorization.networks) + ")"
    else:
        return
    match authorization.proof:
        case Proof.NOTHING:
            yield where
        case Proof.ANY_TLS if has_tls:
            yield where
        case Proof.IDENTITY if has_tls:
            if authorization.is_any:
                yield f"{where} && has({_DNS}) && {_DNS} != ''"
            for key, kind in ((_DNS, False), (_URI, True)):
                names = [quote_cel(name) for name in authorization.exact if is_uri(name) is kind]
                for first in range(0, len(names), _AT_ONCE):
                    yield f"{where} && has({key}) && {key} in [{', '.join(names[first : first + _AT_ONCE])}]"
            for suffix in authorization.suffixes:
                yield f"{where} && has({_DNS}) && {_DNS}.endsWith({quote_cel(suffix)})"
        case _:
            return


def _within(network: Network) -> str:
    inside = _in(network.cidr)
    return f"({inside} && !({' || '.join(map(_in, network.excepts))}))" if network.excepts else inside


def _in(cidr: str) -> str:
    texts = [f"filter_state['{_net(each.prefixlen)}'] == b'{each}'" for each in _halves(cidr)]
    return texts[0] if len(texts) == 1 else f"({' || '.join(texts)})"


def _lengths(network: Network) -> Iterator[int]:
    for cidr in (network.cidr, *network.excepts):
        yield from (half.prefixlen for half in _halves(cidr))


def _halves(cidr: str) -> list[IPv4Network | IPv6Network]:
    """Return a range, all addresses as two halves: no prefix at all cannot be asked for."""
    network = ip_network(cidr)
    return list(network.subnets()) if network.prefixlen == 0 else [network]


def _net(length: int) -> str:
    return f"meshwright.net.{length}"


def quote_cel(text: str) -> str:
    r"""Return ``text`` as CEL writes it; what could end it, or a command around it, as ``\U``."""
    return "'" + "".join(each if each in _SAFE else rf"\U{ord(each):08x}" for each in text) + "'"
