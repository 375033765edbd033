"""What one change makes of everything: which outputs move, and which do not."""

import json
from dataclasses import replace
from typing import Any

from meshwright.model.config import Config
from meshwright.model.desired import Desired, RouteStatus, UnitName
from meshwright.model.problem import Problem, Reason
from meshwright.model.ref import Kind, Ref, ServiceName
from meshwright.model.route import HttpMatch, Path, PathMatch, Retry, Route, Traffic
from meshwright.model.snapshot import Broken, Parsed
from meshwright.model.units import MAX_UNIT_BYTES, Namespace, Port
from meshwright.model.workload import ExternalWorkload, WorkloadPort
from meshwright.pipeline import Compiler, compile_all
from tests.link.made import SHOP, WEB, backend, bad, http_route, parent, port, rule, service

UNIT = UnitName(SHOP, "mw-out-web")


def started(*objects: Parsed) -> Compiler:
    compiler = Compiler(Config())
    compiler.update({value.ref: value for value in objects})
    return compiler


def put(compiler: Compiler, *objects: Parsed) -> Desired:
    return compiler.update({value.ref: value for value in objects})


def drop(compiler: Compiler, *refs: Ref) -> Desired:
    return compiler.update(dict.fromkeys(refs))


def workload(name: str = "vm", app: str = "web", ready: bool = True, **more: Any) -> ExternalWorkload:
    made = ExternalWorkload(
        ref=Ref(Kind.EXTERNAL_WORKLOAD, SHOP, name),
        uid=f"uid-{name}",
        ips=("192.0.2.1",),
        ports=(WorkloadPort(name="", port=Port(8080)),),
        is_ready=ready,
        labels=(("app", app),),
    )
    return replace(made, **more)


def accepted(desired: Desired, ref: Ref) -> tuple[str, str]:
    status = desired.statuses[ref]
    assert isinstance(status, RouteStatus)
    found = next(condition for condition in status.parents[0].conditions if condition.type == "Accepted")
    return found.status, found.reason


class TestUnits:
    def test_a_route_and_its_service_make_a_unit_and_a_status(self) -> None:
        desired = compile_all({value.ref: value for value in (service(), http_route())}, Config())
        unit = desired.units[UNIT]
        assert unit is not None
        assert list(json.loads(unit["data"]["unit.json"])["ports"]) == ["80"]
        assert list(desired.units) == [UNIT]
        assert accepted(desired, http_route().ref) == ("True", "Accepted")
        assert (desired.slices, desired.problems, desired.kept) == ({}, {}, frozenset())

    def test_a_plain_service_has_no_unit(self) -> None:
        assert put(Compiler(Config()), service()) == Desired()

    def test_the_unit_goes_with_its_last_route(self) -> None:
        compiler = started(service(), http_route())
        gone = drop(compiler, http_route().ref)
        assert gone == Desired(units={UNIT: None}, statuses={http_route().ref: None})
        assert compiler.desired == Desired()

    def test_the_unit_goes_with_its_service_and_the_route_is_told(self) -> None:
        compiler = started(service(), http_route())
        gone = drop(compiler, WEB.ref)
        assert gone.units == {UNIT: None}
        assert accepted(gone, http_route().ref) == ("False", "NoMatchingParent")

    def test_an_edit_that_changes_nothing_answers_nothing(self) -> None:
        compiler = started(service(), http_route())
        assert put(compiler, service(), http_route()) == Desired()
        assert drop(compiler, Ref(Kind.SERVICE, SHOP, "never")) == Desired()

    def test_an_edit_of_the_generation_alone_moves_only_the_status(self) -> None:
        compiler = started(service(), http_route())
        edited = put(compiler, http_route(generation=2))
        assert edited.units == {}
        assert list(edited.statuses) == [http_route().ref]

    def test_a_service_made_again_owns_its_unit_anew(self) -> None:
        compiler = started(service(), http_route())
        unit = put(compiler, service(uid="second")).units[UNIT]
        assert unit is not None
        assert unit["metadata"]["ownerReferences"][0]["uid"] == "second"

    def test_a_consumers_route_has_a_unit_of_its_own(self) -> None:
        compiler = started(service(), http_route())
        added = put(compiler, http_route(namespace="client"))
        assert list(added.units) == [UnitName(Namespace("client"), "mw-out-web.shop")]
        assert list(added.statuses) == [http_route(namespace="client").ref]

    def test_a_route_moved_to_another_service_leaves_the_first(self) -> None:
        compiler = started(service(), service("b"), http_route())
        moved = put(compiler, http_route(parents=(parent("b"),)))
        assert moved.units[UNIT] is None
        assert moved.units[UnitName(SHOP, "mw-out-b")] is not None

    def test_a_policy_of_the_service_alone_makes_a_unit(self) -> None:
        compiler = started(service())
        annotated = put(compiler, service(traffic=Traffic(retry_http=Retry(limit=1))))
        assert list(annotated.units) == [UNIT]
        assert put(compiler, service()).units == {UNIT: None}


