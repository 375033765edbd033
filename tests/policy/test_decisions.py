"""Random policies, random callers: what is decided is what the slow reference says.

``MESHWRIGHT_DECISIONS`` sets how many decisions are compared.
"""

import os
from collections import Counter

from meshwright.edge.access.world import make_world
from meshwright.link.decide import decide
from meshwright.model.config import Config
from meshwright.model.request import Caller
from meshwright.model.units import Namespace, Port
from tests.policy.reference import Installed, judge
from tests.policy.table import Expected
from tests.policy.worlds import request_of, shown
from tests.policy.worlds_at_random import Maker

ATTEMPTS = 50
WORLDS = int(os.environ.get("MESHWRIGHT_DECISIONS", "3000")) // ATTEMPTS


def test_what_is_decided_is_what_the_reference_says() -> None:
    outcomes = Counter[str]()
    routed = Counter[bool]()
    for seed in range(WORLDS):
        maker = Maker(seed)
        objects = maker.world()
        world = make_world(objects, Config(), Namespace("default"))
        for number in range(ATTEMPTS):
            caller, workload, port, request = maker.attempt()
            wanted = judge(objects, Installed(), caller, workload, port, request)
            place = world.places[Namespace(workload[1]), workload[2]]
            found = shown(decide(world.govern(place), Caller(**caller), Port(port), request_of(request)))
            expected = Expected(
                outcome=wanted.outcome,
                server=wanted.server,
                default=wanted.default,
                route=wanted.route,
                by=wanted.by,
            )
            assert found == expected, f"world {seed}, attempt {number}: {caller} to {workload}:{port}: {request}"
            outcomes[found.outcome] += 1
            routed[bool(found.route)] += 1
    # None of them is so rare that nothing would be known of it.
    assert {outcome for outcome, count in outcomes.items() if count >= WORLDS * ATTEMPTS / 200} == {
        "allowed",
        "audited",
        "denied",
        "not found",
        "refused",
    }
    assert routed[True] >= WORLDS * ATTEMPTS / 100
