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
from meshwright.emit.rbac import AUDIT, is_everywhere, is_uri
from meshwright.emit.typed import extension
from meshwright.model.access import LOCALHOST
from meshwright.model.desired import Json
from meshwright.model.inbound import Authorization
from meshwright.model.policy import Network, Proof

VERDICT = "meshwright.authz"
"""The filter state that names what lets the caller in."""

NOBODY = "-"
"""The verdict of who is refused."""

_DNS, _URI = "connection.dns_san_peer_certificate", "connection.uri_san_peer_certificate"
_WHERE, _INSIDE = "meshwright.where", "y"
"""The filter state that says whether the caller is in a place that takes several expressions to describe."""

_MAX_LIST = 20_000
"""How long a list in an expression may be, in characters: Envoy takes expressions of 100,000.

Source: cel-cpp ``parser/options.h`` ``expression_size_codepoint_limit``.
"""

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
    for each in tried:
        if not (whos := tuple(_write_whos(each, has_tls=has_tls))) or not (wheres := _write_wheres(each.networks)):
            continue
        if len(wheres) > 1:
            states.append(_state(_WHERE, NOBODY))
            states += [_state(_WHERE, f"%CEL({where} ? '{_INSIDE}' : '')%") for where in wheres]
            wheres = (f"filter_state['{_WHERE}'] == b'{_INSIDE}'",)
        by = quote_cel(str(each.source))
        states += [_state(VERDICT, f"%CEL({wheres[0]} && {who} ? {by} : '')%") for who in whos]
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


def _write_whos(authorization: Authorization, *, has_tls: bool) -> Iterator[str]:
    """Yield expressions in CEL, any of which holds for what the callers of ``authorization`` show. None fails where a
    certificate has no name of one form: what fails is written down as nobody's verdict, over one that was reached
    before."""
    match authorization.proof:
        case Proof.NOTHING:
            yield "true"
        case Proof.ANY_TLS if has_tls:
            yield "true"
        case Proof.IDENTITY if has_tls:
            if authorization.is_any:
                yield f"has({_DNS}) && {_DNS} != ''"
            for key, kind in ((_DNS, False), (_URI, True)):
                names = (quote_cel(name) for name in authorization.exact if is_uri(name) is kind)
                for listed in _write_lists(names):
                    yield f"has({key}) && {key} in {listed}"
            for suffix in authorization.suffixes:
                yield f"has({_DNS}) && {_DNS}.endsWith({quote_cel(suffix)})"
        case _:
            return


def _write_wheres(networks: Iterable[Network]) -> tuple[str, ...]:
    """Return expressions in CEL, any of which holds for callers from one of ``networks``; nothing for nobody.

    One network with so many exceptions that no expression can hold them lets in nobody.
    """
    networks = tuple(networks)
    if is_everywhere(networks):
        return ("true",)
    found = [*_write_places(each.cidr for each in networks if not each.excepts)]
    for network in networks:
        if network.excepts:
            [inside] = _write_places((network.cidr,))
            excepted = " || ".join(_write_places(network.excepts))
            if len(excepted) <= 4 * _MAX_LIST:
                found.append(f"{inside} && !({excepted})")
    packed: list[str] = []
    for each in found:
        if packed and len(packed[-1]) + len(each) <= _MAX_LIST:
            packed[-1] += f" || ({each})"
        else:
            packed.append(f"({each})")
    return tuple(f"({each})" for each in packed)


def _write_places(cidrs: Iterable[str]) -> Iterator[str]:
    """Yield expressions in CEL, any of which holds for addresses in one of ``cidrs``."""
    by_length: dict[int, list[str]] = {}
    for cidr in cidrs:
        for half in _halves(cidr):
            by_length.setdefault(half.prefixlen, []).append(f"b'{half}'")
    for length, texts in sorted(by_length.items()):
        for listed in _write_lists(texts):
            yield f"filter_state['{_net(length)}'] in {listed}"


def _write_lists(texts: Iterable[str]) -> Iterator[str]:
    """Yield lists in CEL that have all of ``texts`` between them, none of them very long."""
    listed: list[str] = []
    size = 0
    for text in texts:
        if listed and size + len(text) > _MAX_LIST:
            yield f"[{', '.join(listed)}]"
            listed, size = [], 0
        listed.append(text)
        size += len(text) + 2
    if listed:
        yield f"[{', '.join(listed)}]"


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
