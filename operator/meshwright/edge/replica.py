"""One replica of the operator: what is watched goes to the store, through rounds, to the writers.

Every replica watches and compiles, so that one which acquires the Lease need not read anything first. Only the one that
holds it writes.
"""

import asyncio
import gc
import logging
import time
from collections.abc import Callable, Iterable

from meshwright.edge.apply import OutputWriter, Slots
from meshwright.edge.client import Client
from meshwright.edge.guard import Guard
from meshwright.edge.loop import Loop, Round, Rounds
from meshwright.edge.metrics import Metrics
from meshwright.edge.resources import RESOURCES, ROUTES, SOURCES, VERSIONS
from meshwright.edge.status_writer import StatusWriter
from meshwright.edge.store import Store
from meshwright.edge.wanted import Wanted
from meshwright.edge.watch import Reflector, State, Timing
from meshwright.model.ref import Kind, Ref

log = logging.getLogger(__name__)

STILL_SECONDS = 450.0
"""A reflector that did nothing for longer than any stream lives is stuck."""
ROUND_SECONDS = 180.0
"""A round that takes longer is stuck."""
MAX_LOGGED = 100
"""How many objects' problems one round logs; metrics count them all."""


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
    ) -> None:
        self._client = client
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
        self.wanted = Wanted()
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
        self.slots = Slots(
            write=lambda ref: (statuses if ref.kind in ROUTES else outputs).write(ref), failed=self._failed
        )
        self.reflectors: dict[Kind, Reflector] = {
            source.kind: Reflector(
                client=client,
                kind=source.kind,
                resource=RESOURCES[source.kind],
                versions=VERSIONS[source.kind],
                put=self.store.put,
                changed=self._changed,
                labels=source.labels,
                timing=timing,
            )
            for source in SOURCES
        }
        metrics.observe(self)

    async def run(self) -> None:
        """Watch and compile until cancelled. Raises only for a bug."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.loop.run())
            for reflector in self.reflectors.values():
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
        """Whether every kind is known in full, or known not to be there."""
        return all(reflector.state.is_settled for reflector in self.reflectors.values())

    @property
    def left_out(self) -> tuple[Ref, ...]:
        """The objects that a bug of ours keeps out."""
        return self._rounds.aside

    def faults(self) -> list[str]:
        """Return what is stuck; no answer from the API server is no fault of ours."""
        now = time.monotonic()
        found = [
            f"the reflector of {kind.word} is stuck"
            for kind, reflector in self.reflectors.items()
            if now - reflector.active_at > STILL_SECONDS
        ]
        if self.loop.busy_since is not None and now - self.loop.busy_since > ROUND_SECONDS:
            found.append("a round is stuck")
        return found

    def unsettled(self) -> list[str]:
        """Return why each kind that is not known in full is not."""
        return [
            f"{kind.word}: {reflector.state.value} {reflector.reason}".strip()
            for kind, reflector in self.reflectors.items()
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

    def heard_of_definition(self, group: str, plural: str, *, is_there: bool) -> None:
        """A CustomResourceDefinition came, changed or went: look again at a kind that this may concern."""
        for reflector in self.reflectors.values():
            expected = State.SYNCED if is_there else State.ABSENT
            where = reflector.resource
            if (where.group, where.plural) == (group, plural) and reflector.state is not expected:
                log.info("%s: its definition %s", reflector.kind.word, "is there" if is_there else "went")
                reflector.poke()

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
        self._log_problems(answer)
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
        self.loop.stir()

    def _failed(self, ref: Ref, error: Exception) -> None:
        self._metrics.count_failure(ref.kind)
        log.warning("%s: not written, it is tried again: %s", ref, error)

    def _log_problems(self, answer: Round) -> None:
        found = [(ref, problems) for ref, problems in answer.desired.problems.items() if problems]
        for ref, problems in found[:MAX_LOGGED]:
            for problem in problems:
                log.warning("%s: %s", ref, problem)
        if len(found) > MAX_LOGGED:
            log.warning("%d more objects have problems", len(found) - MAX_LOGGED)

    def _look_again(self) -> None:
        """List every kind of input anew, then compile everything from nothing."""
        task = asyncio.get_running_loop().create_task(self._list_and_compile_anew())
        self._looks.add(task)
        task.add_done_callback(self._looks.discard)

    async def _list_and_compile_anew(self) -> None:
        inputs = [self.reflectors[source.kind] for source in SOURCES if source.is_input]
        await asyncio.gather(*(reflector.relist() for reflector in inputs))
        self.loop.ask_anew()
