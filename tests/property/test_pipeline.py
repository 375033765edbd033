"""Laws: what should be depends on what there is, and on nothing else."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from meshwright.model.config import Config
from meshwright.model.desired import Desired, Json
from meshwright.model.problem import Problem, Reason
from meshwright.model.ref import Kind, Ref
from meshwright.model.route import Filters, GrpcMatch, HttpMatch, ParentRef, Path, PathMatch, Redirect, Route, Traffic
from meshwright.model.snapshot import Broken, Parsed
from meshwright.model.units import Namespace, Port
from meshwright.model.workload import ExternalWorkload, Protocol, Service, WorkloadPort
from meshwright.pipeline import Compiler, compile_all
from tests.link.made import Millis, Retry, Timeouts, backend, bad, parent, port, rule, service

NAMES = st.sampled_from(["a", "b", "c"])
NAMESPACES = st.sampled_from(["shop", "client"])
PORTS = st.sampled_from([80, 81, 82])
TRAFFIC = st.sampled_from(
    [
        Traffic(),
        Traffic(timeouts=Timeouts(request_ms=Millis(1000))),
        Traffic(retry_http=Retry(limit=2), retry_grpc=Retry(limit=2, grpc=("unavailable",))),
    ]
)


@st.composite
def services(draw: st.DrawFn) -> Service:
    name = draw(NAMES)
    frontend: dict[str, Any] = draw(
        st.sampled_from([{}, {}, {}, {"addresses": ()}, {"addresses": (), "is_headless": True}])
    )
    return service(
        name,
        draw(NAMESPACES),
        uid=draw(st.sampled_from(["1", "2"])),
        ports=tuple(
            port(number, f"p{number}", draw(st.sampled_from(Protocol)))
            for number in sorted(draw(st.sets(PORTS, min_size=1)))
        ),
        selector=draw(st.sampled_from([None, (("app", name),), (("app", name), ("tier", "1"))])),
        traffic=draw(TRAFFIC),
        **frontend,
    )


@st.composite
def parents(draw: st.DrawFn, index: int) -> ParentRef:
    more: dict[str, Any] = {"port": Port(draw(PORTS))} if draw(st.booleans()) else {}
    return parent(draw(NAMES), draw(NAMESPACES), index, **more)


@st.composite
def routes(draw: st.DrawFn) -> Route:
    is_grpc = draw(st.booleans())
    rules = []
    for index in range(draw(st.integers(0, 2))):
        paths = st.sampled_from(["/", "/a", "/a/b"])
        matches: Any = (GrpcMatch(),) if is_grpc else (HttpMatch(path=Path(how=PathMatch.PREFIX, value=draw(paths))),)
        backends = [
            backend(draw(NAMES), draw(PORTS), index, place, namespace=draw(NAMESPACES), weight=draw(st.integers(0, 2)))
            for place in range(draw(st.integers(0, 2)))
        ]
        filters = Filters(redirect=Redirect()) if not is_grpc and not backends and draw(st.booleans()) else Filters()
        problems = (bad(field=f"spec.rules[{index}]"),) if draw(st.integers(0, 4)) == 0 else ()
        rules.append(rule(index, matches=matches, backends=tuple(backends), filters=filters, problems=problems))
    return Route(
        ref=Ref(Kind.GRPC_ROUTE if is_grpc else Kind.HTTP_ROUTE, Namespace(draw(NAMESPACES)), draw(NAMES)),
        generation=draw(st.integers(1, 2)),
        created=draw(st.sampled_from([None, 1, 2])),
        parents=tuple(draw(parents(index)) for index in range(draw(st.integers(0, 2)))),
        rules=tuple(rules),
        traffic=draw(TRAFFIC),
    )


@st.composite
def workloads(draw: st.DrawFn) -> ExternalWorkload:
    name = draw(NAMES)
    return ExternalWorkload(
        ref=Ref(Kind.EXTERNAL_WORKLOAD, Namespace(draw(NAMESPACES)), f"vm-{name}"),
        uid="uid",
        ips=("192.0.2.1",),
        ports=(WorkloadPort(name="", port=Port(8080)),),
        is_ready=draw(st.booleans()),
        labels=(("app", draw(NAMES)), ("tier", draw(st.sampled_from(["1", "2"])))),
    )


@st.composite
def broken(draw: st.DrawFn) -> Broken:
    kind = draw(st.sampled_from([Kind.SERVICE, Kind.HTTP_ROUTE, Kind.EXTERNAL_WORKLOAD]))
    ref = Ref(kind, Namespace(draw(NAMESPACES)), draw(NAMES))
    return Broken(ref=ref, generation=1, problems=(Problem("", Reason.INVALID_OBJECT, "no spec"),))


OBJECTS = st.one_of(services(), routes(), routes(), workloads(), broken())


@st.composite
def histories(draw: st.DrawFn) -> list[dict[Ref, Parsed | None]]:
    """Batches of changes: objects put, put again differently, and removed."""
    batches: list[dict[Ref, Parsed | None]] = []
    known: list[Ref] = []
    for _ in range(draw(st.integers(1, 5))):
        batch: dict[Ref, Parsed | None] = {}
        for value in draw(st.lists(OBJECTS, max_size=5)):
            batch[value.ref] = value
            known.append(value.ref)
        for ref in draw(st.lists(st.sampled_from(known), max_size=3)) if known else []:
            batch[ref] = None
        batches.append(batch)
    return batches


def replay(history: list[dict[Ref, Parsed | None]]) -> tuple[Compiler, dict[Ref, Parsed]]:
    compiler = Compiler(Config())
    objects: dict[Ref, Parsed] = {}
    for batch in history:
        compiler.update(batch)
        for ref, value in batch.items():
            if value is None:
                objects.pop(ref, None)
            else:
                objects[ref] = value
    return compiler, objects


def shape(desired: Desired) -> dict[str, Any]:
    """Return what must be equal: all, but of slices only who is in them. Their packing follows what was stored."""
    return {
        "units": dict(desired.units),
        "kept": desired.kept,
        "statuses": dict(desired.statuses),
        "problems": dict(desired.problems),
        "members": {
            service: sorted(json_of(endpoint) for made in slices.values() for endpoint in made["endpoints"])
            for service, slices in desired.slices.items()
        },
    }


def json_of(endpoint: Json) -> str:
    return repr(sorted(endpoint.items()))


@given(histories())
@settings(max_examples=150, deadline=None)
def test_any_history_ends_where_compiling_its_outcome_does(history: list[dict[Ref, Parsed | None]]) -> None:
    compiler, objects = replay(history)
    assert shape(compiler.desired) == shape(compile_all(objects, Config()))


@given(histories())
@settings(max_examples=100, deadline=None)
def test_the_answers_of_all_updates_put_together_are_all_that_should_be(
    history: list[dict[Ref, Parsed | None]],
) -> None:
    compiler = Compiler(Config())
    units: dict[Any, Any] = {}
    statuses: dict[Any, Any] = {}
    slices: dict[Any, Any] = {}
    problems: dict[Any, Any] = {}
    for batch in history:
        answer = compiler.update(batch)
        units |= answer.units
        statuses |= answer.statuses
        slices |= answer.slices
        problems |= answer.problems
    desired = compiler.desired
    assert {name: unit for name, unit in units.items() if unit is not None} == desired.units
    assert {ref: status for ref, status in statuses.items() if status is not None} == desired.statuses
    assert {name: made for name, made in slices.items() if made} == desired.slices
    assert {ref: found for ref, found in problems.items() if found} == desired.problems


@given(st.lists(OBJECTS, max_size=12, unique_by=lambda value: value.ref), st.randoms(use_true_random=False))
@settings(max_examples=100, deadline=None)
def test_the_order_of_updates_does_not_matter(objects: list[Parsed], random: Any) -> None:
    shuffled = list(objects)
    random.shuffle(shuffled)
    one_by_one = Compiler(Config())
    for value in shuffled:
        one_by_one.update({value.ref: value})
    assert shape(one_by_one.desired) == shape(compile_all({value.ref: value for value in objects}, Config()))


@given(st.lists(OBJECTS, min_size=1, max_size=10, unique_by=lambda value: value.ref), st.data())
@settings(max_examples=100, deadline=None)
def test_what_is_deleted_and_put_back_returns_to_the_same(objects: list[Parsed], data: st.DataObject) -> None:
    compiler = Compiler(Config())
    compiler.update({value.ref: value for value in objects})
    before = shape(compiler.desired)
    chosen = data.draw(st.sampled_from(objects))
    compiler.update({chosen.ref: None})
    compiler.update({chosen.ref: chosen})
    assert shape(compiler.desired) == before
    compiler.update({value.ref: None for value in objects})
    assert compiler.desired == Desired()


@given(st.lists(OBJECTS, max_size=10, unique_by=lambda value: value.ref), routes())
@settings(max_examples=100, deadline=None)
def test_a_route_changes_only_units_of_the_services_it_names(objects: list[Parsed], route: Route) -> None:
    compiler = Compiler(Config())
    compiler.update({value.ref: value for value in objects if value.ref != route.ref})
    changed = compiler.update({route.ref: route})
    named = {f"mw-out-{ref.name}" for ref in route.parents} | {
        f"mw-out-{ref.name}.{ref.namespace}" for ref in route.parents
    }
    assert {name.name for name in changed.units} <= named
    assert {name.namespace for name in changed.units} <= {route.ref.namespace}
    assert changed.slices == {}


@given(st.lists(OBJECTS, max_size=10, unique_by=lambda value: value.ref), routes())
@settings(max_examples=50, deadline=None)
def test_a_gateways_route_changes_nothing_of_others(objects: list[Parsed], route: Route) -> None:
    compiler = Compiler(Config())
    compiler.update({value.ref: value for value in objects if value.ref != route.ref})
    gateway = ParentRef(
        field="spec.parentRefs[0]",
        group="gateway.networking.k8s.io",
        kind="Gateway",
        namespace=Namespace("shop"),
        name="a",
    )
    foreign = Route(ref=route.ref, generation=1, created=1, parents=(gateway,), rules=route.rules)
    changed = compiler.update({foreign.ref: foreign})
    assert (changed.units, changed.slices, changed.problems) == ({}, {}, {})
    assert list(changed.statuses) == [foreign.ref]
