"""Addresses and ports on this machine's loopback, for Services and pods that have no network of their own."""

import contextlib
import socket
from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path

from meshwright.edge.offline import draw_address
from meshwright.model.units import Port

_FIRST_BLOCK, _BLOCKS = 16, 64
_UNPRIVILEGED = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")


class NoRoomError(Exception):
    """This machine has no loopback addresses left to give out."""


class Block:
    """A part of 127.0.0.0/8 that belongs to this process: ``127.<number>.0.0/16``. ``close()`` gives it back.

    A name's address is the same on every run, as long as the block is. Linux only: elsewhere only 127.0.0.1 is there.
    """

    def __init__(self) -> None:
        """Take the first block that no other process has.

        Raises:
            NoRoomError: all are taken, or this is no Linux.
        """
        self._claim = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        for number in range(_FIRST_BLOCK, _FIRST_BLOCK + _BLOCKS):
            with contextlib.suppress(OSError):
                # An abstract socket is gone with the process, however it ends.
                self._claim.bind(f"\0meshwright-dev-127.{number}")
                break
        else:
            self._claim.close()
            raise NoRoomError(
                "no loopback addresses are left: is this Linux, and is `meshwright dev` running elsewhere?"
            )
        self._services = ip_network(f"127.{number}.0.0/17")
        self._pods = ip_network(f"127.{number}.128.0/17")
        self._drawn: dict[str, str] = {}
        self._taken: set[str] = set()

    def service(self, name: str) -> str:
        """Return the address of a Service, always the same for the same name."""
        return self._draw(f"service {name}", self._services)

    def pod(self, name: str) -> str:
        """Return the address of a pod or a machine, likewise."""
        return self._draw(f"pod {name}", self._pods)

    def close(self) -> None:
        self._claim.close()

    def _draw(self, key: str, network: IPv4Network | IPv6Network) -> str:
        if key not in self._drawn:
            self._drawn[key] = draw_address(key, network, self._taken)
        return self._drawn[key]


def lowest_free_port() -> int:
    """Return the lowest port that may be listened on without root: ``net.ipv4.ip_unprivileged_port_start``."""
    try:
        return int(_UNPRIVILEGED.read_text())
    except (OSError, ValueError):
        return 1024


def shift(port: int, lowest: int, offset: int) -> Port:
    """Return ``port``, or ``offset`` more where it is below ``lowest``."""
    shifted = port if port >= lowest else port + offset
    return Port(shifted if shifted < 65536 else port)


def any_port(address: str) -> Port:
    """Return a port that is free at ``address`` now.

    Raises:
        NoRoomError: none is.
    """
    if (port := find_port(address, (0,))) is None:
        raise NoRoomError(f"no port is free at {address}")
    return port


def find_port(address: str, wanted: Iterable[int]) -> Port | None:
    """Return the first of the ``wanted`` ports that is free at ``address``, ``None`` when none is."""
    family = socket.AF_INET6 if ip_address(address).version == 6 else socket.AF_INET
    for port in wanted:
        if 0 <= port < 65536:
            with socket.socket(family) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                with contextlib.suppress(OSError):
                    probe.bind((address, port))
                    return Port(probe.getsockname()[1])
    return None


def is_loopback(text: str) -> bool:
    try:
        return ip_address(text).is_loopback
    except ValueError:
        return False
