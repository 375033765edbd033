"""Who is behind the Services of a local mesh, as manifests change."""

from collections.abc import Mapping
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from meshwright.edge.local_pods import Population, Role, find_stand_ins, settle_slices
from meshwright.edge.local_slices import LocalSlices, Origin
from meshwright.edge.offline import Pod, make_slices
from meshwright.edge.standin import Behaviour
from meshwright.model.desired import Json
from meshwright.model.ref import Kind, Ref
from meshwright.model.units import Namespace, Port

SHOP = Namespace("shop")
LABELS = ({"app": "web"}, {"app": "web", "tier": "a"}, {"app": "blue", "tier": "a"}, {"tier": "a"})
NAMES = ("web", "blue")


def make_service(name: str, selector: Mapping[str, str], port: int) -> Json:
    return {
        "metadata": {"name": name, "namespace": SHOP},
        "spec": {"selector": dict(selector), "ports": [{"port": port}]},
    }


def make_population(name: str, labels: Mapping[str, str], replicas: int, text: str) -> Population:
    pods = tuple(
        Pod(namespace=SHOP, name=f"{name}-{n}", labels=labels, ips=(f"127.0.{len(name)}.{n}",), ports={"x": Port(9000)})
        for n in range(1, replicas + 1)
    )
    roles = {
        pod.ips[0]: Role(workload=f"shop/{name}", replica=pod.name, behaviour=Behaviour(text=text)) for pod in pods
    }
    return Population(pods=pods, roles=roles)


def make_written(name: str, address: str) -> Json:
    return {
        "metadata": {"name": name, "namespace": SHOP, "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4",
        "ports": [{"port": 80}],
        "endpoints": [{"addresses": [address]}],
    }


services = st.one_of(
    st.none(), st.builds(make_service, st.just(""), st.sampled_from((*LABELS, {})), st.sampled_from((80, 8080)))
)
populations = st.tuples(st.sampled_from(LABELS), st.integers(0, 2), st.sampled_from(("x", "y")))
written = st.one_of(st.none(), st.sampled_from(("127.0.3.1", "127.0.4.2", "10.0.0.1")))
steps = st.lists(
    st.one_of(
        st.tuples(st.just("service"), st.sampled_from(NAMES), services),
        st.tuples(st.just("population"), st.sampled_from(NAMES), populations),
        st.tuples(st.just("written"), st.sampled_from(("web-pods-0-0", "own")), written),
    ),
    max_size=12,
)


def put(slices: LocalSlices, step: tuple[str, str, Any]) -> None:
    what, name, value = step
    match what:
        case "service":
            raw = value and value | {"metadata": {"name": name, "namespace": SHOP}}
            slices.put_service(Ref(Kind.SERVICE, SHOP, name), raw)
        case "population":
            slices.put_population(("Deployment.apps", SHOP, name), make_population(name, *value))
        case _:
            pieces = [make_written(name, value)] if value else []
            slices.put_pieces(Origin.WRITTEN, Ref(Kind.ENDPOINT_SLICE, SHOP, name), pieces)


@given(steps)
def test_what_it_comes_to_depends_on_what_is_there_and_not_on_how_it_came(taken: list[tuple[str, str, Any]]) -> None:
    slices, told = LocalSlices(1024, 8000), dict[Ref, Json]()
    for step in taken:
        put(slices, step)
        for ref, piece in slices.settle().slices.items():
            told.pop(ref, None)
            if piece is not None:
                told[ref] = piece
    fresh = LocalSlices(1024, 8000)
    last = {(what, name): (what, name, value) for what, name, value in taken}
    for step in last.values():
        put(fresh, step)

    assert told == {ref: piece for ref, piece in fresh.settle().slices.items() if piece is not None}
    assert slices.stand_ins == fresh.stand_ins


@given(steps)
def test_it_is_what_a_cluster_would_make_of_all_of_it(taken: list[tuple[str, str, Any]]) -> None:
    slices = LocalSlices(1024, 8000)
    last = {(what, name): value for what, name, value in taken}
    for (what, name), value in last.items():
        put(slices, (what, name, value))
    moved = slices.settle()
    people = [make_population(name, *value) for (what, name), value in sorted(last.items()) if what == "population"]
    pods = [pod for each in people for pod in each.pods]
    made = [
        piece
        for (what, name), value in last.items()
        if what == "service" and value
        for piece in make_slices(value | {"metadata": {"name": name, "namespace": SHOP}}, pods)
    ]
    own = [make_written(name, value) for (what, name), value in last.items() if what == "written" and value]
    settled = settle_slices([*made, *own], 1024, 8000)

    assert moved.slices == {Ref(Kind.ENDPOINT_SLICE, SHOP, piece["metadata"]["name"]): piece for piece in settled}
    assert slices.stand_ins == find_stand_ins(settled, {ip: role for each in people for ip, role in each.roles.items()})


def test_only_what_is_different_is_told() -> None:
    slices = LocalSlices(1024, 8000)
    for name in NAMES:
        put(slices, ("service", name, make_service(name, {"app": name}, 8080)))
        put(slices, ("population", name, ({"app": name}, 1, "x")))
    first = slices.settle()
    put(slices, ("population", "web", ({"app": "web"}, 1, "y")))
    other_text = slices.settle()
    put(slices, ("population", "web", ({"app": "web"}, 2, "y")))
    more = slices.settle()

    assert [ref.name for ref in first.slices] == ["blue-pods-0-0", "web-pods-0-0"]
    assert (other_text.slices, other_text.is_staffed_anew) == ({}, True)
    assert ([ref.name for ref in more.slices], more.is_staffed_anew) == (["web-pods-0-0"], True)
    assert slices.settle() == type(first)()
