"""Whether one authorization lets a caller in, and if not, the first reason why."""

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from meshwright.model.inbound import LOOPBACK, Authorization
from meshwright.model.policy import Network, Proof
from meshwright.model.request import Caller

Address = IPv4Address | IPv6Address
_FEW = 3


def find_fault(authorization: Authorization, caller: Caller) -> str | None:
    """Return the first reason why ``authorization`` does not let ``caller`` in, as a sentence; ``None`` when it does.

    In the order network, exception, TLS, identity.

    Raises:
        ValueError: the caller's address is none.

    Source: linkerd2 ``policy-controller/core/src/network_match.rs`` (exceptions hold for their own element only),
    ``identity_match.rs`` (wildcards are for DNS names, never for SPIFFE).
    """
    if (fault := _find_network_fault(authorization.networks, read_address(caller.address))) is not None:
        return fault
    has_tls = caller.has_tls or bool(caller.dns or caller.uri)
    match authorization.proof:
        case Proof.NOTHING:
            return None
        case Proof.ANY_TLS:
            return None if has_tls else "the connection is not TLS of the mesh"
        case Proof.IDENTITY:
            return _find_identity_fault(authorization, caller, has_tls=has_tls)


def read_address(text: str) -> Address:
    """Return an address as proxies compare it: an IPv4 address that is written as IPv6 is the IPv4 address.

    Raises:
        ValueError: it is none.
    """
    address = ip_address(text)
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return address if mapped is None else mapped


def is_within(networks: Iterable[Network], address: Address) -> bool:
    """Return whether ``address`` is in any of ``networks``, and not excepted there."""
    return any(_holds(each.cidr, address) and not _excepting(each, address) for each in networks)


def is_local(caller: Caller) -> bool:
    """Return whether the caller is the workload itself.

    Raises:
        ValueError: its address is none.
    """
    return is_within(LOOPBACK, read_address(caller.address))


def _find_network_fault(networks: Sequence[Network], address: Address) -> str | None:
    if not networks:
        return "it names no network"
    if is_within(networks, address):
        return None
    found = next((each for each in networks if _holds(each.cidr, address)), None)
    if found is None:
        return f"{address} is outside {_write([each.cidr for each in networks])}"
    return f"{address} is in {found.cidr}, but excepted there ({_excepting(found, address)})"


def _excepting(network: Network, address: Address) -> str:
    """Return the exception that ``address`` falls under, ``""`` when there is none."""
    return next((cidr for cidr in network.excepts if _holds(cidr, address)), "")


def _holds(cidr: str, address: Address) -> bool:
    return address in ip_network(cidr)


def _find_identity_fault(authorization: Authorization, caller: Caller, *, has_tls: bool) -> str | None:
    exact, suffixes = authorization.exact, authorization.suffixes
    if caller.dns:
        is_named = any(caller.dns.endswith(each) and len(caller.dns) > len(each) for each in suffixes)
        if authorization.is_any or caller.dns in exact or is_named:
            return None
    if caller.uri and caller.uri in exact:
        return None
    wanted = [*exact, *(f"*{each}" for each in suffixes), *(["*"] if authorization.is_any else [])]
    if not wanted:
        return "it names no identity"
    if not has_tls:
        return "the connection is not TLS of the mesh, so the caller has no identity"
    if not (caller.dns or caller.uri):
        return "the caller has no identity"
    if not caller.dns and not any(each.startswith("spiffe:") for each in exact):
        return f"{caller.uri} is a SPIFFE identity, and {_write(wanted)} covers DNS names only"
    return f"{caller.dns or caller.uri} is not {_write(wanted)}"


def _write(texts: Sequence[str]) -> str:
    """Return some texts as a list of alternatives, the first few."""
    if len(texts) > _FEW:
        return f"{', '.join(texts[:_FEW])} or {len(texts) - _FEW} more"
    return " or ".join(filter(None, (", ".join(texts[:-1]), texts[-1])))
