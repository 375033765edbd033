"""What cert-manager is asked for, the trust anchors for proxies, and what is told of identity.

The same bytes for the same settings. No field that a server would fill in is written: a tool that compares manifests
finds no difference.
"""

import hashlib
import json
from collections.abc import Sequence
from datetime import datetime

from meshwright.emit.advice import advise
from meshwright.model.config import ANNOTATION_HASH, FIELD_MANAGER, LABEL_MANAGED_BY, LABEL_UNIT, Config, IssuerKind
from meshwright.model.desired import Json
from meshwright.model.identity import Certificate, Issuance
from meshwright.model.problem import Problem
from meshwright.model.units import Millis, Namespace

ANCHORS_NAME = "mw-trust-anchors"
ANCHORS_KEY = "ca-bundle.crt"
MESH_NAME = "mw-mesh"
MESH_KEY = "identity.json"
WEBHOOK_NAME = "meshwright-webhook-tls"
WEBHOOK_SERVICE = "meshwright-webhook"

WITHOUT_ANCHORS = frozenset(Namespace(name) for name in ("kube-system", "kube-public", "kube-node-lease"))
"""Namespaces that have no meshed pods."""

_API = "cert-manager.io/v1"
_HASH_LENGTH = 16
_KEY = {"algorithm": "ECDSA", "size": 256}


def emit_issuers(config: Config) -> tuple[Json, ...]:
    """Return all Issuers and Certificates that cert-manager is asked for; none when certificates come from elsewhere.

    Source: linkerd.io ``tasks/automatically-rotating-control-plane-tls-credentials`` (the shape of the issuer);
    cert-manager/cert-manager ``pkg/apis/certmanager/v1/types_certificate.go``.
    """
    found: list[Json] = []
    if config.issuer_kind is IssuerKind.ANCHOR_SECRET:
        found.append(_emit("Issuer", _name_own_issuer(config), config, {"ca": {"secretName": config.issuer_name}}))
    if config.issuer_kind is not IssuerKind.NONE:
        found.append(_emit("Certificate", config.issuer_secret, config, _ask_issuer(config)))
    if config.asks_webhook_certificate:
        found.append(_emit("Issuer", WEBHOOK_NAME, config, {"selfSigned": {}}))
        found.append(_emit("Certificate", WEBHOOK_NAME, config, _ask_webhook(config)))
    return tuple(found)


def emit_anchors(namespace: Namespace, pem: str) -> Json:
    """Return the ConfigMap with the trust anchors that one namespace's proxies read. ``pem``: sorted, each once."""
    return _emit_config_map(namespace, ANCHORS_NAME, "anchors", {ANCHORS_KEY: pem})


def emit_mesh(config: Config, report: Json) -> Json:
    """Return the ConfigMap that tells of identity, for people and for ``meshwright check``."""
    text = json.dumps(report, sort_keys=True, indent=2, ensure_ascii=False) + "\n"
    return _emit_config_map(config.namespace, MESH_NAME, "mesh", {MESH_KEY: text})


def emit_report(
    config: Config,
    *,
    issuer: Certificate | None,
    anchor: Certificate | None,
    anchors: Sequence[Certificate],
    issuances: Sequence[Issuance],
    fatal: Sequence[Problem],
    doubts: Sequence[Problem],
) -> Json:
    """Return what is told of identity: who issued, until when, the next renewal, the anchors, and what is wrong.

    ``anchor``: the one that ``issuer`` hangs from, ``None`` for none. ``fatal``: the problems that keep anything from
    being issued. Holds nothing that changes by itself as time passes.
    """
    own = next((issuance for issuance in issuances if issuance.name == config.issuer_secret), None)
    renewal = own.renewal_time if own is not None else ""
    told = None
    if issuer is not None:
        told = _describe(issuer) | {
            "anchor": anchor.fingerprint if anchor is not None else None,
            "issuer": issuer.issuer,
        }
    return {
        "anchors": [_describe(found) for found in anchors],
        "can_issue": not fatal,
        "cert_manager": [_describe_issuance(found) for found in issuances],
        "issued_by": {"kind": config.issuer_kind.value, "name": config.issuer_name},
        "issuer": told,
        "next_renewal": renewal or None,
        "problems": [
            *(_describe_problem(problem, is_fatal=True) for problem in fatal),
            *(_describe_problem(problem, is_fatal=False) for problem in doubts),
        ],
        "secret": config.issuer_secret,
        "trust_domain": config.trust_domain,
    }