class TestReach:
    """An edit reaches those it concerns, wherever they are, and nobody else."""

    def test_a_backend_that_comes_and_goes_reaches_routes_of_other_parents(self) -> None:
        route = http_route(rules=(rule(backends=(backend("b"),)),))
        compiler = started(service(), route, service("c"), http_route("other", parents=(parent("c"),)))
        came = put(compiler, service("b"))
        assert (list(came.units), list(came.statuses)) == ([UNIT], [route.ref])
        gone = drop(compiler, Ref(Kind.SERVICE, SHOP, "b"))
        assert (list(gone.units), list(gone.statuses)) == ([UNIT], [route.ref])

    def test_a_change_of_a_backend_that_no_route_notices_reaches_nobody(self) -> None:
        compiler = started(service(), service("b"), http_route(rules=(rule(backends=(backend("b"),)),)))
        assert put(compiler, service("b", uid="other", labels=(("a", "b"),))) == Desired()

    def test_routes_in_conflict_are_told_when_the_other_goes(self) -> None:
        rival = Route(ref=Ref(Kind.GRPC_ROUTE, SHOP, "rpc"), generation=1, created=1, parents=(parent(),), rules=())
        compiler = started(service(), http_route(), rival)
        assert accepted(compiler.desired, http_route().ref) == ("False", "Conflicted")
        freed = drop(compiler, rival.ref)
        assert accepted(freed, http_route().ref) == ("True", "Accepted")
        assert freed.statuses[rival.ref] is None

    def test_a_route_on_two_services_is_judged_on_each(self) -> None:
        compiler = started(service(), http_route(parents=(parent(), parent("b", index=1))))
        status = compiler.desired.statuses[http_route().ref]
        assert isinstance(status, RouteStatus)
        assert [entry.conditions[0].status for entry in status.parents] == ["True", "False"]
        both = put(compiler, service("b")).statuses[http_route().ref]
        assert isinstance(both, RouteStatus)
        assert [entry.conditions[0].status for entry in both.parents] == ["True", "True"]


class TestProblems:
    def test_everything_wrong_with_a_route_is_listed_once_and_sorted(self) -> None:
        note = Problem("metadata.annotations[a]", Reason.INVALID_ANNOTATION, "bad")
        rules = (rule(0, problems=(bad(),)), rule(1, backends=(backend("gone", rule=1),)))
        compiler = started(service(), http_route(rules=rules, problems=(note,)))
        found = compiler.desired.problems[http_route().ref]
        assert [problem.field for problem in found] == [
            "metadata.annotations[a]",
            "spec.rules[0].matches[0].path.value",
            "spec.rules[1].backendRefs[0].name",
        ]
        assert put(compiler, http_route()).problems == {http_route().ref: ()}

    def test_a_route_without_a_service_parent_is_judged_on_its_parent_refs_only(self) -> None:
        group = Problem("spec.parentRefs[0].group", Reason.INVALID_KIND, 'write group: ""')
        gateway = replace(parent(), group="gateway.networking.k8s.io", kind="Gateway")
        route = http_route(parents=(gateway,), problems=(group, bad()), rules=(rule(problems=(bad(),)),))
        compiler = started(service(), route)
        assert compiler.desired.problems == {route.ref: (group,)}
        status = compiler.desired.statuses[route.ref]
        assert isinstance(status, RouteStatus)
        assert (status.parents, dict(compiler.desired.units)) == ((), {})

    def test_a_broken_object_stands_for_its_problems_alone(self) -> None:
        compiler = started(service(), http_route())
        broken = Broken(ref=http_route().ref, generation=2, problems=(bad(field=""),))
        turned = put(compiler, broken)
        assert turned.units == {UNIT: None}
        assert turned.problems == {broken.ref: (bad(field=""),)}
        status = turned.statuses[broken.ref]
        assert isinstance(status, RouteStatus)
        assert (status.generation, status.parents) == (2, ())

    def test_a_broken_service_is_no_parent(self) -> None:
        compiler = started(service(), http_route())
        turned = put(compiler, Broken(ref=WEB.ref, generation=1, problems=(bad(field=""),)))
        assert turned.units == {UNIT: None}
        assert turned.problems[WEB.ref] == (bad(field=""),)
        assert accepted(turned, http_route().ref) == ("False", "NoMatchingParent")

    def test_problems_go_with_their_object(self) -> None:
        compiler = started(service(problems=(bad(),)))
        assert compiler.desired.problems == {WEB.ref: (bad(),)}
        assert drop(compiler, WEB.ref).problems == {WEB.ref: ()}


