"""A machine's wish to join, judged: its name, its addresses, its labels and who it says it is.

What a machine claims beside its certificate is not trusted: each claim is only ever narrowed here.
"""

import hashlib
from base64 import b32encode
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)

from meshwright.model.config import LABEL_MANAGED_BY
from meshwright.model.enrollment import Claim, InstanceKey, Refusal, Turned
from meshwright.model.group import Group, Pairs
from meshwright.model.identity import TrustDomain
from meshwright.model.instance import LABEL_EXTERNAL, LABEL_ZONE, Template
from meshwright.model.units import Namespace
from meshwright.model.workload import Service

_IpAddress = IPv4Address | IPv6Address
_IpNetwork = IPv4Network | IPv6Network

_MAX_STEM = 48
_SUFFIX = 14
"""70 bits: machines choose their uids, and none should find one that gives it another machine's name."""
_MAX_NAME = 253
_MAX_LABEL = 63
_MAX_NONCE_HASH = 16
_MAX_SHOWN = 60
_OWN_DOMAIN = "meshwright.dev"

_METADATA = frozenset(
    ip_address(text) for text in ("169.254.169.254", "fd00:ec2::254", "168.63.129.16", "100.100.100.200", "192.0.0.192")
)
"""Where clouds tell machines about themselves.

Source: AWS "Instance metadata" (IPv4 and IPv6), Azure "What is IP address 168.63.129.16", Alibaba Cloud "View instance
metadata", Oracle Cloud "Getting Instance Metadata".
"""

_THIS_NETWORK = ip_network("0.0.0.0/8")
"""Source: RFC 791 section 3.2; Linux takes all of it for the machine itself or for nobody."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """The addresses that stand: canonical texts, at most one of each family, IPv4 first. ``warnings``: sentences about
    claims that were passed over."""

    ips: tuple[str, ...]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentLabels:
    """The labels that a machine may set, sorted, the keys of those that it may not, sorted, and sentences about
    them."""

    kept: Pairs
    dropped: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def make_workload_name(namespace: Namespace, group: str, uid: str) -> str:
    """Return the name of a machine's ExternalWorkload: ``ledger-k3v9q2m7xapd4h``.

    At most 63 characters, a DNS label, and always the same for the same machine, whatever its addresses are.
    """
    digest = hashlib.sha256(f"{namespace}\0{group}\0{uid}".encode()).digest()
    stem = group[:_MAX_STEM].replace(".", "-").rstrip("-")
    return f"{stem}-{b32encode(digest).decode().lower()[:_SUFFIX]}"


def hash_nonce(nonce: str) -> str:
    """Return what is kept of the nonce of an agent's run: 16 hexadecimal digits."""
    return hashlib.sha256(nonce.encode()).hexdigest()[:_MAX_NONCE_HASH]


def check_identity(identity: str, server_name: str) -> Refusal | None:
    """Return why a machine cannot be written down under these names, ``None`` when it can.

    An ExternalWorkload takes 253 characters of each; SPIFFE has longer ones. The server name is sent as SNI and is in
    the machine's certificate, so it must be a host name.

    Source: linkerd2 ``charts/linkerd-crds/templates/workload/external-workload.yaml`` (meshTLS); RFC 1035 section
    2.3.4 (63 characters between dots).
    """
    for what, name in (("identity", identity), ("server name", server_name)):
        if len(name) > _MAX_NAME:
            found = f"found {what} {_shorten(name)} of {len(name)} characters; an ExternalWorkload holds at most 253"
            advice = "give the machine a shorter SPIFFE ID" if what == "identity" else "give the group a shorter name"
            return Refusal(reason=Turned.BAD_IDENTITY, message=f"{found}: {advice}")
    if any(not 0 < len(label) <= _MAX_LABEL for label in server_name.split(".")):
        message = f"found server name {_shorten(server_name)}, part of which is longer than 63 characters"
        return Refusal(reason=Turned.BAD_IDENTITY, message=f"{message}: give the group a shorter name")
    return None


def is_allowed_identity(patterns: Iterable[str], name: str) -> bool:
    """Return whether any pattern is of ``name``: the whole of it, its beginning before a last ``*``, or its end after
    a first ``*.``, which stands for at least one character. A pattern of the last form is for host names, and never of
    a URI.

    Source of the two stars: SPIRE's and Istio's principals (prefix), linkerd2 MeshTLSAuthentication (suffix).
    """
    return bool(name) and any(_is_of(pattern, name) for pattern in patterns)


