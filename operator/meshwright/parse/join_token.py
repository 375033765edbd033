"""Join tokens, as their Secrets keep them.

A Secret of this kind holds the hash of a token's secret and who has joined with it. No message quotes what a field
holds, since what was put there by mistake may be a token.
"""

import base64
import binascii
import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from meshwright.model.group import TOKEN_PREFIX, TOKEN_TYPE, JoinToken, Redemption
from meshwright.model.problem import Problem, Reason
from meshwright.model.units import Namespace
from meshwright.parse.names import LABEL, SUBDOMAIN, UID
from meshwright.parse.network import read_cidr

MAX_USES = 10_000

_ID = re.compile(r"[a-z0-9]{8}", re.ASCII)
_HASH = re.compile(r"[0-9a-f]{64}", re.ASCII)
_NUMBER = re.compile(r"[1-9][0-9]{0,4}", re.ASCII)
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z", re.ASCII)
_START = datetime(1970, 1, 1, tzinfo=UTC)
_LAST_MOMENT = 253_402_300_799
"""The end of the year 9999."""


def parse_join_token(raw: object) -> JoinToken | Problem:
    """Return the join token that the Secret ``raw`` keeps, or the first thing that is wrong with it: then nobody joins
    with it. Never raises."""
    if not isinstance(raw, Mapping) or not isinstance(metadata := raw.get("metadata"), Mapping):
        return _wrong("metadata", "an object's")
    name, version = metadata.get("name"), metadata.get("resourceVersion")
    if raw.get("type") != TOKEN_TYPE:
        return _wrong("type", TOKEN_TYPE)
    if not isinstance(name, str) or not name.startswith(TOKEN_PREFIX) or not _ID.fullmatch(name[len(TOKEN_PREFIX) :]):
        return _wrong("metadata.name", f"{TOKEN_PREFIX} and 8 lower-case letters and digits")
    data = raw.get("data")
    texts = _decode(data) if isinstance(data, Mapping) else None
    if texts is None:
        return _wrong("data", "texts, as a Secret encodes them")
    fault = _find_fault(texts)
    if fault is not None:
        return fault
    expires = _parse_time(texts["expires"])
    redemptions = _parse_redemptions(texts.get("redemptions", "[]"))
    if expires is None:
        return _wrong("data[expires]", "a time such as 2026-01-31T23:59:59Z")
    if redemptions is None:
        return _wrong("data[redemptions]", "a list of who has joined")
    return JoinToken(
        id=name.removeprefix(TOKEN_PREFIX),
        secret_hash=texts["secret-hash"],
        namespace=Namespace(texts["namespace"]),
        group=texts["group"],
        expires=expires,
        uses=int(texts.get("uses", "1")),
        cidr=texts.get("cidr", ""),
        redemptions=redemptions,
        is_locked=texts.get("locked", "false") != "false",
        resource_version=version if isinstance(version, str) else "",
    )


def _find_fault(texts: Mapping[str, str]) -> Problem | None:
    wanted = {
        "secret-hash": (_HASH, "64 hexadecimal digits"),
        "namespace": (LABEL, "the name of a namespace"),
        "group": (SUBDOMAIN, "the name of an ExternalGroup"),
        "expires": (_TIME, "a time such as 2026-01-31T23:59:59Z"),
    }
    for key, (pattern, words) in wanted.items():
        if not pattern.fullmatch(texts.get(key, "")):
            return _wrong(f"data[{key}]", words)
    uses, cidr = texts.get("uses", "1"), texts.get("cidr", "")
    if not _NUMBER.fullmatch(uses) or int(uses) > MAX_USES:
        return _wrong("data[uses]", f"a whole number from 1 to {MAX_USES}")
    if cidr and read_cidr(cidr, "data[cidr]", [], []) is None:
        return _wrong("data[cidr]", "a CIDR such as 192.0.2.0/24, or nothing")
    return None


def _decode(data: Mapping[Any, Any]) -> dict[str, str] | None:
    texts = {}
    for key, value in data.items():
        if not isinstance(key, str) or not isinstance(value, str):
            return None
        try:
            texts[key] = base64.b64decode(value, validate=True).decode()
        except (binascii.Error, ValueError):
            return None
    return texts


def _parse_time(text: str) -> int | None:
    try:
        seconds = (datetime.fromisoformat(text) - _START) // timedelta(seconds=1)
    except ValueError:
        return None
    return seconds if seconds >= 0 else None


def _parse_redemptions(text: str) -> tuple[Redemption, ...] | None:
    """Return who has joined, in order; ``None`` when a part of it cannot be read: that key could then join again."""
    try:
        listed = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(listed, list):
        return None
    found = []
    for item in listed:
        match item:
            case {"keyHash": str(key_hash), "uid": str(uid), "at": int(at)} if type(at) is int:
                if not _HASH.fullmatch(key_hash) or not UID.fullmatch(uid) or not 0 <= at <= _LAST_MOMENT:
                    return None
                found.append(Redemption(key_hash=key_hash, uid=uid, at=at))
            case _:
                return None
    return tuple(found)


def _wrong(field: str, wanted: str) -> Problem:
    return Problem(field, Reason.INVALID_OBJECT, f"it is missing or cannot be read; write {wanted}")
