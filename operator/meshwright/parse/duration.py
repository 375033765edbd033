"""Durations: Linkerd's in annotations, the Gateway API's in fields, Go's in those of Linkerd's own routes."""

import math
import re
from fractions import Fraction

from meshwright.model.units import Millis

MAX_MILLIS = Millis(100_000 * 86_400_000)
"""100,000 days. Envoy refuses a configuration that holds a duration of some 292 years."""

_UNITS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_ANNOTATED = re.compile(r"\+?([0-9]+)(ms|s|m|h|d|)", re.ASCII)
_GATEWAY = re.compile(r"(?:[0-9]{1,5}(?:h|ms|m|s)){1,4}", re.ASCII)
_GO_UNITS = {
    "ns": 1,
    "us": 10**3,
    "µs": 10**3,
    "μs": 10**3,
    "ms": 10**6,
    "s": 10**9,
    "m": 60 * 10**9,
    "h": 3600 * 10**9,
}
_GO_PART = re.compile(r"([0-9]+\.?[0-9]*|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h)", re.ASCII)
_GO = re.compile(rf"\+?(?:{_GO_PART.pattern})+", re.ASCII)
_LONGEST_GO = 64
_GATEWAY_PART = re.compile(r"([0-9]{1,5})(h|ms|m|s)", re.ASCII)


def parse_millis(text: str) -> Millis:
    """Return the duration that an annotation's ``text`` names: ``"300ms"``, ``"5s"``, ``"2m"``, ``"1d"``, ``"0"``.

    One whole number and one unit (ms, s, m, h, d); blanks around them are ignored, a ``+`` in front is tolerated. A
    number without a unit is refused, but for 0.

    Raises:
        ValueError: any other text, or more than ``MAX_MILLIS``. The message says what to write.

    Source: ``parse_duration`` in linkerd2 ``policy-controller/k8s/index/src/outbound/index.rs``.
    """
    matched = _ANNOTATED.fullmatch(text.strip())
    digits, unit = matched.groups() if matched else ("", "")
    magnitude = digits.lstrip("0")
    if not digits or (magnitude and not unit):
        raise ValueError("one whole number and one unit of ms, s, m, h, d, such as 300ms or 10s")
    # So many digits are too many in any unit; int() refuses some thousands of them.
    if len(magnitude) > 16 or (millis := int(magnitude or "0") * _UNITS.get(unit, 1)) > MAX_MILLIS:
        raise ValueError("at most 100000d, or 0 for none")
    return Millis(millis)


def format_millis(millis: Millis) -> str:
    """Return the shortest text that ``parse_millis`` reads as ``millis``: one number in the largest unit that fits."""
    unit, size = next((unit, size) for unit, size in reversed(_UNITS.items()) if millis % size == 0)
    return f"{millis // size}{unit}" if millis else "0"


def parse_gateway_duration(text: str) -> Millis:
    """Return the duration that a Gateway API field names: ``"1h30m"``, ``"500ms"``, ``"0s"``.

    One to four parts, each of at most five digits and a unit of h, m, s, ms; the parts are added up.

    Raises:
        ValueError: any other text. The message says what to write.

    Source: Gateway API GEP-2257, ``apis/v1/shared_types.go`` Duration.
    """
    if not _GATEWAY.fullmatch(text):
        raise ValueError("one to four whole numbers, each with a unit of h, m, s, ms, such as 10s or 1m30s")
    return Millis(sum(int(digits) * _UNITS[unit] for digits, unit in _GATEWAY_PART.findall(text)))


def parse_go_duration(text: str) -> Millis:
    """Return the duration that ``text`` names as Go writes durations: ``"1h30m"``, ``"1.5s"``, ``"0"``.

    Numbers with a unit of h, m, s, ms, us, ns, added up. Part of a millisecond counts as a whole one: it is not none.

    Raises:
        ValueError: any other text, also a negative duration, or more than ``MAX_MILLIS``. The message says what to
            write.

    Source: Go ``time.ParseDuration``; linkerd2 ``policy-controller/k8s/api/src/duration.rs``.
    """
    if text.removeprefix("+").removeprefix("-") == "0":
        return Millis(0)
    if len(text) > _LONGEST_GO or not _GO.fullmatch(text):
        raise ValueError("numbers, each with a unit of h, m, s, ms, us, ns, such as 10s, 1.5s or 1m30s")
    nanos = sum(Fraction(number) * _GO_UNITS[unit] for number, unit in _GO_PART.findall(text))
    millis = math.ceil(nanos / _GO_UNITS["ms"])
    if millis > MAX_MILLIS:
        raise ValueError("at most 2400000h, or 0 for none")
    return Millis(millis)