def read_machine(trust: TrustDomain, identity: str) -> InstanceKey | None:
    """Return which machine of ours ``identity`` was made for (`TrustDomain.machine_uri`), ``None`` when it is not of
    that form. Never raises."""
    if not identity.startswith(trust.uri_prefix):
        return None
    match identity.removeprefix(trust.uri_prefix).split("/"):
        case ["ns", namespace, "external", group, uid] if namespace and group and uid:
            return InstanceKey(Namespace(namespace), group, uid)
        case _:
            return None


def filter_labels(
    claimed: Pairs, template: Pairs, allowed: Sequence[str], services: Iterable[Service] = ()
) -> AgentLabels:
    """Return what becomes of the labels that a machine wants to have.

    The template's labels stand, whatever the machine says; then those whose keys are ``allowed``. Nothing else: a
    label decides which Services and which policies select the machine. Ours cannot be had at all. ``services``: those
    of its namespace, to say which of them a dropped label would have joined.
    """
    fixed, kept, warnings = dict(template), [], []
    selectors = [service for service in services if service.selector]
    dropped = set()
    for key, value in claimed:
        domain = key.partition("/")[0] if "/" in key else ""
        is_ours = key == LABEL_MANAGED_BY or domain == _OWN_DOMAIN or domain.endswith(f".{_OWN_DOMAIN}")
        if key in fixed:
            if fixed[key] == value:
                continue
            warnings.append(f"label {_shorten(key)} is dropped: the group's template sets it to {fixed[key]}")
        elif is_ours:
            warnings.append(f"label {_shorten(key)} is dropped: it is meshwright's own")
        elif key in allowed:
            kept.append((key, value))
            continue
        else:
            taken = sorted(str(each.name) for each in selectors if any(key == by for by, _ in each.selector or ()))
            by = f" (Service {taken[0]} selects by it)" if taken else ""
            advice = "list it under allowedLabels of the group's RegistrationPolicy, or put it into the template"
            warnings.append(f"label {_shorten(key)} is dropped{by}: {advice}")
        dropped.add(key)
    return AgentLabels(kept=tuple(sorted(kept)), dropped=tuple(sorted(dropped)), warnings=tuple(warnings))


def make_template(group: Group, zone: str = "") -> Template:
    """Return what machines of ``group`` are made of now. ``zone``: that of its policy, where the template names none,
    ``""`` without one. What is ours cannot be set by a template."""
    labels = {**({LABEL_ZONE: zone} if zone else {}), **dict(group.labels)}
    return Template(
        labels=tuple(sorted(pair for pair in labels.items() if pair[0] not in (LABEL_MANAGED_BY, LABEL_EXTERNAL))),
        annotations=tuple(pair for pair in group.annotations if not pair[0].startswith(f"{_OWN_DOMAIN}/")),
        ports=group.ports,
        hash=group.template_hash,
    )


def normalize_address(text: str) -> str | None:
    """Return the canonical text of an address, ``None`` when ``text`` is none. A zone (``fe80::1%eth0``) is dropped;
    an IPv4 address in the form of an IPv6 address (``::ffff:192.0.2.1``) becomes what it is.

    Source: RFC 4291 section 2.5.5.2, RFC 4007 section 11.
    """
    address = _read_address(text)
    return None if address is None else str(address)


