"""What cert-manager is asked for, the anchors for proxies, and the report."""

import json
from dataclasses import replace

import pytest

from meshwright.emit.advice import ADVICE, advise
from meshwright.emit.issuer import emit_anchors, emit_issuers, emit_mesh, emit_report
from meshwright.emit.plan import is_request_current
from meshwright.model.config import Config, IssuerKind
from meshwright.model.desired import Json
from meshwright.model.identity import Issuance
from meshwright.model.problem import Problem, Reason
from meshwright.model.units import Millis, Namespace
from meshwright.parse.certificate import parse_certificates
from tests.certificates import anchor, issuer

OWN = Config(issuer_kind=IssuerKind.ANCHOR_SECRET, issuer_name="root")
LABELS = {"app.kubernetes.io/managed-by": "meshwright"}
NAME = "meshwright-identity-issuer"


def metadata(manifest: Json, name: str) -> Json:
    hashes = {"meshwright.dev/hash": manifest["metadata"]["annotations"]["meshwright.dev/hash"]}
    return {"annotations": hashes, "labels": LABELS, "name": name, "namespace": "meshwright"}


def test_an_anchors_secret_signs_through_an_issuer_of_ours() -> None:
    ca, certificate = emit_issuers(OWN)
    assert ca == {
        "apiVersion": "cert-manager.io/v1",
        "kind": "Issuer",
        "metadata": metadata(ca, f"{NAME}.root"),
        "spec": {"ca": {"secretName": "root"}},
    }
    assert certificate == {
        "apiVersion": "cert-manager.io/v1",
        "kind": "Certificate",
        "metadata": metadata(certificate, NAME),
        "spec": {
            "commonName": "identity.meshwright.cluster.local",
            "duration": "48h",
            "isCA": True,
            "issuerRef": {"group": "cert-manager.io", "kind": "Issuer", "name": f"{NAME}.root"},
            "privateKey": {"algorithm": "ECDSA", "rotationPolicy": "Always", "size": 256},
            "renewBefore": "25h",
            "secretName": NAME,
            "usages": ["cert sign", "crl sign", "server auth", "client auth"],
        },
    }


@pytest.mark.parametrize("kind", [IssuerKind.ISSUER, IssuerKind.CLUSTER_ISSUER])
def test_an_issuer_that_exists_is_named_and_nothing_else_changes(kind: IssuerKind) -> None:
    (certificate,) = emit_issuers(replace(OWN, issuer_kind=kind))
    assert certificate["spec"] == emit_issuers(OWN)[1]["spec"] | {
        "issuerRef": {"group": "cert-manager.io", "kind": kind.value, "name": "root"}
    }


def test_certificates_from_outside_ask_for_nothing() -> None:
    assert emit_issuers(Config()) == ()


@pytest.mark.parametrize(
    ("millis", "text"), [(3_600_000, "1h"), (5_400_000, "90m"), (3_601_000, "3601s"), (8760 * 3_600_000, "8760h")]
)
def test_durations_are_as_go_reads_them(millis: int, text: str) -> None:
    (_, certificate) = emit_issuers(replace(OWN, issuer_duration=Millis(millis)))
    assert certificate["spec"]["duration"] == text


def test_the_webhooks_certificate_is_one_that_its_predecessor_vouches_for() -> None:
    config = Config(namespace=Namespace("mesh"), asks_webhook_certificate=True)
    found = [
        (raw["kind"], raw["metadata"]["namespace"], raw["metadata"]["name"], raw["spec"])
        for raw in emit_issuers(config)
    ]
    assert found == [
        ("Issuer", "mesh", "meshwright-webhook-tls", {"selfSigned": {}}),
        (
            "Certificate",
            "mesh",
            "meshwright-webhook-tls",
            {
                "commonName": "meshwright-webhook",
                "dnsNames": ["meshwright-webhook.mesh.svc", "meshwright-webhook.mesh.svc.cluster.local"],
                "isCA": True,
                "issuerRef": {"group": "cert-manager.io", "kind": "Issuer", "name": "meshwright-webhook-tls"},
                "privateKey": {"algorithm": "ECDSA", "rotationPolicy": "Never", "size": 256},
                "secretName": "meshwright-webhook-tls",
                "usages": ["digital signature", "cert sign", "server auth"],
            },
        ),
    ]


