"""One replica of the operator: what is watched goes to the store, through rounds, to the writers.

Every replica watches and compiles, so that one which acquires the Lease need not read anything first. Only the one that
holds it writes.
"""

import asyncio
import gc
import logging
import socket
import time
from collections.abc import Callable, Iterable

from meshwright.edge.apply import OutputWriter, Slots
from meshwright.edge.client import Client, Json
from meshwright.edge.guard import Guard
from meshwright.edge.loop import Loop, Round, Rounds
from meshwright.edge.mesh_identity import MeshIdentity, Verdict, is_mesh_output
from meshwright.edge.metrics import Metrics
from meshwright.edge.problem_events import Pace, ProblemEvents, Source, key_problems, log_problems
from meshwright.edge.registrar.audience import Audience, Nobody, keep_managed_fields
from meshwright.edge.resources import (
    LOCAL_OUTPUTS,
    LOCAL_SOURCES,
    RESOURCES,
    ROUTES,
    SOURCES,
    VERSIONS,
    LocalSource,
    Role,
)
from meshwright.edge.selection import LOOK_SECONDS, Selection
from meshwright.edge.status_writer import StatusWriter
from meshwright.edge.store import Store
from meshwright.edge.wanted import Wanted
from meshwright.edge.watch import Put, Reflector, State, Timing, drop_managed_fields
from meshwright.emit.inbound_unit import emit_defaults_unit, make_defaults_name
from meshwright.model.config import FIELD_MANAGER, LABEL_MANAGED_BY, Config
from meshwright.model.ref import Kind, Ref
from meshwright.parse.bundle_source import BundleSource

log = logging.getLogger(__name__)

STILL_SECONDS = 450.0
"""A reflector that did nothing for longer than any stream lives is stuck."""
ROUND_SECONDS = 180.0
"""A round that takes longer is stuck."""


