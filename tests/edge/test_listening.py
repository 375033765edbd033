"""Servers that are told no address answer at all of them."""

import socket

import pytest

from meshwright.edge.http import listen
from meshwright.edge.hub import Hub
from meshwright.edge.xds import serve_hub
from tests.edge.shelf import Shelf

needs_ipv6 = pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
EVERY = pytest.mark.parametrize("address", ["127.0.0.1", pytest.param("::1", marks=needs_ipv6)])


def reach(address: str, port: int) -> str:
    """Return the family that the other end of a new connection was reached by."""
    with socket.create_connection((address, port), timeout=60) as connection:
        return connection.family.name


@EVERY
def test_without_a_host_both_families_are_listened_to(address: str) -> None:
    with listen("", 0) as listener:
        assert reach(address, listener.getsockname()[1])


def test_with_a_host_only_that_is() -> None:
    with listen("127.0.0.1", 0) as listener:
        assert listener.getsockname()[0] == "127.0.0.1"
        with pytest.raises(OSError):
            reach("127.0.0.2", listener.getsockname()[1])


@EVERY
async def test_delivery_listens_at_every_address_too(address: str) -> None:
    async with serve_hub(Hub(Shelf()), "", 0, grace=0, drain=0) as port:
        assert reach(address, port)
