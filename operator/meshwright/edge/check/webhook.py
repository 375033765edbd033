"""Whether pods get their proxies: the webhook's configuration, its certificate, its answer."""

import base64
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

from meshwright.edge.check import unmeshed
from meshwright.edge.check.clocks import say_span
from meshwright.edge.check.inquiry import DEPLOYMENTS, NAMESPACES, PODS, SECRETS, WEBHOOKS, Inquiry
from meshwright.edge.check.installed import deployment_name
from meshwright.edge.check.keeper import LATE_RATIO
from meshwright.edge.check.outcome import Check, Finding, Group, Level
from meshwright.edge.client import ApiError, Json
from meshwright.emit.issuer import WEBHOOK_NAME, WEBHOOK_SERVICE
from meshwright.link.trust import MIN_LIFE_RATIO, chain_to_anchor
from meshwright.model.identity import Certificate
from meshwright.model.injection import Mode
from meshwright.model.pod import PROXY_CONTAINER
from meshwright.parse.certificate import parse_certificates, parse_issuer_secret
from meshwright.parse.injection import INJECT

_PAUSE = "registry.k8s.io/pause:3.10"


async def look_for_configuration(inquiry: Inquiry) -> list[Finding]:
    """Find the configurations that send pods to our Service: there should be one."""
    found = await _find_webhooks(inquiry)
    what = f"the webhook of service/{WEBHOOK_SERVICE}"
    if not found:
        return [Finding(what=what, found="no MutatingWebhookConfiguration names it")]
    if len(found) > 1:
        names = ", ".join(sorted({name for name, _ in found}))
        return [
            Finding(
                what=what, found=f"it is named {len(found)} times: in {names}", fix="delete those that are left over"
            )
        ]
    return []


async def look_at_bundle(inquiry: Inquiry) -> list[Finding]:
    """Find out whether the CA bundle of the configuration has the authorities of the webhook's Secret.

    That it has others, too, is well: one that was replaced stays believed for a while.
    """
    home = inquiry.options.control_plane
    secret = await inquiry.read(SECRETS, home, WEBHOOK_NAME)
    if secret is None:
        return [Finding(what=f"secret/{WEBHOOK_NAME}", found=f"there is none in namespace {home}")]
    wanted = {each.fingerprint for each in parse_issuer_secret(secret).anchors}
    findings = []
    for name, webhook in await _find_webhooks(inquiry):
        what = f"mutatingwebhookconfiguration/{name}"
        bundle, broken = _read_bundle(webhook)
        if not bundle:
            found = "its caBundle cannot be read" if broken else "it has no caBundle"
            findings.append(Finding(what=what, found=f"{found}: the API server believes no answer"))
        elif not wanted <= {each.fingerprint for each in bundle}:
            findings.append(Finding(what=what, found=f"its caBundle lacks what ca.crt of secret/{WEBHOOK_NAME} has"))
    return findings


async def look_at_certificate(inquiry: Inquiry) -> list[Finding]:
    """Verify the webhook's certificate as the API server does: by chain, time and name, and that its key fits."""
    home = inquiry.options.control_plane
    secret = await inquiry.read(SECRETS, home, WEBHOOK_NAME)
    what = f"secret/{WEBHOOK_NAME}"
    if secret is None:
        return [Finding(what=what, found=f"there is none in namespace {home}")]
    now = await inquiry.now()
    read = parse_issuer_secret(secret)
    findings = [Finding(what=what, found=str(problem)) for problem in read.problems]
    if not read.chain:
        return findings
    first, name = read.chain[0], f"{WEBHOOK_SERVICE}.{home}.svc"
    findings += [Finding(what=what, found=found) for found in _judge_times(first, now)]
    if name not in first.dns_names:
        said = ", ".join(first.dns_names) or "no name"
        findings.append(Finding(what=what, found=f"its certificate is for {said}, and the API server asks for {name}"))
    for configuration, webhook in await _find_webhooks(inquiry):
        bundle, _ = _read_bundle(webhook)
        if bundle and first.not_before <= now <= first.not_after and chain_to_anchor(read.chain, bundle, now) is None:
            found = f"its certificate does not hang from the caBundle of {configuration}"
            findings.append(Finding(what=what, found=found))
    return findings


