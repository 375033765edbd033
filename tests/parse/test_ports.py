"""Lists of ports in annotations and flags."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshwright.model.units import Port
from meshwright.parse.ports import find_port_faults, parse_port_list

NAMES = {"web": Port(8080), "80": Port(81)}


@pytest.mark.parametrize(
    ("text", "ports", "faults"),
    [
        ("", "", ()),
        ("  ", "", ()),
        (",, ,", "", ()),
        ("80", "81", ()),
        ("443", "443", ()),
        (" 443 , 8443 ", "443,8443", ()),
        ("4567,4568", "4567-4568", ()),
        ("9000-9010,9005-9020,9021", "9000-9021", ()),
        ("3000,1000,2000", "1000,2000,3000", ()),
        ("1-65535", "1-65535", ()),
        ("web", "8080", ()),
        ("web,443", "443,8080", ()),
        (
            "443,0,65536,nobody,9-8,-5,5-,1 - 2,+7,٣",
            "443",
            ("0", "65536", "nobody", "9-8", "-5", "5-", "1 - 2", "+7", "٣"),
        ),
        ("443;80", "", ("443;80",)),
        ("1-2-3,000443", "", ("1-2-3", "000443")),
        ("00443", "443", ()),
    ],
)
def test_good_elements_count_and_bad_ones_are_named(text: str, ports: str, faults: tuple[str, ...]) -> None:
    assert str(parse_port_list(text, NAMES)) == ports
    assert find_port_faults(text, NAMES) == faults


@given(st.sets(st.integers(1, 65535), max_size=30))
def test_a_list_holds_what_it_lists_and_reads_back_as_itself(numbers: set[int]) -> None:
    found = parse_port_list(",".join(map(str, numbers)))
    assert {port for low, high in found.ranges for port in range(low, high + 1)} == numbers
    assert parse_port_list(str(found)) == found


@given(st.text(max_size=40))
def test_any_text_is_read(text: str) -> None:
    assert parse_port_list(text, NAMES).ranges == tuple(sorted(parse_port_list(text, NAMES).ranges))
