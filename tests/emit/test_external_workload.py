"""The ExternalWorkload of a machine, and what its conditions say of how it is."""

from dataclasses import replace
from itertools import product
from typing import Any

import pytest

from meshwright.emit.external_workload import emit_conditions, emit_workload, read_found
from meshwright.model.enrollment import Health, InstanceKey, Loaded, Trouble
from meshwright.model.group import HeartbeatLoss, Reachability
from meshwright.model.instance import (
    ADDRESS,
    CONFIG,
    HEARTBEAT,
    PROBE,
    READY,
    TRUST,
    Enrolled,
    LeaseState,
    Standing,
    Template,
)
from meshwright.model.ref import Kind, Ref
from meshwright.model.units import Millis, Namespace, Port
from meshwright.model.workload import WorkloadPort

SHOP = Namespace("shop")
ENROLLED = Enrolled(
    key=InstanceKey(SHOP, "ledger", "uid-aaaaaaaa"),
    ref=Ref(Kind.EXTERNAL_WORKLOAD, SHOP, "ledger-fz6nfidxi6"),
    template=Template(
        labels=(("app", "ledger"), ("topology.kubernetes.io/zone", "rack-1")),
        annotations=(("config.linkerd.io/opaque-ports", "5432"),),
        ports=(WorkloadPort(name="sql", port=Port(5432)), WorkloadPort(name="", port=Port(53), transport="UDP")),
        hash="sha256:0123456789abcdef",
    ),
    agent_labels=(("stage", "prod"), ("tier", "gold")),
    epoch=7,
    nonce_hash="0123456789abcdef",
    identity="spiffe://cluster.local/ns/shop/external/ledger/uid-aaaaaaaa",
    server_name="ledger-fz6nfidxi6.ledger.shop.external.identity.meshwright.cluster.local",
    ips=("192.0.2.10", "2001:db8::10"),
    registered_from="192.0.2.10",
    agent="0.3.1",
)
WELL = Standing(
    lease=LeaseState.CURRENT,
    lease_ms=Millis(35_000),
    has_probe=True,
    health=Health.PASSING,
    is_observed=True,
    loaded=Loaded(config="c", bundle="b"),
    want=Loaded(config="c", bundle="b"),
)


def test_a_workload_says_all_that_it_takes_to_know_the_machine_again() -> None:
    assert emit_workload(ENROLLED) == {
        "apiVersion": "workload.linkerd.io/v1beta1",
        "kind": "ExternalWorkload",
        "metadata": {
            "annotations": {
                "config.linkerd.io/opaque-ports": "5432",
                "meshwright.dev/agent-labels": "stage,tier",
                "meshwright.dev/agent-version": "0.3.1",
                "meshwright.dev/group": "ledger",
                "meshwright.dev/instance-epoch": "7",
                "meshwright.dev/instance-nonce": "0123456789abcdef",
                "meshwright.dev/instance-uid": "uid-aaaaaaaa",
                "meshwright.dev/registered-from": "192.0.2.10",
                "meshwright.dev/template-hash": "sha256:0123456789abcdef",
            },
            "labels": {
                "app": "ledger",
                "app.kubernetes.io/managed-by": "meshwright",
                "meshwright.dev/external": "true",
                "stage": "prod",
                "tier": "gold",
                "topology.kubernetes.io/zone": "rack-1",
            },
            "name": "ledger-fz6nfidxi6",
            "namespace": "shop",
        },
        "spec": {
            "meshTLS": {"identity": ENROLLED.identity, "serverName": ENROLLED.server_name},
            "ports": [{"name": "sql", "port": 5432, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}],
            "workloadIPs": [{"ip": "192.0.2.10"}, {"ip": "2001:db8::10"}],
        },
    }