async def look_at_rest(inquiry: Inquiry) -> list[Finding]:
    """Find out whether the webhook's certificate should have been renewed by now."""
    secret = await inquiry.read(SECRETS, inquiry.options.control_plane, WEBHOOK_NAME)
    now = await inquiry.now()
    findings = []
    for first in parse_issuer_secret(secret or {}).chain[:1]:
        life, rest = first.not_after - first.not_before, first.not_after - now
        if 0 <= rest.total_seconds() < (life * (MIN_LIFE_RATIO - LATE_RATIO)).total_seconds():
            found = f"its certificate ends in {say_span(rest)}, of the {say_span(life)} that it lives"
            findings.append(Finding(what=f"secret/{WEBHOOK_NAME}", found=found))
    return findings


async def look_at_answer(inquiry: Inquiry) -> list[Finding]:
    """Have the API server try a pod, without making it, and look whether it would have a proxy."""
    namespace = await _find_meshed_namespace(inquiry)
    what = f"a pod tried in namespace {namespace}"
    try:
        answer = await inquiry.try_create(PODS, _probe_pod(namespace))
    except ApiError as error:
        message = str(error.body.get("message") or error)
        fix = ""
        if "PodSecurity" in message:
            label = f"{unmeshed.ENFORCE}=privileged"
            fix = f"the init container needs NET_ADMIN: kubectl label namespace {namespace} {label} --overwrite"
        return [Finding(what=what, found=f"the API server refuses it: {message}", fix=fix)]
    if PROXY_CONTAINER in _container_names(answer):
        return []
    return [Finding(what=what, found="it got no proxy: the webhook was not asked, or gave no answer that is believed")]


async def look_at_policy(inquiry: Inquiry) -> list[Finding]:
    """Find what would keep pods of others from starting while the webhook is away."""
    home = inquiry.options.control_plane
    findings = []
    for name, webhook in await _find_webhooks(inquiry):
        if webhook.get("failurePolicy") != "Fail":
            continue
        what = f"mutatingwebhookconfiguration/{name}"
        for namespace in (home, "kube-system"):
            if _selects(webhook.get("namespaceSelector") or {}, {"kubernetes.io/metadata.name": namespace}):
                found = f"failurePolicy is Fail, and it takes pods of {namespace}, too: without it none starts there"
                findings.append(Finding(what=what, found=found, fix=f"leave {namespace} out in its namespaceSelector"))
        deployment = await inquiry.read(DEPLOYMENTS, home, deployment_name("webhook")) or {}
        if (ready := (deployment.get("status") or {}).get("readyReplicas") or 0) < 2:
            found = (
                f"failurePolicy is Fail, and {ready} replica of the webhook is ready: without it no pod starts anywhere"
            )
            findings.append(Finding(what=what, found=found, fix="webhook.replicas=2 or more in the chart's values"))
    return findings


async def _find_webhooks(inquiry: Inquiry) -> list[tuple[str, Json]]:
    """Return the webhooks that our Service answers, each with its configuration's name."""
    home = inquiry.options.control_plane
    found = []
    for configuration in await inquiry.list_all(WEBHOOKS):
        for webhook in configuration.get("webhooks") or ():
            service = (webhook.get("clientConfig") or {}).get("service") or {}
            if (service.get("namespace"), service.get("name")) == (home, WEBHOOK_SERVICE):
                found.append((str(configuration["metadata"]["name"]), webhook))
    return found


def _read_bundle(webhook: Json) -> tuple[tuple[Certificate, ...], bool]:
    """Return the certificates of a webhook's caBundle, and whether there is one that cannot be read."""
    text = (webhook.get("clientConfig") or {}).get("caBundle")
    if not text:
        return (), False
    try:
        found, problems = parse_certificates(base64.b64decode(text), "caBundle")
    except ValueError:
        return (), True
    return found, bool(problems)