def check_addresses(
    claims: Sequence[Claim],
    *,
    observed: str,
    allowed: Sequence[str] = (),
    address_from: Sequence[str] = (),
    forbidden: Sequence[str] = (),
) -> Chosen | Refusal:
    """Return which of the addresses that a machine claims stand for it, or why none can.

    ``observed``: where its call comes from. ``allowed``: CIDRs where addresses must be, ``()`` for anywhere.
    ``address_from``: CIDRs to choose by. ``forbidden``: CIDRs of pods and Services: whoever had an address of theirs
    would receive what is meant for them.

    Of several of one family: the first in the first of ``address_from`` that holds any, then the one that the call
    comes from, else the first claimed. An address that can only be a mistake or an attack refuses the whole call; one
    that is merely of no use (of the link, outside ``allowed``) is passed over while another stands.
    """
    standing: list[_IpAddress] = []
    faults, warnings = [], []
    for claim in claims:
        address = _read_address(claim.ip)
        if address is None:
            return _refuse(f"found {_shorten(claim.ip)}, which is no address; write IPv4 or IPv6 addresses")
        if (what := _find_forbidden(address, forbidden)) is not None:
            return _refuse(
                f"found {_name(claim, address)}, {what}; give the address by which the cluster reaches the machine"
            )
        if (fault := _find_useless(address, allowed)) is not None:
            faults.append(f"{_name(claim, address)} {fault}")
        elif address not in standing:
            standing.append(address)
    if not standing:
        found = "; ".join(faults) if faults else "no address is given"
        return _refuse(f"{found}; give the address by which the cluster reaches the machine, or allow its range")
    source = _read_address(observed)
    chosen: list[_IpAddress] = []
    for version in (4, 6):
        of_family = [address for address in standing if address.version == version]
        if not of_family:
            continue
        best = _choose(of_family, source, address_from)
        chosen.append(best)
        others = ", ".join(str(address) for address in of_family if address != best)
        if others:
            warnings.append(f"of its IPv{version} addresses {best} is used and {others} is not")
    warnings += [f"{fault}, and is not used" for fault in faults]
    return Chosen(ips=tuple(str(address) for address in chosen), warnings=tuple(warnings))


def is_in_ranges(ips: Iterable[str], ranges: Sequence[str]) -> bool:
    """Return whether there are ranges, and each address is in one of them."""
    return bool(ranges) and all(_is_in(ip_address(ip), ranges) for ip in ips)


def _choose(found: Sequence[_IpAddress], source: _IpAddress | None, address_from: Sequence[str]) -> _IpAddress:
    for cidr in address_from:
        for address in found:
            if _is_in(address, (cidr,)):
                return address
    return source if source is not None and source in found else found[0]


def _find_forbidden(address: _IpAddress, forbidden: Sequence[str]) -> str | None:
    """Return what an address is that no machine may have, ``None`` when it may.

    Source: kubernetes ``pkg/apis/core/validation/validation.go`` ValidateNonSpecialIP; RFC 4291 section 2.4 and RFC
    1112 section 4 (reserved space, with the broadcast address and IPv6 forms that only stand for IPv4).
    """
    if address.is_loopback:
        return "the machine's own loopback"
    if address in _METADATA:
        return "a cloud's metadata service"
    if address.is_unspecified or address in _THIS_NETWORK:
        return "which stands for no machine"
    if address.is_multicast:
        return "a multicast address"
    if address.is_reserved:
        return "a reserved or broadcast address"
    if _is_in(address, forbidden):
        return "which is inside the cluster's own ranges of pods and Services"
    return None


def _find_useless(address: _IpAddress, allowed: Sequence[str]) -> str | None:
    if address.is_link_local:
        return "is only known on the machine's own link"
    if allowed and not _is_in(address, allowed):
        return "is outside the ranges that the group's RegistrationPolicy allows"
    return None


def _read_address(text: str) -> _IpAddress | None:
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return address.ipv4_mapped or address if isinstance(address, IPv6Address) else address


@lru_cache(maxsize=4096)
def _read_network(cidr: str) -> _IpNetwork | None:
    try:
        return ip_network(cidr, strict=False)
    except ValueError:
        return None


def _is_in(address: _IpAddress, cidrs: Iterable[str]) -> bool:
    networks = (_read_network(cidr) for cidr in cidrs)
    return any(network is not None and address in network for network in networks)


def _is_of(pattern: str, name: str) -> bool:
    if pattern.endswith("*"):
        return name.startswith(pattern[:-1])
    if pattern.startswith("*."):
        return "://" not in name and name.endswith(pattern[1:]) and len(name) > len(pattern) - 1
    return name == pattern


def _name(claim: Claim, address: _IpAddress) -> str:
    where = f" of {_shorten(claim.interface)}" if claim.interface else ""
    as_written = f" (written {_shorten(claim.ip)})" if claim.ip != str(address) else ""
    return f"{address}{where}{as_written}"


def _refuse(message: str) -> Refusal:
    return Refusal(reason=Turned.BAD_ADDRESS, message=message)


def _shorten(text: str) -> str:
    shown = text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}…"
    return shown.encode(errors="backslashreplace").decode()
