"""Joining by token: whose token it is, and that a key joins with it once, however often it must ask.

What a token has been used for is written to its Secret before anything is answered. An answer that was lost is given
again to the same key; to another key never. No token and no secret is in a log, an exception or an answer.
"""

import asyncio
import hashlib
import hmac
import logging
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from ipaddress import ip_address, ip_network
from typing import Protocol

from meshwright.edge.client import ApiError, Unreachable
from meshwright.edge.registrar.limits import Guesses
from meshwright.model.enrollment import Refusal, Turned
from meshwright.model.group import JoinToken, Redemption
from meshwright.model.ref import Kind, Ref

log = logging.getLogger(__name__)

REPLAY_SECONDS = 3600
"""For how long a key that has joined may ask again, though its token has ended."""

_TOKEN = re.compile(r"([a-z0-9]{8})\.([A-Za-z0-9_-]{20,400})", re.ASCII)
_NOBODY = "0" * 64
_TRIES = 5
_PAUSE = 0.05


class TokenStore(Protocol):
    """Where join tokens are kept. After `write` has returned, `get` returns what is stored by then."""

    def get(self, id_: str, /) -> JoinToken | None: ...

    async def write(self, token: JoinToken, /) -> bool:
        """Store it where the stored one is still of its ``resource_version``; ``False`` when it is not.

        Raises:
            ApiError, Unreachable: it is not known whether it was stored.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What becomes of a key that comes with a token's secret. ``stored``: what must be written first, ``None`` when
    nothing; ``refusal`` ``None``: it joins."""

    stored: JoinToken | None = None
    refusal: Refusal | None = None


Locked = Callable[[JoinToken, str, str], None]
"""Told of a token that was locked: the token as it is now, and who had come with it: a uid and an address."""


class Redeemer:
    """Judges tokens. ``locked`` is told when one is."""

    def __init__(self, store: TokenStore, locked: Locked) -> None:
        self._store = store
        self._locked = locked
        self._guesses = Guesses()
        self._turns: dict[str, tuple[asyncio.Lock, int]] = {}

    def identify(self, token: str, address: str, now: float) -> JoinToken | Refusal:
        """Return the token that ``token`` is the secret of. It takes as long for a wrong one as for a right one."""
        blocked = self._guesses.blocked(address, now)
        if blocked is not None:
            return blocked
        found = _TOKEN.fullmatch(token)
        id_, secret = found.groups() if found else ("", "")
        stored = self._store.get(id_)
        digest = hashlib.sha256(secret.encode()).hexdigest()
        if not hmac.compare_digest(digest, _NOBODY if stored is None else stored.secret_hash) or stored is None:
            self._guesses.note(address, now)
            return Refusal(reason=Turned.BAD_TOKEN, message="there is no such token; have one made with `group token`")
        return stored

    def group_of(self, token: str) -> Ref | None:
        """Return which group a text would be the token of if its secret was right, ``None`` when it names none."""
        found = _TOKEN.fullmatch(token)
        stored = self._store.get(found[1]) if found else None
        return None if stored is None else Ref(Kind.EXTERNAL_GROUP, stored.namespace, stored.group)

    async def refuse(self, token: JoinToken, key_hash: str, uid: str, address: str, wall: int) -> Refusal | None:
        """Return why a key does not join with a token, before anything else is asked: another key than the one that
        joined locks it in any case."""
        if judge(token, key_hash, uid, address, wall).refusal is None:
            return None
        return await self.redeem(token, key_hash, uid, address, wall)

    async def redeem(self, token: JoinToken, key_hash: str, uid: str, address: str, wall: int) -> Refusal | None:
        """Have a key join, which is stored before this returns. ``token``: as `identify` returned it."""
        secret_hash = token.secret_hash
        async with self._turn(token.id):
            for attempt in range(_TRIES):
                if attempt:
                    await asyncio.sleep(_PAUSE * attempt)
                now = self._store.get(token.id)
                if now is None or now.secret_hash != secret_hash:
                    return Refusal(reason=Turned.BAD_TOKEN, message="the token was deleted; have another one made")
                verdict = judge(now, key_hash, uid, address, wall)
                if verdict.stored is None:
                    return verdict.refusal
                try:
                    is_stored = await self._store.write(verdict.stored)
                except (ApiError, Unreachable) as error:
                    log.warning("cannot store who joined with the token %s: %s", token.id, error)
                    return verdict.refusal or _come_again("the API server does not answer")
                if is_stored:
                    if verdict.refusal is not None:
                        self._locked(verdict.stored, uid, address)
                    return verdict.refusal
        return _come_again("others join with this token at the same time")

    @asynccontextmanager
    async def _turn(self, id_: str) -> AsyncIterator[None]:
        """Let one at a time join with one token; nothing is kept of a token with which nobody does."""
        turn, waiting = self._turns.get(id_, (asyncio.Lock(), 0))
        self._turns[id_] = turn, waiting + 1
        try:
            async with turn:
                yield
        finally:
            waiting = self._turns[id_][1] - 1
            if waiting:
                self._turns[id_] = turn, waiting
            else:
                del self._turns[id_]


def judge(token: JoinToken, key_hash: str, uid: str, address: str, wall: int) -> Verdict:
    """Return what becomes of a key that comes with the secret of ``token`` at ``wall``, seconds since 1970.

    A key joins as one uid, and a uid with one key: else who has a token could take the place of who joined with it.
    """
    if token.cidr and ip_address(address) not in ip_network(token.cidr, strict=False):
        return _refused(Turned.WRONG_SOURCE, f"the token may not be used from {address}")
    known = next((each for each in token.redemptions if each.key_hash == key_hash), None)
    if known is not None:
        if known.uid != uid:
            return _refused(Turned.TOKEN_USED, "this key has joined under another uid; keep that one, or make a key")
        if wall >= max(token.expires, known.at + REPLAY_SECONDS):
            return _refused(Turned.TOKEN_EXPIRED, "the token has expired; have another one made")
        return Verdict()
    if token.is_locked:
        return _refused(Turned.TOKEN_LOCKED, "the token came with another key than the one that joined; make another")
    if wall >= token.expires:
        return _refused(Turned.TOKEN_EXPIRED, "the token has expired; have another one made")
    if len(token.redemptions) >= token.uses or any(each.uid == uid for each in token.redemptions):
        message = "another key has joined with this token; it is locked now, have another one made"
        refusal = Refusal(reason=Turned.TOKEN_USED, message=message)
        return Verdict(stored=replace(token, is_locked=True), refusal=refusal)
    joined = Redemption(key_hash=key_hash, uid=uid, at=wall)
    return Verdict(stored=replace(token, redemptions=(*token.redemptions, joined)))


def _refused(reason: Turned, message: str) -> Verdict:
    return Verdict(refusal=Refusal(reason=reason, message=message))


def _come_again(message: str) -> Refusal:
    return Refusal(reason=Turned.API_SERVER_AWAY, message=f"{message}; come again", retry_after=2)
