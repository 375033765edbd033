"""A Kubernetes API server in this process, over real HTTP, with faults on demand. It counts every write.

It keeps to the rules that the operator relies on: paged lists that are one moment, watches that go on from a version,
bookmarks, 410 in its three forms, preconditions, server-side apply by field, statuses apart.
"""

import asyncio
import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jsonpatch
import orjson
import yaml
from aiohttp import web

from meshwright.edge.api_resource import Resource
from meshwright.edge.client import Json
from tests.edge.cluster import Change, Cluster, Conflict, Refusal, selects, status_object
from tests.edge.discovery import discover


@dataclass(frozen=True, slots=True, order=True)
class Write:
    """One write that changed something, or tried to. ``kind`` of a status is ``HTTPRoute/status``."""

    verb: str
    kind: str
    manager: str
    namespace: str
    name: str
    status: int

    @property
    def triple(self) -> tuple[str, str, str]:
        return self.verb, self.kind, self.manager


@dataclass(slots=True, kw_only=True)
class Fault:
    """Answers requests in the server's place, while there are ``times`` left (``None``: always).

    ``status`` 0 cuts the connection, -1 never answers. ``watch``: only watches, only others, or both.
    """

    method: str
    plural: str
    status: int
    watch: bool | None = None
    times: int | None = None
    retry_after: int | None = None
    needs_token: bool = False
    cause: str = ""
    hits: int = 0

    def takes(self, request: web.Request, plural: str, is_watch: bool) -> bool:
        if self.method not in ("*", request.method) or self.plural not in ("*", plural) or self.times == 0:
            return False
        if self.needs_token and "continue" not in request.query:
            return False
        return self.watch is None or self.watch == is_watch


@dataclass(slots=True, kw_only=True)
class Cut:
    """Cuts the way to the server at a write: after ``left`` others, before it is done or (``is_after``) before it is
    answered. Nothing comes through from then on."""

    left: int
    is_after: bool
    happened: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(eq=False, slots=True)
class Stream:
    """One open watch: what is put in its queue is sent. ``None`` ends it, an exception cuts it."""

    resource: Resource
    namespace: str
    labels: str
    fields: str = ""
    is_partial: bool = False
    queue: asyncio.Queue[bytes | BaseException | None] = field(default_factory=asyncio.Queue)
    is_frozen: bool = False


