"""What agents are told: JSON, whole, with a hash that changes when anything they act upon does."""

from dataclasses import replace
from typing import Any

import pytest

from meshwright.emit.machine_config import emit_machine_config, hash_text, make_machine_config
from meshwright.model.enrollment import MachineConfig
from meshwright.model.group import Group, Probe, ProbeKind, Rules
from meshwright.model.identity import TrustDomain
from meshwright.model.ref import Kind, Ref
from meshwright.model.units import Millis, Namespace, Port

GROUP = Group(
    ref=Ref(Kind.EXTERNAL_GROUP, Namespace("shop"), "ledger"),
    uid="1",
    generation=1,
    labels=(("app", "ledger"),),
    annotations=(
        ("config.linkerd.io/skip-inbound-ports", "22,4567-4568"),
        ("config.linkerd.io/skip-outbound-ports", "53"),
        ("config.linkerd.io/skip-subnets", "10.1.0.0/16"),
    ),
    ports=(),
    probe=Probe(port=Port(8080), path="/ready", headers=(("Accept", "*/*"),)),
)
RULES = Rules(address_from=("192.0.2.0/24", "2001:db8::/32"))
TIMES = {
    "initialDelaySeconds": 0,
    "periodSeconds": 10,
    "timeoutSeconds": 1,
    "failureThreshold": 3,
    "successThreshold": 1,
}


def make(group: Group = GROUP, rules: Rules = RULES, **more: Any) -> MachineConfig:
    told: dict[str, Any] = {
        "workload": "ledger-k3v9q2m7xa",
        "identity": "spiffe://cluster.local/ns/shop/external/ledger/12345678",
        "delivery": "xds.example.test:15010",
        "trust": TrustDomain(),
        "bundle": "PEM",
    }
    return make_machine_config(group, rules, **{**told, **more})


def test_an_agent_is_told_all_it_needs() -> None:
    config = make()
    assert emit_machine_config(config) == {
        "hash": config.hash,
        "bundleHash": "sha256:384fb9a44fabe158",
        "bundle": "PEM",
        "workload": "ledger-k3v9q2m7xa",
        "identity": "spiffe://cluster.local/ns/shop/external/ledger/12345678",
        "delivery": "xds.example.test:15010",
        "trustDomain": "cluster.local",
        "controlPlane": "meshwright",
        "probe": {
            "httpGet": {
                "host": "127.0.0.1",
                "port": 8080,
                "path": "/ready",
                "scheme": "HTTP",
                "httpHeaders": [{"name": "Accept", "value": "*/*"}],
            },
            **TIMES,
        },
        "skipInboundPorts": "22,4567-4568",
        "skipOutboundPorts": "53",
        "skipSubnets": "10.1.0.0/16",
        "addressFrom": ["192.0.2.0/24", "2001:db8::/32"],
    }


@pytest.mark.parametrize(
    ("probe", "emitted"),
    [
        (None, None),
        (
            Probe(kind=ProbeKind.TCP, port=Port(5432), host="192.0.2.10"),
            {"tcpSocket": {"host": "192.0.2.10", "port": 5432}, **TIMES},
        ),
        (
            Probe(kind=ProbeKind.GRPC, port=Port(9090), service="ready", timeout_ms=Millis(1500)),
            {"grpc": {"port": 9090, "service": "ready"}, **TIMES, "timeoutSeconds": 1.5},
        ),
    ],
)
def test_a_probe_is_told_with_every_default(probe: Probe | None, emitted: object) -> None:
    assert make(replace(GROUP, probe=probe)).probe == emitted


def test_what_is_not_annotated_is_not_skipped() -> None:
    config = make(replace(GROUP, annotations=(("config.linkerd.io/skip-else", "1"),)), Rules())
    assert (config.skip_inbound_ports, config.skip_outbound_ports, config.skip_subnets) == ("", "", "")
    assert config.address_from == ()


def test_the_hash_is_of_what_an_agent_acts_upon_but_the_bundle() -> None:
    same = (
        make(),
        make(bundle="another"),
        make(replace(GROUP, generation=2, labels=(("app", "other"),), uid="2")),
        make(rules=replace(RULES, beat_ms=Millis(5000))),
    )
    assert len({config.hash for config in same}) == 1
    others = (
        make(replace(GROUP, probe=None)),
        make(replace(GROUP, annotations=())),
        make(rules=Rules()),
        make(workload="ledger-another"),
        make(identity="spiffe://cluster.local/vm/1"),
        make(delivery="xds.example.test:1"),
        make(trust=TrustDomain(name="example.test")),
    )
    assert len({config.hash for config in (*same, *others)}) == 1 + len(others)


def test_a_hash_is_short_and_always_the_same() -> None:
    assert hash_text("") == "sha256:e3b0c44298fc1c14"
