"""ExternalWorkloads read back: ours as they were written, and anybody else's."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshwright.emit.external_workload import emit_conditions, emit_workload
from meshwright.model.enrollment import Health, InstanceKey
from meshwright.model.instance import Enrolled, LeaseState, SeenWorkload, Standing, Template, workload_ref
from meshwright.model.ref import Kind, Ref
from meshwright.model.units import Millis, Namespace, Port
from meshwright.model.workload import WorkloadPort
from meshwright.parse.instance import parse_instance

SHOP = Namespace("shop")
KEY = InstanceKey(SHOP, "ledger", "uid-aaaaaaaa")
STANDING = Standing(lease=LeaseState.CURRENT, lease_ms=Millis(35_000), has_probe=True, health=Health.PASSING)
ENROLLED = Enrolled(
    key=KEY,
    ref=workload_ref(KEY, "ledger-x"),
    template=Template(
        labels=(("app", "ledger"),),
        annotations=(("note", "kept"),),
        ports=(WorkloadPort(name="http", port=Port(8080)),),
        hash="sha256:0",
    ),
    agent_labels=(("tier", "gold"),),
    epoch=7,
    nonce_hash="0123456789abcdef",
    identity="spiffe://cluster.local/ns/shop/external/ledger/uid-aaaaaaaa",
    server_name="ledger-x.ledger.shop.external.identity.meshwright.cluster.local",
    ips=("192.0.2.10", "2001:db8::10"),
    registered_from="192.0.2.10",
    agent="0.3.1",
)


def store(enrolled: Enrolled = ENROLLED, **metadata: Any) -> dict[str, Any]:
    """Return a machine's object as the API server shows it."""
    raw: dict[str, Any] = json.loads(json.dumps(emit_workload(enrolled)))
    raw["metadata"] |= {"uid": "object-uid", **metadata}
    raw["metadata"]["annotations"]["meshwright.dev/hash"] = "of-the-writer"
    raw["status"] = {
        "conditions": [
            {"type": "other.example.com/X", "status": "True"},
            *(
                {"type": each.type, "status": each.status, "reason": each.reason, "message": each.message}
                for each in reversed(emit_conditions(STANDING))
            ),
        ]
    }
    return raw


def test_what_was_written_reads_back() -> None:
    assert parse_instance(store()) == SeenWorkload(
        ref=ENROLLED.ref,
        uid="object-uid",
        ips=ENROLLED.ips,
        ports=ENROLLED.template.ports,
        labels=(
            ("app", "ledger"),
            ("app.kubernetes.io/managed-by", "meshwright"),
            ("meshwright.dev/external", "true"),
            ("tier", "gold"),
        ),
        is_ready=True,
        conditions=emit_conditions(STANDING),
        enrolled=ENROLLED,
        group=Ref(Kind.EXTERNAL_GROUP, SHOP, "ledger"),
    )


words = st.text("abcxyz", min_size=1, max_size=6)
ports = st.lists(
    st.builds(
        WorkloadPort,
        name=st.one_of(st.just(""), words),
        port=st.integers(1, 65535).map(Port),
        transport=st.sampled_from(("TCP", "UDP")),
    ),
    max_size=3,
).map(tuple)


@given(
    st.dictionaries(words, words, max_size=3),
    st.dictionaries(words.map(lambda word: f"own-{word}"), words, max_size=3),
    st.dictionaries(words, words, max_size=3),
    ports,
    st.integers(0, 2**53),
    st.sampled_from(("", "0.3.1")),
)
def test_every_machine_reads_back_as_itself(
    labels: dict[str, str],
    own: dict[str, str],
    annotations: dict[str, str],
    declared: tuple[WorkloadPort, ...],
    epoch: int,
    agent: str,
) -> None:
    enrolled = Enrolled(
        key=KEY,
        ref=ENROLLED.ref,
        template=Template(
            labels=tuple(sorted(labels.items())),
            annotations=tuple(sorted(annotations.items())),
            ports=declared,
            hash="sha256:1",
        ),
        agent_labels=tuple(sorted(own.items())),
        epoch=epoch,
        nonce_hash="0123456789abcdef",
        identity=ENROLLED.identity,
        server_name=ENROLLED.server_name,
        ips=("192.0.2.10",),
        registered_from="192.0.2.10",
        agent=agent,
    )
    seen = parse_instance(store(enrolled))
    assert seen is not None
    assert seen.enrolled == enrolled


