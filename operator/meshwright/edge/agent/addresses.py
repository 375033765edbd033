"""The addresses that a machine has, and those that it is reached at.

Source: ``rtnetlink(7)``, Linux ``include/uapi/linux/if_addr.h`` (the messages and flags).
"""

import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

_RTM_GETADDR, _RTM_NEWADDR, _NLMSG_DONE, _NLMSG_ERROR = 22, 20, 3, 2
_REQUEST_DUMP = 0x1 | 0x300
_IFA_ADDRESS, _IFA_LOCAL, _IFA_FLAGS = 1, 2, 8
_TEMPORARY, _DAD_FAILED, _DEPRECATED, _TENTATIVE = 0x01, 0x08, 0x20, 0x40
_UNFIT = _DAD_FAILED | _TENTATIVE
_HEADER, _ADDRESS, _ATTRIBUTE = struct.Struct("=IHHII"), struct.Struct("=BBBBI"), struct.Struct("=HH")
Ip = IPv4Address | IPv6Address


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """An address of this machine. ``is_secondary``: one of IPv6 that comes and goes, for privacy, or is about to
    go."""

    ip: Ip
    interface: str
    is_secondary: bool = False


def list_candidates() -> tuple[Candidate, ...]:
    """Return the machine's addresses in the kernel's order, but those of loopback and link-local ones.

    Raises:
        OSError: the kernel does not say.
    """
    names = dict(socket.if_nameindex())
    found: list[Candidate] = []
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0) as netlink:
        netlink.settimeout(2.0)
        netlink.bind((0, 0))
        body = _ADDRESS.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
        netlink.send(_HEADER.pack(_HEADER.size + len(body), _RTM_GETADDR, _REQUEST_DUMP, 1, 0) + body)
        while True:
            data = netlink.recv(65536)
            while len(data) >= _HEADER.size:
                length, kind, _, _, _ = _HEADER.unpack_from(data)
                if kind == _NLMSG_DONE:
                    return tuple(found)
                if kind == _NLMSG_ERROR or length < _HEADER.size:
                    raise OSError("the kernel does not list addresses")
                if kind == _RTM_NEWADDR and (read := _read(data[_HEADER.size : length], names)):
                    found.append(read)
                data = data[(length + 3) & ~3 :]


def _read(message: bytes, names: dict[int, str]) -> Candidate | None:
    family, _, flags, _, index = _ADDRESS.unpack_from(message)
    local = remote = b""
    at = _ADDRESS.size
    while at + _ATTRIBUTE.size <= len(message):
        length, kind = _ATTRIBUTE.unpack_from(message, at)
        if length < _ATTRIBUTE.size:
            break
        value = message[at + _ATTRIBUTE.size : at + length]
        if kind == _IFA_LOCAL:
            local = value
        elif kind == _IFA_ADDRESS:
            remote = value
        elif kind == _IFA_FLAGS and len(value) >= 4:
            (flags,) = struct.unpack_from("=I", value)
        at += (length + 3) & ~3
    packed = local or remote
    if family not in (socket.AF_INET, socket.AF_INET6) or len(packed) not in (4, 16):
        return None
    ip = ip_address(packed)
    if ip.is_loopback or ip.is_link_local or ip.is_multicast or ip.is_unspecified or flags & _UNFIT:
        return None
    is_secondary = family == socket.AF_INET6 and bool(flags & (_TEMPORARY | _DEPRECATED))
    return Candidate(ip=ip, interface=names.get(index, str(index)), is_secondary=is_secondary)


def find_route_source(host: str, port: int) -> tuple[str, ...]:
    """Return the addresses that connections to ``host`` come from, one of each IP version at most; none when there is
    no route to it, or its name is unknown. Nothing is sent but questions for the name. Never raises."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
    except OSError:
        return ()
    sources: dict[int, str] = {}
    for family, kind, _, _, place in found:
        if family in sources:
            continue
        with socket.socket(family, kind) as probe:
            try:
                probe.connect(place)
                sources[family] = str(probe.getsockname()[0]).partition("%")[0]
            except OSError:
                continue
    return tuple(sources.values())


def choose_addresses(
    candidates: Sequence[Candidate],
    *,
    explicit: Sequence[str] = (),
    interface: str = "",
    address_from: Sequence[str] = (),
    route: Sequence[str] = (),
) -> tuple[Candidate, ...]:
    """Return what the machine is reached at: one address of each IP version at most, IPv4 first. Never raises.

    By what is said first: ``explicit`` ones (be they on this machine, or translated to it by others), those of
    ``interface``, those in the ranges ``address_from``, else ``route``, where connections to the registrar come from;
    its interface gives the other IP version. Never simply the first interface.
    """
    if explicit:
        known = {candidate.ip: candidate.interface for candidate in candidates}
        given = [Candidate(ip=ip_address(each), interface=known.get(ip_address(each), "")) for each in explicit]
        return _one_of_each(given)
    if interface:
        return _one_of_each([each for each in candidates if each.interface == interface])
    if address_from:
        ranges = [ip_network(each, strict=False) for each in address_from]
        fitting = [[each for each in candidates if each.ip in one] for one in ranges]
        return _one_of_each([each for group in fitting for each in group])
    sources = [ip_address(each) for each in route]
    routed = [each for each in candidates if each.ip in sources]
    beside = {each.interface for each in routed}
    return _one_of_each([*routed, *(each for each in candidates if each.interface in beside)])


def is_own(host: str) -> bool:
    """Whether ``host`` is an address of this machine, or of its loopback. Names are not: they may be anybody's."""
    try:
        ip = ip_address(host)
        return ip.is_loopback or any(each.ip == ip for each in list_candidates())
    except (ValueError, OSError):
        return False


def _one_of_each(candidates: Sequence[Candidate]) -> tuple[Candidate, ...]:
    chosen: dict[int, Candidate] = {}
    for is_secondary in (False, True):
        for each in candidates:
            if each.is_secondary is is_secondary:
                chosen.setdefault(each.ip.version, each)
    return tuple(chosen[version] for version in sorted(chosen))


def describe(candidates: Sequence[Candidate]) -> str:
    """Return addresses for people: ``192.0.2.10 (eth0)``."""
    return (
        ", ".join(f"{each.ip} ({each.interface})" if each.interface else str(each.ip) for each in candidates) or "none"
    )