class ApiServer:
    """Serves a `Cluster`. Use as an async context; ``url`` is where it listens, `kubeconfig` writes a file for it."""

    def __init__(self) -> None:
        self.cluster = Cluster()
        self.cluster.on_change = self._changed
        self.cluster.on_undefine = self.end_streams
        self.writes: list[Write] = []
        self.requests: Counter[tuple[str, str]] = Counter()
        self.faults: list[Fault] = []
        self.cut: Cut | None = None
        self.streams: set[Stream] = set()
        self.url = ""
        self.stirred = asyncio.Event()
        self._tokens: dict[str, tuple[int, list[Json]]] = {}
        self._serial = itertools.count(1)
        self._runner: web.AppRunner | None = None
        self.reviews: dict[str, Callable[[Json], Json]] = {}
        """What a review of a kind is answered, by its plural: it is asked, and nothing is stored."""
        self.pages: dict[str, str] = {}
        """What is no object, by its path: a container's log, what a pod answers through the server."""

    async def __aenter__(self) -> "ApiServer":
        app = web.Application(client_max_size=2**24)
        app.router.add_route("*", "/{path:.*}", self._serve)
        self._runner = web.AppRunner(app, handle_signals=False, shutdown_timeout=0.1, handler_cancellation=True)
        await self._runner.setup()
        await self.listen()
        return self

    async def listen(self, port: int = 0) -> None:
        assert self._runner is not None
        site = web.TCPSite(self._runner, "127.0.0.1", port)
        await site.start()
        self.url = "http://{}:{}".format(*self._runner.addresses[-1][:2])

    async def __aexit__(self, *_: object) -> None:
        self.end_streams()
        assert self._runner is not None
        await self._runner.cleanup()

    def kubeconfig(self, folder: Path) -> str:
        path = folder / "kubeconfig"
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
            "clusters": [{"name": "test", "cluster": {"server": self.url}}],
            "users": [{"name": "test", "user": {"token": "secret"}}],
        }
        path.write_text(yaml.safe_dump(content))
        return str(path)

    # What a test does to the server.

    def compact(self) -> None:
        """Forget history: a watch from an older version, and an unfinished list, are answered 410."""
        self.cluster.compact()
        self._tokens.clear()

    def send(self, resource: Resource, event: Json) -> None:
        """Send an event of the test's making to all streams of a kind."""
        for stream in self._streams_of(resource):
            stream.queue.put_nowait(orjson.dumps(event) + b"\n")

    def send_bookmarks(self) -> None:
        for stream in self.streams:
            body = {"metadata": {"resourceVersion": str(self.cluster.version)}, "kind": stream.resource.kind}
            stream.queue.put_nowait(orjson.dumps({"type": "BOOKMARK", "object": body}) + b"\n")

    def end_streams(self, resource: Resource | None = None) -> None:
        for stream in self._streams_of(resource):
            stream.queue.put_nowait(None)

    def cut_streams(self, resource: Resource | None = None) -> None:
        for stream in self._streams_of(resource):
            stream.queue.put_nowait(ConnectionResetError())

    def freeze_streams(self, resource: Resource | None = None) -> None:
        """Let the streams open now live on and say nothing more."""
        for stream in self._streams_of(resource):
            stream.is_frozen = True

    def fail(self, plural: str, status: int, *, method: str = "GET", **how: Any) -> Fault:
        fault = Fault(method=method, plural=plural, status=status, **how)
        self.faults.append(fault)
        return fault

    def heal(self) -> None:
        self.faults.clear()

    @contextmanager
    def counted(self) -> Iterator[list[Write]]:
        """Give the list that holds the writes of the block once it ends."""
        start, found = len(self.writes), list[Write]()
        yield found
        found.extend(self.writes[start:])

    async def eventually(self, holds: Callable[[], bool], *, seconds: float = 60.0) -> None:
        """Return once ``holds()``; asked anew after each change or request, and now and then besides."""
        try:
            async with asyncio.timeout(seconds):
                while not holds():
                    self.stirred.clear()
                    try:
                        async with asyncio.timeout(0.05):
                            await self.stirred.wait()
                    except TimeoutError:
                        continue
        except TimeoutError:
            raise AssertionError("it did not come true in time") from None

    def _streams_of(self, resource: Resource | None) -> list[Stream]:
        return [stream for stream in self.streams if resource is None or stream.resource == resource]

    def _changed(self, change: Change) -> None:
        for stream in self._streams_of(change.resource):
            self._tell(stream, change)
        self.stirred.set()

    def _tell(self, stream: Stream, change: Change) -> None:
        raw, old = change.raw, change.old
        if stream.namespace not in ("", raw["metadata"].get("namespace")) or stream.is_frozen:
            return

        def takes(found: Json) -> bool:
            return selects(stream.labels, found) and has_fields(stream.fields, found)

        was, matches = old is not None and takes(old), takes(raw)
        if change.word == "DELETED":
            matches = False
        match was, matches:
            case False, True:
                word = "ADDED"
            case True, False:
                word = "DELETED"
            case True, True:
                word = "MODIFIED"
            case _:
                return
        shown = partial(raw) if stream.is_partial else raw
        stream.queue.put_nowait(orjson.dumps({"type": word, "object": shown}) + b"\n")

    # What a request gets.

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        try:
            self._come_through(request)
            return await self._answer(request)
        except Refusal as refusal:
            return _json(refusal.body, refusal.status)
        except Conflict as conflict:
            return _json(status_object(409, "Conflict", str(conflict)), 409)
        finally:
            self.stirred.set()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        parts = request.path.strip("/").split("/")
        if (discovered := discover(self.cluster.resources.values(), parts)) is not None:
            return _json(discovered)
        if (page := self.pages.get(request.path)) is not None:
            return web.Response(text=page)
        group, rest = ("", parts[2:]) if parts[0] == "api" else (parts[1], parts[3:])
        namespace = ""
        if len(rest) > 2 and rest[0] == "namespaces":
            namespace, rest = rest[1], rest[2:]
        plural, name, subresource = (*rest, "", "", "")[:3]
        is_watch = request.query.get("watch") in ("true", "1")
        self.requests[
            "WATCH" if is_watch else "LIST" if request.method == "GET" and not name else request.method, plural
        ] += 1
        resource = self.cluster.resources.get((group, plural))
        status = await self._fault(request, plural, is_watch)
        if status is not None:
            if request.method != "GET":
                self._log(request, resource, subresource, namespace, name, status.status)
            return status
        if request.method == "POST" and (review := self.reviews.get(plural)) is not None:
            return _json(review(orjson.loads(await request.read())))
        if resource is None or f"/{resource.version}/" not in f"{request.path}/":
            raise Refusal(404, "NotFound", "404 page not found")
        if request.method == "GET":
            if name:
                return _json(self.cluster.existing(resource, namespace, name))
            if is_watch:
                return await self._watch(request, resource, namespace)
            return _json(self._list(request, resource, namespace))
        body = orjson.loads(await request.read() or b"{}")
        name = name or str((body.get("metadata") or {}).get("name") or "")
        self._come_through(request, is_after=False)
        try:
            answer = self._write(request, resource, (namespace, name), subresource, body)
        except (Refusal, Conflict) as refusal:
            code = refusal.status if isinstance(refusal, Refusal) else 409
            self._log(request, resource, subresource, namespace, name, code)
            raise
        self._log(request, resource, subresource, namespace, name, 200)
        self._come_through(request, is_after=True)
        return _json(answer)

    def _come_through(self, request: web.Request, *, is_after: bool | None = None) -> None:
        """Cut the connection of a request if it is to be cut here. ``is_after`` ``None``: it has just come."""
        cut = self.cut
        if cut is None:
            return
        if is_after is cut.is_after:
            if not cut.left:
                cut.happened.set()
            cut.left -= 1
        if cut.happened.is_set():
            assert request.transport is not None
            request.transport.abort()
            raise Refusal(503, "Cut")

    def _log(
        self, request: web.Request, resource: Resource | None, sub: str, namespace: str, name: str, status: int
    ) -> None:
        agent = request.headers.get("User-Agent", "").partition("/")[0]
        manager = request.query.get("fieldManager") or agent
        is_apply = "apply-patch" in request.headers.get("Content-Type", "")
        verb = "apply" if is_apply else request.method.lower()
        kind = (resource.kind if resource else "?") + (f"/{sub}" if sub else "")
        self.writes.append(Write(verb, kind, manager, namespace, name, status))

    async def _fault(self, request: web.Request, plural: str, is_watch: bool) -> web.Response | None:
        for fault in self.faults:
            if fault.takes(request, plural, is_watch):
                fault.hits += 1
                if fault.times is not None:
                    fault.times -= 1
                if fault.status == -1:
                    await asyncio.Event().wait()
                if fault.status == 0:
                    assert request.transport is not None
                    request.transport.abort()
                body = status_object(fault.status or 500, "Injected")
                if fault.cause:
                    body["details"] = {"causes": [{"reason": fault.cause}]}
                answer = _json(body, fault.status or 500)
                if fault.retry_after is not None:
                    answer.headers["Retry-After"] = str(fault.retry_after)
                return answer
        return None

    def _write(
        self, request: web.Request, resource: Resource, key: tuple[str, str], subresource: str, body: Json
    ) -> Json:
        manager = request.query.get("fieldManager") or "unknown"
        content_type = request.headers.get("Content-Type", "")
        match request.method:
            case "POST":
                return self.cluster.create(resource, key, body, manager)
            case "DELETE":
                return self.cluster.delete(resource, key, body.get("preconditions") or {})
            case "PATCH" if "apply-patch" in content_type:
                is_forced = request.query.get("force") == "true"
                return self.cluster.apply(resource, key, body, manager, is_forced=is_forced)
            case "PATCH" if "json-patch" in content_type:
                return self._patch(resource, key, body, manager)
            case "PATCH" if "merge-patch" not in content_type:
                raise Refusal(415, "UnsupportedMediaType")
            case method:
                is_patch, is_status = method == "PATCH", subresource == "status"
                return self.cluster.change(resource, key, body, manager, is_patch=is_patch, is_status=is_status)

    def _patch(self, resource: Resource, key: tuple[str, str], steps: Any, manager: str) -> Json:
        """JSON patch; an API server says 422 when a test fails (apiserver ``pkg/endpoints/handlers/patch.go``)."""
        try:
            raw = jsonpatch.apply_patch(self.cluster.existing(resource, *key), steps)
        except (jsonpatch.JsonPatchException, jsonpatch.JsonPointerException) as error:
            raise Refusal(422, "Invalid", str(error)) from error
        return self.cluster.put(resource, raw, manager=manager)

    def _list(self, request: web.Request, resource: Resource, namespace: str) -> Json:
        limit = int(request.query.get("limit") or 0)
        if token := request.query.get("continue"):
            if token not in self._tokens:
                raise Refusal(410, "Expired", "the provided continue parameter is too old")
            version, items = self._tokens.pop(token)
        else:
            labels = request.query.get("labelSelector", "")
            version = self.cluster.version
            items = [
                {k: v for k, v in raw.items() if resource.is_custom or k not in ("apiVersion", "kind")}
                for raw in self.cluster.all(resource)
                if namespace in ("", raw["metadata"].get("namespace"))
                and selects(labels, raw)
                and has_fields(request.query.get("fieldSelector", ""), raw)
            ]
        form = _form(request)
        if form == "PartialObjectMetadata":
            raise Refusal(406, "NotAcceptable", "you requested PartialObjectMetadata, but the object is a list")
        if form:
            items = [partial(raw) for raw in items]
        meta = {"resourceVersion": str(version)}
        if limit and len(items) > limit:
            meta["continue"] = f"token-{next(self._serial)}"
            self._tokens[meta["continue"]] = (version, items[limit:])
            items = items[:limit]
        return {"kind": f"{resource.kind}List", "apiVersion": resource.api_version, "metadata": meta, "items": items}

    async def _watch(self, request: web.Request, resource: Resource, namespace: str) -> web.StreamResponse:
        since = int(request.query.get("resourceVersion") or 0)
        stream = Stream(
            resource,
            namespace,
            request.query.get("labelSelector", ""),
            request.query.get("fieldSelector", ""),
            _form(request) == "PartialObjectMetadata",
        )
        answer = web.StreamResponse(headers={"Content-Type": "application/json"})
        await answer.prepare(request)
        if since < self.cluster.oldest:
            expired = {"type": "ERROR", "object": status_object(410, "Expired", f"too old resource version: {since}")}
            await answer.write(orjson.dumps(expired) + b"\n")
            return answer
        for change in self.cluster.history:
            if change.resource == resource and change.version > since:
                self._tell(stream, change)
        self.streams.add(stream)
        self.stirred.set()
        try:
            async with asyncio.timeout(float(request.query.get("timeoutSeconds") or 300)):
                while isinstance(item := await stream.queue.get(), bytes):
                    await answer.write(item)
                if item is not None:
                    assert request.transport is not None
                    request.transport.abort()
        except (TimeoutError, ConnectionError):
            pass
        finally:
            self.streams.discard(stream)
        return answer


def has_fields(selector: str, raw: Json) -> bool:
    """Return whether an object is as a field selector wants it: of ``path=value`` and ``path!=value`` terms."""
    for term in filter(None, selector.split(",")):
        path, _, value = term.partition("=")
        found: Any = raw
        for key in path.removesuffix("!").split("."):
            found = found.get(key) if isinstance(found, dict) else None
        if (found == value) is path.endswith("!"):
            return False
    return True


def partial(raw: Json) -> Json:
    """Return the metadata of an object alone."""
    return {"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": raw["metadata"]}


def _form(request: web.Request) -> str:
    """Return the form in which a client wants objects, by name, ``""`` for as they are.

    Source: kubernetes/apiserver ``pkg/endpoints/handlers/response.go`` doTransformObject.
    """
    return next(
        (part[3:] for part in request.headers.get("Accept", "").split(";") if part.startswith("as=")),
        "",
    )


def _json(body: Json, status: int = 200) -> web.Response:
    return web.Response(body=orjson.dumps(body), status=status, content_type="application/json")
