"""``meshwright webhook``: the API server asks it about every new pod, and it gives some of them their proxy; and about
policy that is to be stored."""

import argparse
import asyncio
import logging
import signal
import socket
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime

from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from meshwright.edge.admission import Request, Verdict, decide, read_request, write_response
from meshwright.edge.api_resource import Resource
from meshwright.edge.client import ApiError, Client, Json, Unreachable, connect
from meshwright.edge.flags import make_add
from meshwright.edge.http import make_app, serving
from meshwright.edge.injection_events import Events
from meshwright.edge.injection_flags import SettingsError, add_injection_flags, read_injection_settings
from meshwright.edge.live_certificate import LiveCertificate
from meshwright.edge.logs import set_up_logs
from meshwright.edge.review import NotReviewable
from meshwright.edge.validator import PATH as VALIDATION_PATH
from meshwright.edge.validator import Validator
from meshwright.edge.watch import Reflector
from meshwright.model.injection import InjectionSettings, Skip
from meshwright.model.ref import Kind, Ref
from meshwright.model.units import Namespace

log = logging.getLogger(__name__)

NAMESPACES = Resource(group="", version="v1", plural="namespaces", kind="Namespace", is_namespaced=False)
SECRETS = Resource(group="", version="v1", plural="secrets", kind="Secret")
SECRET_NAME = "meshwright-webhook-tls"
PATH = "/inject"
_MOST_BYTES = 8 * 2**20
_ASK_SECONDS = 2.0
_LINGER_SECONDS = 30.0
"""A new certificate is served after that long: the API server must learn first whom to believe."""
_DRAIN_SECONDS = 5.0
"""While the cluster forgets this replica, it still answers: a pod that nobody answers for has no proxy."""


