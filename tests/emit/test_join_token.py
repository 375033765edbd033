"""The Secret that keeps a join token."""

import base64
from dataclasses import replace

from meshwright.emit.join_token import emit_join_token
from meshwright.model.group import JoinToken, Redemption
from meshwright.model.units import Namespace

TOKEN = JoinToken(
    id="abcd1234",
    secret_hash="0" * 64,
    namespace=Namespace("shop"),
    group="ledger",
    expires=1_767_225_600,
    redemptions=(Redemption(key_hash="1" * 64, uid="3f2a-0001", at=5),),
)


def test_a_secret_says_what_is_kept_of_a_token() -> None:
    raw = emit_join_token(TOKEN, Namespace("mesh"))
    texts = {key: base64.b64decode(value).decode() for key, value in raw.pop("data").items()}
    assert raw == {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": "mw-join-abcd1234",
            "namespace": "mesh",
            "labels": {"app.kubernetes.io/managed-by": "meshwright", "meshwright.dev/join-token": "true"},
        },
        "type": "meshwright.dev/join-token",
    }
    assert texts == {
        "secret-hash": "0" * 64,
        "namespace": "shop",
        "group": "ledger",
        "expires": "2026-01-01T00:00:00Z",
        "uses": "1",
        "cidr": "",
        "redemptions": f'[{{"at":5,"keyHash":"{"1" * 64}","uid":"3f2a-0001"}}]',
        "locked": "false",
    }


def test_one_that_was_read_is_written_over_what_was_read_only() -> None:
    raw = emit_join_token(replace(TOKEN, resource_version="7", is_locked=True), Namespace("mesh"))
    assert raw["metadata"]["resourceVersion"] == "7"
    assert base64.b64decode(raw["data"]["locked"]) == b"true"