def test_one_made_by_hand_is_not_ours() -> None:
    raw = {
        "apiVersion": "workload.linkerd.io/v1beta1",
        "kind": "ExternalWorkload",
        "metadata": {"name": "by-hand", "namespace": "shop", "uid": "u", "labels": {"app": "ledger"}},
        "spec": {
            "meshTLS": {"identity": "spiffe://root/x", "serverName": "x"},
            "workloadIPs": [{"ip": "192.0.2.1"}],
            "ports": [{"port": 80}],
        },
    }
    assert parse_instance(raw) == SeenWorkload(
        ref=Ref(Kind.EXTERNAL_WORKLOAD, SHOP, "by-hand"),
        uid="u",
        ips=("192.0.2.1",),
        ports=(WorkloadPort(name="", port=Port(80)),),
        labels=(("app", "ledger"),),
    )


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [
        ("labels", "app.kubernetes.io/managed-by", "helm"),
        ("labels", "app.kubernetes.io/managed-by", None),
        ("annotations", "meshwright.dev/instance-uid", None),
        ("annotations", "meshwright.dev/instance-epoch", "seven"),
        ("annotations", "meshwright.dev/instance-epoch", "-1"),
        ("annotations", "meshwright.dev/instance-epoch", "٧"),
        ("annotations", "meshwright.dev/instance-epoch", "9" * 17),
        ("annotations", "meshwright.dev/instance-nonce", None),
        ("annotations", "meshwright.dev/group", 5),
    ],
)
def test_one_that_somebody_has_spoilt_is_not_ours_any_more(part: str, key: str, value: object) -> None:
    raw = store()
    if value is None:
        del raw["metadata"][part][key]
    else:
        raw["metadata"][part][key] = value
    seen = parse_instance(raw)
    assert seen is not None
    assert seen.enrolled is None


@pytest.mark.parametrize(
    ("manager", "fields", "expected"),
    [
        ("meshwright", {"f:spec": {}}, ""),
        ("meshwright-status", {"f:status": {}}, ""),
        ("kubectl-edit", {"f:spec": {}}, ""),
        ("autoregistration", {"f:spec": {}}, "autoregistration"),
        ("autoregistration", {"f:status": {}}, "autoregistration"),
        ("autoregistration", {"f:metadata": {}}, ""),
        (5, {"f:spec": {}}, ""),
        ("autoregistration", None, ""),
    ],
)
def test_another_writer_of_an_object_of_ours_is_named(manager: object, fields: object, expected: str) -> None:
    seen = parse_instance(store(managedFields=[{"manager": manager, "fieldsV1": fields}]))
    assert seen is not None
    assert (seen.writer, seen.enrolled) == (expected, ENROLLED)


def test_who_manages_an_object_that_was_never_ours_is_named() -> None:
    raw = store()
    raw["metadata"]["labels"]["app.kubernetes.io/managed-by"] = "autoregistration"
    seen = parse_instance(raw)
    assert seen is not None
    assert (seen.writer, seen.enrolled) == ("autoregistration", None)


json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=8,
)


@given(
    json_values,
    st.sampled_from(("metadata", "spec", "status", "kind", "apiVersion")),
    st.sampled_from(("", "labels", "annotations", "managedFields", "conditions", "workloadIPs", "name")),
)
def test_nothing_that_json_can_hold_raises(value: object, part: str, name: str) -> None:
    raw = store()
    if name and isinstance(raw[part], dict):
        raw[part][name] = value
    else:
        raw[part] = value
    parse_instance(raw)
    parse_instance(value)


def test_another_kind_is_none() -> None:
    raw = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a", "namespace": "b"}}
    assert parse_instance(raw) is None
    assert parse_instance(None) is None
