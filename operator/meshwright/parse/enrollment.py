"""What machines ask of the registrar: bodies of requests, as JSON has them, to values.

A request that cannot be read is refused, with the field named. No answer repeats what a field held: it may be a token.
"""

import re
from collections.abc import Mapping
from ipaddress import ip_address
from typing import Any

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
from meshwright.model.group import Pairs
from meshwright.model.units import Millis, Namespace
from meshwright.parse.label import KEY_WANTED, VALUE_WANTED, is_label_key, is_label_value
from meshwright.parse.names import LABEL, SUBDOMAIN, UID
from meshwright.parse.shape import is_text, shorten

MAX_EPOCH = 2**53
"""JSON's whole numbers end here in every language (RFC 8259 section 6)."""

MAX_ADDRESSES = 16
MAX_LABELS = 16
MAX_MESSAGE = 500

_MAX_AGE_MS = 86_400_000
_MAX_DRAIN_MS = 3_600_000
_MAX_CSR = 8192
_MAX_TOKEN = 512
_MAX_IDENTITY = 2048
_VISIBLE = re.compile(r"[!-~]*", re.ASCII)
_INTERFACE = re.compile(r"[!-~]{0,15}", re.ASCII)
"""Source: Linux ``include/uapi/linux/if.h`` IFNAMSIZ."""

_VERSION = re.compile(r"[ -~]{0,64}", re.ASCII)
_HASH = re.compile(r"[A-Za-z0-9:]{0,80}", re.ASCII)
_PEM = re.compile(r"[ -~\r\n\t]*", re.ASCII)
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]+")
"""Ends of lines, what terminals obey, and what turns the direction of a text."""

_NUMBER = re.compile(r"[1-9][0-9]{0,15}", re.ASCII)
_HEALTH = {health.value: health for health in Health}
_TROUBLES = {trouble.value: trouble for trouble in Trouble}


class _Unfit(Exception):
    """A field that is wrong; does not leave this module."""

    def __init__(self, field: str, wanted: str, reason: Turned = Turned.BAD_REQUEST) -> None:
        super().__init__(field)
        self.refusal = Refusal(reason=reason, message=f"{field} is missing or cannot be read; send {wanted}")


def parse_key(namespace: str, group: str, uid: str) -> InstanceKey | Refusal:
    """Return which machine the parts of a path mean, decoded; a refusal for parts that name none. Never raises."""
    try:
        return InstanceKey(
            Namespace(_match(namespace, LABEL, "the namespace in the path", "the name of a namespace")),
            _match(group, SUBDOMAIN, "the group in the path", "the name of an ExternalGroup"),
            _match(uid, UID, "the uid in the path", "8 to 64 letters, digits and -"),
        )
    except _Unfit as unfit:
        return unfit.refusal


def parse_join(raw: object) -> Join | Refusal:
    """Return the body of ``POST /v1/join``; a refusal for what is none. Without a token, ``namespace`` and ``group``
    must be there. Never raises."""
    try:
        body = _object(raw, "the body")
        token = _text(body, "token", _VISIBLE, _MAX_TOKEN, "the token, as it was given")
        namespace = _text(body, "namespace", LABEL, 63, "the name of a namespace", is_needed=not token)
        group = _text(body, "group", SUBDOMAIN, 253, "the name of an ExternalGroup", is_needed=not token)
        return Join(
            uid=_uid(body, "uid"),
            csr=_csr(body),
            token=token,
            namespace=Namespace(namespace),
            group=group,
        )
    except _Unfit as unfit:
        return unfit.refusal


def parse_renew(raw: object) -> str | Refusal:
    """Return the certificate request (PEM) in the body of ``POST /v1/renew``; a refusal for what is none. Never
    raises."""
    try:
        return _csr(_object(raw, "the body"))
    except _Unfit as unfit:
        return unfit.refusal


def parse_register(key: InstanceKey, raw: object) -> Register | Refusal:
    """Return what the machine ``key`` says of itself, or a refusal. Labels sorted, addresses as claimed and in their
    order, canonical; whether it may have them is not judged here. Never raises."""
    try:
        body = _object(raw, "the body")
        versions = _part(body.get("versions"), "versions")
        return Register(
            key=key,
            epoch=_epoch(body.get("epoch")),
            nonce=_uid(body, "nonce"),
            addresses=_addresses(body.get("addresses"), least=1),
            labels=_labels(body.get("labels")),
            identity=_text(body, "identity", _VISIBLE, _MAX_IDENTITY, "the URI in its certificate"),
            agent=_text(versions, "agent", _VERSION, 64, "a version", "versions."),
            envoy=_text(versions, "envoy", _VERSION, 64, "a version", "versions."),
            loaded=_loaded(body.get("loaded")),
        )
    except _Unfit as unfit:
        return unfit.refusal


def parse_beat(key: InstanceKey, raw: object) -> Beat | Refusal:
    """Return the beat of the machine ``key``, or a refusal. Never raises.

    A message is one line, cut to ``MAX_MESSAGE`` characters. No address at all is a machine that lost its network's.
    """
    try:
        body = _object(raw, "the body")
        health = _object(body.get("health"), "health")
        state = health.get("state")
        if not isinstance(state, str) or state not in _HEALTH:
            raise _Unfit("health.state", f"one of {', '.join(_HEALTH)}")
        return Beat(
            key=key,
            epoch=_epoch(body.get("epoch")),
            nonce=_uid(body, "nonce"),
            seq=_whole(body.get("seq"), "seq", 0, MAX_EPOCH),
            health=_HEALTH[state],
            trouble=_trouble(health.get("trouble")),
            message=_message(health.get("message")),
            age_ms=Millis(min(_whole(health.get("ageMs", 0), "health.ageMs", 0, MAX_EPOCH), _MAX_AGE_MS)),
            addresses=_addresses(body.get("addresses"), least=0),
            loaded=_loaded(body.get("loaded")),
        )
    except _Unfit as unfit:
        return unfit.refusal


