"""Rounds: what comes meanwhile is the next round's, and a bug costs one object, never all."""

import asyncio
import threading
from collections.abc import Mapping
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from meshwright.edge.client import Json
from meshwright.edge.loop import RETRY_SECONDS, Loop, Round, Rounds, Slices
from meshwright.model.desired import Desired
from meshwright.model.problem import Problem
from meshwright.model.ref import Kind, Ref
from meshwright.model.snapshot import Broken, Parsed
from meshwright.model.units import Namespace
from meshwright.model.workload import NamespaceObject


def ref(name: str) -> Ref:
    return Ref(Kind.NAMESPACE, Namespace(""), name)


def raw(name: str, bug: str = "none", generation: int = 1) -> Json:
    return {"metadata": {"name": name, "generation": generation}, "bug": bug}


def parse(raw: Json) -> Parsed:
    if raw["bug"] == "parse":
        raise KeyError("bug")
    return NamespaceObject(ref=ref(raw["metadata"]["name"]), labels=(("bug", raw["bug"]),))


class Toy:
    """A compiler whose desired problems are its objects, and that some objects break; broken, it answers nothing."""

    def __init__(self, _: Slices) -> None:
        self.objects: dict[Ref, Parsed] = {}
        self.is_spoilt = False

    def update(self, changes: Mapping[Ref, Parsed | None]) -> Desired:
        assert not self.is_spoilt, "used after it failed"
        for parsed in changes.values():
            if isinstance(parsed, NamespaceObject) and ("bug", "compile") in parsed.labels:
                self.is_spoilt = True
                raise ZeroDivisionError("bug")
        for ref, parsed in changes.items():
            if parsed is None:
                self.objects.pop(ref, None)
            else:
                self.objects[ref] = parsed
        return Desired(problems={ref: _told(parsed) for ref, parsed in changes.items()})


def _told(parsed: Parsed | None) -> tuple[Problem, ...]:
    return () if parsed is None else parsed.problems


class Time:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def rounds(time: Time | None = None) -> Rounds:
    return Rounds(parse=parse, make_compiler=Toy, clock=time or Time())


def test_a_change_that_parses_to_the_same_is_no_change() -> None:
    it = rounds()
    assert it.run({ref("a"): raw("a", "none")}).changed == 1
    assert it.run({ref("a"): raw("a", "none")}).changed == 0
    assert it.run({ref("a"): raw("a", "other"), ref("b"): None}).changed == 1
    assert it.run({ref("a"): None}).changed == 1


def test_an_object_that_cannot_be_parsed_is_broken_and_the_others_compile() -> None:
    it = rounds()
    answer = it.run({ref("a"): raw("a", "none"), ref("b"): raw("b", "parse")})
    assert sorted(answer.desired.problems) == [ref("a"), ref("b")]
    assert it.aside == (ref("b"),)
    assert "please report" in answer.desired.problems[ref("b")][0].message
    it.run({ref("b"): raw("b", "none")})
    assert not it.aside


def test_an_object_that_cannot_be_compiled_is_found_and_the_others_compile() -> None:
    it = rounds()
    it.run({ref("old"): raw("old", "none")})
    batch: dict[Ref, Any] = {ref(f"n{number}"): raw(f"n{number}") for number in range(20)}
    batch |= {ref("n7"): raw("n7", "compile"), ref("n13"): raw("n13", "compile")}
    answer = it.run(batch)
    assert answer.is_whole
    assert sorted(answer.desired.problems) == sorted([ref("old"), *batch])
    assert it.aside == (ref("n13"), ref("n7"))
    later = it.run({ref("n7"): raw("n7", "none"), ref("n13"): None})
    assert not later.is_whole
    assert not it.aside


def test_an_object_left_out_gets_another_chance_in_time() -> None:
    time = Time()
    it = rounds(time)
    it.run({ref("a"): raw("a", "compile")})
    time.now += RETRY_SECONDS / 2
    assert it.run({}).changed == 0
    time.now += RETRY_SECONDS
    assert it.run({}).changed == 1
    assert it.aside == (ref("a"),)


def test_compiling_anew_comes_to_the_same_with_bugs_in_it() -> None:
    it = rounds()
    it.run({ref("a"): raw("a", "none"), ref("b"): raw("b", "compile")})
    answer = it.run_anew()
    assert (answer.is_whole, answer.is_anew) == (True, True)
    assert sorted(answer.desired.problems) == [ref("a"), ref("b")]


@given(
    st.lists(st.dictionaries(st.sampled_from("abcdef"), st.sampled_from(["ok", "compile", "parse", None])), max_size=6)
)
def test_whatever_breaks_every_object_ends_as_it_came_last(batches: list[dict[str, str | None]]) -> None:
    it = rounds()
    last: dict[str, str | None] = {}
    for batch in batches:
        it.run({ref(name): None if word is None else raw(name, word) for name, word in batch.items()})
        last |= batch
    answer = it.run_anew()
    assert sorted(answer.desired.problems) == sorted(ref(name) for name, word in last.items() if word is not None)
    assert it.aside == tuple(sorted(ref(name) for name, word in last.items() if word in ("compile", "parse")))
    broken = {found for found, problems in answer.desired.problems.items() if problems}
    assert broken == set(it.aside)


def test_a_broken_object_has_the_generation_it_was_seen_at() -> None:
    it = rounds()
    it.run({ref("a"): raw("a", "parse", generation=7)})
    parsed = it._known[ref("a")]
    assert isinstance(parsed, Broken)
    assert parsed.generation == 7


async def test_changes_that_come_during_a_round_make_one_next_round() -> None:
    gate = threading.Event()
    taken_once = asyncio.Event()
    waiting: dict[Ref, Json | None] = {ref("a"): raw("a", "none")}
    published: list[Round] = []
    done = asyncio.Event()

    def slow(raw: Json) -> Parsed:
        gate.wait(60)
        return parse(raw)

    def take() -> dict[Ref, Json | None]:
        taken = dict(waiting)
        waiting.clear()
        taken_once.set()
        return taken

    def publish(answer: Round) -> None:
        published.append(answer)
        if len(published) == 2:
            done.set()

    loop = Loop(rounds=Rounds(parse=slow, make_compiler=Toy), take=take, may_start=lambda: True, publish=publish)
    task = asyncio.create_task(loop.run())
    loop.stir()
    await taken_once.wait()
    for number in range(10):
        waiting[ref("b")] = raw("b", str(number))
        loop.stir()
    gate.set()
    await asyncio.wait_for(done.wait(), 60)
    task.cancel()
    assert [answer.objects for answer in published] == [1, 1]
