"""The registrar of one replica: what is watched goes to the registry, what the registry wants to the API server, and
machines to the server that answers them.

Every replica keeps it warm and answers; the one that holds the Lease lets machines in and writes.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import suppress

from prometheus_client import CollectorRegistry

from meshwright.edge.api_resource import Resource
from meshwright.edge.apply import NotLeader
from meshwright.edge.client import ApiError, Client, Json, Unreachable
from meshwright.edge.registrar.call_metrics import CallMetrics
from meshwright.edge.registrar.checkpoint import Checkpoint
from meshwright.edge.registrar.credentials import Credentials
from meshwright.edge.registrar.delivery_address import DeliveryAddress
from meshwright.edge.registrar.flags import RegistrarOptions
from meshwright.edge.registrar.leader_slice import LeaderSlice, emit_leader_slice, leader_slice_ref
from meshwright.edge.registrar.metrics import observe
from meshwright.edge.registrar.notices import find_notices
from meshwright.edge.registrar.outbox import Outbox
from meshwright.edge.registrar.ranges import Ranges
from meshwright.edge.registrar.reach import Reach, find_targets
from meshwright.edge.registrar.registry import Registry
from meshwright.edge.registrar.rivals import Rivals
from meshwright.edge.registrar.seen_objects import SeenObjects
from meshwright.edge.registrar.server import RegistrarServer, serve_registrar
from meshwright.edge.registrar.tenure import Holder, Phase, Tenure
from meshwright.edge.registrar.ticks import Ticks
from meshwright.edge.registrar.token_store import TokenSecrets
from meshwright.edge.registrar.workload_writer import WorkloadWriter
from meshwright.edge.watch import Timing
from meshwright.model.config import Config
from meshwright.model.enrollment import InstanceKey
from meshwright.model.group import Group, JoinToken, RegistrationPolicy
from meshwright.model.instance import SeenWorkload
from meshwright.model.problem import Problem
from meshwright.model.ref import Kind, Ref
from meshwright.model.snapshot import Broken, Parsed
from meshwright.model.workload import Service
from meshwright.parse.instance import parse_instance
from meshwright.parse.shape import quote

log = logging.getLogger(__name__)

NEEDED = (
    Kind.EXTERNAL_WORKLOAD,
    Kind.EXTERNAL_GROUP,
    Kind.REGISTRATION_POLICY,
    Kind.SERVICE,
    Kind.NAMESPACE,
)
"""The kinds that must be known in full before this replica leads."""
_POLL_SECONDS = 0.05
_RETRY_SECONDS = 1.0
_GOODBYE_SECONDS = 3.0

Tell = Callable[[Ref, Mapping[str, Problem]], None]


class Registrar:
    """Belongs to the event loop. `run` it; tell it of the Lease with `lead` and `follow`, of objects with ``put_…``.

    ``is_ready``: whether all was read that leading takes. ``is_away``: whether the API server cannot be asked, as far
    as is known. ``where``: at which version a kind is served. ``tell`` hears what people should know of a group.
    ``rivals_changed``: whether others write EndpointSlices is another (`may_write_slices`).
    """

    def __init__(
        self,
        *,
        client: Client,
        config: Config,
        bundle_key: str | None,
        options: RegistrarOptions,
        lease: Holder,
        collected: CollectorRegistry,
        is_ready: Callable[[], bool],
        is_away: Callable[[], bool],
        where: Callable[[Kind], Resource],
        tell: Tell,
        rivals_changed: Callable[[], None],
        wrote: Callable[[str, Kind], None] = lambda _verb, _kind: None,
        failed: Callable[[Ref, Exception], None] = lambda _ref, _error: None,
        timing: Timing | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._options = options
        self._delivery = DeliveryAddress(options, config.namespace)
        self._lease = lease
        self._is_ready = is_ready
        self._is_away = is_away
        self._tell = tell
        self._clock = clock
        self._wall = wall
        self.registry = Registry(config.trust, forbidden=options.ranges, changed=self._take_changes)
        self.workloads = SeenObjects(parse=parse_instance, changed=self._put_seen)
        self.groups: SeenObjects[None] = SeenObjects(parse=lambda _: None, changed=self._put_seen_group)
        self._writer = WorkloadWriter(
            client=client,
            wants=self.registry,
            workloads=self.workloads,
            groups=self.groups,
            where=where,
            may_write=self._may_write,
            wrote=wrote,
        )
        self.outbox = Outbox(
            write=self._writer.write,
            failed=failed,
            group_due=self._group_due,
            clock=clock,
            group_seconds=options.status,
        )
        self.tenure = Tenure(lease, begin=self._begin, pause=self.outbox.close, resume=self._resume, end=self._end)
        self.ticks = Ticks(clock)
        self._credentials = Credentials(config.trust, bundle_key=bundle_key, collected=collected)
        self.put_issuer, self.put_bundle = self._credentials.put_issuer, self._credentials.put_bundle
        self.tokens = TokenSecrets(client=client, namespace=config.namespace, may_write=self._may_write, timing=timing)
        self._server = RegistrarServer(
            registry=self.registry,
            state=self.tenure,
            tokens=self.tokens,
            signer=self._credentials.signer,
            leaf=self._credentials.leaf,
            metrics=CallMetrics(registry=collected),
            delivery=lambda: self._delivery.text,
            token_locked=self._token_locked,
            clock=clock,
            wall=wall,
        )
        self._credentials.changed = self._server.anchors_changed
        self._checkpoint = Checkpoint(client=client, namespace=config.namespace, may_write=self._may_write)
        self._slice_ref = leader_slice_ref(config.namespace)
        self.slice: LeaderSlice | None = None
        if options.pod_ip:
            wanted = emit_leader_slice(config.namespace, options.pod_ip, options.port, node=options.node_name)
            self.slice = LeaderSlice(client=client, wanted=wanted, may_write=self._may_write)
        self._ranges = Ranges(client=client, fixed=options.ranges, told=self.registry.set_forbidden)
        self.rivals = Rivals(client=client, changed=rivals_changed, seconds=options.look)
        self._reach = Reach(
            signer=self._credentials.signer,
            leaf=self._credentials.leaf,
            targets=lambda: find_targets(self.registry.reachable()),
            tell=self._reached,
        )
        self._term = 0
        self._has_begun = asyncio.Event()
        self._has_taken_over = asyncio.Event()
        self._is_slice_due = asyncio.Event()
        self._is_stopping = False
        self.port = 0
        """Where it listens, once it does."""
        observe(collected, self)

    async def run(self) -> None:
        """Do all of it until cancelled. Raises only for a bug, or when the port is taken."""
        async with asyncio.TaskGroup() as group:
            for work in (
                self._serve,
                self._keep_taking_over,
                self._keep_time,
                self._keep_slice,
                self._keep_checkpoint,
                self.tokens.reflector.run,
                self._ranges.run,
                self.rivals.run,
                self._keep_reaching,
            ):
                group.create_task(work())

    async def stop(self, seconds: float) -> None:
        """Let nobody in any more, let writes under way end, and leave to the next leader what only memory knows."""
        self._is_stopping = True
        was_leading = self.tenure.is_leading
        self._server.stop()
        await self.outbox.drain(seconds)
        if was_leading:
            with suppress(NotLeader, ApiError, Unreachable, TimeoutError):
                async with asyncio.timeout(_GOODBYE_SECONDS):
                    await self._checkpoint.try_write(self.registry.checkpoint())
                    if self.slice is not None:
                        await self.slice.withdraw()
        self.tenure.stop()

    def lead(self) -> None:
        """The Lease is ours."""
        if not self._is_stopping:
            self.tenure.acquired()

    def follow(self) -> None:
        """The Lease is lost, or could not be renewed."""
        self.tenure.lost()

    @property
    def may_write_slices(self) -> bool:
        """Whether EndpointSlices of external workloads are ours to write."""
        return self.rivals.is_known and not self.rivals.found

    # What is watched.

    def put(self, ref: Ref, raw: Json | None) -> bool:
        """Take an object as the API server has it; return whether it is anybody else's, too."""
        match ref.kind:
            case Kind.EXTERNAL_WORKLOAD:
                self.workloads.put(ref, raw)
                if raw is not None:
                    raw["metadata"].pop("managedFields", None)
            case Kind.EXTERNAL_GROUP:
                self.groups.put(ref, raw)
            case Kind.NAMESPACE:
                is_ending = raw is not None and bool(raw["metadata"].get("deletionTimestamp"))
                self.registry.put_namespace(ref.name, is_ending=is_ending)
            case Kind.ENDPOINT_SLICE:
                return not self._put_slice(ref, raw)
            case _:
                return True
        self._take_changes()
        return True

    def put_parsed(self, changes: Mapping[Ref, Parsed | None]) -> None:
        """Take what a round has parsed; ``None`` is gone. Of what cannot be read the last that could stands."""
        for ref, value in changes.items():
            if isinstance(value, Broken):
                continue
            match ref.kind:
                case Kind.EXTERNAL_GROUP:
                    self.registry.put_group(ref, value if isinstance(value, Group) else None)
                    self._server.news(ref)
                case Kind.REGISTRATION_POLICY:
                    policy = value if isinstance(value, RegistrationPolicy) else None
                    for group in self.registry.put_policy(ref, policy):
                        self._server.news(group)
                case Kind.SERVICE:
                    self.registry.put_service(ref, value if isinstance(value, Service) else None)
                    if self._delivery.put_service(ref, value):
                        self._server.delivery_changed()
                case _:
                    pass
        self._take_changes()

    def _put_slice(self, ref: Ref, raw: Json | None) -> bool:
        """Return whether it is the one that says who leads."""
        if ref != self._slice_ref:
            return False
        if self.slice is not None:
            self.slice.put(raw)
            if not self.slice.is_current:
                self._is_slice_due.set()
        return True

    def _put_seen(self, ref: Ref, seen: SeenWorkload | None) -> None:
        self.registry.put_workload(ref, seen, self._clock())
        self._take_changes()

    def _put_seen_group(self, ref: Ref, _: None) -> None:
        self.outbox.give((ref,))

    # The Lease.

    def _may_write(self) -> bool:
        return self._lease.may_write()

    def _begin(self) -> None:
        self._term += 1
        self._has_begun.set()

    async def _keep_taking_over(self) -> None:
        """Lead, each time the Lease becomes ours, once all is known that leading takes."""
        while True:
            await self._has_begun.wait()
            self._has_begun.clear()
            term = self._term
            while self.tenure.phase is Phase.TAKING_OVER and self._term == term:
                if self._is_ready() and self.tokens.reflector.state.is_settled and await self._take_over(term):
                    break
                await asyncio.sleep(_POLL_SECONDS)

    async def _take_over(self, term: int) -> bool:
        try:
            seen, tombstones = await self._checkpoint.read()
        except (ApiError, Unreachable) as error:
            log.warning("when machines were last heard of cannot be read: %s", error)
            await asyncio.sleep(_RETRY_SECONDS)
            return False
        if self._term == term and self.tenure.phase is Phase.TAKING_OVER:
            self.registry.restore(seen, tombstones)
            self.registry.lead(self._clock(), int(self._wall()))
            self.tenure.taken_over()
            self._has_taken_over.set()
            self._resume()
        return True

    def _resume(self) -> None:
        """Write, beginning with a look at everything."""
        self.outbox.open()
        self._take_changes()
        self.outbox.give((*self.workloads.refs(), *self.groups.refs()))
        self._is_slice_due.set()
        self._server.news()

    def _end(self) -> None:
        self.outbox.close()
        self.registry.follow()
        self._server.news()

    # What is written.

    def _take_changes(self) -> None:
        """Have written what should be another now."""
        self.outbox.give(self.registry.take_changes())

    def _group_due(self, ref: Ref) -> None:
        """Let the owner of a group hear of what its status may not show for long."""
        view = self.registry.group_view(ref) if ref in self.groups else None
        if ref not in self.groups:
            self.outbox.forget(ref)
        self._tell(ref, {} if view is None else find_notices(view, int(self._wall()), self.rivals.found))

    def _token_locked(self, token: JoinToken, uid: str, address: str) -> None:
        log.warning(
            "token %s for %s/%s is locked: another key came with its secret, as %s, from %s",
            token.id,
            token.namespace,
            token.group,
            quote(uid),
            address,
        )

    # What goes on by itself.

    async def _keep_time(self) -> None:
        """Have the registry see what time has brought about, and tell it for how long nobody could be heard."""
        wait = self._options.tick
        while True:
            now, stalled = await self.ticks.sleep(wait)
            self._credentials.look()
            self.tenure.look()
            due = self._options.tick
            if self.tenure.is_leading or self.tenure.is_holding:
                holds = self.tenure.is_holding or self._is_away()
                due = self.registry.look(now, int(self._wall()), stalled=stalled, holds=holds)
                self._take_changes()
            wait = min(max(due, 0.05), self._options.tick)

    async def _keep_slice(self) -> None:
        """Have machines sent here while this replica leads."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._options.look):
                    await self._is_slice_due.wait()
            self._is_slice_due.clear()
            if self.slice is None or not self.tenure.is_leading or self._is_stopping:
                continue
            try:
                await self.slice.ensure()
            except NotLeader:
                continue
            except (ApiError, Unreachable) as error:
                log.warning("machines cannot be sent here: %s", error)
                await asyncio.sleep(_RETRY_SECONDS)
                self._is_slice_due.set()

    async def _keep_checkpoint(self) -> None:
        """Store now and then what only memory knows, and at once who leads: so that leaders who come and go do not keep
        the dead alive."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._options.checkpoint):
                    await self._has_taken_over.wait()
            self._has_taken_over.clear()
            if self.tenure.is_leading and not self._is_stopping:
                await self._checkpoint.try_write(self.registry.checkpoint())

    async def _serve(self) -> None:
        """Answer machines, once there is a certificate to answer with."""
        await self._credentials.is_there.wait()
        async with serve_registrar(self._server, self._options.host, self._options.port) as port:
            self.port = port
            log.info("machines are answered at port %d", port)
            await asyncio.Event().wait()

    async def _keep_reaching(self) -> None:
        while True:
            await asyncio.sleep(self._options.reach)
            if self.tenure.is_leading:
                await self._reach.look()

    def _reached(self, key: InstanceKey, is_reached: bool, fault: str) -> None:
        self.registry.put_reachability(key, is_reached, fault, self._clock())
        self._take_changes()
