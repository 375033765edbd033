"""Rules for iptables, as texts. What the kernel makes of them is tested in tests/edge."""

from dataclasses import replace
from ipaddress import ip_network

import pytest

from meshwright.emit.redirect import (
    Redirect,
    emit_removal,
    emit_restore,
    emit_rules,
    has_rules,
    is_as_wished,
    select_own,
)
from meshwright.model.pod import PortRanges
from meshwright.model.units import Port

PLAIN = Redirect(
    inbound_port=Port(4143),
    outbound_port=Port(4140),
    proxy_uid=2102,
    skip_inbound=PortRanges(((Port(4191), Port(4191)),)),
    skip_outbound=PortRanges(),
)
RULES = (
    "-A PREROUTING -p tcp -j MESHWRIGHT_INBOUND",
    "-A OUTPUT -p tcp -j MESHWRIGHT_OUTBOUND",
    "-A MESHWRIGHT_INBOUND -p tcp -m multiport --dports 4191 -j RETURN",
    "-A MESHWRIGHT_INBOUND -p tcp -j REDIRECT --to-ports 4143",
    "-A MESHWRIGHT_OUTBOUND -m owner --uid-owner 2102 -j RETURN",
    "-A MESHWRIGHT_OUTBOUND -o lo -j RETURN",
    "-A MESHWRIGHT_OUTBOUND -p tcp -j REDIRECT --to-ports 4140",
)
EMPTY = """\
*nat
:PREROUTING ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
COMMIT
"""
OTHERS = ("-A PREROUTING -p tcp -m tcp --dport 99 -j DNAT --to-destination 10.0.0.1", "-A OUTPUT -j THEIRS")


def saved(*rules: str) -> str:
    chains = ":MESHWRIGHT_INBOUND - [0:0]\n:MESHWRIGHT_OUTBOUND - [0:0]\n" if rules else ""
    return EMPTY.replace("COMMIT", "\n".join((chains + "\n".join(rules), "COMMIT")))


def ports(*ranges: tuple[int, int]) -> PortRanges:
    return PortRanges(tuple((Port(low), Port(high)) for low, high in ranges))


@pytest.mark.parametrize("version", [4, 6])
def test_all_connections_are_redirected_but_the_proxys_and_those_within_the_pod(version: int) -> None:
    assert emit_rules(PLAIN, version) == RULES


def test_ports_and_subnets_are_returned_before_the_rest_is_redirected() -> None:
    redirect = replace(
        PLAIN,
        skip_inbound=ports((4191, 4191), (9000, 9010)),
        skip_outbound=ports((25, 25)),
        skip_subnets=tuple(map(ip_network, ("10.1.0.0/16", "fd00::/8", "1.2.3.4/32"))),
    )
    assert emit_rules(redirect, 4)[2:] == (
        "-A MESHWRIGHT_INBOUND -s 10.1.0.0/16 -j RETURN",
        "-A MESHWRIGHT_INBOUND -s 1.2.3.4/32 -j RETURN",
        "-A MESHWRIGHT_INBOUND -p tcp -m multiport --dports 4191,9000:9010 -j RETURN",
        "-A MESHWRIGHT_INBOUND -p tcp -j REDIRECT --to-ports 4143",
        "-A MESHWRIGHT_OUTBOUND -m owner --uid-owner 2102 -j RETURN",
        "-A MESHWRIGHT_OUTBOUND -o lo -j RETURN",
        "-A MESHWRIGHT_OUTBOUND -d 10.1.0.0/16 -j RETURN",
        "-A MESHWRIGHT_OUTBOUND -d 1.2.3.4/32 -j RETURN",
        "-A MESHWRIGHT_OUTBOUND -p tcp -m multiport --dports 25 -j RETURN",
        "-A MESHWRIGHT_OUTBOUND -p tcp -j REDIRECT --to-ports 4140",
    )
    assert "-A MESHWRIGHT_OUTBOUND -d fd00::/8 -j RETURN" in emit_rules(redirect, 6)
    everything = replace(PLAIN, skip_subnets=(ip_network("0.0.0.0/0"),))
    assert "-A MESHWRIGHT_INBOUND -j RETURN" in emit_rules(everything, 4)


