"""Stand-in backends: servers on loopback addresses that answer whatever a proxy sends them and say who they are.

Every endpoint speaks HTTP/1.1, HTTP/2 without TLS, and gRPC (any method: an empty message). How it answers is set by
annotations on its Deployment, and changes with them while it runs.
"""

import asyncio
import os
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass

import orjson

from meshwright.edge.backend_server import Answer, Request, serve
from meshwright.model.problem import Problem, Reason
from meshwright.model.units import Port

PREFIX = "dev.meshwright.dev/"
SERVED_BY = "served-by"

# https://github.com/grpc/grpc/blob/master/doc/http-grpc-status-mapping.md
_GRPC_STATUS = {400: 13, 401: 16, 403: 7, 404: 12, 429: 14, 502: 14, 503: 14, 504: 14}
_EMPTY_MESSAGE = bytes(5)
_DURATION = re.compile(r"(\d{1,7})(ms|s)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Behaviour:
    """How a stand-in answers.

    ``fail_percent`` of requests, by chance, get ``fail_status``; the others ``status``. Each waits ``delay_ms`` first.
    ``text`` replaces the JSON that tells of the request; ``None``: the JSON.
    """

    status: int = 200
    text: str | None = None
    delay_ms: int = 0
    fail_percent: int = 0
    fail_status: int = 503


def read_behaviour(annotations: Mapping[str, str]) -> tuple[Behaviour, tuple[Problem, ...]]:
    """Return what ``dev.meshwright.dev/*`` annotations ask for, and a problem for each that says nothing usable.

    Keys: ``status``, ``fail-status`` (200 to 599), ``fail-percent`` (0 to 100), ``delay`` (``300ms``), ``text``.
    """
    behaviour = Behaviour()
    values: dict[str, int | str] = {}
    problems: list[Problem] = []
    for key, value in sorted(annotations.items()):
        name = key.removeprefix(PREFIX)
        if name == key:
            continue
        read: int | str | None
        match name:
            case "status" | "fail-status":
                read, expected = _whole(value, 200, 599), "an HTTP status, 200 to 599"
            case "fail-percent":
                read, expected = _whole(value, 0, 100), "a whole number, 0 to 100"
            case "delay":
                read, expected = _millis(value), "a whole number with ms or s, like 300ms"
            case "text":
                read, expected = value, ""
            case _:
                read, expected = None, "one of status, text, delay, fail-percent, fail-status as the key's last word"
        if read is None:
            message = f'found "{value}", write {expected}'
            problems.append(
                Problem(field=f"metadata.annotations[{key}]", reason=Reason.INVALID_ANNOTATION, message=message)
            )
        else:
            values["delay_ms" if name == "delay" else name.replace("-", "_")] = read
    return Behaviour(**{name: values.get(name, getattr(behaviour, name)) for name in Behaviour.__slots__}), tuple(
        problems
    )


@dataclass(frozen=True, slots=True, order=True)
class Endpoint:
    """Where a stand-in listens, and who it is: ``workload`` as ``namespace/name``, ``replica`` its own name."""

    address: str
    port: Port
    workload: str
    replica: str


class StandIns:
    """The stand-ins that run. ``await close()`` ends them all."""

    def __init__(self) -> None:
        self._running: dict[Endpoint, _StandIn] = {}

    @property
    def running(self) -> dict[Endpoint, Behaviour]:
        """Return those that run, and how they answer now."""
        return {endpoint: stand_in.behaviour for endpoint, stand_in in self._running.items()}

    async def apply(self, wanted: Mapping[Endpoint, Behaviour]) -> tuple[str, ...]:
        """Start, change and stop stand-ins until they are ``wanted``.

        Returns a sentence for each that could not listen; it is tried again next time.
        """
        await asyncio.gather(*(self._running.pop(gone).close() for gone in self._running.keys() - wanted.keys()))
        failures: list[str] = []
        for endpoint, behaviour in wanted.items():
            if running := self._running.get(endpoint):
                running.behaviour = behaviour
                continue
            stand_in = _StandIn(endpoint, behaviour)
            try:
                await stand_in.start()
            except OSError as error:
                where = f"{endpoint.address}:{endpoint.port}"
                failures.append(f"{endpoint.replica} cannot listen on {where}: {os.strerror(error.errno or 0)}")
            else:
                self._running[endpoint] = stand_in
        return tuple(failures)

    async def close(self) -> None:
        await self.apply({})


class _StandIn:
    """One endpoint's server."""

    def __init__(self, endpoint: Endpoint, behaviour: Behaviour) -> None:
        self.endpoint = endpoint
        self.behaviour = behaviour
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        # The same sequence on every run, another for every replica.
        self._chance = random.Random(endpoint.replica)

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._accept, self.endpoint.address, self.endpoint.port)

    async def close(self) -> None:
        if self._server:
            self._server.close()
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._connections.add(task)
        try:
            await serve(reader, writer, self._answer)
        finally:
            self._connections.discard(task)

    async def _answer(self, request: Request) -> Answer:
        behaviour = self.behaviour
        if behaviour.delay_ms:
            await asyncio.sleep(behaviour.delay_ms / 1000)
        is_failed = self._chance.random() * 100 < behaviour.fail_percent
        status = behaviour.fail_status if is_failed else behaviour.status
        if request.header("content-type").startswith("application/grpc"):
            return self._grpc(status)
        if behaviour.text is not None and not is_failed:
            content, body = "text/plain; charset=utf-8", behaviour.text.rstrip("\n").encode() + b"\n"
        else:
            content, body = "application/json", self._describe(request, status)
        return Answer(status=status, headers=(("content-type", content), (SERVED_BY, self.endpoint.replica)), body=body)

    def _grpc(self, status: int) -> Answer:
        headers = (("content-type", "application/grpc"), (SERVED_BY, self.endpoint.replica))
        if status < 300:
            return Answer(headers=headers, body=_EMPTY_MESSAGE, trailers=(("grpc-status", "0"),))
        message = f"{self.endpoint.replica} was asked to fail"
        return Answer(headers=(*headers, ("grpc-status", str(_GRPC_STATUS.get(status, 2))), ("grpc-message", message)))

    def _describe(self, request: Request, status: int) -> bytes:
        seen = {
            "from": self.endpoint.workload,
            "replica": self.endpoint.replica,
            "status": status,
            "request": f"{request.method} {request.path} {request.protocol}",
            "host": request.host,
            "headers": {name: value for name, value in request.headers if name != "host"},
            "body_bytes": len(request.body),
        }
        return orjson.dumps(seen, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def _whole(text: str, least: int, most: int) -> int | None:
    return int(text) if re.fullmatch(r"\d{1,3}", text) and least <= int(text) <= most else None


def _millis(text: str) -> int | None:
    found = _DURATION.fullmatch(text)
    return int(found[1]) * (1 if found[2] == "ms" else 1000) if found else None
