"""Kubernetes' quantities, durations and booleans as Go reads them: what resources and switches are written as."""

import re
from decimal import Decimal

from meshwright.model.units import Millis
from meshwright.parse.duration import parse_gateway_duration

_QUANTITY = re.compile(
    r"\+?(?P<digits>[0-9]{1,18}(?:\.[0-9]{0,9})?|\.[0-9]{1,9})"
    r"(?P<unit>[numkMGTPE]|[KMGTPE]i|[eE][+-]?[0-9]{1,2}|)",
    re.ASCII,
)
_SUFFIXES = {
    "": Decimal(1),
    **{unit: Decimal(10) ** power for unit, power in zip("numkMGTPE", (-9, -6, -3, 3, 6, 9, 12, 15, 18), strict=True)},
    **{f"{unit}i": Decimal(1024) ** power for power, unit in enumerate("KMGTPE", 1)},
}
_TRUE = frozenset(("1", "t", "T", "TRUE", "true", "True"))
_FALSE = frozenset(("0", "f", "F", "FALSE", "false", "False"))


def parse_quantity(text: str) -> Decimal:
    """Return the amount that ``text`` names: ``"100m"`` is 0.1, ``"64Mi"`` 67108864, ``"2"``, ``"1.5"``, ``"1e3"``.

    Raises:
        ValueError: any other text, also a negative amount. The message says what to write.

    Source: kubernetes/apimachinery ``pkg/api/resource/quantity.go`` Quantity.
    """
    matched = _QUANTITY.fullmatch(text)
    if not matched:
        raise ValueError("an amount such as 100m, 2, 64Mi or 1G")
    unit = matched["unit"]
    if unit[:1] in ("e", "E") and len(unit) > 1 and unit != "Ei":
        return Decimal(matched["digits"]) * Decimal(10) ** int(unit[1:])
    return Decimal(matched["digits"]) * _SUFFIXES[unit]


def parse_bool(text: str) -> bool:
    """Return the truth that ``text`` names, in the words that Go's strconv.ParseBool takes.

    Raises:
        ValueError: any other text. The message says what to write.
    """
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise ValueError("true or false")


def parse_grace(text: str) -> Millis:
    """Return the duration that ``text`` names: ``"30s"``, ``"1m30s"``, ``"500ms"``, ``"0"``.

    Raises:
        ValueError: any other text. The message says what to write.
    """
    return Millis(0) if text == "0" else parse_gateway_duration(text)