@pytest.mark.parametrize(
    ("ranges", "lists"),
    [
        ([(port, port) for port in range(1, 31, 2)], ["1,3,5,7,9,11,13,15,17,19,21,23,25,27,29"]),
        ([(port, port) for port in range(1, 33, 2)], ["1,3,5,7,9,11,13,15,17,19,21,23,25,27,29", "31"]),
        (
            [*((port, port) for port in range(1, 29, 2)), (40, 50)],
            ["1,3,5,7,9,11,13,15,17,19,21,23,25,27", "40:50"],
        ),
        ([], []),
    ],
)
def test_a_rule_has_no_more_ports_than_the_kernel_takes(ranges: list[tuple[int, int]], lists: list[str]) -> None:
    rules = emit_rules(replace(PLAIN, skip_outbound=ports(*ranges)), 4)
    assert [rule.split()[7] for rule in rules if "OUTBOUND" in rule and "--dports" in rule] == lists


def test_what_leads_to_our_chains_is_taken_away_as_often_as_it_is_there() -> None:
    jump = "-A OUTPUT -p tcp -m tcp -j MESHWRIGHT_OUTBOUND"
    text = emit_restore(RULES, saved(*OTHERS, RULES[0], jump, jump, *RULES[2:]))
    assert text.splitlines() == [
        "*nat",
        ":MESHWRIGHT_INBOUND - [0:0]",
        ":MESHWRIGHT_OUTBOUND - [0:0]",
        "-D PREROUTING -p tcp -j MESHWRIGHT_INBOUND",
        "-D OUTPUT -p tcp -m tcp -j MESHWRIGHT_OUTBOUND",
        "-D OUTPUT -p tcp -m tcp -j MESHWRIGHT_OUTBOUND",
        *RULES,
        "COMMIT",
    ]


@pytest.mark.parametrize(
    ("rules", "wished"),
    [
        (RULES, True),
        ((*OTHERS, *RULES), True),
        (tuple(rule.replace("-p tcp -j MESH", "-p tcp -m tcp -j MESH") for rule in RULES), True),
        ((*RULES[2:], *RULES[:2]), True),
        (RULES[:-1], False),
        (RULES[1:], False),
        ((*RULES, RULES[0]), False),
        ((*RULES, RULES[-1]), False),
        ((*RULES[:4], RULES[5], RULES[4], RULES[6]), False),
        ((), False),
    ],
)
def test_rules_in_place_are_told_from_others(rules: tuple[str, ...], wished: bool) -> None:
    assert is_as_wished(RULES, saved(*rules)) is wished


def test_removal_takes_ours_and_leaves_the_rest() -> None:
    assert emit_removal(EMPTY) == emit_removal(saved(*OTHERS).replace("MESHWRIGHT_", "THEIR_")) == ""
    assert emit_removal(saved(*OTHERS, *RULES)).splitlines() == [
        "*nat",
        ":MESHWRIGHT_INBOUND - [0:0]",
        ":MESHWRIGHT_OUTBOUND - [0:0]",
        "-D PREROUTING -p tcp -j MESHWRIGHT_INBOUND",
        "-D OUTPUT -p tcp -j MESHWRIGHT_OUTBOUND",
        "-X MESHWRIGHT_INBOUND",
        "-X MESHWRIGHT_OUTBOUND",
        "COMMIT",
    ]


def test_others_rules_are_seen_but_are_not_ours() -> None:
    assert select_own(saved(*OTHERS)) == ()
    assert has_rules(saved(*OTHERS))
    assert not has_rules(EMPTY)
