"""What is counted about identity: leaves, who was refused and why, and how long the issuer lives."""

from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram


@dataclass(slots=True, kw_only=True)
class IdentityMetrics:
    """Counters and gauges in ``registry``. Reasons are the CamelCase words that clients get, too."""

    registry: CollectorRegistry
    signed: Counter = field(init=False)
    refused: Counter = field(init=False)
    seconds: Histogram = field(init=False)
    waiting: Gauge = field(init=False)
    usable: Gauge = field(init=False)
    issuer_end: Gauge = field(init=False)
    anchors: Gauge = field(init=False)
    issuer_refusals: Counter = field(init=False)
    handshakes: Counter = field(init=False)
    handshake_refusals: Counter = field(init=False)
    stream_refusals: Counter = field(init=False)

    def __post_init__(self) -> None:
        made = self.registry
        self.signed = Counter("meshwright_signing_leaves", "Leaves signed for pods.", registry=made)
        self.refused = Counter(
            "meshwright_signing_refusals", "Requests for a leaf that were refused.", ["reason"], registry=made
        )
        self.seconds = Histogram(
            "meshwright_signing_seconds",
            "Time from a request for a leaf to its answer.",
            registry=made,
            buckets=(0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0),
        )
        self.waiting = Gauge("meshwright_signing_queue", "Requests that wait for the API server.", registry=made)
        self.usable = Gauge("meshwright_issuer_usable", "1 while there is an issuer that may sign.", registry=made)
        self.issuer_end = Gauge(
            "meshwright_issuer_end_timestamp_seconds", "When the issuer in use ends; 0: there is none.", registry=made
        )
        self.anchors = Gauge("meshwright_trust_anchors", "Trust anchors in use.", registry=made)
        self.issuer_refusals = Counter(
            "meshwright_issuer_refusals", "Issuers and bundles that were not taken.", ["reason"], registry=made
        )
        self.handshakes = Counter("meshwright_xds_handshakes", "TLS handshakes that proxies have begun.", registry=made)
        self.handshake_refusals = Counter(
            "meshwright_ads_handshakes_refused",
            "Connections to the port for proxies that were begun and came to nothing: no stream followed.",
            registry=made,
        )
        self.stream_refusals = Counter(
            "meshwright_xds_refusals", "Streams of proxies that were refused.", ["reason"], registry=made
        )
