"""Names of resources: what they stand for, and back."""

from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshwright.emit.names import Address, ServicePortName, parse_name
from meshwright.emit.typed import seconds, socket_address
from meshwright.model.ref import ServiceName
from meshwright.model.units import Namespace, Port

ports = st.integers(min_value=1, max_value=65535).map(Port)
labels = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,20}[a-z0-9])?", fullmatch=True)
addresses = st.builds(Address, st.ip_addresses().map(str), ports)
service_ports = st.builds(ServicePortName, st.builds(ServiceName, labels.map(Namespace), labels), ports)


@given(st.one_of(addresses, service_ports))
def test_every_name_reads_back_as_itself(name: Address | ServicePortName) -> None:
    assert parse_name(str(name)) == name


@given(st.text(max_size=40))
def test_no_text_breaks_it(text: str) -> None:
    found = parse_name(text)
    assert found is None or str(found) == text or isinstance(found, Address | ServicePortName)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a",
        "a/b",
        "a/b/c",
        "a/b/0",
        "a/b/65536",
        "a//80",
        "/b/80",
        "a/b/80/c",
        "mesh/blackhole",
        "host:80",
        "::1:80",
    ],
)
def test_other_texts_are_no_names(text: str) -> None:
    assert parse_name(text) is None


@pytest.mark.parametrize(
    ("address", "text"),
    [
        (Address(str(IPv4Address("10.96.0.10")), Port(80)), "10.96.0.10:80"),
        (Address(str(IPv6Address("fd00::10")), Port(443)), "[fd00::10]:443"),
    ],
)
def test_addresses_are_written_as_envoy_prints_them(address: Address, text: str) -> None:
    assert str(address) == text


@pytest.mark.parametrize(
    ("millis", "text"), [(0, "0s"), (5, "0.005s"), (250, "0.250s"), (1000, "1s"), (1500, "1.500s")]
)
def test_durations_end_in_s(millis: int, text: str) -> None:
    assert seconds(millis) == text


def test_only_the_wildcard_of_ipv6_takes_ipv4_too() -> None:
    assert socket_address("::", 80) == {
        "socket_address": {"address": "::", "port_value": 80, "ipv4_compat": True},
    }
    assert socket_address("::1", 80) == {"socket_address": {"address": "::1", "port_value": 80}}
