"""What is written, and what is left alone."""

import copy
from typing import Any

import pytest

from meshwright.emit.manifest import emit_unit
from meshwright.emit.plan import Delete, Observed, Plan, make_plan
from meshwright.model.desired import Desired, Json, UnitName
from meshwright.model.linked import DefaultRule, GroupPolicy, PortPolicy
from meshwright.model.ref import Kind, Ref, ServiceName
from meshwright.model.route import Timeouts
from meshwright.model.units import Millis, Namespace, Port

SHOP = Namespace("shop")
WEB = ServiceName(SHOP, "web")
NAME = UnitName(SHOP, "mw-out-web")


def unit(request_ms: int = 1000) -> Json:
    default = DefaultRule(timeouts=Timeouts(request_ms=Millis(request_ms)))
    made = emit_unit(WEB, "uid-web", GroupPolicy(namespace=SHOP, ports=(PortPolicy(port=Port(80), default=default),)))
    assert isinstance(made, dict)
    return made


def slice_of(name: str, ready: bool = True) -> Json:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": name, "namespace": "shop", "labels": {"a": "b"}, "ownerReferences": []},
        "addressType": "IPv4",
        "ports": [],
        "endpoints": [{"addresses": ["192.0.2.1"], "conditions": {"ready": ready}}],
    }


def served(manifest: Json, **metadata: Any) -> Json:
    """Return ``manifest`` as an API server gives it back."""
    seen = copy.deepcopy(manifest)
    seen["metadata"] |= {
        "uid": "uid-1",
        "resourceVersion": "7",
        "creationTimestamp": "2026-01-01T00:00:00Z",
        **metadata,
    }
    return seen


def test_what_is_missing_is_applied_units_first() -> None:
    desired = Desired(units={NAME: unit()}, slices={WEB: {"s": slice_of("s")}})
    assert make_plan(desired, Observed()) == Plan(apply=(unit(), slice_of("s")))


def test_nothing_is_written_when_all_is_as_it_should_be() -> None:
    desired = Desired(units={NAME: unit()}, slices={WEB: {"s": slice_of("s")}})
    observed = Observed(units={NAME: served(unit())}, slices={WEB: {"s": served(slice_of("s"))}})
    assert make_plan(desired, observed).is_empty
    assert make_plan(desired, observed, is_complete=True).is_empty


def test_what_others_added_is_left_alone() -> None:
    seen = served(unit())
    seen["metadata"]["labels"]["theirs"] = "1"
    seen["metadata"]["annotations"]["theirs"] = "1"
    seen["metadata"]["ownerReferences"][0]["blockOwnerDeletion"] = False
    seen["data"]["theirs"] = "1"
    assert make_plan(Desired(units={NAME: unit()}), Observed(units={NAME: seen})).is_empty


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("data", "unit.json"), "{}"),
        (("data",), None),
        (("metadata", "annotations", "meshwright.dev/hash"), "0"),
        (("metadata", "annotations"), None),
        (("metadata", "labels", "meshwright.dev/unit"), "inbound"),
        (("metadata", "labels"), None),
        (("metadata", "ownerReferences"), None),
        (("metadata", "ownerReferences"), [{"apiVersion": "v1", "kind": "Service", "name": "web", "uid": "old"}]),
    ],
)
def test_an_edit_of_anything_that_is_ours_is_undone(path: tuple[str, ...], value: object) -> None:
    seen = served(unit())
    place = seen
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    assert make_plan(Desired(units={NAME: unit()}), Observed(units={NAME: seen})) == Plan(apply=(unit(),))


def test_a_unit_that_is_gone_is_deleted_if_it_is_there() -> None:
    desired = Desired(units={NAME: None})
    assert make_plan(desired, Observed()).is_empty
    plan = make_plan(desired, Observed(units={NAME: served(unit())}))
    assert plan == Plan(delete=(Delete(ref=NAME.ref, uid="uid-1"),))


def test_slices_of_a_service_are_all_that_it_should_have() -> None:
    observed = Observed(slices={WEB: {"a": served(slice_of("a")), "b": served(slice_of("b"))}})
    plan = make_plan(Desired(slices={WEB: {"a": slice_of("a", ready=False)}}), observed)
    gone = Delete(ref=Ref(Kind.ENDPOINT_SLICE, SHOP, "b"), uid="uid-1")
    assert plan == Plan(apply=(slice_of("a", ready=False),), delete=(gone,))


class TestStrays:
    OTHER = UnitName(Namespace("client"), "mw-out-web.shop")
    SEEN = Observed(units={NAME: served(unit()), OTHER: served(unit())}, slices={WEB: {"a": served(slice_of("a"))}})

    def test_a_part_leaves_alone_what_it_does_not_name(self) -> None:
        assert make_plan(Desired(), self.SEEN).is_empty

    def test_the_whole_deletes_what_it_does_not_name(self) -> None:
        plan = make_plan(Desired(units={NAME: unit()}), self.SEEN, is_complete=True)
        gone = (Delete(ref=self.OTHER.ref, uid="uid-1"), Delete(ref=Ref(Kind.ENDPOINT_SLICE, SHOP, "a"), uid="uid-1"))
        assert plan == Plan(delete=gone)

    def test_a_unit_too_large_to_replace_is_kept(self) -> None:
        desired = Desired(units={NAME: unit()}, slices={WEB: {"a": slice_of("a")}}, kept=frozenset((self.OTHER,)))
        assert make_plan(desired, self.SEEN, is_complete=True).is_empty
