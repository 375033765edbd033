"""Who may join a group: read whole, or void."""

from typing import Any

import pytest

from meshwright.model.group import HeartbeatLoss, IdentityScope, JoinMode, Reachability, RegistrationPolicy, Rules
from meshwright.model.problem import Reason
from meshwright.model.ref import Kind, Ref
from meshwright.model.units import Millis, Namespace
from meshwright.parse.kinds import parse_object
from tests.certificates import LEAF, anchor, make
from tests.parse.made import Raw, fields
from tests.parse.made import make as make_object

TARGET: Raw = {"group": "workload.buoyant.io", "kind": "ExternalGroup", "name": "ledger"}


def parse(spec: Any, **metadata: Any) -> RegistrationPolicy:
    parsed = parse_object(make_object("meshwright.dev/v1alpha1", "RegistrationPolicy", spec, **metadata))
    assert isinstance(parsed, RegistrationPolicy)
    return parsed


def parse_spec(**spec: Any) -> RegistrationPolicy:
    return parse({"targetRef": TARGET, **spec})


def test_a_policy_is_read_whole() -> None:
    roots = anchor(2), anchor(1)
    policy = parse(
        {
            "targetRef": TARGET,
            "modes": ["ClientCertificate", "SPIFFE"],
            "identities": ["spiffe://root/vm/*", "*.vm.example.com", "spiffe://root/vm/*"],
            "clientCertificate": {"caBundle": f"a note\n{roots[0].pem}{roots[1].pem}{roots[0].pem}"},
            "allowedCIDRs": ["192.0.2.0/24", "2001:DB8::/32", "198.51.100.7"],
            "addressFrom": ["192.0.2.0/25"],
            "allowedLabels": ["tier", "example.com/rack"],
            "identityScope": "Group",
            "limits": {"instances": 3},
            "timers": {
                "beatSeconds": 1,
                "leaseSeconds": 3,
                "goneAfterSeconds": 4,
                "groupGoneAfterSeconds": 0,
                "lastEndpointHoldSeconds": 6,
            },
            "heartbeatLoss": "TolerateIfReachable",
            "reachability": "Gate",
            "zone": "west",
        },
        uid="u",
        creationTimestamp="2026-01-31T23:59:59Z",
    )
    in_order = sorted(roots, key=lambda made: made.fingerprint)
    assert policy == RegistrationPolicy(
        ref=Ref(Kind.REGISTRATION_POLICY, Namespace("shop"), "cart"),
        uid="u",
        generation=3,
        group="ledger",
        created=1769903999,
        rules=Rules(
            modes=frozenset((JoinMode.CERTIFICATE, JoinMode.SPIFFE)),
            identities=("spiffe://root/vm/*", "*.vm.example.com"),
            ca_bundle="".join(made.pem for made in in_order),
            allowed_cidrs=("192.0.2.0/24", "2001:db8::/32", "198.51.100.7/32"),
            address_from=("192.0.2.0/25",),
            allowed_labels=("example.com/rack", "tier"),
            identity_scope=IdentityScope.GROUP,
            instances=3,
            beat_ms=Millis(1000),
            lease_ms=Millis(3000),
            gone_after_ms=Millis(4000),
            group_gone_after_ms=Millis(0),
            last_endpoint_hold_ms=Millis(6000),
            heartbeat_loss=HeartbeatLoss.TOLERATE,
            reachability=Reachability.GATE,
            zone="west",
        ),
    )


def test_what_a_policy_does_not_say_is_as_without_one() -> None:
    assert parse_spec(timers={}, limits={}, identities=[], allowedLabels=[]).rules == parse_spec().rules == Rules()


@pytest.mark.parametrize(
    ("spec", "where"),
    [
        (None, ["spec"]),
        ([], ["spec"]),
        ({}, ["spec.targetRef"]),
        ({"targetRef": 3}, ["spec.targetRef"]),
        ({"targetRef": {}}, ["spec.targetRef.kind", "spec.targetRef.name"]),
        ({"targetRef": {"kind": "ExternalGroup", "name": "a"}}, ["spec.targetRef.group"]),
        ({"targetRef": {**TARGET, "kind": "Service"}}, ["spec.targetRef.kind"]),
        ({"targetRef": {**TARGET, "group": "policy.linkerd.io"}}, ["spec.targetRef.group"]),
        ({"targetRef": {**TARGET, "name": "A"}}, ["spec.targetRef.name"]),
    ],
)
def test_a_policy_for_no_group_is_void(spec: Any, where: list[str]) -> None:
    policy = parse(spec)
    assert (policy.is_void, policy.group, fields(policy.problems)) == (True, "", where)


