"""What shows of Servers only beside the pods they select: that there are none, or that an older Server has the port."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from meshwright.model.policy import Server
from meshwright.model.problem import Problem, Reason
from meshwright.model.ref import Ref
from meshwright.model.selector import Selector
from meshwright.model.units import Port

_Labels = tuple[tuple[str, str], ...]
_Place = Port | str
_LAST = 1 << 62


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenPod:
    """A pod, as far as Servers are about it. ``labels``: pairs. ``ports``: the TCP ports that it declares by name,
    ``None`` where that is not known: then a name and a number are never the same port."""

    name: str
    labels: _Labels
    ports: tuple[tuple[str, Port], ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Shortfall:
    """Something that a Server does not get. ``about``: what stays the same of it while pods come and go."""

    problem: Problem
    about: str


def judge_selection(servers: Iterable[Server], pods: Iterable[SeenPod]) -> dict[Ref, tuple[Shortfall, ...]]:
    """Return which of ``servers`` select none of ``pods``, or have lost a port of one to an older Server; each with
    the Server that has it and the first such pod by name. Servers without a fault are not in it, and those for
    ExternalWorkloads never are. Never raises.

    All are of one namespace; their order does not matter. What shows without pods, that two Servers have the same
    selector and port, is left to `judge_server`.

    Source: linkerd2 ``policy-controller/k8s/index/src/inbound/index.rs`` (``Pod::reindex_servers``: the oldest Server
    has the port, of those as old as each other the first by name).
    """
    chosen = sorted((server for server in servers if not server.selects_external), key=_age)
    claims = _Claims(chosen)
    seen: dict[Ref, None] = {}
    holding: dict[Ref, None] = {}
    lost: dict[Ref, dict[Ref, tuple[_Place, str]]] = {}
    # The first pod by name is the one that is named, so that nothing depends on the order they come in.
    for (labels, ports), name in sorted(_find_shapes(chosen, pods).items(), key=lambda item: item[1]):
        owners: dict[_Place, Server] = {}
        for server in claims.find(dict(labels)):
            seen[server.ref] = None
            for place in _find_places(server.port, ports):
                owner = owners.setdefault(place, server)
                if owner is server:
                    holding[server.ref] = None
                else:
                    lost.setdefault(server.ref, {}).setdefault(owner.ref, (place, name))
    found: dict[Ref, tuple[Shortfall, ...]] = {}
    known = {server.ref: server for server in chosen}
    for server in chosen:
        losses = lost.get(server.ref, {})
        told: list[Shortfall] = []
        if server.ref not in seen:
            told.append(_find_no_pod(server))
        elif server.ref not in holding and not losses:
            told.append(_find_no_port(server))
        for owner_ref, (place, name) in losses.items():
            other = known[owner_ref]
            if (other.selector, other.port) != (server.selector, server.port):
                told.append(_find_loss(owner_ref, place, name, is_left=server.ref in holding))
        if told:
            found[server.ref] = tuple(told)
    return found


class _Claims:
    """Servers by what they ask of a pod's labels."""

    def __init__(self, servers: Iterable[Server]) -> None:
        self._servers = tuple(servers)
        self._general: list[int] = []
        self._by_label: dict[tuple[str, str], list[int]] = {}
        for place, server in enumerate(self._servers):
            first = server.selector.labels[:1]
            (self._by_label.setdefault(first[0], []) if first else self._general).append(place)

    def find(self, labels: Mapping[str, str]) -> Iterator[Server]:
        """Yield those that select a pod with ``labels``, in the order they were given."""
        places = list(self._general)
        for pair in labels.items():
            places += self._by_label.get(pair, ())
        for place in sorted(places):
            if self._servers[place].selector.selects(labels):
                yield self._servers[place]


def _find_shapes(
    servers: Iterable[Server], pods: Iterable[SeenPod]
) -> dict[tuple[_Labels, tuple[tuple[str, Port], ...] | None], str]:
    """Return the different pods there are, as far as any selector can tell them apart, each with its first name."""
    keys = {key for server in servers for key in _keys_of(server.selector)}
    shapes: dict[tuple[_Labels, tuple[tuple[str, Port], ...] | None], str] = {}
    for pod in pods:
        shape = tuple(pair for pair in pod.labels if pair[0] in keys), pod.ports
        if (first := shapes.get(shape)) is None or pod.name < first:
            shapes[shape] = pod.name
    return shapes


def _keys_of(selector: Selector) -> Iterator[str]:
    yield from (key for key, _ in selector.labels)
    yield from (expression.key for expression in selector.expressions)


def _find_places(port: _Place, ports: tuple[tuple[str, Port], ...] | None) -> Iterable[_Place]:
    if ports is None or not isinstance(port, str):
        return (port,)
    return sorted({number for name, number in ports if name == port})


def _find_no_pod(server: Server) -> Shortfall:
    message = f"it selects no pod of namespace {server.ref.namespace}; correct it, or the labels of the pods"
    problem = Problem("spec.podSelector", Reason.SELECTS_NOTHING, message)
    return Shortfall(problem=problem, about=f"{problem.reason}\n{problem.field}")


def _find_no_port(server: Server) -> Shortfall:
    message = f'no pod that it selects has a TCP port named "{server.port}"; correct it, or write the number'
    problem = Problem("spec.port", Reason.SELECTS_NOTHING, message)
    return Shortfall(problem=problem, about=f"{problem.reason}\n{problem.field}")


def _find_loss(owner: Ref, place: _Place, pod: str, *, is_left: bool) -> Shortfall:
    rest = "this one does not govern it there" if is_left else "this one governs nothing"
    message = (
        f"{owner}, which is older, has port {place} of pod {pod}, and so {rest}; "
        "change the selector or the port of one of the two, or delete one"
    )
    problem = Problem("spec.port", Reason.OVERLAPPED, message)
    return Shortfall(problem=problem, about=f"{problem.reason}\n{problem.field}\n{owner}")


def _age(server: Server) -> tuple[int, str]:
    return (_LAST if server.created is None else server.created), server.ref.name
