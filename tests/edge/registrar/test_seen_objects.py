"""What is there, told by a watch and by answers to writes, in any order."""

from meshwright.edge.client import Json
from meshwright.edge.registrar.seen_objects import SeenObjects
from meshwright.model.ref import Kind, Ref
from meshwright.model.units import Namespace

REF = Ref(Kind.EXTERNAL_WORKLOAD, Namespace("shop"), "a")


def make(version: int, uid: str = "one") -> Json:
    return {
        "apiVersion": "workload.linkerd.io/v1beta1",
        "metadata": {"name": "a", "namespace": "shop", "uid": uid, "resourceVersion": str(version)},
        "spec": {"version": version},
    }


def make_objects() -> tuple[SeenObjects[int], list[int | None]]:
    told: list[int | None] = []
    parsed: SeenObjects[int] = SeenObjects(
        parse=lambda raw: int(raw["spec"]["version"]), changed=lambda _, value: told.append(value)
    )
    return parsed, told


def test_the_newest_version_counts_whoever_tells_it() -> None:
    objects, told = make_objects()
    objects.put(REF, make(5))
    objects.wrote(REF, make(7))
    objects.put(REF, make(6))
    objects.put(REF, make(7))
    assert told == [5, 7]
    found = objects.get(REF)
    assert found is not None
    assert (found.uid, found.version, found.raw["spec"]) == ("one", "7", {"version": 7})
    objects.put(REF, None)
    assert (told, len(objects)) == ([5, 7, None], 0)


def test_that_an_object_is_gone_is_no_news_of_the_next_one_of_its_name() -> None:
    objects, told = make_objects()
    objects.put(REF, make(5))
    objects.deleted(REF)
    objects.wrote(REF, make(9, "two"))
    objects.put(REF, None)
    assert told == [5, None, 9]
    objects.put(REF, make(9, "two"))
    objects.put(REF, None)
    assert told == [5, None, 9, None]


def test_old_news_of_what_was_deleted_here_does_not_bring_it_back() -> None:
    objects, told = make_objects()
    objects.put(REF, make(5))
    objects.wrote(REF, make(6))
    objects.deleted(REF)
    objects.put(REF, make(6))
    assert told == [5, 6, None]
    objects.put(REF, None)
    objects.put(REF, make(8, "two"))
    assert told == [5, 6, None, 8]
