"""What becomes of a key that comes with a token's secret, row by row."""

import hashlib
from dataclasses import replace
from typing import Any

import pytest

from meshwright.edge.registrar.limits import BAD_SECRETS, BLOCKED_SECONDS
from meshwright.edge.registrar.tokens import REPLAY_SECONDS, Redeemer, Verdict, judge
from meshwright.model.enrollment import Refusal, Turned
from meshwright.model.group import JoinToken, Redemption
from meshwright.model.units import Namespace
from tests.edge.registrar.place import SECRET, MemoryTokens

NOW = 1_800_000_000
MINE, ANOTHER = "a" * 64, "b" * 64
TOKEN = JoinToken(
    id="abcd2345",
    secret_hash=hashlib.sha256(SECRET.encode()).hexdigest(),
    namespace=Namespace("shop"),
    group="ledger",
    expires=NOW + 60,
)
BY_ME = Redemption(key_hash=MINE, uid="machine-1", at=NOW - 5)


def judged(token: JoinToken, key_hash: str = MINE, uid: str = "machine-1", wall: int = NOW) -> Verdict:
    return judge(token, key_hash, uid, "192.0.2.10", wall)


def joined(*by: Redemption, **more: Any) -> JoinToken:
    return replace(TOKEN, redemptions=by, **more)


@pytest.mark.parametrize(
    ("token", "asked", "is_stored", "refused"),
    [
        (TOKEN, {}, True, None),
        (joined(BY_ME), {}, False, None),
        (joined(BY_ME, is_locked=True), {}, False, None),
        (joined(BY_ME), {"wall": NOW + 100}, False, None),
        (joined(BY_ME), {"wall": NOW - 5 + REPLAY_SECONDS}, False, Turned.TOKEN_EXPIRED),
        (joined(BY_ME), {"uid": "machine-2"}, False, Turned.TOKEN_USED),
        (joined(BY_ME), {"key_hash": ANOTHER}, True, Turned.TOKEN_USED),
        (joined(BY_ME), {"key_hash": ANOTHER, "uid": "machine-2"}, True, Turned.TOKEN_USED),
        (joined(BY_ME, is_locked=True), {"key_hash": ANOTHER}, False, Turned.TOKEN_LOCKED),
        (joined(BY_ME, uses=2), {"key_hash": ANOTHER, "uid": "machine-2"}, True, None),
        (joined(BY_ME, uses=2), {"key_hash": ANOTHER}, True, Turned.TOKEN_USED),
        (joined(is_locked=True), {}, False, Turned.TOKEN_LOCKED),
        (TOKEN, {"wall": NOW + 59}, True, None),
        (TOKEN, {"wall": NOW + 60}, False, Turned.TOKEN_EXPIRED),
        (replace(TOKEN, cidr="192.0.2.0/24"), {}, True, None),
        (replace(TOKEN, cidr="192.0.3.0/24"), {}, False, Turned.WRONG_SOURCE),
        (replace(TOKEN, cidr="2001:db8::/32"), {}, False, Turned.WRONG_SOURCE),
        (joined(BY_ME, cidr="192.0.3.0/24"), {}, False, Turned.WRONG_SOURCE),
    ],
)
def test_a_key_joins_once_and_may_ask_again(
    token: JoinToken, asked: dict[str, Any], is_stored: bool, refused: Turned | None
) -> None:
    verdict = judged(token, **asked)
    assert (verdict.stored is not None, verdict.refusal and verdict.refusal.reason) == (is_stored, refused)
    if verdict.stored is not None and refused is None:
        new = Redemption(
            key_hash=asked.get("key_hash", MINE), uid=asked.get("uid", "machine-1"), at=verdict_wall(asked)
        )
        assert verdict.stored == replace(token, redemptions=(*token.redemptions, new))
    elif verdict.stored is not None:
        assert verdict.stored == replace(token, is_locked=True)


def verdict_wall(asked: dict[str, Any]) -> int:
    return int(asked.get("wall", NOW))


def test_only_the_tokens_own_secret_identifies_it() -> None:
    store = MemoryTokens(kept={TOKEN.id: TOKEN})
    redeemer = Redeemer(store, store.note_locked)
    assert redeemer.identify(f"{TOKEN.id}.{SECRET}", "192.0.2.10", 0.0) == TOKEN
    for number, wrong in enumerate(
        (f"{TOKEN.id}.{SECRET}x", f"{TOKEN.id}.{SECRET[1:]}", f"{TOKEN.id}.", TOKEN.id, f"efgh2345.{SECRET}", "", "\0")
    ):
        found = redeemer.identify(wrong, f"192.0.2.{number}", 0.0)
        assert isinstance(found, Refusal)
        assert found.reason is Turned.BAD_TOKEN
        assert SECRET[1:] not in found.message


def test_a_source_is_blocked_for_ten_minutes_after_five_wrong_secrets() -> None:
    store = MemoryTokens(kept={TOKEN.id: TOKEN})
    redeemer = Redeemer(store, store.note_locked)

    def ask(secret: str, address: str, now: float) -> Turned | None:
        found = redeemer.identify(f"{TOKEN.id}.{secret}", address, now)
        return found.reason if isinstance(found, Refusal) else None

    guess = "B" * 43
    assert [ask(guess, "2001:db8::1", now) for now in range(BAD_SECRETS)] == [Turned.BAD_TOKEN] * BAD_SECRETS
    last = BAD_SECRETS - 1
    assert ask(SECRET, "2001:db8::1", last + 1) is Turned.BLOCKED
    assert ask(SECRET, "2001:db8::ffff:1", last + 1) is Turned.BLOCKED, "one machine has the whole /64"
    assert ask(SECRET, "2001:db8:0:1::1", last + 1) is None
    assert ask(SECRET, "2001:db8::1", last + BLOCKED_SECONDS - 1) is Turned.BLOCKED
    assert ask(SECRET, "2001:db8::1", last + BLOCKED_SECONDS) is None
    assert ask(guess, "2001:db8::1", last + BLOCKED_SECONDS) is Turned.BAD_TOKEN
    assert ask(SECRET, "2001:db8::1", last + BLOCKED_SECONDS) is None, "one more mistake is forgiven"


def test_what_is_known_of_a_token_shows_no_secret() -> None:
    assert SECRET not in repr(TOKEN)
    assert SECRET not in repr(judged(TOKEN))


async def test_nothing_is_kept_of_tokens_that_nobody_joins_with() -> None:
    store = MemoryTokens(kept={TOKEN.id: replace(TOKEN, resource_version="1")})
    redeemer = Redeemer(store, store.note_locked)
    assert await redeemer.redeem(TOKEN, MINE, "machine-1", "192.0.2.10", NOW) is None
    assert redeemer._turns == {}


async def test_a_token_that_is_deleted_meanwhile_lets_nobody_in() -> None:
    store = MemoryTokens()
    refusal = await Redeemer(store, store.note_locked).redeem(TOKEN, MINE, "machine-1", "192.0.2.10", NOW)
    assert refusal is not None
    assert refusal.reason is Turned.BAD_TOKEN
