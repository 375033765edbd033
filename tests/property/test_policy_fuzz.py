"""Objects of policy, mutated: nothing makes parsing fail, and what became unreadable grants nothing.

``MESHWRIGHT_FUZZ_OBJECTS`` says how many; the seeds are the same every time.
"""

import copy
import os
from collections.abc import Iterator
from random import Random
from typing import Any

import pytest

from meshwright.model.policy import (
    AccessPolicy,
    AuthorizationPolicy,
    MeshTlsAuthentication,
    NetworkAuthentication,
    ProxyProtocol,
    RateLimitPolicy,
    Server,
    ServerAuthorization,
)
from meshwright.model.route import Route
from meshwright.model.snapshot import Broken, Parsed
from meshwright.parse.kinds import parse_object, ref_of
from tests.parse.made import Raw, find_problems
from tests.parse.policy_rows import ROWS

COUNT = int(os.environ.get("MESHWRIGHT_FUZZ_OBJECTS", "2000"))
BATCH = 250
SOUND = tuple(row.raw for row in ROWS if not row.faults)

Path = tuple[str | int, ...]


def walk(value: Any, path: Path = ()) -> Iterator[Path]:
    """Yield the path of every part of ``value``."""
    if path:
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from walk(item, (*path, key))


def find(value: Any, path: Path) -> Any:
    for part in path:
        value = value[part]
    return value


def make_misfit(random: Random, value: Any) -> Any:
    """Return something that no field takes which can hold ``value``."""
    misfits = [["x"], [1], [None]] if not isinstance(value, list) else [{"a": 1}, "", 0, "x"]
    if not isinstance(value, dict):
        misfits.append({"x": []})
    return random.choice([*misfits, True if not isinstance(value, bool) else "true", 1.5])


JUNK: tuple[Any, ...] = (
    None,
    "",
    "*",
    "x" * 300,
    "\ud800",
    "\x00",
    0,
    -1,
    65536,
    2**63,
    1.5,
    True,
    [],
    {},
    "10.0.0.0/8",
    "::/0",
    "Namespace",
)


def make_junk(random: Random, value: Any) -> Any:
    match random.randrange(5):
        case 0:
            return copy.deepcopy(find(raw := random.choice(SOUND), random.choice(list(walk(raw)))))
        case 1 if isinstance(value, str) and value:
            place = random.randrange(len(value))
            return value[:place] + random.choice("*/.:-%A\n ") + value[place + random.randrange(2) :]
        case 2 if isinstance(value, list) and value:
            return [*value, copy.deepcopy(random.choice(value))]
        case _:
            return copy.deepcopy(random.choice(JUNK))


def mutate(random: Random, raw: Raw) -> None:
    """Change a part of ``raw``, or take one away, in place."""
    path = random.choice(list(walk(raw)))
    holder, key = find(raw, path[:-1]), path[-1]
    if random.randrange(4) == 0:
        del holder[key]
    else:
        holder[key] = make_junk(random, holder[key])


def check_that_it_stands_for_less(parsed: Parsed, sound: Parsed) -> None:
    """Check ``parsed``, of whose spec one part is unreadable, against what it was before."""
    match parsed:
        case Broken():
            pass
        case ServerAuthorization() | AuthorizationPolicy() | MeshTlsAuthentication() | NetworkAuthentication():
            assert parsed.is_void
        case RateLimitPolicy():
            assert parsed.refusal is not None
        case Server():
            assert isinstance(sound, Server)
            assert (parsed.selector, parsed.port) == (sound.selector, sound.port)
            assert parsed.access in (sound.access, AccessPolicy.DENY)
            assert parsed.protocol in (sound.protocol, ProxyProtocol.UNKNOWN)
        case Route():
            assert isinstance(sound, Route)
            assert set(parsed.parents) <= set(sound.parents)
            is_attached = any(parent.is_server for parent in parsed.parents)
            assert not is_attached or parsed.hostnames or not sound.hostnames
            for rule, before in zip(parsed.rules, sound.rules, strict=True):
                assert set(rule.matches) <= set(before.matches)
        case _:
            raise AssertionError(parsed)


@pytest.mark.parametrize("batch", range(0, COUNT, BATCH))
def test_no_mutation_makes_parsing_fail(batch: int) -> None:
    for seed in range(batch, min(batch + BATCH, COUNT)):
        random = Random(seed)
        raw = copy.deepcopy(random.choice(SOUND))
        for _ in range(random.randint(1, 3)):
            mutate(random, raw)
        before = repr(raw)
        parsed = parse_object(raw)
        assert repr(raw) == before, seed
        if parsed is not None:
            assert parsed.ref == ref_of(raw), seed
            for problem in find_problems(parsed):
                assert str(problem).encode(), seed
                assert len(str(problem)) < 1000, seed


@pytest.mark.parametrize("batch", range(0, COUNT, BATCH))
def test_what_became_unreadable_is_said_and_grants_nothing(batch: int) -> None:
    for seed in range(batch, min(batch + BATCH, COUNT)):
        random = Random(seed)
        raw = copy.deepcopy(random.choice(SOUND))
        sound = parse_object(copy.deepcopy(raw))
        path = random.choice(list(walk(raw["spec"])))
        holder = find(raw["spec"], path[:-1])
        holder[path[-1]] = make_misfit(random, holder[path[-1]])
        parsed = parse_object(raw)
        assert parsed is not None
        assert sound is not None
        assert find_problems(parsed), (seed, path, holder)
        check_that_it_stands_for_less(parsed, sound)
