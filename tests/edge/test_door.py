"""What a door looks at before anybody shakes hands."""

import resource

import pytest

from meshwright.edge.door import allow_connections, canonical


@pytest.mark.parametrize(
    ("address", "form"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("fe80::1%eth0", "fe80::1"),
        ("2001:DB8:0:0::1", "2001:db8::1"),
    ],
)
def test_an_address_has_one_form(address: str, form: str) -> None:
    assert canonical(address) == form


def test_there_are_as_many_connections_as_files_allow() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (1000, before[1]))
        assert allow_connections(100) == 100
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (1000, before[1])
        assert allow_connections(2000) == 2000
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (2512, before[1])
        if before[1] != resource.RLIM_INFINITY:
            assert allow_connections(before[1]) == before[1] - 512
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
