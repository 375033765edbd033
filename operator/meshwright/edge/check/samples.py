"""Metrics of pods, as far as checks look at them."""

import asyncio
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import quote

from prometheus_client.parser import text_string_to_metric_families

from meshwright.edge.check.inquiry import Inquiry, NotAllowed
from meshwright.edge.client import ApiError, Json, Unreachable

AT_ONCE = 16
"""Pods that are asked at the same time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One number. ``name`` and ``labels`` are Prometheus'."""

    name: str
    labels: Mapping[str, str]
    value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Scrape:
    """What one pod said of itself: ``samples``, or the ``error`` that kept it from it."""

    pod: Json
    samples: tuple[Sample, ...] = ()
    error: str = ""

    @property
    def name(self) -> str:
        return str(self.pod["metadata"]["name"])

    @property
    def namespace(self) -> str:
        return str(self.pod["metadata"]["namespace"])

    def values(self, name: str, **labels: str) -> list[float]:
        """Return the values of all samples of a name that have these labels."""
        return [
            sample.value
            for sample in self.samples
            if sample.name == name and all(sample.labels.get(key) == value for key, value in labels.items())
        ]


def read_samples(text: str, names: Collection[str]) -> tuple[Sample, ...]:
    """Return the samples of some names in a text of Prometheus' format.

    Raises:
        ValueError: a line with such a name is not of that format.
    """
    wanted = tuple(names)
    # Of a proxy's thousands of lines these are a few, and parsing is slow.
    lines = [line for line in text.splitlines() if line.startswith(wanted)]
    return tuple(
        Sample(name=sample.name, labels=sample.labels, value=sample.value)
        for family in text_string_to_metric_families("\n".join(lines) + "\n")
        for sample in family.samples
        if sample.name in wanted
    )


async def scrape(
    inquiry: Inquiry, pods: Iterable[Json], port: int, names: Collection[str], *, words: str = ""
) -> list[Scrape]:
    """Return what each pod says in its metrics, in the order of ``pods``. ``words``: a regular expression by which an
    Envoy leaves statistics out (``filter`` of its ``/stats/prometheus``).

    Raises what `Inquiry.pod_text` does when no pod at all may be asked.
    """
    slots = asyncio.Semaphore(AT_ONCE)
    path = "/metrics" + (f"?filter={quote(words, safe='')}" if words else "")

    async def ask(pod: Json) -> Scrape:
        meta = pod["metadata"]
        async with slots:
            try:
                text = await inquiry.pod_text(meta["namespace"], meta["name"], port, path)
                return Scrape(pod=pod, samples=read_samples(text, names))
            except NotAllowed:
                raise
            except (ApiError, Unreachable) as error:
                return Scrape(pod=pod, error=str(error))
            except ValueError as error:
                return Scrape(pod=pod, error=f"its metrics cannot be read: {error}")

    return list(await asyncio.gather(*(ask(pod) for pod in pods)))
