"""The flag that says which ports usually are not HTTP: for who delivers and for who judges routes, who must agree."""

import argparse

from meshwright.edge.flags import Add
from meshwright.model.proxy import DEFAULT_OPAQUE_PORTS
from meshwright.model.units import Port
from meshwright.parse.ports import parse_usual_ports


def add_opaque_ports(add: Add) -> None:
    """Add ``--opaque-ports``; its value is a tuple of ports."""
    add(
        "--opaque-ports",
        ",".join(map(str, DEFAULT_OPAQUE_PORTS)),
        "ports that are not HTTP where no Service, pod or namespace says; xds and operator must agree",
        type=_read,
        metavar="PORTS",
    )


def _read(text: str) -> tuple[Port, ...]:
    try:
        return parse_usual_ports(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"found {text!r}; write {error}") from error