class TestTooLarge:
    @staticmethod
    def route(matches: int) -> Route:
        made = tuple(
            HttpMatch(path=Path(how=PathMatch.EXACT, value=f"/{number}/{'x' * 1000}")) for number in range(matches)
        )
        return http_route(rules=(rule(matches=made),))

    def test_the_stored_unit_stays_and_the_route_is_told(self) -> None:
        compiler = started(service(), http_route())
        grown = put(compiler, self.route(1000))
        assert (grown.units, grown.kept) == ({}, frozenset((UNIT,)))
        status = grown.statuses[http_route().ref]
        assert isinstance(status, RouteStatus)
        conditions = {condition.type: condition for condition in status.parents[0].conditions}
        assert conditions["Accepted"].status == "True"
        assert conditions["PartiallyInvalid"].reason == "TooLarge"
        assert conditions["PartiallyInvalid"].message.startswith("Fall Back: the 1 routes of namespace shop on Service")
        assert f"{MAX_UNIT_BYTES}" in conditions["PartiallyInvalid"].message
        assert {ref: [problem.reason for problem in found] for ref, found in grown.problems.items()} == {
            WEB.ref: [Reason.TOO_LARGE],
            http_route().ref: [Reason.TOO_LARGE],
        }

    def test_a_smaller_one_is_stored_again(self) -> None:
        compiler = started(service(), self.route(1000))
        assert compiler.desired.kept == {UNIT}
        shrunk = put(compiler, http_route())
        assert shrunk.units[UNIT] is not None
        assert shrunk.problems == {WEB.ref: (), http_route().ref: ()}
        assert compiler.desired.kept == frozenset()

    def test_without_routes_the_stored_unit_goes(self) -> None:
        compiler = started(service(), self.route(1000))
        assert drop(compiler, http_route().ref).units == {UNIT: None}


class TestSlices:
    NAME = ServiceName(SHOP, "web")

    def addresses(self, desired: Desired, name: ServiceName = WEB) -> list[str]:
        return [
            address
            for _, made in sorted(desired.slices[name].items())
            for endpoint in made["endpoints"]
            for address in endpoint["addresses"]
        ]

    def test_a_workload_joins_the_service_that_selects_it(self) -> None:
        compiler = started(service(), service("b"))
        joined = put(compiler, workload())
        assert list(joined.slices) == [WEB]
        assert self.addresses(joined) == ["192.0.2.1"]
        assert drop(compiler, workload().ref).slices == {WEB: {}}
        assert compiler.desired == Desired()

    def test_a_workload_with_other_labels_moves(self) -> None:
        compiler = started(service(), service("b"), workload())
        moved = put(compiler, workload(app="b"))
        assert (moved.slices[WEB], self.addresses(moved, ServiceName(SHOP, "b"))) == ({}, ["192.0.2.1"])

    def test_a_service_with_another_selector_has_other_members(self) -> None:
        compiler = started(service(), workload(), workload("vm-b", app="b", ips=("192.0.2.2",)))
        assert self.addresses(put(compiler, service(selector=(("app", "b"),)))) == ["192.0.2.2"]
        assert put(compiler, service(selector=(("app", "b"), ("tier", "1")))).slices == {WEB: {}}
        assert put(compiler, service(selector=None)).slices == {}

    def test_service_and_workload_may_come_in_one_batch_or_in_any_order(self) -> None:
        together = started(workload(), service()).desired.slices
        later = started(workload())
        put(later, service())
        assert later.desired.slices == together
        assert list(together) == [WEB]

    def test_slices_go_with_their_service(self) -> None:
        compiler = started(service(), workload())
        assert drop(compiler, WEB.ref).slices == {WEB: {}}

    def test_a_member_stays_in_the_slice_it_was_stored_in(self) -> None:
        (stored,) = started(service(), workload()).desired.slices[WEB].values()
        stored = {**stored, "metadata": {**stored["metadata"], "name": "from-before"}}
        compiler = Compiler(Config())
        compiler.seed_slices(WEB, {"from-before": stored})
        first = put(compiler, service(), workload())
        assert first.slices == {WEB: {"from-before": stored}}
        assert list(put(compiler, workload(ready=False)).slices[WEB]) == ["from-before"]

    def test_a_seeded_service_without_members_is_answered(self) -> None:
        compiler = Compiler(Config())
        compiler.seed_slices(WEB, started(service(), workload()).desired.slices[WEB])
        assert put(compiler, service(selector=None)).slices == {WEB: {}}


def test_all_that_should_be_is_a_view_and_no_copy() -> None:
    compiler = started(service(ports=(port(80), port(81))), http_route())
    seen = compiler.desired
    drop(compiler, http_route().ref)
    assert seen.units == {}
