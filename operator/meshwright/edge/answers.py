"""What an API server answers: an object, a stream of events, or that it will not; and that no whole answer came."""

from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import orjson

Json = dict[str, Any]
"""A JSON object as the API server sends it."""


class ApiError(Exception):
    """The API server said no.

    ``status`` is the HTTP status, or the ``code`` of an ERROR event; ``reason`` the CamelCase word of the Status
    object (``Conflict``), or the HTTP phrase when there is none; ``body`` the Status object, ``{}`` when the answer
    was not one; ``retry_after`` the seconds the server asked to wait, ``None`` when it did not.
    """

    def __init__(self, status: int, reason: str, body: Json, retry_after: float | None = None) -> None:
        super().__init__(f"{status} {reason}: {body.get('message') or 'no message'}")
        self.status = status
        self.reason = reason
        self.body = body
        self.retry_after = retry_after


class Unreachable(Exception):
    """No whole answer came: refused, reset, cut or timed out. A write may or may not have happened."""


def error_of(status: int, phrase: str, content: bytes, retry_after: str | None) -> ApiError:
    """Return the error an answer stands for. Never raises: a body that is not a Status counts as ``{}``."""
    try:
        body = read_object(content, "")
    except Unreachable:
        body = {}
    try:
        seconds = float(retry_after) if retry_after is not None else None
    except ValueError:
        seconds = None
    return ApiError(status, str(body.get("reason") or phrase), body, seconds)


async def read_events(answer: aiohttp.ClientResponse) -> AsyncIterator[Json]:
    """Yield the events of a watch as they come, one a line; what has no object is left out.

    Raises:
        Unreachable: the stream was cut, or a line is not JSON.
    """
    rest = b""
    try:
        async for chunk in answer.content.iter_any():
            *lines, rest = (rest + chunk).split(b"\n")
            for event in (read_object(line, "watch") for line in lines if line):
                if isinstance(event.get("object"), dict):
                    yield event
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise Unreachable(f"the stream was cut: {str(error) or type(error).__name__}") from error


def read_object(content: bytes, what: str) -> Json:
    """Return the JSON object that an answer to ``what`` is.

    Raises:
        Unreachable: it is none.
    """
    try:
        value = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise Unreachable(f"{what}: the answer is not JSON") from error
    if not isinstance(value, dict):
        raise Unreachable(f"{what}: the answer is not a JSON object")
    return value
