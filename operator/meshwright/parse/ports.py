"""Lists of ports, as annotations and flags write them: ``"80,8080-8090,metrics"``."""

import re
from collections.abc import Iterable, Mapping

from meshwright.model.pod import PortRanges
from meshwright.model.units import Port

_NUMBERS = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?", re.ASCII)
_LAST = 65535
MAX_USUAL_PORTS = 100
_NO_NAMES: Mapping[str, Port] = {}


def parse_port_list(text: str, names: Mapping[str, Port] = _NO_NAMES) -> PortRanges:
    """Return the ports that ``text`` lists: numbers, ascending ranges and ``names``, with commas. Never raises.

    Blanks around an element are ignored, and so are empty elements. An element that is wrong is left out, the others
    count: `find_port_faults` names it. A name goes before a number, should a port be called by one.

    Source: linkerd2 ``pkg/util/parsing.go`` ParseContainerOpaquePorts; linkerd2-proxy-init ``ports/ports.go``
    ParsePortRange.
    """
    found = (_read_element(element, names) for element in _split(text))
    return merge_ports(each for each in found if each is not None)


def find_port_faults(text: str, names: Mapping[str, Port] = _NO_NAMES) -> tuple[str, ...]:
    """Return the elements of a list that `parse_port_list` leaves out, as written, in order. Never raises."""
    return tuple(element for element in _split(text) if _read_element(element, names) is None)


def parse_usual_ports(text: str) -> tuple[Port, ...]:
    """Return the ports that a flag lists, sorted, each once: numbers and ascending ranges, with commas; ``""`` is none.

    Raises:
        ValueError: an element is no port, or there are more than ``MAX_USUAL_PORTS``: each is a rule in every proxy.
    """
    if faults := find_port_faults(text):
        raise ValueError(f"ports and ranges such as 25,3306,9300-9302: {faults[0]!r} is neither")
    ranges = parse_port_list(text).ranges
    if sum(high - low + 1 for low, high in ranges) > MAX_USUAL_PORTS:
        raise ValueError(f"at most {MAX_USUAL_PORTS} ports")
    return tuple(Port(port) for low, high in ranges for port in range(low, high + 1))


def merge_ports(ranges: Iterable[tuple[Port, Port]]) -> PortRanges:
    """Return the union of ``ranges``; equal sets of ports give equal values."""
    merged: list[tuple[Port, Port]] = []
    for low, high in sorted(ranges):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(merged[-1][1], high))
        else:
            merged.append((low, high))
    return PortRanges(tuple(merged))


def _split(text: str) -> list[str]:
    return [stripped for element in text.split(",") if (stripped := element.strip())]


def _read_element(element: str, names: Mapping[str, Port]) -> tuple[Port, Port] | None:
    if (port := names.get(element)) is not None:
        return port, port
    if not (matched := _NUMBERS.fullmatch(element)):
        return None
    low, high = int(matched[1]), int(matched[2] or matched[1])
    return (Port(low), Port(high)) if 1 <= low <= high <= _LAST else None
