"""What the proxies of a cluster tell of calls: their logs since some time, and what they have counted since they began.

Logs say who, what and when, but only so many lines a second are written; counters miss nothing and say less.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from meshwright.edge.access.live import list_kind
from meshwright.edge.check.samples import read_samples
from meshwright.edge.client import ApiError, Client, Json, Unreachable
from meshwright.edge.resources import RESOURCES
from meshwright.model.identity import TrustDomain
from meshwright.model.observed import Counted, Observed
from meshwright.model.pod import PROXY_CONTAINER, Pod
from meshwright.model.ref import Kind, Ref
from meshwright.model.snapshot import Parsed
from meshwright.parse.kinds import parse_object, ref_of
from meshwright.parse.observed import COUNTERS, parse_counter, parse_line
from meshwright.parse.pod import parse_pod

_AT_ONCE = 8
_SECONDS = 30.0
_ADMIN_PORT = 4191
_PREFIX = "envoy_"
_POLICY = (Kind.SERVER, Kind.AUTHORIZATION_POLICY, Kind.MESH_TLS_AUTHENTICATION)
_MOST_BYTES = 16 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Observations:
    """``pods``: all that were listed, meshed or not. ``silent``: meshed pods that could not be asked, and why.
    ``stored``: the policy objects there are, where they were asked for."""

    pods: tuple[Pod, ...] = ()
    seen: tuple[Observed, ...] = ()
    counted: tuple[Counted, ...] = ()
    silent: tuple[tuple[Pod, str], ...] = ()
    stored: Mapping[Ref, Parsed] = field(default_factory=dict)


@dataclass(slots=True)
class _Gathered:
    seen: list[Observed] = field(default_factory=list)
    counted: list[Counted] = field(default_factory=list)
    silent: list[tuple[Pod, str]] = field(default_factory=list)


async def list_pods(client: Client, namespace: str) -> tuple[Pod, ...]:
    """Return the pods of ``namespace`` (``""``: of all) that have not ended, sorted. Raises what `Client` raises."""
    raws: list[Json] = []
    token = ""
    while True:
        page = await client.list_page(RESOURCES[Kind.POD], namespace=namespace, token=token)
        raws += page.items
        if not (token := page.token):
            break
    return tuple(sorted((pod for pod in map(parse_pod, raws) if pod.addresses), key=lambda pod: pod.ref))


async def observe(
    client: Client,
    namespace: str,
    since_seconds: int,
    trust: TrustDomain,
    told: Callable[[int, int], None] = lambda done, of: None,
) -> Observations:
    """Return what the proxies of ``namespace`` (``""``: of all) tell. ``told`` hears how many of how many were asked.

    Raises `ApiError` and `Unreachable` when pods cannot be listed; a proxy that cannot be asked is among ``silent``.
    """
    pods = await list_pods(client, namespace)
    meshed = [pod for pod in pods if pod.is_meshed]
    gathered, slots, done = _Gathered(), asyncio.Semaphore(_AT_ONCE), 0

    async def ask(pod: Pod) -> None:
        nonlocal done
        async with slots:
            try:
                gathered.seen += _read_lines(await _fetch_log(client, pod, since_seconds), pod, trust)
                gathered.counted += _read_counters(await _fetch_counters(client, pod), pod, trust)
            except ApiError as error:
                gathered.silent.append((pod, str(error.body.get("message") or error.reason)))
            except (Unreachable, ValueError) as error:
                gathered.silent.append((pod, str(error)))
        done += 1
        told(done, len(meshed))

    async with asyncio.TaskGroup() as tasks:
        for pod in meshed:
            tasks.create_task(ask(pod))
    return Observations(
        pods=pods,
        seen=tuple(sorted(gathered.seen, key=lambda each: (each.at, each.pod))),
        counted=tuple(sorted(gathered.counted, key=lambda each: (each.called, str(each.client), each.by, each.pod))),
        silent=tuple(sorted(gathered.silent, key=lambda each: each[0].ref)),
    )


async def list_policy(client: Client, namespace: str) -> dict[Ref, Parsed]:
    """Return the Servers of ``namespace``, who may call them, and by what; none of a kind that the cluster does not
    have.

    Raises:
        ApiError, Unreachable: the cluster does not say.
    """
    raws = [raw for kind in _POLICY for raw in await list_kind(client, kind, namespace)]
    return {ref: value for raw in raws if (ref := ref_of(raw)) and (value := parse_object(raw))}


async def _fetch_log(client: Client, pod: Pod, since_seconds: int) -> bytes:
    path = RESOURCES[Kind.POD].path(pod.ref.namespace, pod.ref.name, "log")
    query = f"container={PROXY_CONTAINER}&sinceSeconds={since_seconds}&limitBytes={_MOST_BYTES}"
    body, _ = await client.get_raw(f"{path}?{query}", seconds=_SECONDS)
    return body


async def _fetch_counters(client: Client, pod: Pod) -> bytes:
    path = RESOURCES[Kind.POD].path(pod.ref.namespace, f"{pod.ref.name}:{_ADMIN_PORT}", "proxy")
    body, _ = await client.get_raw(f"{path}/metrics", seconds=_SECONDS)
    return body


def _read_lines(body: bytes, pod: Pod, trust: TrustDomain) -> Iterable[Observed]:
    lines = (parse_line(line, pod.ref, trust) for line in body.decode(errors="replace").splitlines())
    return (line for line in lines if line is not None)


def _read_counters(body: bytes, pod: Pod, trust: TrustDomain) -> Iterable[Counted]:
    """Yield the counters of a page. Raises ValueError when it is no page of metrics."""
    names = [f"{_PREFIX}{name}" for name in COUNTERS]
    for sample in read_samples(body.decode(errors="replace"), names):
        found = parse_counter(sample.name.removeprefix(_PREFIX), sample.labels, sample.value, pod.ref, trust)
        if found is not None:
            yield found
