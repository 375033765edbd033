"""Whether another endpoint writer is at work: a real Linkerd's, which writes the same EndpointSlices as we would.

Source: linkerd2 ``controller/api/destination/external-workload/endpoints_controller.go``: the Lease
``linkerd-destination-endpoint-write`` in Linkerd's own namespace, 30 s long.
"""

import asyncio
import logging
import math
import time
from collections.abc import Callable
from datetime import datetime

from meshwright.edge.client import ApiError, Client, Unreachable
from meshwright.edge.clock import utc_now
from meshwright.edge.resources import LEASES

log = logging.getLogger(__name__)

LEASE_NAME = "linkerd-destination-endpoint-write"
LOOK_SECONDS = 10.0
_LONGEST_SECONDS = 300.0


class Rivals:
    """Looks for such a Lease every ``seconds`` while `run` runs. ``changed`` is called when `found` is another.

    A Lease counts while it is renewed: from when a renewal was seen, for as long as the Lease says. What it says of the
    time matters at the first look alone, and roughly: one that was left behind long ago is nobody's.
    """

    def __init__(
        self,
        *,
        client: Client,
        changed: Callable[[], None],
        seconds: float = LOOK_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._changed = changed
        self._seconds = seconds
        self._clock = clock
        self._seen: dict[str, tuple[str, float]] = {}
        self.found = ""
        """Who it is, as ``namespace/holder``; ``""`` for nobody."""
        self.is_known = False
        """Whether it was looked once; then ``changed`` is called, too."""

    async def run(self) -> None:
        """Look for ever. While Leases cannot be read, what was found stands."""
        await self.look()
        self.is_known = True
        self._changed()
        while True:
            await asyncio.sleep(self._seconds)
            await self.look()

    async def look(self) -> None:
        """Look once."""
        try:
            page = await self._client.list_page(LEASES, fields=f"metadata.name={LEASE_NAME}")
        except (ApiError, Unreachable) as error:
            log.debug("Leases named %s: not read: %s", LEASE_NAME, error)
            return
        now, found = self._clock(), ""
        seen: dict[str, tuple[str, float]] = {}
        for raw in page.items:
            spec, meta = raw.get("spec") or {}, raw["metadata"]
            holder = str(spec.get("holderIdentity") or "")
            who, version = str(meta.get("namespace") or ""), str(meta.get("resourceVersion") or "")
            before, since = self._seen.get(who, ("", -math.inf))
            if version != before and (before or _is_recent(str(spec.get("renewTime") or ""))):
                since = now
            seen[who] = (version, since)
            lasts = min(_LONGEST_SECONDS, float(spec.get("leaseDurationSeconds") or 30)) + self._seconds
            if holder and now - seen[who][1] < lasts:
                found = found or f"{who}/{holder}"
        self._seen = seen
        if found == self.found:
            return
        if found:
            log.error("EndpointWriterConflict: %s writes endpoints of external workloads; we write none", found)
        else:
            log.info("nobody else writes endpoints of external workloads any more")
        self.found = found
        self._changed()


def _is_recent(renewed: str) -> bool:
    try:
        then = datetime.fromisoformat(renewed)
    except ValueError:
        return False
    return then.tzinfo is not None and abs((utc_now() - then).total_seconds()) < _LONGEST_SECONDS
