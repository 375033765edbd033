"""Who writes: a Lease, held by at most one process at a time.

It runs in a thread and an event loop of its own, so that no compile and no list can starve it, and judges everything by
one monotonic clock, never by what another process wrote. Who cannot renew stops writing before anybody else may start.

Source: client-go ``tools/leaderelection/leaderelection.go`` (the times, and that a holder's expiry counts from when its
record was last seen to change); kubernetes/api ``coordination/v1/types.go`` LeaseSpec.
"""

import asyncio
import logging
import random
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from meshwright.edge.client import ApiError, Client, Json, Unreachable
from meshwright.edge.resources import LEASES
from meshwright.model.config import FIELD_MANAGER

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseTiming:
    """Seconds. ``renew`` must be less than ``duration``, and a request's time less than what is between them."""

    duration: float = 15.0
    renew: float = 10.0
    retry: float = 2.0


def boot_seconds() -> float:
    """Return a monotonic time that also runs while the machine sleeps, where the system has one."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if clock is None else time.clock_gettime(clock)


@dataclass(frozen=True, slots=True)
class Record:
    """What a Lease says, and so what tells one renewal from the next."""

    holder: str
    version: str


class Lease:
    """A Lease to be held. `start` it, ask `may_write` before each write, `stop` it.

    ``told`` is called with ``True`` when the Lease is acquired, ``False`` when it is lost, from the Lease's thread.
    """

    def __init__(
        self,
        *,
        connect: Callable[[], Awaitable[Client]],
        namespace: str,
        name: str,
        identity: str,
        told: Callable[[bool], None],
        timing: LeaseTiming | None = None,
        clock: Callable[[], float] = boot_seconds,
        rng: random.Random | None = None,
    ) -> None:
        self._connect = connect
        self._namespace = namespace
        self._name = name
        self.identity = identity
        self._told = told
        self._timing = timing or LeaseTiming()
        self._clock = clock
        self._rng = rng or random.Random()
        self._held_until = float("-inf")
        self._is_leading = False
        self._is_orphaned = False
        self._has_kept = False
        self._seen = Record("", "")
        self._seen_at = 0.0
        self._raw: Json | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None
        self._is_up = threading.Event()
        self._thread = threading.Thread(target=self._main, name="lease", daemon=True)

    def start(self) -> None:
        """Start to want the Lease."""
        self._thread.start()
        self._is_up.wait()

    def may_write(self) -> bool:
        """Return whether the Lease was renewed recently enough that nobody else can hold it. For any thread."""
        return self._clock() < self._held_until

    def is_orphaned(self) -> bool:
        """Return whether it was ours last and could not be renewed, and nobody else is known to have it: the API server
        is away, as far as can be told from here. For any thread."""
        return (self._is_leading or self._is_orphaned) and not self.may_write()

    def has_kept(self) -> bool:
        """Return whether nobody else can have held it between the last two times that it was acquired here."""
        return self._has_kept

    def is_alive(self) -> bool:
        """Return whether the Lease's thread runs; if not, nobody renews or acquires any more."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """Give the Lease back if it is held, and end. Waits for that, bounded by two requests."""
        if self._loop is not None and self._stopping is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(timeout=2 * self._timing.retry + 1)

    def _main(self) -> None:
        asyncio.run(self._run())

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        self._is_up.set()
        client = await self._connect()
        async with client:
            while not self._stopping.is_set():
                await self._turn(client)
                try:
                    async with asyncio.timeout(self._timing.retry * self._rng.uniform(0.8, 1.2)):
                        await self._stopping.wait()
                except TimeoutError:
                    continue
            await self._release(client)

    async def _turn(self, client: Client) -> None:
        """Renew, acquire or wait: one attempt."""
        try:
            await self._attempt(client)
        except (ApiError, Unreachable) as error:
            self._raw = None  # what is stored now is not known
            log.warning("lease %s/%s: %s", self._namespace, self._name, error)
            if isinstance(error, ApiError) and error.status in (404, 409):
                self._is_orphaned = False
                if self._is_leading:
                    self._lose("somebody else changed it")
        if self._is_leading and not self.may_write():
            self._run_out()

    async def _attempt(self, client: Client) -> None:
        # A leader renews from what it wrote last, in one request; anybody else looks first.
        if self._raw is None or not self._is_leading:
            self._raw = await self._read(client)
        raw = self._raw
        spec = (raw or {}).get("spec") or {}
        holder = str(spec.get("holderIdentity") or "")
        record = Record(holder, str((raw or {}).get("metadata", {}).get("resourceVersion") or ""))
        if record != self._seen:
            self._seen, self._seen_at = record, self._clock()
        if holder not in ("", self.identity):
            self._is_orphaned = False
            if self._is_leading:
                self._lose(f"{holder} took it")
            wait = float(spec.get("leaseDurationSeconds") or self._timing.duration)
            if self._clock() < self._seen_at + wait:
                return
        asked = self._clock()
        self._raw = await self._write(client, raw, holder)
        if self._is_leading and not self.may_write():
            # Too late: what was to be written meanwhile was not, and who is told so plans it again.
            self._run_out()
        self._held_until = asked + self._timing.renew
        if not self._is_leading:
            self._has_kept = self._is_orphaned and holder == self.identity
            self._is_leading, self._is_orphaned = True, False
            log.info("lease %s/%s: held by %s now", self._namespace, self._name, self.identity)
            self._told(True)

    async def _read(self, client: Client) -> Json | None:
        try:
            return await client.read(LEASES, self._namespace, self._name, seconds=self._timing.retry)
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    async def _write(self, client: Client, raw: Json | None, holder: str) -> Json:
        now = _micro_time()
        old = (raw or {}).get("spec") or {}
        is_new = holder != self.identity
        spec = {
            "holderIdentity": self.identity,
            "leaseDurationSeconds": max(1, round(self._timing.duration)),
            "acquireTime": now if is_new else old.get("acquireTime") or now,
            "renewTime": now,
            "leaseTransitions": int(old.get("leaseTransitions") or 0) + (raw is not None and is_new),
        }
        return await self._store(client, raw, spec)

    async def _store(self, client: Client, raw: Json | None, spec: Json) -> Json:
        meta: Json = {"namespace": self._namespace, "name": self._name}
        manifest: Json = {"apiVersion": LEASES.api_version, "kind": LEASES.kind, "metadata": meta, "spec": spec}
        if raw is None:
            return await client.create(LEASES, manifest, manager=FIELD_MANAGER, seconds=self._timing.retry)
        manifest["metadata"] = {key: value for key, value in raw["metadata"].items() if key != "managedFields"}
        return await client.replace(LEASES, manifest, manager=FIELD_MANAGER, seconds=self._timing.retry)

    async def _release(self, client: Client) -> None:
        was_held, raw = self.may_write(), self._raw
        self._held_until = float("-inf")
        self._is_leading = self._is_orphaned = False
        if not was_held or raw is None:
            return
        spec = dict(raw["spec"]) | {"holderIdentity": "", "leaseDurationSeconds": 1, "renewTime": _micro_time()}
        try:
            await self._store(client, raw, spec)
            log.info("lease %s/%s: released", self._namespace, self._name)
        except (ApiError, Unreachable) as error:
            log.warning("lease %s/%s: not released, it will run out: %s", self._namespace, self._name, error)

    def _run_out(self) -> None:
        self._is_orphaned = True
        self._lose("it could not be renewed in time")

    def _lose(self, why: str) -> None:
        self._held_until = float("-inf")
        self._is_leading = False
        self._told(False)
        log.warning("lease %s/%s: lost, %s", self._namespace, self._name, why)


def _micro_time() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