def test_anchors_are_a_labelled_config_map() -> None:
    found = emit_anchors(Namespace("shop"), "pem")
    assert found == {
        "apiVersion": "v1",
        "data": {"ca-bundle.crt": "pem"},
        "kind": "ConfigMap",
        "metadata": {
            "annotations": found["metadata"]["annotations"],
            "labels": LABELS | {"meshwright.dev/unit": "anchors"},
            "name": "mw-trust-anchors",
            "namespace": "shop",
        },
    }


def test_the_report_tells_who_issued_until_when_and_what_is_wrong() -> None:
    ((own,), _), ((root,), _) = parse_certificates(issuer().pem, ""), parse_certificates(anchor().pem, "")
    fatal = Problem("f", Reason.EXPIRED, "m")
    doubt = Problem("", Reason.WRONG_NAME, "n")
    issuance = Issuance(name=NAME, ready="True", renewal_time="2026-09-02T10:00:00Z")
    found = emit_report(
        OWN, issuer=own, anchor=root, anchors=[root], issuances=[issuance], fatal=[fatal], doubts=[doubt]
    )
    told = {
        "fingerprint": root.fingerprint,
        "key": "ECDSA P-256",
        "not_after": "2036-08-29T12:00:00Z",
        "not_before": "2026-08-31T12:00:00Z",
        "serial": root.serial,
        "subject": "CN=root.cluster.local",
    }
    assert found == {
        "anchors": [told],
        "can_issue": False,
        "cert_manager": [
            {
                "advice": "",
                "certificate": NAME,
                "failures": 0,
                "is_issuing": False,
                "message": "",
                "ready": "True",
                "reason": "",
                "renewal_time": "2026-09-02T10:00:00Z",
            }
        ],
        "issued_by": {"kind": "anchor-secret", "name": "root"},
        "issuer": {
            "anchor": root.fingerprint,
            "fingerprint": own.fingerprint,
            "issuer": "CN=root.cluster.local",
            "key": "ECDSA P-256",
            "not_after": "2026-09-03T11:00:00Z",
            "not_before": "2026-09-01T11:00:00Z",
            "serial": own.serial,
            "subject": "CN=identity.meshwright.cluster.local",
        },
        "next_renewal": "2026-09-02T10:00:00Z",
        "problems": [
            {"field": "f", "is_fatal": True, "message": "m", "reason": "Expired"},
            {"field": "", "is_fatal": False, "message": "n", "reason": "WrongName"},
        ],
        "secret": NAME,
        "trust_domain": "cluster.local",
    }
    stored = emit_mesh(OWN, found)
    assert json.loads(stored["data"]["identity.json"]) == found
    assert stored == emit_mesh(OWN, dict(reversed(found.items())))
    assert stored["metadata"]["labels"]["meshwright.dev/unit"] == "mesh"


@pytest.mark.parametrize("reason", [reason for reason, advice in ADVICE.items() if advice])
def test_every_reason_has_its_advice(reason: str) -> None:
    waiting = Issuance(name=NAME, ready="False", reason=reason)
    assert advise(waiting) == ADVICE[reason]
    assert advise(replace(waiting, failures=2)).startswith(ADVICE[reason] + "; cert-manager waits an hour")


@pytest.mark.parametrize(
    ("issuance", "expected"),
    [
        (Issuance(name=NAME, ready="True"), ""),
        (Issuance(name=NAME), "cert-manager has not looked at it yet; if that lasts, look whether it runs"),
        (
            Issuance(name=NAME, ready="False", reason="New"),
            "look at it with kubectl describe certificate, and at cert-manager's log",
        ),
    ],
)
def test_what_has_no_row_has_advice_too(issuance: Issuance, expected: str) -> None:
    assert advise(issuance) == expected


def edited(**spec: object) -> Json:
    manifest = json.loads(json.dumps(emit_issuers(OWN)[1]))
    manifest["spec"].update(spec)
    return manifest  # type: ignore[no-any-return]


def test_what_others_add_is_theirs_and_what_they_change_is_not() -> None:
    wanted = emit_issuers(OWN)[1]
    assert is_request_current(wanted, edited())
    assert is_request_current(wanted, edited(revisionHistoryLimit=1))
    key = wanted["spec"]["privateKey"] | {"encoding": "PKCS1"}
    assert is_request_current(wanted, edited(privateKey=key) | {"status": {}})
    assert not is_request_current(wanted, edited(duration="49h"))
    assert not is_request_current(wanted, edited(usages=["cert sign"]))
    assert not is_request_current(wanted, edited(privateKey={"algorithm": "RSA"}))
    assert not is_request_current(wanted, edited() | {"metadata": {}})
    assert not is_request_current(emit_issuers(replace(OWN, issuer_duration=Millis(90_000_000)))[1], edited())