class Replica:
    """Watches, compiles, and writes while ``may_write``. `run` it; tell it of the Lease with `lead` and `follow`."""

    def __init__(
        self,
        *,
        client: Client,
        rounds: Rounds,
        may_write: Callable[[], bool],
        metrics: Metrics,
        timing: Timing | None = None,
        config: Config | None = None,
        bundle: BundleSource | None = None,
        pace: Pace | None = None,
        look_seconds: float = LOOK_SECONDS,
    ) -> None:
        self._client = client
        self._config = config or Config()
        self._bundle = bundle
        self._timing = timing
        self._rounds = rounds
        self._may_write = may_write
        self._metrics = metrics
        self._is_leading = False
        self._is_fresh = False  # whether the round under way began after the Lease was acquired
        self._is_stopping = False
        self._looks: set[asyncio.Task[None]] = set()
        self.is_compiled = False
        """Whether everything was compiled once."""
        self.loop = Loop(rounds=rounds, take=self._take, may_start=self._may_start, publish=self._publish)
        self.store = Store(stir=self.loop.stir, touch=self._touch)
        self.wanted = Wanted(always={make_defaults_name(self._config).ref: emit_defaults_unit(self._config)})
        self.guard = Guard(look_again=self._look_again)
        outputs = OutputWriter(
            client=client,
            store=self.store,
            wanted=self.wanted,
            may_write=may_write,
            may_delete=self.guard.may_delete,
            wrote=metrics.count_write,
        )
        statuses = StatusWriter(
            client=client,
            where=lambda kind: self.reflectors[kind].resource,
            store=self.store,
            wanted=self.wanted,
            may_write=may_write,
            wrote=metrics.count_write,
        )
        self._outputs, self._statuses = outputs, statuses
        self.slots = Slots(write=self._write, failed=self.failed)
        self.registrar: Audience = Nobody()
        """Who hears of machines outside the cluster beside the compiler."""
        self.reflectors: dict[Kind, Reflector] = {
            source.kind: Reflector(
                client=client,
                kind=source.kind,
                resource=RESOURCES[source.kind],
                versions=VERSIONS[source.kind],
                put=self._put,
                changed=self._changed,
                labels=source.labels,
                project=keep_managed_fields if source.kind is Kind.EXTERNAL_WORKLOAD else drop_managed_fields,
                timing=timing,
            )
            for source in SOURCES
        }
        self.named: dict[Role, Reflector] = {}
        """The reflectors of single objects."""
        for source in LOCAL_SOURCES:
            self._follow_local(source)
        self.events = ProblemEvents(
            client=client,
            instance=socket.gethostname(),
            regard=self._regard,
            may_write=self._may_speak,
            wrote=metrics.count_event,
            pace=pace,
        )
        self.selection = Selection(
            client=client,
            is_leading=self._may_speak,
            tell=lambda ref, found: self.events.put(Source.PODS, ref, found),
            timing=timing,
            seconds=look_seconds,
        )
        self.identity = MeshIdentity(
            self._config,
            bundle,
            may_judge=lambda: all(
                found.relists or found.state in (State.ABSENT, State.FORBIDDEN) for found in self._of_identity()
            ),
            has_cert_manager=lambda: self.reflectors[Kind.CERTIFICATE].state is not State.ABSENT,
            unread=lambda: [
                f"the {role.value} may not be read: {reflector.reason}"
                for role, reflector in self.named.items()
                if reflector.state is State.FORBIDDEN
            ],
            publish=self._publish_identity,
        )
        metrics.observe(self)

    async def run(self) -> None:
        """Watch and compile until cancelled. Raises only for a bug."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.loop.run())
            group.create_task(self.identity.run())
            group.create_task(self.events.run())
            group.create_task(self.selection.run())
            for reflector in self.all_reflectors.values():
                group.create_task(reflector.run())

    async def stop(self, seconds: float) -> None:
        """Plan no more writes and let those under way end, but not longer than this."""
        self._is_stopping = True
        for look in self._looks:
            look.cancel()
        await self.slots.drain(seconds)

    @property
    def is_ready(self) -> bool:
        return self.is_compiled and not self._is_stopping

    @property
    def is_settled(self) -> bool:
        """Whether every kind that is compiled or made of it is known in full, or known not to be there."""
        return all(self.reflectors[source.kind].state.is_settled for source in SOURCES)

    @property
    def all_reflectors(self) -> dict[str, Reflector]:
        """All reflectors, by what they follow, in words."""
        kinds: dict[str, Reflector] = {}
        for kind, reflector in self.reflectors.items():
            kinds[kind.value if kind.word in kinds else kind.word] = reflector
        return kinds | {f"{found.kind.word} ({role.value})": found for role, found in self.named.items()}

    @property
    def left_out(self) -> tuple[Ref, ...]:
        """The objects that a bug of ours keeps out."""
        return self._rounds.aside

    def faults(self) -> list[str]:
        """Return what is stuck; no answer from the API server is no fault of ours."""
        now = time.monotonic()
        found = [
            f"the reflector of {name} is stuck"
            for name, reflector in self.all_reflectors.items()
            if now - reflector.active_at > STILL_SECONDS
        ]
        if self.loop.busy_since is not None and now - self.loop.busy_since > ROUND_SECONDS:
            found.append("a round is stuck")
        return found

    def unsettled(self) -> list[str]:
        """Return why each kind that is not known in full is not."""
        return [
            f"{name}: {reflector.state.value} {reflector.reason}".strip()
            for name, reflector in self.all_reflectors.items()
            if not reflector.state.is_settled
        ]

    def lead(self) -> None:
        """The Lease is ours: write, after a round that begins now."""
        self._is_leading = True
        self.loop.stir()

    def follow(self) -> None:
        """The Lease is lost: stop writing at once."""
        self._is_leading = self._is_fresh = False
        self.slots.close()

    def write_slices(self) -> None:
        """Give all EndpointSlices a turn: whether they are ours to write is another now."""
        self._give_turns(ref for ref in (*self.wanted.outputs, *self.store.outputs) if ref.kind is Kind.ENDPOINT_SLICE)

    def heard_of_definition(self, group: str, plural: str, *, is_there: bool) -> None:
        """A CustomResourceDefinition came, changed or went: look again at a kind that this may concern."""
        for reflector in self.reflectors.values():
            expected = State.SYNCED if is_there else State.ABSENT
            where = reflector.resource
            if (where.group, where.plural) == (group, plural) and reflector.state is not expected:
                log.info("%s: its definition %s", reflector.kind.word, "is there" if is_there else "went")
                reflector.poke()

    def _follow_local(self, source: LocalSource) -> None:
        """Make the reflector of a row of the control plane's namespace, if the settings need it."""
        put: Put = self._put
        fields = ""
        if source.role is Role.ISSUER:
            put, fields = self._put_issuer, f"metadata.name={self._config.issuer_secret}"
        elif source.role is Role.BUNDLE:
            if self._bundle is None or self._bundle.kind is not source.kind:
                return
            put, fields = self._put_bundle, f"metadata.name={self._bundle.name}"
        reflector = Reflector(
            client=self._client,
            kind=source.kind,
            resource=RESOURCES[source.kind],
            put=put,
            changed=self._changed,
            namespace=self._config.namespace,
            labels="" if source.role else f"{LABEL_MANAGED_BY}={FIELD_MANAGER}",
            fields=fields,
            timing=self._timing,
        )
        if source.role is None:
            self.reflectors[source.kind] = reflector
        else:
            self.named[source.role] = reflector

    def _of_identity(self) -> list[Reflector]:
        kinds = (Kind.NAMESPACE, *sorted(LOCAL_OUTPUTS))
        return [*(self.reflectors[kind] for kind in kinds), *self.named.values()]

    def _put(self, ref: Ref, raw: Json | None) -> None:
        if ref.kind is Kind.NAMESPACE:
            self.identity.put_namespace(ref, raw)
        elif ref.kind is Kind.CERTIFICATE:
            self.identity.put_certificate(ref, raw)
        if self.registrar.put(ref, raw):
            self.store.put(ref, raw)

    def _put_issuer(self, _: Ref, raw: Json | None) -> None:
        self.identity.put_issuer(raw)
        self.registrar.put_issuer(raw)

    def _put_bundle(self, _: Ref, raw: Json | None) -> None:
        self.identity.put_bundle(raw)
        self.registrar.put_bundle(raw)

    async def _write(self, ref: Ref) -> None:
        if ref.kind in LOCAL_OUTPUTS and self.reflectors[ref.kind].state is State.ABSENT:
            return  # it gets another turn once the kind is there
        if ref.kind is Kind.ENDPOINT_SLICE and not self.registrar.may_write_slices:
            return  # and here once nobody else writes them
        await (self._statuses if ref.kind in ROUTES else self._outputs).write(ref)

    def _publish_identity(self, verdict: Verdict) -> None:
        touched = self.wanted.set_mesh(verdict.outputs, verdict.kept)
        if not self._is_stopping:
            self._give_turns(touched)
            self._review(is_second_look=False)

    def _take(self) -> dict[Ref, dict[str, object] | None]:
        self._is_fresh = self._is_leading
        if not self.is_compiled:
            self._rounds.seed(self.store.slices())
        return self.store.take()

    def _may_start(self) -> bool:
        return self.is_compiled or self.is_settled

    def _publish(self, answer: Round) -> None:
        touched = self.wanted.replace(answer.desired) if answer.is_whole else self.wanted.update(answer.desired)
        self._metrics.count_round(answer)
        log_problems(answer.desired.problems)
        self._tell_problems(answer)
        if not self.is_compiled:
            self._first(answer)
        if self._is_fresh and not self._is_stopping:
            if not self.slots.is_open:
                self.slots.open()
                touched = {*self.wanted.outputs, *self.wanted.statuses, *self.store.outputs}
            self._give_turns(touched)
        self._review(is_second_look=answer.is_anew)

    def _first(self, answer: Round) -> None:
        self.is_compiled = True
        # What is here now stays: a collection should not walk over it again and again.
        gc.collect()
        gc.freeze()
        log.info(
            "compiled everything: %d objects, %d outputs, %d statuses in %.3f s",
            answer.objects,
            len(self.wanted.outputs),
            len(self.wanted.statuses),
            answer.seconds,
        )

    def _review(self, *, is_second_look: bool) -> None:
        if self.is_compiled:
            doomed = self.wanted.doomed(self.store.outputs)
            if not self.identity.is_judged or not all(found.state.is_settled for found in self._of_identity()):
                doomed = frozenset(ref for ref in doomed if not is_mesh_output(ref))
            self._give_turns(
                self.guard.review(doomed, self.store.outputs, is_settled=self.is_settled, is_second_look=is_second_look)
            )

    def _give_turns(self, refs: Iterable[Ref]) -> None:
        for ref in sorted(refs):
            self.slots.add(ref)

    def _touch(self, ref: Ref) -> None:
        """Something that we write was changed, by us or by somebody else."""
        if ref.kind not in ROUTES and ref not in self.wanted.outputs:
            self._review(is_second_look=False)
        self.slots.add(ref)

    def _changed(self, reflector: Reflector) -> None:
        level = logging.INFO if reflector.state.is_settled else logging.WARNING
        log.log(level, "%s: %s %s", reflector.kind.word, reflector.state.value, reflector.reason)
        self._review(is_second_look=False)
        if reflector.kind in LOCAL_OUTPUTS:
            self._give_turns(ref for ref in self.wanted.outputs if ref.kind is reflector.kind)
        self.identity.stir()
        self.loop.stir()

    def failed(self, ref: Ref, error: Exception) -> None:
        """A write came to nothing."""
        self._metrics.count_failure(ref.kind)
        log.warning("%s: not written, it is tried again: %s", ref, error)

    def _tell_problems(self, answer: Round) -> None:
        """Let those who have no status to look at hear of it, while this replica leads."""
        self.selection.put(answer.parsed)
        self.registrar.put_parsed(answer.parsed)
        if answer.is_whole:
            found = {ref: key_problems(problems) for ref, problems in self.wanted.problems.items()}
            self.events.replace(Source.COMPILE, found)
            return
        for ref, problems in answer.desired.problems.items():
            self.events.put(Source.COMPILE, ref, key_problems(problems))

    def _regard(self, ref: Ref) -> Json | None:
        """Return a reference to an object, ``None`` when there is none."""
        reflector = self.reflectors[ref.kind]
        if not (uid := reflector.uid(ref)):
            return None
        where = {"namespace": str(ref.namespace)} if ref.namespace else {}
        return {
            "apiVersion": reflector.resource.api_version,
            "kind": ref.kind.word,
            "name": ref.name,
            "uid": uid,
            **where,
        }

    def _may_speak(self) -> bool:
        return self.slots.is_open and not self._is_stopping and self._may_write()

    def _look_again(self) -> None:
        """List every kind of input anew, then compile everything from nothing."""
        task = asyncio.get_running_loop().create_task(self._list_and_compile_anew())
        self._looks.add(task)
        task.add_done_callback(self._looks.discard)

    async def _list_and_compile_anew(self) -> None:
        inputs = [self.reflectors[source.kind] for source in SOURCES if source.is_input]
        await asyncio.gather(*(reflector.relist() for reflector in inputs))
        self.loop.ask_anew()
