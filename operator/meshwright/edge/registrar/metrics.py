"""What is counted of machines, for Prometheus; calls are counted where they are answered."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from meshwright.edge.registrar.tenure import Phase

if TYPE_CHECKING:
    from meshwright.edge.registrar.registrar import Registrar

_PREFIX = "meshwright_registrar"
_COUNTED = {
    "registrations": "Registrations of machines that were taken.",
    "beats": "Beats of machines that were taken.",
    "expiries": "Leases that ran out.",
    "removals": "Machines that were removed.",
    "guard_activations": "Times that so many fell silent at once that nobody's lease was let run out.",
}


def observe(collected: CollectorRegistry, registrar: "Registrar") -> None:
    """Look at a registrar at each scrape."""
    collected.register(_Look(registrar))


class _Look(Collector):
    def __init__(self, registrar: "Registrar") -> None:
        self._registrar = registrar

    def collect(self) -> Iterable[Metric]:
        registrar, registry = self._registrar, self._registrar.registry
        for name, text, value in (
            ("live", "Leases of machines that are in force.", registry.live),
            ("ready", "Machines that are ready.", registry.ready),
            (
                "outdated",
                "Machines with another configuration or trust bundle than they should have.",
                registry.outdated,
            ),
            ("unrendered", "Machines that wait to be written as their group's template says.", registry.waiting),
            ("write_queue", "Machines and groups that wait to be written.", len(registrar.outbox)),
            ("write_queue_age_seconds", "How long the first of these has waited.", registrar.outbox.age),
            ("tokens", "Join tokens.", len(registrar.tokens)),
            ("rivals", "1 while somebody else writes EndpointSlices of machines.", bool(registrar.rivals.found)),
        ):
            yield GaugeMetricFamily(f"{_PREFIX}_{name}", text, value)
        phases = GaugeMetricFamily(f"{_PREFIX}_phase", "1 for the phase that this replica is in.", labels=["phase"])
        for phase in Phase:
            phases.add_metric([phase.name.lower()], registrar.tenure.phase is phase)
        yield phases
        for name, text in _COUNTED.items():
            yield CounterMetricFamily(f"{_PREFIX}_{name}", text, registry.count.get(name, 0))
        yield CounterMetricFamily(
            f"{_PREFIX}_stalled_seconds", "Seconds that the event loop stood still.", registrar.ticks.stalled
        )
        rejections = CounterMetricFamily(
            f"{_PREFIX}_rejections", "Refusals that machines got, by reason.", labels=["reason"]
        )
        for name, count in sorted(registry.count.items()):
            word, _, reason = name.partition(" ")
            if word == "refused":
                rejections.add_metric([reason], count)
        yield rejections