def _judge_times(certificate: Certificate, now: datetime) -> Iterator[str]:
    if now < certificate.not_before:
        yield f"its certificate is valid only in {say_span(certificate.not_before - now)}"
    if now > certificate.not_after:
        yield f"its certificate ended {say_span(now - certificate.not_after)} ago"


async def _find_meshed_namespace(inquiry: Inquiry) -> str:
    """Return a namespace where pods are meshed, else ``default``."""
    if inquiry.options.namespace:
        return inquiry.options.namespace
    home = inquiry.options.control_plane
    modes = {Mode.ENABLED.value, Mode.INGRESS.value}
    return next(
        (
            str(raw["metadata"]["name"])
            for raw in await inquiry.list_all(NAMESPACES)
            if raw["metadata"]["name"] != home
            and not raw["metadata"].get("deletionTimestamp")
            and modes & {(raw["metadata"].get("annotations") or {}).get(key) for key in INJECT}
        ),
        "default",
    )


def _probe_pod(namespace: str) -> Json:
    """Return a pod that the strictest namespace takes, and that asks for a proxy."""
    container = {
        "name": "check",
        "image": _PAUSE,
        "resources": {name: {"cpu": "1m", "memory": "1Mi"} for name in ("requests", "limits")},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "generateName": "meshwright-check-",
            "namespace": namespace,
            "annotations": {INJECT[1]: Mode.ENABLED.value},
        },
        "spec": {
            "containers": [container],
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 65532,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
        },
    }


def _container_names(pod: Json) -> set[str]:
    spec = pod.get("spec") or {}
    return {str(each.get("name")) for part in ("initContainers", "containers") for each in spec.get(part) or ()}


def _selects(selector: Json, labels: Mapping[str, str]) -> bool:
    """Return whether a label selector takes an object with these labels (kubernetes/apimachinery ``LabelSelector``)."""

    def holds(term: Mapping[str, Any]) -> bool:
        value, values = labels.get(str(term.get("key"))), term.get("values") or ()
        match term.get("operator"):
            case "In":
                return value in values
            case "NotIn":
                return value not in values
            case "Exists":
                return value is not None
            case _:
                return value is None

    terms: Iterable[Mapping[str, Any]] = selector.get("matchExpressions") or ()
    exact: Mapping[str, str] = selector.get("matchLabels") or {}
    return all(holds(term) for term in terms) and all(labels.get(key) == value for key, value in exact.items())


CHECKS = (
    Check(
        group=Group.WEBHOOK,
        description="the API server sends pods to the webhook",
        level=Level.FATAL,
        hint="the chart has the MutatingWebhookConfiguration: install it anew",
        look=look_for_configuration,
        is_retried=True,
    ),
    Check(
        group=Group.WEBHOOK,
        description="the API server believes the webhook's Secret",
        level=Level.ERROR,
        hint="the operator fills it in, within seconds; look at its log",
        look=look_at_bundle,
        is_retried=True,
    ),
    Check(
        group=Group.WEBHOOK,
        description="the webhook's certificate is valid, for its name",
        level=Level.ERROR,
        hint=f"whoever makes it makes a new one when its Secret is deleted: kubectl delete secret {WEBHOOK_NAME}",
        look=look_at_certificate,
        is_retried=True,
    ),
    Check(
        group=Group.WEBHOOK,
        description="the webhook's certificate was renewed in time",
        level=Level.WARNING,
        hint="look at its Certificate, or at the operator's log if the operator makes it",
        look=look_at_rest,
    ),
    Check(
        group=Group.WEBHOOK,
        description="a new pod gets a proxy",
        level=Level.ERROR,
        hint="look at the webhook's log, and at the API server's for calls to it that failed",
        look=look_at_answer,
        is_retried=True,
    ),
    Check(
        group=Group.WEBHOOK,
        description="the cluster lives on without the webhook",
        level=Level.WARNING,
        hint="webhook.failurePolicy in the chart's values: Ignore lets pods start without a proxy, Fail lets none",
        look=look_at_policy,
    ),
    *unmeshed.CHECKS,
)
