"""Ranges of IP addresses.

Source: linkerd2 ``policy-controller/k8s/api/src/policy/network.rs`` Cidr, ``policy-controller/src/admission.rs``
``validate_networks``; the ipnet crate (``IpNet::from_str``) for what a CIDR is.
"""

import re
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Annotated, Any

from pydantic import Field
from pydantic.dataclasses import dataclass

from meshwright.model.policy import Network
from meshwright.model.problem import Problem, Reason
from meshwright.parse.shape import SHAPE, make_reader, quote, read_items

_INVALID = Reason.INVALID_OBJECT
_WRITTEN = re.compile(r"[0-9A-Fa-f.:]+(?:/[0-9]{1,3})?", re.ASCII)
_MAPPED = IPv6Network("::ffff:0:0/96")
_WANTED = "a CIDR such as 10.0.0.0/8 or fd00::/8, or an IP address"


@dataclass(frozen=True, slots=True, kw_only=True, config=SHAPE)
class _NetworkShape:
    cidr: Annotated[Any, Field(description=_WANTED)] = None
    except_: Annotated[Any, Field(alias="except")] = None


_read_network = make_reader(_NetworkShape, _INVALID, required=("cidr",))


def read_networks(raw: object, field: str, faults: list[Problem], problems: list[Problem]) -> tuple[Network, ...]:
    """Return the networks that a list holds, in order, each once. Never raises.

    ``faults`` gets what leaves one without a meaning: it is not returned, and the others must not be used without it.
    ``problems`` gets what is odd but has one, see ``read_cidr``.
    """
    networks = []
    for index, item in enumerate(read_items(raw, field, faults, _INVALID)):
        network = _make_network(item, f"{field}[{index}]", faults, problems)
        if network is not None:
            networks.append(network)
    return tuple(dict.fromkeys(networks))


def read_cidr(
    raw: object,
    field: str,
    faults: list[Problem],
    problems: list[Problem],
) -> IPv4Network | IPv6Network | None:
    """Return the range ``raw``: a CIDR, or one address; ``None``, with something in ``faults``, for anything else.

    Bits beyond the prefix count as zero, as in Linkerd, and ``problems`` says so. IPv4 addresses written as IPv6 are
    refused: a caller never has such an address, and so what they should keep out would get in.
    """
    if not isinstance(raw, str) or not _WRITTEN.fullmatch(raw):
        faults.append(Problem(field, _INVALID, f"found {quote(raw)}; write {_WANTED}"))
        return None
    try:
        network = ip_network(raw, strict=False)
    except ValueError:
        faults.append(Problem(field, _INVALID, f"found {quote(raw)}; write {_WANTED}"))
        return None
    if isinstance(network, IPv6Network) and network.subnet_of(_MAPPED):
        mapped = network.network_address.ipv4_mapped
        message = (
            f"found {quote(raw)}, IPv4 written as IPv6, which no caller has; write {mapped}/{network.prefixlen - 96}"
        )
        faults.append(Problem(field, _INVALID, message))
        return None
    if "/" in raw and ip_network(raw.partition("/")[0]).network_address != network.network_address:
        message = f"found {quote(raw)}, which has bits beyond its prefix and counts as {network}; write that"
        problems.append(Problem(field, _INVALID, message))
    return network


def _make_network(raw: object, field: str, faults: list[Problem], problems: list[Problem]) -> Network | None:
    before = len(faults)
    shape = _read_network(raw, field, faults)
    if shape is None:
        return None
    whole = read_cidr(shape.cidr, f"{field}.cidr", faults, problems) if shape.cidr is not None else None
    excepts = set()
    for index, item in enumerate(read_items(shape.except_, f"{field}.except", faults, _INVALID)):
        where = f"{field}.except[{index}]"
        part = read_cidr(item, where, faults, problems)
        if part is not None and whole is not None:
            _check_except(whole, part, where, faults)
            excepts.add(str(part))
    if whole is None or len(faults) > before:
        return None
    return Network(cidr=str(whole), excepts=tuple(sorted(excepts)))


def _check_except(
    whole: IPv4Network | IPv6Network,
    part: IPv4Network | IPv6Network,
    field: str,
    faults: list[Problem],
) -> None:
    if _contains(part, whole):
        message = f"found {part}, which leaves nothing of {whole}; write a smaller part of it"
        faults.append(Problem(field, _INVALID, message))
    elif not _contains(whole, part):
        faults.append(Problem(field, _INVALID, f"found {part}, which is not in {whole}; write a part of it"))


def _contains(outer: IPv4Network | IPv6Network, inner: IPv4Network | IPv6Network) -> bool:
    match outer, inner:
        case IPv4Network(), IPv4Network():
            return inner.subnet_of(outer)
        case IPv6Network(), IPv6Network():
            return inner.subnet_of(outer)
        case _:
            return False
