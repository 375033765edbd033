"""When a proxy has its certificate renewed, and how long it waits when that failed.

Both waits have chance in them, so that pods which started together do not come together for ever.
"""

from datetime import datetime, timedelta

_RENEWED_AT = 2 / 3
_SPREAD = 0.05
_MOST_WITHOUT = 60.0
_MOST_WITH = 300.0
_LEAST = 0.2


def seconds_to_renewal(not_before: datetime, not_after: datetime, now: datetime, chance: float) -> float:
    """Return in how many seconds a certificate should be renewed: at two thirds of its life, up to 5 % of its life
    earlier or later as ``chance`` (0 to 1) says. 0 when that is past.

    Source: linkerd2-proxy ``linkerd/proxy/identity-client/src/certify.rs`` refresh_in (a part of the lifetime).
    """
    life = not_after - not_before
    at = not_before + life * (_RENEWED_AT + _SPREAD * (2 * chance - 1))
    return max(0.0, (at - now) / timedelta(seconds=1))


def seconds_to_retry(attempt: int, left: timedelta | None, chance: float) -> float:
    """Return how many seconds to wait after the ``attempt``-th failure in a row (from 1 on), as ``chance`` (0 to 1)
    says: anything up to a bound that doubles from 1 s on.

    ``left``: how long the certificate in place is still good, ``None`` without one. Without, the bound ends at 60 s;
    with one at 5 min, and at a twentieth of what is left when that is shorter, but not under 5 s.

    Source: AWS Architecture Blog, "Exponential Backoff And Jitter" (full jitter).
    """
    most = _MOST_WITHOUT
    if left is not None and left > timedelta(0):
        most = min(_MOST_WITH, max(5.0, left / timedelta(seconds=20)))
    bound = min(most, 2.0 ** min(attempt - 1, 20))
    return max(_LEAST, bound * chance)
