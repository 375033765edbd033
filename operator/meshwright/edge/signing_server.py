"""The HTTPS endpoint where pods have their keys certified. Whoever asks proves its pod by token and by address.

No request is dropped: those that must wait for the API server wait in order, as long as the client does. Only when
nothing can be known is the answer 503, and the client comes again.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime

import orjson
from aiohttp import web

from meshwright.edge.client import Client
from meshwright.edge.clock import utc_now
from meshwright.edge.door import DoorLimits, canonical, http_log, open_door
from meshwright.edge.identity_metrics import IdentityMetrics
from meshwright.edge.issuer import NoIssuer, Signer
from meshwright.edge.leaves import BadCsr, read_csr
from meshwright.edge.roster import Roster
from meshwright.edge.serving_leaf import ServingLeaf
from meshwright.edge.tokens import Bearer, ReviewFailed, TokenFault, TokenRefused, review_token
from meshwright.model.pod import Pod

log = logging.getLogger(__name__)

PATH = "/v1/certificates"
MAX_BODY_BYTES = 16 * 1024
REVIEWS = 64
"""TokenReviews under way at once; more only make the API server slower for everybody."""
_BODY_SECONDS = 10.0
_CONNECTION_SECONDS = 120.0
_PATIENCE_SECONDS = 2.0


class Refusal(Exception):
    """An answer other than a leaf. ``reason`` is a CamelCase word, the text is for people."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason


class SigningServer:
    """Answers ``POST /v1/certificates``.

    ``patience``: how many seconds a request waits for what the watch of pods has yet to tell (the pod, its addresses).
    """

    def __init__(
        self,
        client: Client,
        signer: Signer,
        roster: Roster[Pod],
        metrics: IdentityMetrics,
        *,
        patience: float = _PATIENCE_SECONDS,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self._client = client
        self._signer = signer
        self._roster = roster
        self.metrics = metrics
        self._patience = patience
        self._clock = clock
        self._turns = asyncio.Semaphore(REVIEWS)

    def make_app(self) -> web.Application:
        app = web.Application(client_max_size=MAX_BODY_BYTES)
        app.router.add_post(PATH, self._answer)
        return app

    async def _answer(self, request: web.Request) -> web.Response:
        started = time.monotonic()
        peer = _peer_of(request)
        who = "an unknown pod"
        try:
            token, csr = _read_token(request), await _read_body(request)
            try:
                key = read_csr(csr)
            except BadCsr as error:
                raise Refusal(400, "BadRequest", f"csr: {error}") from None
            if not self._signer.may_sign:
                raise NoIssuer
            bearer = await self._review(token)
            who = f"{bearer.pod.namespace}/{bearer.pod.name}"
            pod = await self._find_pod(bearer, peer)
            leaf = self._signer.sign(key, pod.account, pod.uid)
        except NoIssuer:
            return self._refuse(Refusal(503, "NoIssuer", "no issuer may sign now; its Secret says why"), who, peer)
        except Refusal as refusal:
            return self._refuse(refusal, who, peer)
        finally:
            self.metrics.seconds.observe(time.monotonic() - started)
        self.metrics.signed.inc()
        not_after = leaf.not_after.isoformat().replace("+00:00", "Z")
        log.debug("signed for %s at %s until %s", who, peer, not_after)
        return _json({"certificate": leaf.chain, "not_after": not_after}, 200)

    def _refuse(self, refusal: Refusal, who: str, peer: str) -> web.Response:
        log.warning("no leaf for %s at %s: %s: %s", who, peer, refusal.reason, refusal)
        self.metrics.refused.labels(refusal.reason).inc()
        answer = _json({"reason": refusal.reason, "message": str(refusal)}, refusal.status)
        if refusal.status == 401:
            answer.headers["WWW-Authenticate"] = "Bearer"
        return answer

    async def _review(self, token: str) -> Bearer:
        self.metrics.waiting.inc()
        try:
            await self._turns.acquire()
        finally:
            self.metrics.waiting.dec()
        try:
            return await review_token(self._client, token, self._clock())
        except TokenRefused as refused:
            raise Refusal(401, refused.fault.value, str(refused)) from None
        except ReviewFailed as failed:
            raise Refusal(503, "ReviewFailed", str(failed)) from None
        finally:
            self._turns.release()

    async def _find_pod(self, bearer: Bearer, peer: str) -> Pod:
        """Return the pod that a token is bound to, if it is the one that asks: a stolen token is worth nothing."""

        def fits(pod: Pod) -> bool:
            return pod.uid == bearer.uid and peer in pod.addresses

        pod = await self._roster.wait_for(bearer.pod, fits, self._patience)
        name = f"{bearer.pod.namespace}/{bearer.pod.name}"
        if pod is None:
            raise Refusal(503, "PodUnknown", f"pod {name} is not known yet")
        if pod.uid != bearer.uid:
            raise Refusal(403, "WrongPod", f"the token is for another pod than the {name} that there is now")
        if pod.account != bearer.account:
            raise Refusal(403, "WrongAccount", f"pod {name} does not run as {bearer.account}")
        if not pod.addresses:
            raise Refusal(503, "PodHasNoAddress", f"pod {name} has no address yet")
        if peer not in pod.addresses:
            raise Refusal(403, "WrongAddress", f"pod {name} is not at {peer}, where this request comes from")
        return pod


@asynccontextmanager
async def serve_signing(
    server: SigningServer, leaf: ServingLeaf, host: str, port: int, *, seconds: float = _CONNECTION_SECONDS
) -> AsyncIterator[int]:
    """Serve while the context lasts, and yield the port. A connection that lasts longer than ``seconds`` is cut.
    ``host``: ``""`` for every address.

    Raises:
        OSError: the address cannot be bound.
    """
    runner = web.AppRunner(
        server.make_app(),
        access_log=None,
        logger=http_log,
        handle_signals=False,
        handler_cancellation=True,
        shutdown_timeout=5.0,
    )
    limits = DoorLimits(life=seconds)
    async with open_door(
        runner,
        lambda: leaf.context,
        host,
        port,
        limits=limits,
        refused=lambda reason: server.metrics.refused.labels(reason).inc(),
    ) as door:
        yield door.port


def _read_token(request: web.Request) -> str:
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip() or not (token.isascii() and token.isprintable()):
        refused = TokenRefused(TokenFault.MISSING)
        raise Refusal(401, refused.fault.value, str(refused))
    return token.strip()


async def _read_body(request: web.Request) -> str:
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            body = orjson.loads(await request.read())
    except TimeoutError:
        raise Refusal(400, "BadRequest", "the body did not come in time") from None
    except web.HTTPRequestEntityTooLarge:
        raise Refusal(400, "BadRequest", f"the body is too large; send at most {MAX_BODY_BYTES} bytes") from None
    except ValueError:
        raise Refusal(400, "BadRequest", 'the body is no JSON; send {"csr": "<PEM>"}') from None
    csr = body.get("csr") if isinstance(body, dict) else None
    if not isinstance(csr, str):
        raise Refusal(400, "BadRequest", 'there is no csr; send {"csr": "<PEM>"}')
    return csr


def _peer_of(request: web.Request) -> str:
    """Return the address that a request comes from, in the form that pods have theirs; ``""`` when it is gone."""
    found = request.transport.get_extra_info("peername") if request.transport is not None else None
    return canonical(str(found[0])) if found else ""


def _json(body: dict[str, str], status: int) -> web.Response:
    answer = web.Response(body=orjson.dumps(body), status=status, content_type="application/json")
    answer.force_close()  # a pod comes once a day
    return answer
