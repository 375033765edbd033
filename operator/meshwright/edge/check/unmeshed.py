"""Who was missed: pods that should have a proxy and have none, and why, as far as it can be told afterwards."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from meshwright import __version__
from meshwright.edge.check.clocks import read_time
from meshwright.edge.check.inquiry import DEPLOYMENTS, NAMESPACES, PODS, Inquiry
from meshwright.edge.check.installed import deployment_name, read_flag, read_installed
from meshwright.edge.check.outcome import Check, Finding, Group, Level
from meshwright.edge.client import Json
from meshwright.edge.injection import inject_object
from meshwright.model.injection import InjectionSettings, Mode, Skip
from meshwright.model.pod import REDIRECT_CONTAINER
from meshwright.model.units import Namespace
from meshwright.parse.injection import INJECT, parse_injection

ENDED = ("Succeeded", "Failed")
ENFORCE = "pod-security.kubernetes.io/enforce"
_NOT_MEANT = (Skip.NOT_ASKED, Skip.DISABLED, Skip.ALREADY_INJECTED, Skip.CONTROL_PLANE, Skip.EXCLUDED_NAMESPACE)


async def look_for_unmeshed(inquiry: Inquiry) -> list[Finding]:
    """Find pods that should have a proxy and have none, each with the reason, as far as it can be told afterwards."""
    settings = await _read_settings(inquiry)
    wanted = inquiry.options.namespace
    namespaces = {raw["metadata"]["name"]: raw for raw in await inquiry.list_all(NAMESPACES)}
    findings = []
    for pod in await inquiry.list_all(PODS, wanted):
        namespace = namespaces.get(pod["metadata"]["namespace"])
        phase = (pod.get("status") or {}).get("phase")
        if namespace is None or phase in ENDED or pod["metadata"].get("deletionTimestamp"):
            continue
        if (why := _explain_unmeshed(pod, namespace, settings)) is not None:
            meta = pod["metadata"]
            findings.append(Finding(what=f"pod/{meta['name']} in {meta['namespace']}", found=why[0], fix=why[1]))
    return findings


async def look_at_pod_security(inquiry: Inquiry) -> list[Finding]:
    """Find meshed namespaces whose Pod Security standard refuses the proxy's init container.

    Pods that were never made cannot be found; only their ReplicaSets' events tell of them.

    Source: kubernetes/website ``docs/concepts/security/pod-security-admission`` (the label; baseline's capabilities).
    """
    settings = await _read_settings(inquiry)
    wanted = inquiry.options.namespace
    findings = []
    for raw in await inquiry.list_all(NAMESPACES):
        meta = raw["metadata"]
        name, standard = meta["name"], (meta.get("labels") or {}).get(ENFORCE)
        is_meshed = parse_injection({}, meta.get("annotations"), {}).mode in (Mode.ENABLED, Mode.INGRESS)
        if standard not in ("baseline", "restricted") or not is_meshed or wanted not in ("", name):
            continue
        if name in settings.excluded or name == settings.trust.control_plane or meta.get("deletionTimestamp"):
            continue
        found = f"it enforces the Pod Security standard {standard}, which refuses {REDIRECT_CONTAINER}: no pod is made"
        fix = f"kubectl label namespace {name} {ENFORCE}=privileged --overwrite"
        findings.append(Finding(what=f"namespace/{name}", found=found, fix=fix))
    return findings


def _explain_unmeshed(pod: Json, namespace: Json, settings: InjectionSettings) -> tuple[str, str] | None:
    """Return why a pod has no proxy, and what to do; ``None`` when it has one, or shall have none."""
    name = Namespace(namespace["metadata"]["name"])
    annotations = namespace["metadata"].get("annotations") or {}
    came = inject_object(pod, annotations, settings, namespace=name)
    if came.skip in _NOT_MEANT:
        return None
    if came.skip is not None:
        return (
            f"it can have no proxy: {came.message}",
            f'say that this is meant: "{INJECT[1]}: disabled" in its template',
        )
    own = (pod["metadata"].get("annotations") or {}).keys() & set(INJECT)
    since = None if own else _annotated_at(namespace)
    made = read_time(pod["metadata"].get("creationTimestamp"))
    if since is not None and made is not None and made < since:
        return "it is older than the namespace's annotation", _restart(pod)
    return "the webhook did not change it: it was away when the pod was made, or is not asked", _restart(pod)


def _annotated_at(namespace: Json) -> datetime | None:
    """Return when who set the annotation last changed what it owns: the annotation is at most as young.

    Source: kubernetes/apimachinery ``pkg/apis/meta/v1/types.go`` ManagedFieldsEntry.
    """
    times = [
        time
        for entry in namespace["metadata"].get("managedFields") or ()
        if any(
            f"f:{key}" in (((entry.get("fieldsV1") or {}).get("f:metadata") or {}).get("f:annotations") or {})
            for key in INJECT
        )
        and (time := read_time(entry.get("time"))) is not None
    ]
    return max(times, default=None)


def _restart(pod: Json) -> str:
    """Return the command that has a pod made anew."""
    meta = pod["metadata"]
    owner: Mapping[str, Any] = next((each for each in meta.get("ownerReferences") or () if each.get("controller")), {})
    kind, name = str(owner.get("kind") or ""), str(owner.get("name") or "")
    if kind == "ReplicaSet" and (digest := (meta.get("labels") or {}).get("pod-template-hash")):
        kind, name = "Deployment", name.removesuffix(f"-{digest}")
    if kind in ("Deployment", "StatefulSet", "DaemonSet"):
        return f"kubectl -n {meta['namespace']} rollout restart {kind.lower()}/{name}"
    if kind == "Job":
        return "it is a Job's: the next run gets a proxy"
    return f"delete it and create it anew: kubectl -n {meta['namespace']} delete pod {meta['name']}"


async def _read_settings(inquiry: Inquiry) -> InjectionSettings:
    """Return what the webhook was told, as far as it decides who gets a proxy."""
    installed = await read_installed(inquiry)
    webhook = await inquiry.read(DEPLOYMENTS, inquiry.options.control_plane, deployment_name("webhook"))
    excluded = read_flag(webhook, "--excluded-namespaces") or "kube-system,kube-public,kube-node-lease"
    return InjectionSettings(
        trust=installed.trust,
        image=installed.image,
        version=__version__,
        xds="",
        signing="",
        excluded=tuple(Namespace(name.strip()) for name in excluded.split(",")),
    )


CHECKS = (
    Check(
        group=Group.WEBHOOK,
        description="meshed namespaces let the proxy's init container in",
        level=Level.ERROR,
        hint="it needs NET_ADMIN and NET_RAW, which only the standard privileged admits",
        look=look_at_pod_security,
    ),
    Check(
        group=Group.WEBHOOK,
        description="every pod that should have a proxy has one",
        level=Level.WARNING,
        hint="a pod gets its proxy when it is made, never later",
        look=look_for_unmeshed,
    ),
)
