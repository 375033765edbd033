"""What is counted, for Prometheus. One registry per replica, none of its own state elsewhere."""

import time
from collections import Counter as Tally
from collections.abc import Iterable
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from meshwright.edge.loop import Round
from meshwright.edge.watch import State
from meshwright.model.ref import Kind

if TYPE_CHECKING:
    from meshwright.edge.replica import Replica

PREFIX = "meshwright"


class Metrics:
    """Counts what happens, and looks at a replica when it is asked."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._writes = Counter(
            f"{PREFIX}_writes", "Writes that the API server took.", ["verb", "kind"], registry=self.registry
        )
        self._failures = Counter(
            f"{PREFIX}_write_failures", "Writes that failed and are tried again.", ["kind"], registry=self.registry
        )
        self._events = Counter(
            f"{PREFIX}_events",
            "Events about users' objects: written, known (told before), failed.",
            ["outcome"],
            registry=self.registry,
        )
        self._rounds = Histogram(
            f"{PREFIX}_round_seconds",
            "Time to parse and compile what had changed.",
            registry=self.registry,
            buckets=(0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0),
        )
        self._parsed = Counter(f"{PREFIX}_parsed_objects", "Objects that rounds have parsed.", registry=self.registry)
        self._leads = Gauge(f"{PREFIX}_leading", "1 while this replica holds the Lease.", registry=self.registry)
        self._revivals = Counter(
            f"{PREFIX}_kopf_restarts", "Times kopf ended by itself and was started again.", registry=self.registry
        )

    def count_write(self, verb: str, kind: Kind) -> None:
        self._writes.labels(verb, kind.word).inc()

    def count_failure(self, kind: Kind) -> None:
        self._failures.labels(kind.word).inc()

    def count_event(self, outcome: str) -> None:
        self._events.labels(outcome).inc()

    def count_round(self, answer: Round) -> None:
        self._rounds.observe(answer.seconds)
        self._parsed.inc(answer.objects)

    def count_restart(self) -> None:
        self._revivals.inc()

    def set_leading(self, is_leading: bool) -> None:
        self._leads.set(is_leading)

    def observe(self, replica: "Replica") -> None:
        """Look at this replica at each scrape."""
        self.registry.register(_Look(replica))

    def render(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return generate_latest(self.registry)


class _Look(Collector):
    def __init__(self, replica: "Replica") -> None:
        self._replica = replica

    def collect(self) -> Iterable[Metric]:
        yield from self._kinds()
        yield from self._queues()
        problems = GaugeMetricFamily(
            f"{PREFIX}_problems", "What is wrong with users' objects.", labels=["kind", "reason"]
        )
        found = (*self._replica.wanted.problems.items(), *self._replica.selection.problems.items())
        tally = Tally((ref.kind.word, problem.reason.value) for ref, all_ in found for problem in all_)
        for labels, count in sorted(tally.items()):
            problems.add_metric(labels, count)
        yield problems
        yield from self._identity()

    def _identity(self) -> Iterable[Metric]:
        verdict = self._replica.identity.verdict
        end = GaugeMetricFamily(f"{PREFIX}_issuer_not_after_seconds", "When the issuer of identities ends, Unix time.")
        if verdict.issuer is not None:
            end.add_metric([], verdict.issuer.not_after.timestamp())
        ends = GaugeMetricFamily(
            f"{PREFIX}_anchor_not_after_seconds", "When a trust anchor ends, Unix time.", labels=["fingerprint"]
        )
        for anchor in verdict.anchors:
            ends.add_metric([anchor.fingerprint], anchor.not_after.timestamp())
        problems = GaugeMetricFamily(
            f"{PREFIX}_identity_problems", "What is wrong with the mesh's identity.", labels=["reason"]
        )
        for reason, count in sorted(Tally(problem.reason.value for problem in verdict.problems).items()):
            problems.add_metric([reason], count)
        yield from (end, ends, problems)

    def _kinds(self) -> Iterable[Metric]:
        states = GaugeMetricFamily(f"{PREFIX}_kind_state", "1 for the state a kind is in.", labels=["kind", "state"])
        gauges = {
            "objects": "Objects of a kind that are known.",
            "heard_age_seconds": "Seconds since the API server last said anything of a kind; -1: never.",
        }
        counters = {
            "events": "Events and bookmarks of watches.",
            "relists": "Whole lists.",
            "expired": "Versions that were no longer kept (410).",
            "failures": "Lists and watches that failed.",
            "deletions_found": "Deletions that no event told of.",
        }
        families: dict[str, GaugeMetricFamily | CounterMetricFamily] = {
            **{
                name: GaugeMetricFamily(f"{PREFIX}_kind_{name}", text, labels=["kind"]) for name, text in gauges.items()
            },
            **{
                name: CounterMetricFamily(f"{PREFIX}_kind_{name}", text, labels=["kind"])
                for name, text in counters.items()
            },
        }
        now = time.monotonic()
        for kind, reflector in self._replica.all_reflectors.items():
            for state in State:
                states.add_metric([kind, state.value], reflector.state is state)
            families["objects"].add_metric([kind], len(reflector))
            age = now - reflector.heard_at if reflector.heard_at else -1.0
            families["heard_age_seconds"].add_metric([kind], age)
            for name in counters:
                families[name].add_metric([kind], getattr(reflector, name))
        yield states
        yield from families.values()

    def _queues(self) -> Iterable[Metric]:
        replica = self._replica
        depth = GaugeMetricFamily(f"{PREFIX}_queue", "Objects that wait for something.", labels=["queue"])
        for name, count in (
            ("round", replica.store.waiting),
            ("write", replica.slots.waiting),
            ("writing", len(replica.slots.in_flight)),
            ("retry", replica.slots.delayed),
            ("held_deletion", replica.guard.held),
        ):
            depth.add_metric([name], count)
        yield depth
        yield GaugeMetricFamily(f"{PREFIX}_outputs", "Outputs that should be there.", len(replica.wanted.outputs))
        yield GaugeMetricFamily(f"{PREFIX}_left_out", "Objects left out because of a bug.", len(replica.left_out))
