"""What many measurements come to."""

import math
import statistics
from collections.abc import Sequence
from typing import Any


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value that ``share`` (0 to 1) of the values lie below."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def show_median(name: str, values: Sequence[float]) -> dict[str, Any]:
    """Return the median, and from where to where it is with 95 % confidence, whatever the values' distribution: ranks
    of the binomial one, in its normal approximation."""
    ordered = sorted(values)
    half = 0.98 * math.sqrt(len(ordered))
    low = max(0, math.floor(len(ordered) / 2 - half))
    high = min(len(ordered) - 1, math.ceil(len(ordered) / 2 + half))
    return {name: round(statistics.median(ordered), 3), f"{name}_95": f"{ordered[low]:.3f}-{ordered[high]:.3f}"}


def to_ms(seconds: float) -> float:
    return round(seconds * 1000, 3)
