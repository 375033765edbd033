"""``meshwright group status``: groups, their machines, and why one is not ready."""

import json
from datetime import timedelta

import pytest

from tests.edge.check.installation import Installation
from tests.edge.groups.conftest import Run
from tests.edge.groups.machines import GOOD, change_condition, condition, put_group, put_machine

LOST = condition(
    "Ready", "False", "LeaseExpired", "its agent has not been heard of for 35 s", timedelta(hours=2, minutes=5)
)
REFUSED = {
    "reason": "BadToken",
    "identity": "",
    "address": "198.51.100.7",
    "count": 12,
    "lastSeen": "2026-09-01T11:57:00Z",
}


async def test_where_every_machine_is_ready_it_is_0(
    mesh: Installation, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    put_group(mesh)
    put_machine(mesh, "ledger-aaaa", annotations={"meshwright.dev/agent-version": "0.1.0"})
    put_machine(mesh, "by-hand", is_ours=False)
    assert await run("status") == 0
    assert capsys.readouterr().out.splitlines() == [
        "ExternalGroup ledger in shop: 1 of 1 machines ready",
        "  √ Accepted True",
        "  √ SelectedByService True",
        "  √ QuotaExceeded False",
        "  √ ExpirySuspended False",
        "  workload     addresses   ready  reason  since  agent  template  instance",
        "  ledger-aaaa  192.0.2.10  yes    -       3h     0.1.0  current   uid-ledger-aaaa",
    ]


async def test_what_is_wrong_is_said_with_its_reason_and_is_1(
    mesh: Installation, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    unselected = condition("SelectedByService", "False", "NoService", "no Service selects app=ledger")
    put_group(mesh, conditions=change_condition(GOOD, unselected), rejections=[REFUSED])
    put_machine(mesh, "ledger-bbbb", ready=LOST, annotations={"meshwright.dev/template-hash": "sha256:ffff"})
    put_machine(mesh, "ledger-aaaa")
    held = condition("Ready", "True", "LastEndpointHeld", "silent for 35 s", timedelta(days=2, hours=3))
    put_machine(mesh, "till-aaaa", group="till", ready=held)
    put_group(mesh, "void", "bank", conditions=())
    assert await run("status") == 1
    assert capsys.readouterr().out.splitlines() == [
        "ExternalGroup void in bank: 0 of 0 machines ready",
        "  × nobody has looked at it yet: does the operator run?",
        "",
        "ExternalGroup ledger in shop: 1 of 2 machines ready",
        "  √ Accepted True",
        "  ‼ SelectedByService False (NoService): no Service selects app=ledger",
        "  √ QuotaExceeded False",
        "  √ ExpirySuspended False",
        "  workload     addresses   ready  reason        since  agent  template  instance",
        "  ledger-aaaa  192.0.2.10  yes    -             3h     -      current   uid-ledger-aaaa",
        "  ledger-bbbb  192.0.2.10  no     LeaseExpired  2h 5m  -      older     uid-ledger-bbbb",
        "  ledger-bbbb: its agent has not been heard of for 35 s",
        "  turned away: 12 times BadToken, from 198.51.100.7, last 3m ago",
        "",
        "ExternalGroup till in shop: 1 of 1 machines ready",
        "  × the group is not there: its machines are removed, unless it comes back",
        "  workload   addresses   ready  reason            since  agent  template  instance",
        "  till-aaaa  192.0.2.10  yes    LastEndpointHeld  2d 3h  -      -         uid-till-aaaa",
        "  till-aaaa: silent for 35 s",
    ]


@pytest.mark.parametrize(
    ("words", "status", "names"),
    [
        (["ledger"], 1, ["bank/ledger", "shop/ledger"]),
        (["ledger", "-n", "shop"], 1, ["shop/ledger"]),
        (["till", "-n", "shop"], 0, ["shop/till"]),
        (["-n", "bank"], 0, ["bank/ledger"]),
    ],
)
async def test_one_group_or_one_namespace_may_be_asked_about(
    words: list[str],
    status: int,
    names: list[str],
    mesh: Installation,
    run: Run,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for namespace, name in (("shop", "ledger"), ("shop", "till"), ("bank", "ledger")):
        put_group(mesh, name, namespace)
    put_machine(mesh, "ledger-bbbb", ready=LOST)
    assert await run("status", *words, "-o", "json") == status
    groups = json.loads(capsys.readouterr().out)["groups"]
    assert [f"{each['namespace']}/{each['name']}" for each in groups] == names


async def test_json_has_everything(mesh: Installation, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    put_group(mesh, rejections=[REFUSED], conditions=GOOD[:1])
    put_machine(mesh, "ledger-bbbb", ready=LOST)
    assert await run("status", "--json") == 1
    assert json.loads(capsys.readouterr().out) == {
        "groups": [
            {
                "namespace": "shop",
                "name": "ledger",
                "found": True,
                "well": False,
                "templateHash": "sha256:00112233aabbccdd",
                "conditions": {
                    "Accepted": {"status": "True", "reason": "Accepted", "message": "", "since": "2026-09-01T12:00:00Z"}
                },
                "rejections": [REFUSED],
                "machines": [
                    {
                        "workload": "ledger-bbbb",
                        "instance": "uid-ledger-bbbb",
                        "addresses": ["192.0.2.10"],
                        "ready": False,
                        "agent": None,
                        "templateCurrent": True,
                        "leaving": False,
                        "conditions": {
                            "Ready": {
                                "status": "False",
                                "reason": "LeaseExpired",
                                "message": "its agent has not been heard of for 35 s",
                                "since": "2026-09-01T09:55:00Z",
                            }
                        },
                    }
                ],
            }
        ]
    }


async def test_a_group_that_nobody_knows_is_1_and_none_at_all_is_0(
    mesh: Installation, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await run("status", "ledger", "-n", "shop") == 1
    assert capsys.readouterr() == ("", "meshwright group: there is no ExternalGroup ledger in namespace shop\n")
    assert await run("status") == 0
    assert capsys.readouterr().out == "there is no ExternalGroup, and no machine has joined\n"


@pytest.mark.parametrize(
    ("plural", "status", "complaint"),
    [
        ("externalgroups", 403, "you may not list externalgroups.workload.buoyant.io in namespace shop: "),
        ("externalworkloads", 500, "the cluster cannot be asked: 500 "),
        ("*", 0, "the cluster cannot be asked: GET "),
    ],
)
async def test_a_cluster_that_does_not_say_is_2(
    plural: str, status: int, complaint: str, mesh: Installation, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    mesh.server.fail(plural, status)
    assert await run("status", "-n", "shop") == 2
    said = capsys.readouterr()
    assert (said.out, said.err[: len(complaint) + 18]) == ("", f"meshwright group: {complaint}")
