"""Writing machines: nobody else's object is touched, whoever writes at the same time, and nothing is written twice."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from meshwright.edge.apply import NotLeader
from meshwright.edge.client import ApiError, Client, Json
from meshwright.edge.registrar.seen_objects import SeenObjects
from meshwright.edge.registrar.workload_writer import WorkloadWriter
from meshwright.edge.resources import RESOURCES
from meshwright.emit.external_workload import emit_workload
from meshwright.link.enroll import make_workload_name
from meshwright.model.desired import Condition
from meshwright.model.enrollment import GroupView, InstanceKey
from meshwright.model.instance import Enrolled, SeenWorkload, Template, workload_ref
from meshwright.model.ref import Kind, Ref
from meshwright.model.units import Namespace, Port
from meshwright.model.workload import WorkloadPort
from meshwright.parse.instance import parse_instance
from tests.edge.apiserver import ApiServer, Write
from tests.edge.registrar.office import GROUP, make_group
from tests.edge.shop import WORKLOAD

KEY = InstanceKey(Namespace("shop"), "ledger", "uid-aaaaaaaa")
REF = workload_ref(KEY, make_workload_name(KEY.namespace, KEY.group, KEY.uid))
READY = Condition(type="Ready", status="True", reason="Ready", message="")
NOT_READY = Condition(type="Ready", status="False", reason="ProbeFailed", message="503")
VIEW = GroupView(
    generation=1,
    total=1,
    ready=1,
    not_ready=0,
    quarantined=0,
    template_hash="sha256:1",
    rejections=(),
    conditions=(Condition(type="Accepted", status="True", reason="Accepted", message=""),),
)


def make_machine(epoch: int = 1, ip: str = "192.0.2.10", **labels: str) -> Json:
    template = Template(
        labels=(("app", "ledger"), *labels.items()),
        annotations=(),
        ports=(WorkloadPort(name="http", port=Port(8080)),),
        hash="sha256:1",
    )
    return emit_workload(
        Enrolled(
            key=KEY,
            ref=REF,
            template=template,
            agent_labels=(),
            epoch=epoch,
            nonce_hash="0011223344556677",
            identity="spiffe://cluster.local/ns/shop/external/ledger/uid-aaaaaaaa",
            server_name="x.ledger.shop.external.identity.meshwright.cluster.local",
            ips=(ip,),
            registered_from=ip,
        )
    )


@dataclass(kw_only=True)
class Wish:
    """What should be, as a test says."""

    machine: Json | None = field(default_factory=make_machine)
    decide: Callable[[], Json | None] | None = None
    says: tuple[Condition, ...] = (READY,)
    view: GroupView | None = VIEW

    def manifest(self, _: Ref) -> Json | None:
        return self.machine if self.decide is None else self.decide()

    def conditions(self, _: Ref) -> tuple[Condition, ...]:
        return self.says

    def group_view(self, _: Ref) -> GroupView | None:
        return self.view


@dataclass(kw_only=True)
class Desk:
    server: ApiServer
    writer: WorkloadWriter
    wish: Wish
    seen: SeenObjects[SeenWorkload | None]
    groups: SeenObjects[None]
    told: list[SeenWorkload | None]

    async def write(self, ref: Ref = REF) -> list[str]:
        """Let it be written; return the requests that this took, with what the server said."""
        with self.server.counted() as writes:
            await self.writer.write(ref)
        return [show(each) for each in writes]

    @property
    def stored(self) -> Json:
        raw = self.server.cluster.get(WORKLOAD, "shop", REF.name)
        assert raw is not None
        return raw


def show(write: Write) -> str:
    return f"{write.verb} {write.kind} by {write.manager}: {write.status}"


APPLIED = "apply ExternalWorkload by meshwright: 200"
SAID = "patch ExternalWorkload/status by meshwright-status: 200"


@pytest.fixture
def desk(server: ApiServer, client: Client) -> Desk:
    return make_desk(server, client)


def make_desk(server: ApiServer, client: Client, may_write: Callable[[], bool] = lambda: True) -> Desk:
    server.cluster.define(WORKLOAD, GROUP)
    told: list[SeenWorkload | None] = []
    seen = SeenObjects(parse=parse_instance, changed=lambda _, found: told.append(found))
    groups: SeenObjects[None] = SeenObjects(parse=lambda _: None, changed=lambda _ref, _found: None)
    wish = Wish()
    writer = WorkloadWriter(
        client=client,
        wants=wish,
        workloads=seen,
        groups=groups,
        where=lambda kind: RESOURCES[kind],
        may_write=may_write,
        now=lambda: "2026-11-21T12:00:00Z",
    )
    return Desk(server=server, writer=writer, wish=wish, seen=seen, groups=groups, told=told)


async def test_a_machine_is_made_then_spoken_of_and_then_left_alone(desk: Desk) -> None:
    assert await desk.write() == [APPLIED, SAID]
    assert desk.stored["status"] == {
        "conditions": [
            {
                "type": "Ready",
                "status": "True",
                "reason": "Ready",
                "message": "",
                "lastTransitionTime": "2026-11-21T12:00:00Z",
            }
        ]
    }
    assert desk.told[-1] == parse_instance(desk.stored)
    assert await desk.write() == []


async def test_a_change_of_health_is_one_request(desk: Desk) -> None:
    await desk.write()
    desk.wish.says = (NOT_READY,)
    assert await desk.write() == [SAID]


async def test_a_label_that_is_wanted_no_longer_goes_and_somebody_elses_stays(desk: Desk) -> None:
    desk.wish.machine = make_machine(tier="gold")
    await desk.write()
    raw = desk.server.cluster.edit(WORKLOAD, "shop", REF.name, lambda raw: raw["metadata"]["labels"].update(team="red"))
    desk.seen.put(REF, raw)
    desk.wish.machine = make_machine()
    assert await desk.write() == [APPLIED]
    labels = desk.stored["metadata"]["labels"]
    assert ("tier" in labels, labels["team"]) == (False, "red")
    assert await desk.write() == []


@pytest.mark.parametrize("is_known", [False, True])
async def test_case_14_an_object_made_by_hand_is_neither_written_over_nor_deleted(desk: Desk, is_known: bool) -> None:
    by_hand = {
        "metadata": {"namespace": "shop", "name": REF.name},
        "spec": make_machine()["spec"] | {"workloadIPs": [{"ip": "192.0.2.99"}]},
    }
    raw = desk.server.cluster.put(WORKLOAD, by_hand)
    if is_known:
        desk.seen.put(REF, raw)
    said = await desk.write()
    assert said == ([] if is_known else ["apply ExternalWorkload by meshwright: 409"])
    desk.wish.machine = None
    assert await desk.write() == []
    assert desk.stored == raw
    # That there is one is told, so that the machine hears of it.
    assert desk.told == [parse_instance(raw)]


async def test_an_object_made_by_hand_with_the_very_same_spec_is_somebody_elses_all_the_same(desk: Desk) -> None:
    raw = desk.server.cluster.put(
        WORKLOAD, {"metadata": {"namespace": "shop", "name": REF.name}, "spec": make_machine()["spec"]}
    )
    assert await desk.write() == ["apply ExternalWorkload by meshwright: 409"]
    assert desk.stored == raw


async def test_one_that_somebody_has_made_his_own_is_ours_no_more(desk: Desk) -> None:
    await desk.write()
    raw = desk.server.cluster.edit(
        WORKLOAD,
        "shop",
        REF.name,
        lambda raw: raw["metadata"]["labels"].update({"app.kubernetes.io/managed-by": "somebody"}),
    )
    desk.seen.put(REF, raw)
    desk.wish.machine = None
    assert await desk.write() == []
    assert desk.stored == raw


async def test_case_16_what_another_leader_has_written_meanwhile_is_read_before_anything_is_written(
    desk: Desk, client: Client
) -> None:
    await desk.write()
    other = make_desk(desk.server, client)
    other.seen.put(REF, desk.stored)
    other.wish.machine, other.wish.says = make_machine(epoch=2), (NOT_READY,)
    await other.write()
    desk.wish.says = (Condition(type="Ready", status="False", reason="Draining", message=""),)
    before = len(desk.told)
    said = await desk.write()
    assert said[0] == "patch ExternalWorkload/status by meshwright-status: 409"
    newest = desk.told[before]
    assert newest is not None
    assert newest.enrolled is not None
    assert newest.enrolled.epoch == 2


async def test_case_16_a_deletion_that_was_decided_of_an_older_version_does_not_happen(
    desk: Desk, client: Client
) -> None:
    await desk.write()
    other = make_desk(desk.server, client)
    other.seen.put(REF, desk.stored)
    other.wish.machine = make_machine(epoch=2)
    await other.write()

    def decide() -> Json | None:
        seen = desk.seen.get(REF)
        assert seen is not None
        assert seen.parsed is not None
        assert seen.parsed.enrolled is not None
        return make_machine(epoch=2) if seen.parsed.enrolled.epoch == 2 else None

    desk.wish.decide = decide
    assert await desk.write() == ["delete ExternalWorkload by meshwright: 409"]
    assert desk.stored["metadata"]["annotations"]["meshwright.dev/instance-epoch"] == "2"


async def test_nothing_is_written_without_the_lease(server: ApiServer, client: Client) -> None:
    desk = make_desk(server, client, may_write=lambda: False)
    with server.counted() as writes, pytest.raises(NotLeader):
        await desk.writer.write(REF)
    assert writes == []


async def test_a_machine_that_is_gone_is_deleted_and_old_news_does_not_bring_it_back(desk: Desk) -> None:
    await desk.write()
    raw = desk.stored
    desk.wish.machine = None
    assert await desk.write() == ["delete ExternalWorkload by meshwright: 200"]
    assert desk.told[-1] is None
    desk.seen.put(REF, raw)
    assert REF not in desk.seen
    assert await desk.write() == []


async def test_one_that_was_deleted_by_hand_is_made_again(desk: Desk) -> None:
    await desk.write()
    desk.server.cluster.remove(WORKLOAD, "shop", REF.name)
    desk.wish.says = (NOT_READY,)
    assert await desk.write() == ["patch ExternalWorkload/status by meshwright-status: 404", APPLIED, SAID]


async def test_case_33_where_a_namespace_ends_nothing_is_made_and_nothing_is_tried_again(desk: Desk) -> None:
    desk.server.fail("externalworkloads", 403, method="PATCH", cause="NamespaceTerminating")
    assert await desk.write() == ["apply ExternalWorkload by meshwright: 403"]


async def test_a_server_that_never_agrees_is_asked_again_later(desk: Desk) -> None:
    desk.server.fail("externalworkloads", 409, method="PATCH")
    with pytest.raises(ApiError) as caught:
        await desk.writer.write(REF)
    assert caught.value.status == 409


async def test_what_a_webhook_makes_of_it_is_not_fought_over(desk: Desk) -> None:
    await desk.write()
    raw = desk.server.cluster.edit(WORKLOAD, "shop", REF.name, lambda raw: raw["spec"].update(ports=[{"port": 1}]))
    desk.seen.put(REF, raw)
    apply = desk.server.cluster.apply

    def mutate(*args: Any, **more: Any) -> Json:
        apply(*args, **more)
        return desk.server.cluster.edit(WORKLOAD, "shop", REF.name, lambda raw: raw["spec"].update(ports=[{"port": 1}]))

    desk.server.cluster.apply = mutate  # type: ignore[method-assign]
    desk.wish.says = (NOT_READY,)
    assert await desk.write() == [APPLIED, SAID]


async def test_a_groups_status_is_written_once_and_others_conditions_stay(desk: Desk) -> None:
    theirs = {"type": "Synced", "status": "True", "reason": "Theirs", "message": "", "observedGeneration": 1}
    raw = desk.server.cluster.put(GROUP, make_group() | {"status": {"conditions": [theirs]}})
    ref = Ref(Kind.EXTERNAL_GROUP, Namespace("shop"), "ledger")
    desk.groups.put(ref, raw)
    assert await desk.write(ref) == ["patch ExternalGroup/status by meshwright-status: 200"]
    assert await desk.write(ref) == []
    stored = desk.server.cluster.get(GROUP, "shop", "ledger")
    assert stored is not None
    assert stored["status"]["conditions"][0] == theirs
    assert stored["status"]["instances"] == {"total": 1, "ready": 1, "notReady": 0, "quarantined": 0}


async def test_a_group_that_was_edited_since_is_spoken_of_when_the_edit_is_read(desk: Desk) -> None:
    desk.server.cluster.put(GROUP, make_group())
    raw = desk.server.cluster.put(GROUP, make_group(port=9090))
    ref = Ref(Kind.EXTERNAL_GROUP, Namespace("shop"), "ledger")
    desk.groups.put(ref, raw)
    assert raw["metadata"]["generation"] == 2
    assert await desk.write(ref) == []