class Webhook:
    """Answers reviews. ``certificate`` and the namespaces are told to it by reflectors, through `put`."""

    def __init__(
        self, client: Client, settings: InjectionSettings, events: Events, *, linger_seconds: float = _LINGER_SECONDS
    ) -> None:
        self._client = client
        self._settings = settings
        self._events = events
        self._linger_seconds = linger_seconds
        self._next: asyncio.TimerHandle | None = None
        self._namespaces: dict[str, Mapping[str, str]] = {}
        self.certificate = LiveCertificate()
        self.has_certificate = asyncio.Event()
        self.ready = asyncio.Event()
        self.port = 0
        self.is_stopping = False
        self.registry = CollectorRegistry()
        self._validator = Validator(client, self.registry)
        self._injections = Counter(
            "meshwright_injections", "Pods that were asked about.", ["outcome", "reason"], registry=self.registry
        )
        self._seconds = Histogram(
            "meshwright_injection_seconds",
            "Time to answer about one pod.",
            registry=self.registry,
            buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0),
        )
        expiry = Gauge(
            "meshwright_webhook_certificate_expiry_seconds",
            "When the webhook's certificate ends, since the epoch; 0: it has none.",
            registry=self.registry,
        )
        expiry.set_function(lambda: self.certificate.not_after.timestamp() if self.certificate.not_after else 0.0)

    def put(self, ref: Ref, raw: Json | None) -> None:
        """Take one change of a Namespace or of the certificate's Secret."""
        if ref.kind is Kind.NAMESPACE:
            if raw is None:
                self._namespaces.pop(ref.name, None)
            else:
                self._namespaces[ref.name] = _read_annotations(raw)
        elif ref.name == SECRET_NAME:
            self._put_secret(raw)

    def _put_secret(self, raw: Json | None) -> None:
        if raw is None:
            log.warning("Secret %s is gone; the certificate in use stays until there is another", SECRET_NAME)
            return
        if self._next is not None:
            self._next.cancel()
            self._next = None
        ends = self.certificate.not_after
        if ends is None or (ends - datetime.now(UTC)).total_seconds() < 2 * self._linger_seconds:
            self._load(raw)
        else:
            self._next = asyncio.get_running_loop().call_later(self._linger_seconds, self._load, raw)

    def _load(self, raw: Json) -> None:
        self._next = None
        try:
            is_other = self.certificate.load(raw)
        except ValueError as error:
            log.error("Secret %s cannot be used: %s", SECRET_NAME, error)
            return
        if is_other:
            log.info("serving with a certificate that ends %s", self.certificate.not_after)
        self.has_certificate.set()

    @property
    def is_renewing(self) -> bool:
        """Whether another certificate waits for its time to be served."""
        return self._next is not None

    def make_app(self) -> web.Application:
        """Return the application that reviews are posted to."""
        app = web.Application(client_max_size=_MOST_BYTES)
        app.add_routes([web.post(PATH, self._review), web.post(VALIDATION_PATH, self._validate)])
        return app

    async def _review(self, asked: web.Request) -> web.Response:
        started = time.perf_counter()
        # As a value: whatever goes wrong with one pod, the API server gets an answer and goes by its failurePolicy.
        (answer,) = await asyncio.gather(self._answer(await asked.read()), return_exceptions=True)
        if isinstance(answer, NotReviewable):
            response = web.Response(status=400, text=f"{answer}\n")
        elif isinstance(answer, (ApiError, Unreachable)):
            # Without the namespace's annotations any answer could be wrong: failurePolicy decides.
            log.error("a namespace cannot be read: %s", answer)
            self._injections.labels("failed", "NamespaceUnknown").inc()
            response = web.Response(status=503, text=f"{answer}\n")
        elif isinstance(answer, BaseException):
            raise answer
        else:
            response = web.Response(body=answer, content_type="application/json")
        if self.is_stopping:
            response.force_close()
        self._seconds.observe(time.perf_counter() - started)
        return response

    async def _validate(self, asked: web.Request) -> web.Response:
        response = await self._validator.review(asked)
        if self.is_stopping:
            response.force_close()
        return response

    async def _answer(self, body: bytes) -> bytes:
        request = read_request(body)
        verdict = Verdict()
        if request.pod is not None:
            annotations = await self._find_annotations(request.namespace)
            (outcome,) = await asyncio.gather(self._decide(request, annotations), return_exceptions=True)
            if isinstance(outcome, BaseException):
                log.error("a pod of %s: this is a bug in meshwright", request.namespace, exc_info=outcome)
                self._injections.labels("failed", "Bug").inc()
            else:
                verdict = outcome
                self._note(request, verdict)
        return write_response(request, verdict)

    async def _decide(self, request: Request, annotations: Mapping[str, str]) -> Verdict:
        return decide(request, annotations, self._settings)

    def _note(self, request: Request, verdict: Verdict) -> None:
        injected = verdict.injected
        if injected is None or request.pod is None:
            return
        outcome = "skipped" if injected.skip else "injected"
        self._injections.labels(outcome, injected.skip or "").inc()
        if injected.skip is not Skip.NOT_ASKED:
            log.debug("a pod of %s: %s %s", request.namespace, outcome, injected.message)
        if not request.is_dry_run:
            self._events.tell(request.pod, request.namespace, injected)

    async def _find_annotations(self, namespace: Namespace) -> Mapping[str, str]:
        if (known := self._namespaces.get(namespace)) is not None:
            return known
        try:
            raw = await self._client.read(NAMESPACES, "", namespace, seconds=_ASK_SECONDS)
        except ApiError as error:
            if error.status != 404:
                raise
            return {}  # it was deleted a moment ago, and the pod will not be stored
        return _read_annotations(raw)


def _read_annotations(raw: Json) -> Mapping[str, str]:
    return (raw.get("metadata") or {}).get("annotations") or {}


def _trim(raw: Json) -> Json:
    metadata = {name: raw["metadata"].get(name) for name in ("name", "uid", "resourceVersion", "annotations")}
    return {"metadata": metadata}


