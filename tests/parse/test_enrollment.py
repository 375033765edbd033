"""What machines ask for: bodies of requests are read, or refused with the field that is wrong."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshwright.model.enrollment import (
    Beat,
    Claim,
    Drain,
    Health,
    InstanceKey,
    Join,
    Leave,
    Loaded,
    Refusal,
    Register,
    Trouble,
    Turned,
)
from meshwright.model.units import Millis, Namespace
from meshwright.parse.enrollment import (
    MAX_EPOCH,
    parse_beat,
    parse_drain,
    parse_join,
    parse_key,
    parse_leave,
    parse_register,
    parse_renew,
)
from tests.parse.made import Raw, put
from tests.property.test_parse import JSON, find, walk

KEY = InstanceKey(Namespace("shop"), "ledger", "3f2a-0001")
CSR = "-----BEGIN CERTIFICATE REQUEST-----\nMIIB\n-----END CERTIFICATE REQUEST-----\n"
TOKEN = "abcd1234.s3cret-that-nobody-must-see"
JOIN: Raw = {"token": TOKEN, "uid": "3f2a-0001", "csr": CSR}
REGISTER: Raw = {
    "epoch": 7,
    "nonce": "b1f0b1f0",
    "addresses": [{"ip": "192.0.2.10", "if": "ens5"}, {"ip": "2001:DB8::10"}],
    "labels": {"tier": "gold", "a": ""},
    "identity": "spiffe://root/vm/1",
    "versions": {"agent": "0.3.1", "envoy": "1.40.0"},
    "loaded": {"config": "sha256:0", "bundle": "sha256:1"},
}
BEAT: Raw = {
    "epoch": 7,
    "nonce": "b1f0b1f0",
    "seq": 3,
    "health": {"state": "Failing", "message": "503", "ageMs": 20},
    "addresses": [{"ip": "192.0.2.10", "if": "ens5"}],
    "loaded": {"config": "sha256:0", "bundle": ""},
}
DRAIN: Raw = {"epoch": 7, "drainMs": 5000}
Reads = Callable[[Any], object]
READS: dict[str, tuple[Reads, Raw]] = {
    "join": (parse_join, JOIN),
    "renew": (parse_renew, {"csr": CSR}),
    "register": (lambda raw: parse_register(KEY, raw), REGISTER),
    "beat": (lambda raw: parse_beat(KEY, raw), BEAT),
    "drain": (lambda raw: parse_drain(KEY, raw), DRAIN),
}


def test_requests_are_read_whole() -> None:
    assert {name: read(raw) for name, (read, raw) in READS.items()} == {
        "join": Join(uid="3f2a-0001", csr=CSR, token=TOKEN),
        "renew": CSR,
        "register": Register(
            key=KEY,
            epoch=7,
            nonce="b1f0b1f0",
            addresses=(Claim(ip="192.0.2.10", interface="ens5"), Claim(ip="2001:db8::10")),
            labels=(("a", ""), ("tier", "gold")),
            identity="spiffe://root/vm/1",
            agent="0.3.1",
            envoy="1.40.0",
            loaded=Loaded(config="sha256:0", bundle="sha256:1"),
        ),
        "beat": Beat(
            key=KEY,
            epoch=7,
            nonce="b1f0b1f0",
            seq=3,
            health=Health.FAILING,
            message="503",
            age_ms=Millis(20),
            addresses=(Claim(ip="192.0.2.10", interface="ens5"),),
            loaded=Loaded(config="sha256:0"),
        ),
        "drain": Drain(key=KEY, epoch=7, drain_ms=Millis(5000)),
    }


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("ProxyRefused", Trouble.REFUSED),
        ("ProbeFailed", Trouble.PROBE),
        ("OfALaterVersion", Trouble.PROBE),
        ([], Trouble.PROBE),
        (None, Trouble.PROBE),
    ],
)
def test_what_fails_is_the_probe_unless_it_is_known_to_be_something_else(said: object, expected: Trouble) -> None:
    beat = parse_beat(KEY, put(BEAT, "health.trouble", said))
    assert isinstance(beat, Beat)
    assert beat.trouble is expected


def test_without_a_token_a_machine_says_where_it_wants_to() -> None:
    body = {"uid": "3f2a-0001", "csr": CSR, "namespace": "shop", "group": "ledger"}
    assert parse_join(body) == Join(uid="3f2a-0001", csr=CSR, namespace=Namespace("shop"), group="ledger")
    for name in ("namespace", "group"):
        refusal = parse_join({**body, name: None})
        assert isinstance(refusal, Refusal)
        assert refusal.message.startswith(f"{name} is missing")


@pytest.mark.parametrize("missing", ["labels", "identity", "versions", "loaded"])
def test_what_need_not_be_said_may_be_null_or_missing(missing: str) -> None:
    without = {name: value for name, value in REGISTER.items() if name != missing}
    assert isinstance(parse_register(KEY, without), Register)
    assert parse_register(KEY, without) == parse_register(KEY, {**REGISTER, missing: None})


@pytest.mark.parametrize(
    ("text", "ip"),
    [
        ("192.0.2.10", "192.0.2.10"),
        ("::ffff:192.0.2.10", "192.0.2.10"),
        ("2001:0DB8:0::1", "2001:db8::1"),
        ("fe80::1%eth0", "fe80::1"),
    ],
)
def test_an_address_has_one_form(text: str, ip: str) -> None:
    read = parse_beat(KEY, {**BEAT, "addresses": [{"ip": text}]})
    assert isinstance(read, Beat)
    assert read.addresses == (Claim(ip=ip),)


def test_a_machine_may_lose_all_its_addresses_but_not_register_without() -> None:
    assert isinstance(parse_beat(KEY, {**BEAT, "addresses": []}), Beat)
    assert isinstance(parse_register(KEY, {**REGISTER, "addresses": []}), Refusal)


def test_a_message_is_one_line_and_has_an_end() -> None:
    beat = parse_beat(KEY, put(BEAT, "health.message", "a\r\n\x1b[31mb\u202ec\ud800" + "x" * 1000))
    assert isinstance(beat, Beat)
    assert beat.message == "a [31mb c?" + "x" * 490


def test_a_finding_older_than_a_day_is_a_day_old() -> None:
    beat = parse_beat(KEY, put(BEAT, "health.ageMs", 10**12))
    assert isinstance(beat, Beat)
    assert beat.age_ms == 86_400_000


@pytest.mark.parametrize(
    ("call", "path", "value", "told", "reason"),
    [
        ("join", "uid", None, "uid", Turned.BAD_REQUEST),
        ("join", "uid", "x" * 7, "uid", Turned.BAD_REQUEST),
        ("join", "uid", "x" * 65, "uid", Turned.BAD_REQUEST),
        ("join", "uid", "3f2a/0001", "uid", Turned.BAD_REQUEST),
        ("join", "uid", "3f2a-0001\n", "uid", Turned.BAD_REQUEST),
        ("join", "csr", "", "csr", Turned.BAD_REQUEST),
        ("join", "csr", "x" * 8193, "csr", Turned.BAD_REQUEST),
        ("join", "csr", "\x00", "csr", Turned.BAD_REQUEST),
        ("join", "token", "x" * 513, "token", Turned.BAD_REQUEST),
        ("join", "token", "a b", "token", Turned.BAD_REQUEST),
        ("join", "token", ["x"], "token", Turned.BAD_REQUEST),
        ("renew", "csr", 3, "csr", Turned.BAD_REQUEST),
        ("register", "epoch", 0, "epoch", Turned.BAD_REQUEST),
        ("register", "epoch", 2**53 + 1, "epoch", Turned.BAD_REQUEST),
        ("register", "epoch", True, "epoch", Turned.BAD_REQUEST),
        ("register", "epoch", 1.0, "epoch", Turned.BAD_REQUEST),
        ("register", "nonce", "short", "nonce", Turned.BAD_REQUEST),
        ("register", "addresses", None, "addresses", Turned.BAD_REQUEST),
        ("register", "addresses", [{"ip": "192.0.2.10"}] * 17, "addresses", Turned.BAD_REQUEST),
        ("register", "addresses.1", "192.0.2.10", "addresses[1]", Turned.BAD_REQUEST),
        ("register", "addresses.1.ip", "192.0.2.256", "addresses[1].ip", Turned.BAD_REQUEST),
        ("register", "addresses.1.ip", "192.0.2.0/24", "addresses[1].ip", Turned.BAD_REQUEST),
        ("register", "addresses.0.if", "x" * 16, "addresses[0].if", Turned.BAD_REQUEST),
        ("register", "labels", [], "labels", Turned.BAD_REQUEST),
        ("register", "labels", {f"a{n}": "" for n in range(17)}, "labels", Turned.BAD_LABEL),
        ("register", "labels", {"-": ""}, "a label's key", Turned.BAD_LABEL),
        ("register", "labels", {"\ud800": ""}, "a label's key", Turned.BAD_LABEL),
        ("register", "labels", {"a": "x" * 64}, "labels[a]", Turned.BAD_LABEL),
        ("register", "labels", {"a": 3}, "labels[a]", Turned.BAD_LABEL),
        ("register", "identity", "x" * 2049, "identity", Turned.BAD_REQUEST),
        ("register", "versions", [], "versions", Turned.BAD_REQUEST),
        ("register", "versions.agent", "x" * 65, "versions.agent", Turned.BAD_REQUEST),
        ("register", "versions.envoy", "1\n2", "versions.envoy", Turned.BAD_REQUEST),
        ("register", "loaded.config", "a b", "loaded.config", Turned.BAD_REQUEST),
        ("beat", "seq", -1, "seq", Turned.BAD_REQUEST),
        ("beat", "health", None, "health", Turned.BAD_REQUEST),
        ("beat", "health.state", "Fine", "health.state", Turned.BAD_REQUEST),
        ("beat", "health.state", [], "health.state", Turned.BAD_REQUEST),
        ("beat", "health.message", 3, "health.message", Turned.BAD_REQUEST),
        ("beat", "health.ageMs", -1, "health.ageMs", Turned.BAD_REQUEST),
        ("drain", "drainMs", None, "drainMs", Turned.BAD_REQUEST),
        ("drain", "drainMs", 3_600_001, "drainMs", Turned.BAD_REQUEST),
    ],
)
def test_a_field_that_is_wrong_is_named(call: str, path: str, value: Any, told: str, reason: Turned) -> None:
    read, raw = READS[call]
    refusal = read(put(raw, path, value))
    assert isinstance(refusal, Refusal)
    assert (refusal.reason, refusal.retry_after) == (reason, None)
    assert refusal.message.startswith(f"{told} is missing or cannot be read; send ")


@pytest.mark.parametrize(
    ("parts", "told"),
    [
        (("Shop", "ledger", "3f2a-0001"), "the namespace in the path"),
        (("a.b", "ledger", "3f2a-0001"), "the namespace in the path"),
        (("x" * 64, "ledger", "3f2a-0001"), "the namespace in the path"),
        (("shop", "", "3f2a-0001"), "the group in the path"),
        (("shop", "../x", "3f2a-0001"), "the group in the path"),
        (("shop", "x" * 254, "3f2a-0001"), "the group in the path"),
        (("shop", "ledger", "x"), "the uid in the path"),
    ],
)
def test_a_path_that_names_no_machine_is_refused(parts: tuple[str, str, str], told: str) -> None:
    refusal = parse_key(*parts)
    assert isinstance(refusal, Refusal)
    assert (refusal.reason, refusal.message.startswith(told)) == (Turned.BAD_REQUEST, True)


def test_a_path_names_a_machine() -> None:
    assert parse_key("shop", "a.b-c", "3f2a-0001") == InstanceKey(Namespace("shop"), "a.b-c", "3f2a-0001")


@pytest.mark.parametrize("epoch", ["", "0", "-1", "+1", "1.0", "٣", "1 ", str(MAX_EPOCH + 1), "9" * 5000])
def test_who_leaves_says_which_epoch(epoch: str) -> None:
    refusal = parse_leave(KEY, epoch)
    assert isinstance(refusal, Refusal)
    assert refusal.reason is Turned.BAD_REQUEST


def test_who_leaves_is_read() -> None:
    assert parse_leave(KEY, str(MAX_EPOCH)) == Leave(key=KEY, epoch=MAX_EPOCH)


PLACES = [(name, path) for name, (_, raw) in READS.items() for path in walk(raw) if path]


@settings(max_examples=400)
@given(st.sampled_from(PLACES), JSON)
def test_whatever_is_sent_is_read_or_refused_and_no_token_is_repeated(place: tuple[str, Any], value: Any) -> None:
    name, path = place
    read, good = READS[name]
    raw = copy.deepcopy(good)
    find(raw, path[:-1])[path[-1]] = value
    answer = read(raw)
    assert not isinstance(answer, Refusal) or TOKEN not in answer.message
    bodies: tuple[Any, ...] = (value, [], None)
    for body in bodies:
        assert isinstance(read(body), Refusal)


@given(st.text(max_size=300), st.text(max_size=300), st.text(max_size=80))
def test_no_path_makes_reading_fail(namespace: str, group: str, uid: str) -> None:
    assert isinstance(parse_key(namespace, group, uid), InstanceKey | Refusal)
    assert isinstance(parse_leave(KEY, uid), Leave | Refusal)


def test_a_token_is_not_shown() -> None:
    assert TOKEN not in repr(parse_join(JOIN))
