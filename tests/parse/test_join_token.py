"""Join tokens in their Secrets: what is written is read back, and what is not whole lets in nobody."""

import base64
import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshwright.emit.join_token import emit_join_token
from meshwright.model.group import JoinToken, Redemption
from meshwright.model.problem import Problem
from meshwright.model.units import Namespace
from meshwright.parse.join_token import parse_join_token
from tests.parse.made import Raw
from tests.property.test_parse import JSON

HOME = Namespace("mesh")
KEY = "ab" * 32
TOKEN = JoinToken(
    id="abcd1234",
    secret_hash="0123456789abcdef" * 4,
    namespace=Namespace("shop"),
    group="ledger",
    expires=1_790_000_000,
    uses=2,
    cidr="192.0.2.0/24",
    redemptions=(Redemption(key_hash=KEY, uid="3f2a-0001", at=1_780_000_000),),
    is_locked=True,
    resource_version="7",
)


def encode(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def with_data(**texts: str | None) -> Raw:
    raw = emit_join_token(TOKEN, HOME)
    for name, text in texts.items():
        key = name.replace("_", "-")
        raw["data"].pop(key, None)
        if text is not None:
            raw["data"][key] = encode(text)
    return raw


@given(
    st.builds(
        JoinToken,
        id=st.from_regex(r"[a-z0-9]{8}", fullmatch=True),
        secret_hash=st.from_regex(r"[0-9a-f]{64}", fullmatch=True),
        namespace=st.sampled_from(["shop", "a"]).map(Namespace),
        group=st.sampled_from(["ledger", "a.b-c"]),
        expires=st.integers(0, 253_402_300_799),
        uses=st.integers(1, 10_000),
        cidr=st.sampled_from(["", "192.0.2.0/24", "2001:db8::/32"]),
        redemptions=st.lists(
            st.builds(
                Redemption,
                key_hash=st.just(KEY),
                uid=st.from_regex(r"[A-Za-z0-9-]{8,64}", fullmatch=True),
                at=st.integers(0, 253_402_300_799),
            ),
            max_size=3,
        ).map(tuple),
        is_locked=st.booleans(),
        resource_version=st.sampled_from(["", "7"]),
    )
)
def test_every_token_reads_back_as_itself(token: JoinToken) -> None:
    assert parse_join_token(json.loads(json.dumps(emit_join_token(token, HOME)))) == token


def test_what_a_secret_need_not_say_has_its_default() -> None:
    raw = with_data(uses=None, cidr=None, redemptions=None, locked=None)
    parsed = parse_join_token(raw)
    assert isinstance(parsed, JoinToken)
    assert (parsed.uses, parsed.cidr, parsed.redemptions, parsed.is_locked) == (1, "", (), False)


@pytest.mark.parametrize("locked", ["true", "", "yes", "FALSE"])
def test_a_token_is_locked_unless_it_says_that_it_is_not(locked: str) -> None:
    parsed = parse_join_token(with_data(locked=locked))
    assert isinstance(parsed, JoinToken)
    assert parsed.is_locked


@pytest.mark.parametrize(
    ("data", "field"),
    [
        ({"secret_hash": None}, "data[secret-hash]"),
        ({"secret_hash": "0" * 63}, "data[secret-hash]"),
        ({"secret_hash": "0" * 64 + "\n"}, "data[secret-hash]"),
        ({"namespace": ""}, "data[namespace]"),
        ({"namespace": "a.b"}, "data[namespace]"),
        ({"group": "A"}, "data[group]"),
        ({"expires": None}, "data[expires]"),
        ({"expires": "tomorrow"}, "data[expires]"),
        ({"expires": "2026-02-30T00:00:00Z"}, "data[expires]"),
        ({"expires": "1969-12-31T23:59:59Z"}, "data[expires]"),
        ({"expires": "2026-01-01T00:00:00+01:00"}, "data[expires]"),
        ({"uses": "0"}, "data[uses]"),
        ({"uses": "10001"}, "data[uses]"),
        ({"uses": "many"}, "data[uses]"),
        ({"cidr": "192.0.2.0/33"}, "data[cidr]"),
        ({"redemptions": "{}"}, "data[redemptions]"),
        ({"redemptions": "["}, "data[redemptions]"),
        ({"redemptions": "[" * 100_000}, "data[redemptions]"),
        ({"redemptions": "[{}]"}, "data[redemptions]"),
        ({"redemptions": f'[{{"keyHash":"{KEY}","uid":"3f2a-0001","at":true}}]'}, "data[redemptions]"),
        ({"redemptions": f'[{{"keyHash":"{KEY}","uid":"x","at":1}}]'}, "data[redemptions]"),
        ({"redemptions": '[{"keyHash":"x","uid":"3f2a-0001","at":1}]'}, "data[redemptions]"),
    ],
)
def test_a_secret_that_is_not_whole_is_no_token_and_its_content_is_not_told(
    data: dict[str, str | None], field: str
) -> None:
    parsed = parse_join_token(with_data(**data))
    assert isinstance(parsed, Problem)
    assert parsed.field == field
    assert not [text for text in data.values() if text and len(text) > 3 and text in str(parsed)]


@pytest.mark.parametrize(
    ("path", "value", "field"),
    [
        ("type", "Opaque", "type"),
        ("metadata", None, "metadata"),
        ("data", None, "data"),
        ("data", {"a": "*"}, "data"),
        ("data", {"a": "/w=="}, "data"),
        ("data", {"a": 3}, "data"),
    ],
)
def test_a_secret_of_another_shape_is_no_token(path: str, value: Any, field: str) -> None:
    parsed = parse_join_token({**with_data(), path: value})
    assert isinstance(parsed, Problem)
    assert parsed.field == field


@pytest.mark.parametrize("name", ["", "abcd1234", "mw-join-", "mw-join-ABCD1234", "mw-join-abcd12345", None])
def test_a_secret_of_another_name_is_no_token(name: str | None) -> None:
    raw = with_data()
    raw["metadata"]["name"] = name
    parsed = parse_join_token(raw)
    assert isinstance(parsed, Problem)
    assert parsed.field == "metadata.name"


@given(JSON, st.sampled_from(["type", "data", "metadata", *(f"data.{key}" for key in with_data()["data"])]))
def test_nothing_makes_it_fail(value: Any, where: str) -> None:
    raw = copy.deepcopy(with_data())
    outer, _, inner = where.partition(".")
    if inner:
        raw[outer][inner] = value
    else:
        raw[outer] = value
    assert isinstance(parse_join_token(raw), JoinToken | Problem)
    assert isinstance(parse_join_token(value), Problem)
