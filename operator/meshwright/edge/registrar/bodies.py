"""Bodies and heads of requests and answers: JSON, of bounded size, in bounded time."""

import asyncio
import math
import re

import orjson
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from meshwright.model.enrollment import Refusal, Turned

MAX_BODY_BYTES = 16 * 1024
BODY_SECONDS = 5.0

_MAX_ID = 64
_NOT_ID = re.compile(r"[^A-Za-z0-9._:-]")
_FAULTS = {404: ("NotFound", "there is nothing here"), 405: ("MethodNotAllowed", "this is not to be done here")}

Json = dict[str, object]


async def read_body(request: web.BaseRequest) -> object:
    """Return the body of a request, as JSON has it, or a `Refusal`.

    Raises:
        TimeoutError: it did not come in time.
    """
    if (request.content_length or 0) > MAX_BODY_BYTES:
        return _too_large()
    if "Content-Encoding" in request.headers:
        return _bad("the body is encoded; send it as it is")
    content = bytearray()
    try:
        if request.content.is_eof():  # it came with the head, as it mostly does
            content += request.content.read_nowait()
        else:
            async with asyncio.timeout(BODY_SECONDS):
                if request.headers.get("Expect", "").lower() == "100-continue":
                    await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")  # RFC 9110 section 10.1.1
                    request.writer.output_size = 0
                while not request.content.at_eof() and len(content) <= MAX_BODY_BYTES:
                    content += await request.content.readany()
    except (web.RequestPayloadError, HttpProcessingError):
        return _bad("the body is no HTTP")
    if len(content) > MAX_BODY_BYTES:
        return _too_large()
    try:
        found: object = orjson.loads(content)
    except ValueError:
        return _bad("the body is no JSON")
    return found


def write_answer(request: web.BaseRequest, status: int, body: Json | None) -> web.Response:
    """Return an answer; a request's id comes back with it, as far as it is one."""
    headers = {"Server": "meshwright"}
    asked = request.headers.get("X-Request-Id")
    if asked is not None:
        headers["X-Request-Id"] = _NOT_ID.sub("", asked[:_MAX_ID])
    if body is None:
        return web.Response(status=status, headers=headers)
    headers["Content-Type"] = "application/json"
    return web.Response(body=orjson.dumps(body), status=status, headers=headers)


def write_refusal(request: web.BaseRequest, refusal: Refusal) -> web.Response:
    """Return the answer that says why there is no other, and when to come again."""
    answer = write_answer(request, refusal.status, {"reason": refusal.reason.value, "message": refusal.message})
    if refusal.retry_after is not None:
        answer.headers["Retry-After"] = str(max(1, math.ceil(refusal.retry_after)))
    return answer


def write_fault(request: web.BaseRequest, status: int) -> web.Response:
    """Return the answer to a request that is for nothing."""
    reason, message = _FAULTS[status]
    answer = write_answer(request, status, {"reason": reason, "message": message})
    answer.force_close()
    return answer


def _bad(message: str) -> Refusal:
    return Refusal(reason=Turned.BAD_REQUEST, message=message)


def _too_large() -> Refusal:
    message = f"the body is too large; send at most {MAX_BODY_BYTES} bytes"
    return Refusal(reason=Turned.TOO_LARGE, message=message)