@pytest.mark.parametrize(
    ("spec", "where"),
    [
        ({"targetRef": {**TARGET, "namespace": "other"}}, "targetRef.namespace"),
        ({"targetRef": {**TARGET, "selector": {}}}, "targetRef.selector"),
        ({"allowedCIDR": ["10.0.0.0/8"]}, "allowedCIDR"),
        ({"modes": []}, "modes"),
        ({"modes": "JoinToken"}, "modes"),
        ({"modes": ["JoinToken", "Anybody"]}, "modes[1]"),
        ({"identities": ["*"]}, "identities[0]"),
        ({"identities": ["spiffe://*"]}, "identities[0]"),
        ({"identities": ["spiffe://root*"]}, "identities[0]"),
        ({"identities": ["spiffe://root/*/a"]}, "identities[0]"),
        ({"identities": ["spiffe://root/a/../b"]}, "identities[0]"),
        ({"identities": ["spiffe://root/a/.."]}, "identities[0]"),
        ({"identities": ["spiffe://root/a/"]}, "identities[0]"),
        ({"identities": ["spiffe://root/a//b"]}, "identities[0]"),
        ({"identities": ["spiffe://Root/a"]}, "identities[0]"),
        ({"identities": ["a.*.b"]}, "identities[0]"),
        ({"identities": ["*a.b"]}, "identities[0]"),
        ({"identities": ["Host.example.com"]}, "identities[0]"),
        ({"identities": ["x" * 254]}, "identities[0]"),
        ({"identities": [3]}, "identities[0]"),
        ({"identities": ["a.b"] * 65}, "identities"),
        ({"modes": ["ClientCertificate"], "identities": ["a.b"]}, "clientCertificate.caBundle"),
        ({"clientCertificate": {}}, "clientCertificate.caBundle"),
        ({"clientCertificate": {"caBundle": "nothing"}}, "clientCertificate.caBundle"),
        ({"clientCertificate": {"caBundle": anchor().pem, "crl": "x"}}, "clientCertificate.crl"),
        ({"clientCertificate": {"caBundle": make(LEAF, by=anchor()).pem}}, "clientCertificate.caBundle"),
        ({"clientCertificate": {"caBundle": anchor().pem + anchor().key_pem}}, "clientCertificate.caBundle"),
        ({"clientCertificate": {"caBundle": anchor().pem * 200}}, "clientCertificate.caBundle"),
        ({"allowedCIDRs": []}, "allowedCIDRs"),
        ({"allowedCIDRs": ["10.0.0.0/33"]}, "allowedCIDRs[0]"),
        ({"allowedCIDRs": ["10.0.0.0/8", "::ffff:10.0.0.0/104"]}, "allowedCIDRs[1]"),
        ({"addressFrom": ["eth0"]}, "addressFrom[0]"),
        ({"addressFrom": ["10.0.0.0/8"] * 65}, "addressFrom"),
        ({"allowedLabels": ["-"]}, "allowedLabels[0]"),
        ({"allowedLabels": ["app.kubernetes.io/name"]}, "allowedLabels[0]"),
        ({"allowedLabels": ["topology.kubernetes.io/zone"]}, "allowedLabels[0]"),
        ({"allowedLabels": ["meshwright.dev/group"]}, "allowedLabels[0]"),
        ({"identityScope": "Everybody"}, "identityScope"),
        ({"limits": {"instances": 0}}, "limits.instances"),
        ({"limits": {"instances": 10_001}}, "limits.instances"),
        ({"limits": {"machines": 1}}, "limits.machines"),
        ({"timers": {"beatSeconds": 301}}, "timers.beatSeconds"),
        ({"timers": {"leaseSeconds": 20}}, "timers.leaseSeconds"),
        ({"timers": {"beatSeconds": 18}}, "timers.leaseSeconds"),
        ({"timers": {"goneAfterSeconds": 34}}, "timers.goneAfterSeconds"),
        ({"timers": {"leaseSeconds": "35"}}, "timers.leaseSeconds"),
        ({"timers": {"leaseSeconds": 35.5}}, "timers.leaseSeconds"),
        ({"timers": {"groupGoneAfterSeconds": -1}}, "timers.groupGoneAfterSeconds"),
        ({"timers": {"lastEndpointHoldSeconds": 3601}}, "timers.lastEndpointHoldSeconds"),
        ({"timers": {"gracePeriod": 1}}, "timers.gracePeriod"),
        ({"heartbeatLoss": "Ignore"}, "heartbeatLoss"),
        ({"heartbeatLoss": "TolerateIfReachable"}, "heartbeatLoss"),
        ({"heartbeatLoss": "TolerateIfReachable", "reachability": "Off"}, "heartbeatLoss"),
        ({"reachability": "On"}, "reachability"),
        ({"reachability": False}, "reachability"),
        ({"zone": "-"}, "zone"),
        ({"zone": 3}, "zone"),
    ],
)
def test_a_policy_with_a_mistake_lets_in_nobody_and_names_the_field(spec: Raw, where: str) -> None:
    policy = parse_spec(**spec)
    assert (policy.is_void, policy.group, policy.rules) == (True, "ledger", Rules())
    assert f"spec.{where}" in fields(policy.problems)
    assert all(problem.field.startswith("spec.") for problem in policy.problems)


@pytest.mark.parametrize(
    ("spec", "where", "reason"),
    [
        ({"modes": ["SPIFFE"]}, "identities", Reason.SELECTS_NOTHING),
        ({"modes": ["JoinToken", "SPIFFE"]}, "identities", Reason.SELECTS_NOTHING),
        ({"clientCertificate": {"caBundle": anchor().pem}}, "clientCertificate.caBundle", Reason.SELECTS_NOTHING),
        ({"allowedCIDRs": ["192.0.2.7/24"]}, "allowedCIDRs[0]", Reason.INVALID_OBJECT),
    ],
)
def test_what_is_doubtful_is_told_and_holds(spec: Raw, where: str, reason: Reason) -> None:
    policy = parse_spec(**spec)
    assert not policy.is_void
    assert [(problem.field, problem.reason) for problem in policy.problems] == [(f"spec.{where}", reason)]


def test_no_message_shows_a_key_that_was_put_into_the_bundle() -> None:
    policy = parse_spec(clientCertificate={"caBundle": anchor().key_pem})
    secret = anchor().key_pem.splitlines()[1]
    assert policy.is_void
    assert secret not in str(policy)