def parse_drain(key: InstanceKey, raw: object) -> Drain | Refusal:
    """Return that the machine ``key`` will stop, or a refusal. Never raises."""
    try:
        body = _object(raw, "the body")
        drain_ms = _whole(body.get("drainMs"), "drainMs", 0, _MAX_DRAIN_MS)
        return Drain(key=key, epoch=_epoch(body.get("epoch")), drain_ms=Millis(drain_ms))
    except _Unfit as unfit:
        return unfit.refusal


def parse_leave(key: InstanceKey, epoch: str) -> Leave | Refusal:
    """Return that the machine ``key`` is gone for good, or a refusal. ``epoch``: as the query has it, ``""`` without
    one. Never raises."""
    if not _NUMBER.fullmatch(epoch) or int(epoch) > MAX_EPOCH:
        return _Unfit("epoch in the query", f"a whole number from 1 to {MAX_EPOCH}").refusal
    return Leave(key=key, epoch=int(epoch))


def _object(raw: object, field: str) -> Mapping[str, Any]:
    if not isinstance(raw, dict):
        raise _Unfit(field, "a JSON object")
    return raw


def _part(raw: object, field: str) -> Mapping[str, Any]:
    """Return a part that may be missing; ``null`` is."""
    return {} if raw is None else _object(raw, field)


def _match(value: object, pattern: re.Pattern[str], field: str, wanted: str) -> str:
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise _Unfit(field, wanted)
    return value


def _text(
    body: Mapping[str, Any],
    name: str,
    pattern: re.Pattern[str],
    most: int,
    wanted: str,
    at: str = "",
    *,
    is_needed: bool = False,
) -> str:
    """Return the text ``name`` of ``body``, ``""`` where it may be missing and is; ``null`` is missing."""
    value = body.get(name)
    if value is None or value == "":
        if is_needed:
            raise _Unfit(f"{at}{name}", wanted)
        return ""
    if not isinstance(value, str) or len(value) > most:
        raise _Unfit(f"{at}{name}", f"{wanted}, at most {most} characters")
    return _match(value, pattern, f"{at}{name}", wanted)


def _uid(body: Mapping[str, Any], name: str) -> str:
    return _text(body, name, UID, 64, "8 to 64 letters, digits and -", is_needed=True)


def _csr(body: Mapping[str, Any]) -> str:
    return _text(body, "csr", _PEM, _MAX_CSR, "a certificate request in PEM", is_needed=True)


def _whole(value: object, field: str, least: int, most: int) -> int:
    if type(value) is not int or not least <= value <= most:
        raise _Unfit(field, f"a whole number from {least} to {most}")
    return value


def _epoch(value: object) -> int:
    return _whole(value, "epoch", 1, MAX_EPOCH)


def _addresses(raw: object, *, least: int) -> tuple[Claim, ...]:
    """Return all addresses that a machine has, in order. Zones are dropped, and IPv4 written as IPv6 is IPv4: so an
    address has one form only, and cannot be another one to who checks it than to who uses it."""
    if not isinstance(raw, list) or not least <= len(raw) <= MAX_ADDRESSES:
        raise _Unfit("addresses", f"{least} to {MAX_ADDRESSES} addresses")
    claims = []
    for index, item in enumerate(raw):
        field = f"addresses[{index}]"
        body = _object(item, field)
        ip = _address(_text(body, "ip", _VISIBLE, 64, "an IP address", f"{field}.", is_needed=True), f"{field}.ip")
        claims.append(Claim(ip=ip, interface=_text(body, "if", _INTERFACE, 15, "an interface", f"{field}.")))
    return tuple(claims)


def _address(text: str, field: str) -> str:
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        raise _Unfit(field, "an IP address") from None
    mapped = address.ipv4_mapped if address.version == 6 else None
    return str(mapped or address)


def _labels(raw: object) -> Pairs:
    body = _part(raw, "labels")
    if len(body) > MAX_LABELS:
        raise _Unfit("labels", f"at most {MAX_LABELS}", Turned.BAD_LABEL)
    for key, value in body.items():
        if not is_text(key) or not is_label_key(key):
            raise _Unfit("a label's key", KEY_WANTED, Turned.BAD_LABEL)
        if not isinstance(value, str) or not is_label_value(value):
            raise _Unfit(f"labels[{shorten(key)}]", VALUE_WANTED, Turned.BAD_LABEL)
    return tuple(sorted(body.items()))


def _loaded(raw: object) -> Loaded:
    body = _part(raw, "loaded")
    wanted = "a hash as the registrar gave it, or nothing"
    return Loaded(
        config=_text(body, "config", _HASH, 80, wanted, "loaded."),
        bundle=_text(body, "bundle", _HASH, 80, wanted, "loaded."),
    )


def _trouble(value: object) -> Trouble:
    """Return what fails; an agent that says nothing we know is one of another version, and means its probe."""
    return _TROUBLES.get(value, Trouble.PROBE) if isinstance(value, str) else Trouble.PROBE


def _message(value: object) -> str:
    """Return a text in one line that can be shown anywhere: it ends in conditions, and in terminals."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise _Unfit("health.message", "a text")
    text = value[: 2 * MAX_MESSAGE].encode(errors="replace").decode()
    return _CONTROLS.sub(" ", text)[:MAX_MESSAGE]
