"""Reviews of policy objects that are to be stored: what else must be known is read, the verdict is `validation`'s.

Whatever cannot be read in time is not warned of: nobody waits for a warning.
"""

import asyncio
import logging

from aiohttp import web
from prometheus_client import CollectorRegistry, Counter

from meshwright.edge.client import ApiError, Client, Unreachable
from meshwright.edge.resources import RESOURCES
from meshwright.edge.review import NotReviewable
from meshwright.edge.validation import Judgement, find_related, judge, read_proposal, write_judgement
from meshwright.model.ref import Ref
from meshwright.model.snapshot import Parsed
from meshwright.parse.kinds import parse_object, ref_of

log = logging.getLogger(__name__)

PATH = "/validate"
_ASK_SECONDS = 1.0


class Validator:
    """Answers reviews. An object that only a bug of ours stands against is let through: its status tells the truth."""

    def __init__(self, client: Client, registry: CollectorRegistry) -> None:
        self._client = client
        self._reviews = Counter(
            "meshwright_validations", "Policy objects that were asked about.", ["kind", "outcome"], registry=registry
        )

    async def review(self, asked: web.Request) -> web.Response:
        """Answer one AdmissionReview."""
        try:
            proposal = read_proposal(await asked.read())
        except NotReviewable as error:
            return web.Response(status=400, text=f"{error}\n")
        judgement = Judgement()
        if (parsed := proposal.parsed) is not None:
            (found,) = await asyncio.gather(self._judge(parsed), return_exceptions=True)
            if isinstance(found, BaseException):
                log.error("%s: this is a bug in meshwright", parsed.ref, exc_info=found)
                outcome = "failed"
            else:
                judgement = found
                outcome = "refused" if found.refusal else "warned" if found.warnings else "accepted"
            self._reviews.labels(parsed.ref.kind.word, outcome).inc()
            if judgement.refusal:
                log.info("refused: %s", judgement.refusal)
        return web.Response(body=write_judgement(proposal, judgement), content_type="application/json")

    async def _judge(self, parsed: Parsed) -> Judgement:
        found = await asyncio.gather(*(self._look_up(ref) for ref in find_related(parsed)))
        return judge(parsed, {ref: value for each in found for ref, value in each.items()})

    async def _look_up(self, ref: Ref) -> dict[Ref, Parsed | None]:
        """Return what is stored at ``ref``, or all of its kind when it has no name; nothing when nobody can say."""
        if (resource := RESOURCES.get(ref.kind)) is None:
            return {}
        try:
            async with asyncio.timeout(_ASK_SECONDS):
                if ref.name:
                    raw = await self._client.read(resource, ref.namespace, ref.name, seconds=_ASK_SECONDS)
                    return {ref: parse_object(raw)}
                page = await self._client.list_page(resource, namespace=ref.namespace)
        except ApiError as error:
            return {ref: None} if error.status == 404 and ref.name else {}
        except (Unreachable, TimeoutError):
            return {}
        return {own: parse_object(raw) for raw in page.items if (own := ref_of(raw)) is not None}
