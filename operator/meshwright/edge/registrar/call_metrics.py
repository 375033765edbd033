"""What is counted about the calls of machines."""

from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram


@dataclass(slots=True, kw_only=True)
class CallMetrics:
    """Counters and gauges in ``registry``. Reasons are the CamelCase words that machines get; of what came to nothing
    before it was a request: ``Handshake``, ``TooManyConnections``, ``SlowRequest``."""

    registry: CollectorRegistry
    calls: Counter = field(init=False)
    refused: Counter = field(init=False)
    turned_away: Counter = field(init=False)
    signed: Counter = field(init=False)
    seconds: Histogram = field(init=False)
    waiting: Gauge = field(init=False)
    connections: Gauge = field(init=False)

    def __post_init__(self) -> None:
        made = self.registry
        self.calls = Counter("meshwright_registrar_calls", "Calls of machines.", ["call"], registry=made)
        self.refused = Counter(
            "meshwright_registrar_refusals", "Calls of machines that were refused.", ["call", "reason"], registry=made
        )
        self.turned_away = Counter(
            "meshwright_registrar_turned_away",
            "Connections that ended before there was a whole request.",
            ["reason"],
            registry=made,
        )
        self.signed = Counter("meshwright_registrar_leaves", "Leaves signed for machines.", registry=made)
        self.seconds = Histogram(
            "meshwright_registrar_seconds",
            "Time from a call to its answer, but for those that only read.",
            registry=made,
            buckets=(0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0),
        )
        self.waiting = Gauge("meshwright_registrar_waiting", "Machines that wait for news.", registry=made)
        self.connections = Gauge("meshwright_registrar_connections", "Connections of machines.", registry=made)