@asynccontextmanager
async def admit(
    client: Client,
    settings: InjectionSettings,
    *,
    host: str | None,
    port: int,
    metrics_port: int,
    drain_seconds: float = _DRAIN_SECONDS,
    linger_seconds: float = _LINGER_SECONDS,
) -> AsyncIterator[Webhook]:
    """Answer reviews while the context lasts. Yields the webhook: its ``ready`` is set once it serves.

    It serves when it has a certificate and knows the namespaces. At the end it first says that it is not ready, and
    goes on answering for ``drain_seconds``. A certificate is replaced ``linger_seconds`` after there is another.
    """
    events = Events(client=client, instance=socket.gethostname())
    webhook = Webhook(client, settings, events, linger_seconds=linger_seconds)
    namespaces = Reflector(client=client, kind=Kind.NAMESPACE, resource=NAMESPACES, put=webhook.put, project=_trim)
    secret = Reflector(
        client=client,
        kind=Kind.SECRET,
        resource=SECRETS,
        put=webhook.put,
        namespace=settings.trust.control_plane,
        fields=f"metadata.name={SECRET_NAME}",
    )

    def not_ready() -> list[str]:
        return _find_missing(webhook, namespaces)

    app = make_app(render=lambda: generate_latest(webhook.registry), faults=list, not_ready=not_ready)
    async with asyncio.TaskGroup() as tasks, serving(app, host or "", metrics_port):
        running = [
            tasks.create_task(namespaces.run()),
            tasks.create_task(secret.run()),
            tasks.create_task(events.run()),
            tasks.create_task(_serve_when_known(webhook, namespaces, host, port)),
        ]
        try:
            yield webhook
        finally:
            webhook.is_stopping = True
            if webhook.ready.is_set():
                await asyncio.sleep(drain_seconds)
            for task in reversed(running):
                task.cancel()


def _find_missing(webhook: Webhook, namespaces: Reflector) -> list[str]:
    if webhook.is_stopping:
        return ["stopping"]
    found = [] if webhook.has_certificate.is_set() else [f"no certificate in Secret {SECRET_NAME}"]
    if not namespaces.state.is_settled and not webhook.ready.is_set():
        found.append("the namespaces are not known yet")
    return found or ([] if webhook.ready.is_set() else ["not serving yet"])


async def _serve_when_known(webhook: Webhook, namespaces: Reflector, host: str | None, port: int) -> None:
    await namespaces.wait_settled()
    await webhook.has_certificate.wait()
    runner = web.AppRunner(webhook.make_app(), access_log=None, handle_signals=False, shutdown_timeout=2.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port, ssl_context=webhook.certificate.context).start()
        webhook.port = int(runner.addresses[0][1])
        webhook.ready.set()
        log.info("answering on port %d", webhook.port)
        await asyncio.Event().wait()
    finally:
        await runner.cleanup()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``meshwright webhook``; those about proxies can be set as ``MESHWRIGHT_<FLAG>``."""
    add = make_add(parser)
    add("--kubeconfig", "", "file that says where the API server is; in a cluster none is needed")
    add_injection_flags(parser)
    add("--host", "", "where to listen; none: on every address")
    add("--port", "9443", "port for the API server, HTTPS", type=int)
    add("--metrics-port", "8080", "port of /metrics, /healthz and /readyz", type=int)
    add("--log-format", "text", "how log lines look", choices=("json", "text"))
    add("--log-level", "info", "the least level that is logged", choices=("debug", "info", "warning", "error"))


def run(args: argparse.Namespace) -> int:
    """Serve until SIGTERM or SIGINT. Return the exit code: 0, or 1 when it could not start."""
    set_up_logs(style=args.log_format, level=args.log_level)
    try:
        settings = read_injection_settings(args)
    except SettingsError as wrong:
        log.error("cannot start: %s", wrong)
        return 1
    is_started = True
    try:
        asyncio.run(_run(args, settings))
    except* OSError as errors:
        is_started = False
        for error in errors.exceptions:
            log.error("cannot start: %s", error)
    return 0 if is_started else 1


async def _run(args: argparse.Namespace, settings: InjectionSettings) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with (
        await connect(args.kubeconfig or None) as client,
        admit(client, settings, host=args.host or None, port=int(args.port), metrics_port=int(args.metrics_port)),
    ):
        await stop.wait()
        log.info("stopping")