def test_a_machine_that_is_well_has_only_true_conditions() -> None:
    found = [(each.type, each.status, each.reason) for each in emit_conditions(WELL)]
    assert found == [
        (READY, "True", "Ready"),
        (HEARTBEAT, "True", "Beating"),
        (PROBE, "True", "ProbePassed"),
        (ADDRESS, "True", "SourceMatches"),
        (CONFIG, "True", "Current"),
        (TRUST, "True", "Current"),
    ]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"lease": LeaseState.PENDING}, ("False", "Pending")),
        ({"lease": LeaseState.EXPIRED}, ("False", "LeaseExpired")),
        ({"lease": LeaseState.SUSPENDED}, ("True", "ExpirySuspended")),
        ({"lease": LeaseState.HELD}, ("True", "LastEndpointHeld")),
        ({"lease": LeaseState.HELD, "health": Health.FAILING}, ("False", "ProbeFailed")),
        ({"health": Health.FAILING}, ("False", "ProbeFailed")),
        ({"health": Health.UNKNOWN}, ("False", "ProbePending")),
        ({"health": Health.UNKNOWN, "has_probe": False}, ("True", "Ready")),
        ({"health": Health.FAILING, "has_probe": False}, ("True", "Ready")),
        ({"health": Health.FAILING, "trouble": Trouble.REFUSED, "has_probe": False}, ("False", "ProxyRefused")),
        ({"health": Health.FAILING, "trouble": Trouble.DOWN}, ("False", "ProxyDown")),
        ({"health": Health.PASSING, "trouble": Trouble.DOWN}, ("True", "Ready")),
        ({"is_draining": True}, ("False", "Draining")),
        ({"conflict": "ExternalWorkload shop/other"}, ("False", "AddressConflict")),
        ({"conflict": "ExternalWorkload shop/other", "is_draining": True}, ("False", "AddressConflict")),
        ({"lost": "It has no address left"}, ("False", "AddressLost")),
        ({"is_orphan": True}, ("True", "GroupMissing")),
        ({"is_observed": False}, ("True", "Ready")),
        ({"reachability": Reachability.REPORT, "is_reachable": False}, ("True", "Ready")),
        ({"reachability": Reachability.GATE}, ("False", "NotReachedYet")),
        ({"reachability": Reachability.GATE, "is_reachable": False}, ("False", "Unreachable")),
        ({"reachability": Reachability.GATE, "is_reachable": True}, ("True", "Ready")),
        (
            {"lease": LeaseState.EXPIRED, "heartbeat_loss": HeartbeatLoss.TOLERATE, "is_reachable": True},
            ("True", "SilenceTolerated"),
        ),
        (
            {"lease": LeaseState.EXPIRED, "heartbeat_loss": HeartbeatLoss.TOLERATE, "is_reachable": False},
            ("False", "LeaseExpired"),
        ),
        (
            {
                "lease": LeaseState.EXPIRED,
                "heartbeat_loss": HeartbeatLoss.TOLERATE,
                "is_reachable": True,
                "health": Health.FAILING,
            },
            ("False", "ProbeFailed"),
        ),
        ({"loaded": Loaded(), "want": Loaded()}, ("True", "Ready")),
        ({"loaded": Loaded(config="old", bundle="old")}, ("True", "Ready")),
    ],
)
def test_ready_follows_from_how_the_machine_is(change: dict[str, Any], expected: tuple[str, str]) -> None:
    ready = emit_conditions(replace(WELL, **change))[0]
    assert (ready.status, ready.reason) == expected


@pytest.mark.parametrize(
    ("change", "type_", "expected"),
    [
        ({"lease": LeaseState.SUSPENDED}, HEARTBEAT, ("Unknown", "ExpirySuspended")),
        ({"lease": LeaseState.HELD}, HEARTBEAT, ("False", "LastEndpointHeld")),
        ({"is_observed": False}, ADDRESS, ("Unknown", "SourceDiffers")),
        ({"is_observed": False, "is_in_range": True}, ADDRESS, ("True", "InAllowedRange")),
        ({"is_reachable": False}, ADDRESS, ("True", "SourceMatches")),
        ({"is_reachable": False, "reachability": Reachability.REPORT}, ADDRESS, ("False", "Unreachable")),
        ({"loaded": Loaded()}, CONFIG, ("Unknown", "NotReported")),
        ({"want": Loaded()}, TRUST, ("Unknown", "NotReported")),
        ({"want": Loaded(config="new", bundle="b")}, CONFIG, ("False", "Outdated")),
        ({"want": Loaded(config="c", bundle="new")}, TRUST, ("False", "Outdated")),
        ({"has_probe": False}, PROBE, ("True", "NoProbe")),
    ],
)
def test_the_other_conditions_say_why(change: dict[str, Any], type_: str, expected: tuple[str, str]) -> None:
    (found,) = (each for each in emit_conditions(replace(WELL, **change)) if each.type == type_)
    assert (found.status, found.reason) == expected


def test_every_condition_has_a_reason_and_one_that_is_not_true_a_next_step() -> None:
    for lease, health, reached, mode in product(LeaseState, Health, (None, True, False), Reachability):
        standing = replace(
            WELL, lease=lease, health=health, is_reachable=reached, reachability=mode, is_observed=False, want=Loaded()
        )
        for each in emit_conditions(standing):
            assert each.reason
            assert each.reason.isalnum()
            assert 0 < len(each.message) <= 1000
            assert each.status == "True" or ";" in each.message or ":" in each.message


@pytest.mark.parametrize(
    ("change", "type_", "found"),
    [
        ({"health": Health.FAILING, "health_message": "GET /ready: 500"}, PROBE, "GET /ready: 500"),
        ({"health": Health.FAILING}, PROBE, "no more is said"),
        ({"lost": "It has no address left"}, READY, "It has no address left"),
        (
            {"reachability": Reachability.REPORT, "is_reachable": False, "reach_message": "refused"},
            ADDRESS,
            "refused",
        ),
    ],
)
def test_what_was_found_reads_back_from_a_condition(change: dict[str, Any], type_: str, found: str) -> None:
    (condition,) = (each for each in emit_conditions(replace(WELL, **change)) if each.type == type_)
    assert read_found(condition) == found


def test_what_a_machine_says_is_cut() -> None:
    standing = replace(WELL, health=Health.FAILING, health_message="x" * 100_000)
    assert all(len(each.message) <= 1000 for each in emit_conditions(standing))