def _describe(certificate: Certificate) -> Json:
    return {
        "fingerprint": certificate.fingerprint,
        "key": certificate.key,
        "not_after": _date(certificate.not_after),
        "not_before": _date(certificate.not_before),
        "serial": certificate.serial,
        "subject": certificate.subject,
    }


def _describe_issuance(issuance: Issuance) -> Json:
    return {
        "advice": advise(issuance),
        "certificate": issuance.name,
        "failures": issuance.failures,
        "is_issuing": issuance.issuing == "True",
        "message": issuance.message,
        "ready": issuance.ready or "Unknown",
        "reason": issuance.reason,
        "renewal_time": issuance.renewal_time or None,
    }


def _describe_problem(problem: Problem, *, is_fatal: bool) -> Json:
    return {
        "field": problem.field,
        "is_fatal": is_fatal,
        "message": problem.message,
        "reason": problem.reason.value,
    }


def _name_own_issuer(config: Config) -> str:
    """Return what the Issuer is called that signs with an anchor: another one for another anchor.

    cert-manager makes a certificate anew when its issuerRef changes, not when what is behind it does
    (cert-manager/cert-manager issue 2478).
    """
    return f"{config.issuer_secret}.{config.issuer_name}"


def _ask_issuer(config: Config) -> Json:
    is_own = config.issuer_kind is IssuerKind.ANCHOR_SECRET
    return {
        "commonName": config.trust.issuer_name,
        "duration": _write_duration(config.issuer_duration),
        "isCA": True,
        "issuerRef": {
            "group": "cert-manager.io",
            "kind": "Issuer" if is_own else config.issuer_kind.value,
            "name": _name_own_issuer(config) if is_own else config.issuer_name,
        },
        "privateKey": _KEY | {"rotationPolicy": "Always"},
        "renewBefore": _write_duration(config.issuer_renew_before),
        "secretName": config.issuer_secret,
        "usages": ["cert sign", "crl sign", "server auth", "client auth"],
    }


def _ask_webhook(config: Config) -> Json:
    """Return what the webhook's certificate is to be: its own CA, and with one key for good.

    So the API server believes a renewed one by the one before it, and no moment is left in which it believes neither.
    """
    host = f"{WEBHOOK_SERVICE}.{config.namespace}.svc"
    return {
        "commonName": WEBHOOK_SERVICE,
        "dnsNames": [host, f"{host}.cluster.local"],
        "isCA": True,
        "issuerRef": {"group": "cert-manager.io", "kind": "Issuer", "name": WEBHOOK_NAME},
        "privateKey": _KEY | {"rotationPolicy": "Never"},
        "secretName": WEBHOOK_NAME,
        "usages": ["digital signature", "cert sign", "server auth"],
    }


def _emit(kind: str, name: str, config: Config, spec: Json) -> Json:
    metadata = {
        "annotations": {ANNOTATION_HASH: _hash(json.dumps(spec, sort_keys=True))},
        "labels": {LABEL_MANAGED_BY: FIELD_MANAGER},
        "name": name,
        "namespace": str(config.namespace),
    }
    return {"apiVersion": _API, "kind": kind, "metadata": metadata, "spec": spec}


def _emit_config_map(namespace: Namespace, name: str, unit: str, data: Json) -> Json:
    metadata = {
        "annotations": {ANNOTATION_HASH: _hash(json.dumps(data, sort_keys=True))},
        "labels": {LABEL_MANAGED_BY: FIELD_MANAGER, LABEL_UNIT: unit},
        "name": name,
        "namespace": str(namespace),
    }
    return {"apiVersion": "v1", "data": data, "kind": "ConfigMap", "metadata": metadata}


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:_HASH_LENGTH]


def _write_duration(millis: Millis) -> str:
    """Return a duration as Go reads it: it knows no days."""
    seconds = millis // 1000
    unit, size = next((unit, size) for unit, size in (("h", 3600), ("m", 60), ("s", 1)) if seconds % size == 0)
    return f"{seconds // size}{unit}"


def _date(when: datetime) -> str:
    return when.strftime("%Y-%m-%dT%H:%M:%SZ")
