"""What a machine may be called, where it may be, which labels it may have, and who it may be."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshwright.link.enroll import (
    AgentLabels,
    Chosen,
    check_addresses,
    check_identity,
    filter_labels,
    hash_nonce,
    is_allowed_identity,
    is_in_ranges,
    make_template,
    make_workload_name,
    normalize_address,
    read_machine,
)
from meshwright.model.enrollment import Claim, InstanceKey, Refusal, Turned
from meshwright.model.group import Group
from meshwright.model.identity import TrustDomain
from meshwright.model.instance import Template
from meshwright.model.ref import Kind, Ref
from meshwright.model.units import Namespace, Port
from meshwright.model.workload import WorkloadPort
from tests.link.made import service

SHOP = Namespace("shop")
TRUST = TrustDomain()
FORBIDDEN = ("10.244.0.0/16", "10.96.0.0/12", "fd00:10::/56")


def claims(*ips: str) -> tuple[Claim, ...]:
    return tuple(Claim(ip=ip, interface="ens5") for ip in ips)


@pytest.mark.parametrize(
    ("namespace", "group", "uid", "expected"),
    [
        ("shop", "ledger", "uid-aaaaaaaa", "ledger-fz6nfidxi62ypk"),
        ("shop", "ledger", "uid-bbbbbbbb", "ledger-ishg72vjyjslpu"),
        ("other", "ledger", "uid-aaaaaaaa", "ledger-fcxtove5zodkfa"),
        ("shop", "led.ger.v2", "uid-aaaaaaaa", "led-ger-v2-wywaarqhftn2ee"),
        ("shop", f"{'g' * 47}-more", "uid-aaaaaaaa", f"{'g' * 47}-wfsznrl45oauvk"),
    ],
)
def test_a_machine_has_one_name_for_ever(namespace: str, group: str, uid: str, expected: str) -> None:
    assert make_workload_name(Namespace(namespace), group, uid) == expected


@given(st.from_regex(r"[a-z0-9]([-.a-z0-9]{0,250}[a-z0-9])?", fullmatch=True), st.text(min_size=1, max_size=64))
def test_every_name_is_a_dns_label(group: str, uid: str) -> None:
    name = make_workload_name(SHOP, group, uid)
    assert re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])", name)


def test_a_nonce_is_kept_as_16_digits() -> None:
    assert hash_nonce("nonce") == "78377b525757b494"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("::ffff:c000:201", "192.0.2.1"),
        ("2001:DB8:0::1", "2001:db8::1"),
        ("fe80::1%eth0", "fe80::1"),
        ("192.0.2.1%eth0", "192.0.2.1"),
        ("192.0.2.01", None),
        ("192.0.2.1:80", None),
        ("[2001:db8::1]", None),
        ("", None),
        ("host.example.com", None),
    ],
)
def test_an_address_has_one_text(text: str, expected: str | None) -> None:
    assert normalize_address(text) == expected


@pytest.mark.parametrize(
    ("ip", "word"),
    [
        ("127.0.0.1", "loopback"),
        ("::1", "loopback"),
        ("::ffff:127.0.0.1", "loopback"),
        ("0.0.0.0", "no machine"),
        ("0.1.2.3", "no machine"),
        ("::", "no machine"),
        ("224.0.0.1", "multicast"),
        ("ff02::1", "multicast"),
        ("255.255.255.255", "broadcast"),
        ("240.0.0.1", "reserved"),
        ("169.254.169.254", "metadata"),
        ("fd00:ec2::254", "metadata"),
        ("168.63.129.16", "metadata"),
        ("10.244.3.4", "pods and Services"),
        ("10.96.0.1", "pods and Services"),
        ("fd00:10::7", "pods and Services"),
        ("::ffff:10.244.3.4", "pods and Services"),
        ("::10.244.3.4", "reserved"),
        ("64:ff9b::10.244.3.4", "reserved"),
        ("169.254.1.1", "own link"),
        ("fe80::1%eth0", "own link"),
        ("nonsense", "no address"),
    ],
)
def test_an_address_that_no_machine_may_have_is_refused_and_named(ip: str, word: str) -> None:
    answer = check_addresses(claims(ip), observed=ip, forbidden=FORBIDDEN)
    assert isinstance(answer, Refusal)
    assert answer.reason is Turned.BAD_ADDRESS
    assert word in answer.message


def test_an_address_in_the_clusters_ranges_is_refused_whatever_stands_beside_it() -> None:
    answer = check_addresses(claims("192.0.2.1", "10.244.0.1"), observed="192.0.2.1", forbidden=FORBIDDEN)
    assert isinstance(answer, Refusal)
    assert answer.message == (
        "found 10.244.0.1 of ens5, which is inside the cluster's own ranges of pods and Services; "
        "give the address by which the cluster reaches the machine"
    )


def test_no_address_is_refused() -> None:
    assert isinstance(check_addresses((), observed="192.0.2.1"), Refusal)


@pytest.mark.parametrize(
    ("ips", "observed", "address_from", "expected"),
    [
        (("192.0.2.1",), "198.51.100.1", (), ("192.0.2.1",)),
        (("2001:db8::1", "192.0.2.1"), "192.0.2.1", (), ("192.0.2.1", "2001:db8::1")),
        (("192.0.2.1", "192.0.2.2"), "198.51.100.1", (), ("192.0.2.1",)),
        (("192.0.2.1", "192.0.2.2"), "192.0.2.2", (), ("192.0.2.2",)),
        (("192.0.2.1", "192.0.2.2"), "::ffff:192.0.2.2", (), ("192.0.2.2",)),
        (("192.0.2.1", "198.51.100.1"), "192.0.2.1", ("198.51.100.0/24",), ("198.51.100.1",)),
        (("192.0.2.1", "198.51.100.1"), "", ("203.0.113.0/24", "198.51.100.0/24", "192.0.2.0/24"), ("198.51.100.1",)),
        (("192.0.2.1", "::ffff:192.0.2.1"), "", (), ("192.0.2.1",)),
    ],
)
def test_one_address_of_each_family_is_chosen(
    ips: tuple[str, ...], observed: str, address_from: tuple[str, ...], expected: tuple[str, ...]
) -> None:
    answer = check_addresses(claims(*ips), observed=observed, address_from=address_from)
    assert isinstance(answer, Chosen)
    assert answer.ips == expected


def test_what_is_not_used_is_told() -> None:
    answer = check_addresses(
        claims("192.0.2.1", "192.0.2.2", "fe80::1", "198.51.100.1"), observed="", allowed=("192.0.2.0/24",)
    )
    assert answer == Chosen(
        ips=("192.0.2.1",),
        warnings=(
            "of its IPv4 addresses 192.0.2.1 is used and 192.0.2.2 is not",
            "fe80::1 of ens5 is only known on the machine's own link, and is not used",
            "198.51.100.1 of ens5 is outside the ranges that the group's RegistrationPolicy allows, and is not used",
        ),
    )


def test_an_address_outside_the_allowed_ranges_alone_is_refused() -> None:
    answer = check_addresses(claims("198.51.100.1"), observed="198.51.100.1", allowed=("192.0.2.0/24",))
    assert isinstance(answer, Refusal)
    assert "outside the ranges" in answer.message


@given(st.lists(st.ip_addresses().map(str), max_size=6), st.ip_addresses().map(str))
def test_what_stands_is_in_no_forbidden_range_and_one_of_a_family(ips: list[str], observed: str) -> None:
    answer = check_addresses(claims(*ips), observed=observed, forbidden=FORBIDDEN)
    if isinstance(answer, Chosen):
        assert not any(is_in_ranges((ip,), FORBIDDEN) for ip in answer.ips)
        assert [":" in ip for ip in answer.ips] in ([False], [True], [False, True])
        assert set(answer.ips) <= {normalize_address(ip) for ip in ips}


@pytest.mark.parametrize(
    ("ips", "ranges", "expected"),
    [
        (("192.0.2.1",), (), False),
        (("192.0.2.1",), ("192.0.2.0/24",), True),
        (("192.0.2.1", "2001:db8::1"), ("192.0.2.0/24",), False),
        (("192.0.2.1", "2001:db8::1"), ("2001:db8::/32", "192.0.2.0/24"), True),
    ],
)
def test_addresses_are_in_range_when_each_is(ips: tuple[str, ...], ranges: tuple[str, ...], expected: bool) -> None:
    assert is_in_ranges(ips, ranges) is expected


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        ("spiffe://root/vm/db1", "spiffe://root/vm/db1", True),
        ("spiffe://root/vm/db1", "spiffe://root/vm/db10", False),
        ("spiffe://root/vm/*", "spiffe://root/vm/db1", True),
        ("spiffe://root/vm/*", "spiffe://other/vm/db1", False),
        ("*.example.com", "db1.example.com", True),
        ("*.example.com", "a.db1.example.com", True),
        ("*.example.com", ".example.com", False),
        ("*.example.com", "example.com", False),
        ("*.example.com", "db1example.com", False),
        ("*.example.com", "spiffe://root/ns/evil/sa/x.example.com", False),
        ("*", "", False),
    ],
)
def test_a_pattern_is_of_a_name(pattern: str, name: str, expected: bool) -> None:
    assert is_allowed_identity((pattern,), name) is expected
    assert is_allowed_identity(("nothing", pattern), name) is expected
    assert not is_allowed_identity((), name)


@pytest.mark.parametrize(
    ("identity", "expected"),
    [
        (TRUST.machine_uri(SHOP, "ledger", "uid-aaaaaaaa"), InstanceKey(SHOP, "ledger", "uid-aaaaaaaa")),
        ("spiffe://cluster.local/ns/shop/sa/web", None),
        ("spiffe://other/ns/shop/external/ledger/uid-aaaaaaaa", None),
        ("spiffe://cluster.local/ns/shop/external/ledger/uid/more", None),
        ("spiffe://cluster.local/ns/shop/external//uid", None),
        ("", None),
    ],
)
def test_a_machines_certificate_says_which_machine_it_is(identity: str, expected: InstanceKey | None) -> None:
    assert read_machine(TRUST, identity) == expected


@pytest.mark.parametrize(
    ("identity", "server_name", "word"),
    [
        ("spiffe://root/x", "ledger-x.ledger.shop", None),
        (f"spiffe://root/{'x' * 239}", "ledger-x.ledger.shop", None),
        (f"spiffe://root/{'x' * 240}", "ledger-x.ledger.shop", "254 characters"),
        ("spiffe://root/x", f"a.{'b' * 63}.shop", None),
        ("spiffe://root/x", f"a.{'b' * 64}.shop", "63 characters"),
        ("spiffe://root/x", ".".join(["b" * 50] * 6), "305 characters"),
    ],
)
def test_names_that_do_not_fit_are_refused(identity: str, server_name: str, word: str | None) -> None:
    refusal = check_identity(identity, server_name)
    assert (refusal is None) == (word is None)
    if refusal is not None and word is not None:
        assert (refusal.reason, word in refusal.message) == (Turned.BAD_IDENTITY, True)


def test_the_template_wins_then_allowed_labels_and_nothing_else() -> None:
    claimed = (
        ("app", "ledger"),
        ("app.kubernetes.io/managed-by", "me"),
        ("cart", "yes"),
        ("meshwright.dev/external", "false"),
        ("stage", "prod"),
        ("tier", "gold"),
    )
    allowed = ("tier", "stage", "app.kubernetes.io/managed-by", "meshwright.dev/external")
    answer = filter_labels(
        claimed, (("app", "ledger"), ("stage", "test")), allowed, [service("cart", selector=(("cart", "yes"),))]
    )
    assert answer == AgentLabels(
        kept=(("tier", "gold"),),
        dropped=("app.kubernetes.io/managed-by", "cart", "meshwright.dev/external", "stage"),
        warnings=(
            "label app.kubernetes.io/managed-by is dropped: it is meshwright's own",
            "label cart is dropped (Service shop/cart selects by it): list it under allowedLabels of the group's "
            "RegistrationPolicy, or put it into the template",
            "label meshwright.dev/external is dropped: it is meshwright's own",
            "label stage is dropped: the group's template sets it to test",
        ),
    )


def test_a_template_is_what_a_group_says_but_for_what_is_ours() -> None:
    group = Group(
        ref=Ref(Kind.EXTERNAL_GROUP, SHOP, "ledger"),
        uid="uid",
        generation=1,
        labels=(("app", "ledger"), ("app.kubernetes.io/managed-by", "helm"), ("meshwright.dev/external", "no")),
        annotations=(("config.linkerd.io/opaque-ports", "1"), ("meshwright.dev/instance-uid", "x")),
        ports=(WorkloadPort(name="", port=Port(80)),),
        template_hash="sha256:0",
    )
    zone = "topology.kubernetes.io/zone"
    expected = Template(
        labels=(("app", "ledger"), (zone, "z")),
        annotations=(("config.linkerd.io/opaque-ports", "1"),),
        ports=group.ports,
        hash="sha256:0",
    )
    assert make_template(group, "z") == expected
    assert make_template(group).labels == (("app", "ledger"),)
