"""Parts of what should be add up to the whole."""

from meshwright.edge.wanted import Wanted
from meshwright.model.desired import Desired, RouteStatus, UnitName
from meshwright.model.problem import Problem, Reason
from meshwright.model.ref import Kind, Ref, ServiceName
from meshwright.model.units import Namespace

SHOP = Namespace("shop")
UNIT = UnitName(SHOP, "mw-out-s")
OTHER = UnitName(SHOP, "mw-out-t")
SERVICE = ServiceName(SHOP, "s")
ROUTE = Ref(Kind.HTTP_ROUTE, SHOP, "r")
STATUS = RouteStatus(generation=1, parents=())
PROBLEM = Problem("spec", Reason.INVALID_OBJECT, "found nothing; write something")


def slice_ref(name: str) -> Ref:
    return Ref(Kind.ENDPOINT_SLICE, SHOP, name)


def test_a_part_changes_what_it_names_and_nothing_else() -> None:
    wanted = Wanted()
    first = Desired(units={UNIT: {"a": 1}, OTHER: {"b": 1}}, statuses={ROUTE: STATUS}, problems={ROUTE: (PROBLEM,)})
    assert wanted.update(first) == {UNIT.ref, OTHER.ref, ROUTE}
    second = Desired(units={UNIT: None}, statuses={ROUTE: None}, problems={ROUTE: ()})
    assert wanted.update(second) == {UNIT.ref, ROUTE}
    assert (wanted.outputs, wanted.statuses, wanted.problems) == ({OTHER.ref: {"b": 1}}, {}, {})


def test_slices_that_a_service_no_longer_names_are_gone() -> None:
    wanted = Wanted()
    wanted.update(Desired(slices={SERVICE: {"s-1": {"n": 1}, "s-2": {"n": 2}}}))
    touched = wanted.update(Desired(slices={SERVICE: {"s-2": {"n": 3}}}))
    assert touched == {slice_ref("s-1"), slice_ref("s-2")}
    assert wanted.outputs == {slice_ref("s-2"): {"n": 3}}
    assert wanted.update(Desired(slices={SERVICE: {}})) == {slice_ref("s-2")}
    assert (wanted.outputs, wanted.slices) == ({}, {})


def test_the_whole_replaces_everything_and_touches_what_was_and_is() -> None:
    wanted = Wanted()
    wanted.update(Desired(units={UNIT: {"a": 1}}, statuses={ROUTE: STATUS}))
    assert wanted.replace(Desired(units={OTHER: {"b": 1}})) == {UNIT.ref, OTHER.ref, ROUTE}
    assert (wanted.outputs, wanted.statuses) == ({OTHER.ref: {"b": 1}}, {})


def test_what_is_kept_is_neither_wanted_nor_doomed() -> None:
    wanted = Wanted()
    wanted.update(Desired(units={UNIT: {"a": 1}}))
    wanted.update(Desired(kept=frozenset({UNIT})))
    assert wanted.outputs == {}
    assert wanted.doomed([UNIT.ref, OTHER.ref]) == {OTHER.ref}
    wanted.update(Desired(units={UNIT: None}))
    assert wanted.doomed([UNIT.ref]) == {UNIT.ref}


def test_what_no_round_speaks_of_outlives_every_round() -> None:
    wanted = Wanted()
    anchors, report, other = (
        UnitName(SHOP, name).ref for name in ("mw-trust-anchors", "mw-mesh", "mw-trust-anchors-2")
    )
    wanted.update(Desired(units={UNIT: {"a": 1}}))
    assert wanted.set_mesh({anchors: {"c": 1}, report: {"d": 1}}, frozenset({other})) == {anchors, report}
    wanted.replace(Desired(units={OTHER: {"b": 1}}))
    assert wanted.outputs == {OTHER.ref: {"b": 1}, anchors: {"c": 1}, report: {"d": 1}}
    assert wanted.doomed([UNIT.ref, anchors, report, other]) == {UNIT.ref}
    assert wanted.set_mesh({report: {"d": 1}}, frozenset({anchors})) == {anchors}
    assert wanted.outputs == {OTHER.ref: {"b": 1}, report: {"d": 1}}
    assert wanted.doomed([anchors, report, other]) == {other}


def test_what_settings_alone_decide_is_always_wanted() -> None:
    ours = Ref(Kind.CONFIG_MAP, Namespace("meshwright"), "mw-mesh-policy")
    wanted = Wanted(always={ours: {"a": 1}})
    assert wanted.outputs == {ours: {"a": 1}}
    wanted.replace(Desired(units={UNIT: {"b": 1}}))
    assert wanted.outputs == {ours: {"a": 1}, UNIT.ref: {"b": 1}}
    assert wanted.doomed([ours, OTHER.ref]) == {OTHER.ref}
