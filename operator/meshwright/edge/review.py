"""AdmissionReviews, whatever they are about: read, and answered. No I/O.

Source: kubernetes/api ``admission/v1/types.go`` AdmissionReview.
"""

from collections.abc import Iterable

import orjson

from meshwright.model.desired import Json

_VERSION = "admission.k8s.io/v1"
_MOST_WARNINGS, _LONGEST_WARNING = 16, 250
"""The API server cuts off what is more than 4096 bytes in all (``staging/src/k8s.io/apiserver/pkg/warning``)."""


class NotReviewable(Exception):
    """The request is no AdmissionReview of version v1. The message says what is wrong."""


def read_review(body: bytes) -> tuple[str, Json]:
    """Return the uid of a review, and its request as it stands there.

    Raises:
        NotReviewable: it is no AdmissionReview.
    """
    try:
        review = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise NotReviewable(f"this is not JSON: {error}") from error
    match review:
        case {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {"uid": str(uid)} as asked}:
            return uid, asked
        case _:
            raise NotReviewable(f"this is no AdmissionReview of {_VERSION} with a request")


def write_review(response: Json) -> bytes:
    """Return the review to answer with."""
    return orjson.dumps({"apiVersion": _VERSION, "kind": "AdmissionReview", "response": response})


def write_warnings(lines: Iterable[str]) -> list[str]:
    """Return ``lines`` as warnings: who says so before each, and no more of them, and no longer, than are shown."""
    return [shorten(f"meshwright: {line}", _LONGEST_WARNING) for line in [*lines][:_MOST_WARNINGS]]


def shorten(text: str, most: int) -> str:
    """Return ``text``, or its beginning, in at most ``most`` characters."""
    return text if len(text) <= most else f"{text[: most - 1]}…"
