"""Kubernetes Events: one thing that is to be known of one object, where `kubectl describe` shows it.

Source: kubernetes/api ``events/v1/types.go`` Event; kubernetes ``pkg/apis/core/validation/events.go`` (the lengths, and
that an Event lives in its object's namespace, of an object without one in ``default``).
"""

import hashlib
from datetime import UTC, datetime
from typing import Literal

from meshwright.edge.api_resource import Resource
from meshwright.edge.client import ApiError, Client, Json
from meshwright.model.config import FIELD_MANAGER

EVENTS = Resource(group="events.k8s.io", version="v1", plural="events", kind="Event")
LIFE_SECONDS = 3600.0
"""How long the API server keeps one, where its ``--event-ttl`` says nothing else."""

_LONGEST_NOTE, _LONGEST_NAME = 1000, 230
_ALREADY_EXISTS = 409


def make_event(
    regarding: Json,
    *,
    reason: str,
    note: str,
    about: str,
    type_: Literal["Normal", "Warning"],
    action: str,
    reporter: str,
    instance: str,
) -> Json:
    """Return an Event of now. ``regarding`` is a reference to the object (apiVersion, kind, name, namespace, uid).

    Its name is a function of the object and of ``about``, so that whoever has the same to say makes the same one, also
    after a restart. A note that is too long is cut.
    """
    return {
        "apiVersion": EVENTS.api_version,
        "kind": EVENTS.kind,
        "metadata": {
            "name": f"{regarding['name'][:_LONGEST_NAME].rstrip('-.')}.{digest(regarding, about)}",
            "namespace": regarding.get("namespace") or "default",
        },
        "eventTime": datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
        "reportingController": reporter,
        "reportingInstance": instance,
        "action": action,
        "reason": reason,
        "regarding": regarding,
        "note": shorten(note),
        "type": type_,
    }


def digest(regarding: Json, about: str) -> str:
    """Return 16 digits that stand for an object and for what is said of it."""
    identity = (regarding.get("namespace", ""), regarding["kind"], regarding["name"], regarding.get("uid", ""), about)
    return hashlib.sha256("\n".join(identity).encode()).hexdigest()[:16]


def shorten(note: str) -> str:
    """Return as much of a note as the API server takes."""
    return note if len(note) <= _LONGEST_NOTE else f"{note[: _LONGEST_NOTE - 1]}…"


async def write_event(client: Client, event: Json) -> bool:
    """Create an Event. Return whether it is new: one of this name, which says the same, may be there already.

    Raises:
        ApiError, Unreachable: it could not be written.
    """
    try:
        await client.create(EVENTS, event, manager=FIELD_MANAGER)
    except ApiError as error:
        if error.status != _ALREADY_EXISTS:
            raise
        return False
    return True
