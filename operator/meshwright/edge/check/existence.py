"""Whether the control plane is there, and well: its Deployments, its pods, its Lease."""

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any

from meshwright import __version__
from meshwright.edge.check.clocks import read_time, say_span
from meshwright.edge.check.inquiry import DEPLOYMENTS, NAMESPACES, PODS, Inquiry
from meshwright.edge.check.installed import PROCESSES, deployment_name, read_flag
from meshwright.edge.check.outcome import Check, Finding, Group, Level
from meshwright.edge.check.pre import find_unserved
from meshwright.edge.client import Json
from meshwright.edge.operator import LEASE_NAME
from meshwright.edge.resources import LEASES
from meshwright.model.ref import Kind
from meshwright.parse.kinds import KINDS

LABEL_VERSION = "app.kubernetes.io/version"
SELECTOR = "app.kubernetes.io/part-of=meshwright"
RECENT = timedelta(hours=1)
"""A container that ended within it is talked of."""


async def look_at_namespace(inquiry: Inquiry) -> list[Finding]:
    name = inquiry.options.control_plane
    namespace = await inquiry.read(NAMESPACES, "", name)
    if namespace is None:
        return [Finding(what=f"namespace/{name}", found="there is none")]
    if namespace["metadata"].get("deletionTimestamp"):
        return [Finding(what=f"namespace/{name}", found="it is being deleted")]
    return []


async def look_for_deployments(inquiry: Inquiry) -> list[Finding]:
    home = inquiry.options.control_plane
    return [
        Finding(what=f"deployment/{deployment_name(process)}", found=f"there is none in namespace {home}")
        for process in PROCESSES
        if await inquiry.read(DEPLOYMENTS, home, deployment_name(process)) is None
    ]


async def look_at_readiness(inquiry: Inquiry) -> list[Finding]:
    """Find Deployments with fewer ready pods than wanted, or whose newest version is not rolled out, and say why."""
    home = inquiry.options.control_plane
    findings: list[Finding] = []
    for process in PROCESSES:
        name = deployment_name(process)
        deployment = await inquiry.read(DEPLOYMENTS, home, name)
        if deployment is None or _is_rolled_out(deployment):
            continue
        status = deployment.get("status") or {}
        wanted = _replicas(deployment)
        found = f"{status.get('readyReplicas') or 0} of {wanted} pods are ready"
        if wanted == 0:
            found = "it is scaled to 0"
        elif (status.get("readyReplicas") or 0) >= wanted:
            found = f"{status.get('updatedReplicas') or 0} of {wanted} pods are of its newest version"
        findings.append(
            Finding(what=f"deployment/{name}", found=found, fix=f"kubectl -n {home} describe deploy {name}")
        )
    if findings:
        for pod in await inquiry.list_all(PODS, home, SELECTOR):
            findings += find_stuck(pod)
    return findings


async def look_at_restarts(inquiry: Inquiry) -> list[Finding]:
    """Find containers of the control plane that ended within the last hour."""
    home = inquiry.options.control_plane
    now = await inquiry.now()
    return [
        finding
        for pod in await inquiry.list_all(PODS, home, SELECTOR)
        for status in container_statuses(pod)
        for finding in _find_restart(pod["metadata"]["name"], status, home, now)
    ]


async def look_at_versions(inquiry: Inquiry) -> list[Finding]:
    home = inquiry.options.control_plane
    findings = []
    for process in PROCESSES:
        deployment = await inquiry.read(DEPLOYMENTS, home, deployment_name(process)) or {}
        version = str(((deployment.get("metadata") or {}).get("labels") or {}).get(LABEL_VERSION) or "")
        if deployment and version != __version__:
            found = f"it is {f'version {version}' if version else 'of a version it does not say'}"
            fix = f"this program is {__version__}: upgrade the older one of the two"
            findings.append(Finding(what=f"deployment/{deployment_name(process)}", found=found, fix=fix))
    return findings


async def look_at_lease(inquiry: Inquiry) -> list[Finding]:
    """Find out whether somebody holds the Lease, and has renewed it in time."""
    home = inquiry.options.control_plane
    deployment = await inquiry.read(DEPLOYMENTS, home, deployment_name("operator"))
    name = read_flag(deployment, "--lease-name") or LEASE_NAME
    where = read_flag(deployment, "--lease-namespace") or home
    what = f"lease/{name} in {where}"
    lease = await inquiry.read(LEASES, where, name)
    if lease is None:
        return [Finding(what=what, found="there is none: no operator has ever led")]
    spec = lease.get("spec") or {}
    if not spec.get("holderIdentity"):
        return [Finding(what=what, found="nobody holds it")]
    renewed = read_time(spec.get("renewTime"))
    duration = timedelta(seconds=float(spec.get("leaseDurationSeconds") or 0))
    moment = await inquiry.moment()
    age = (await inquiry.now()) - renewed if renewed else None
    if age is None or age - moment.doubt > duration:
        since = f", last renewed {say_span(age)} ago" if age is not None else ", never renewed"
        return [Finding(what=what, found=f"{spec['holderIdentity']} held it{since}, and holds it no more")]
    return []


def find_stuck(pod: Json) -> Iterator[Finding]:
    """Yield why a pod that should run is not ready: what its containers wait for, or that no node takes it."""
    meta, status = pod["metadata"], pod.get("status") or {}
    what, where = f"pod/{meta['name']}", f"kubectl -n {meta.get('namespace')}"
    for condition in status.get("conditions") or ():
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            found = f"no node takes it: {condition.get('message') or condition.get('reason')}"
            yield Finding(what=what, found=found, fix=f"{where} describe pod {meta['name']}")
    for container in container_statuses(pod):
        name, state = container.get("name"), container.get("state") or {}
        if waiting := state.get("waiting"):
            reason = str(waiting.get("reason") or "")
            if reason in ("PodInitializing", "ContainerCreating"):
                continue
            is_crash = reason == "CrashLoopBackOff"
            fix = (
                f"{where} logs {meta['name']} -c {name} --previous"
                if is_crash
                else f"{where} describe pod {meta['name']}"
            )
            yield Finding(
                what=what, found=f"container {name} waits: {reason} {waiting.get('message') or ''}".strip(), fix=fix
            )
        elif state.get("running") and container.get("ready") is False:
            fix = f"{where} logs {meta['name']} -c {name}"
            yield Finding(what=what, found=f"container {name} runs and is not ready", fix=fix)


def container_statuses(pod: Json) -> Iterator[Mapping[str, Any]]:
    """Yield the statuses of a pod's containers: init containers first."""
    status = pod.get("status") or {}
    yield from status.get("initContainerStatuses") or ()
    yield from status.get("containerStatuses") or ()


def _find_restart(name: str, status: Mapping[str, Any], home: str, now: datetime) -> Iterable[Finding]:
    ended = (status.get("lastState") or {}).get("terminated") or {}
    at = read_time(ended.get("finishedAt"))
    if not status.get("restartCount") or at is None or now - at > RECENT:
        return
    why = f"{ended.get('reason') or 'for no given reason'}, exit code {ended.get('exitCode')}"
    times = f"it was started {status['restartCount']} times anew"
    found = f"container {status['name']} ended {say_span(now - at)} ago ({why}); {times}"
    yield Finding(what=f"pod/{name}", found=found, fix=f"kubectl -n {home} logs {name} -c {status['name']} --previous")


def _is_rolled_out(deployment: Json) -> bool:
    """Source: kubectl ``pkg/polymorphichelpers/rollout_status.go`` DeploymentStatusViewer."""
    status, wanted = deployment.get("status") or {}, _replicas(deployment)
    is_seen = (status.get("observedGeneration") or 0) >= (deployment["metadata"].get("generation") or 0)
    counts = (status.get("updatedReplicas") or 0, status.get("readyReplicas") or 0)
    return wanted > 0 and is_seen and min(counts) >= wanted


def _replicas(deployment: Json) -> int:
    found = (deployment.get("spec") or {}).get("replicas")
    return found if isinstance(found, int) else 1


async def look_at_definitions(inquiry: Inquiry) -> list[Finding]:
    """Find out which kinds of the Gateway API that we read are served."""
    return await _find_unserved(inquiry, Kind.HTTP_ROUTE.group)


async def look_at_policy_kinds(inquiry: Inquiry) -> list[Finding]:
    return await _find_unserved(inquiry, Kind.SERVER.group)


async def look_at_external_workloads(inquiry: Inquiry) -> list[Finding]:
    return await _find_unserved(inquiry, Kind.EXTERNAL_WORKLOAD.group)


async def _find_unserved(inquiry: Inquiry, group: str) -> list[Finding]:
    found = await asyncio.gather(*(find_unserved(inquiry, kind) for kind in KINDS if kind.group == group))
    return [finding for findings in found for finding in findings]


CHECKS = (
    Check(
        group=Group.EXISTENCE,
        description="the control plane's namespace is there",
        level=Level.FATAL,
        hint="install meshwright, or say where it is by --control-plane-namespace",
        look=look_at_namespace,
    ),
    Check(
        group=Group.EXISTENCE,
        description="operator, delivery and webhook are there",
        level=Level.FATAL,
        hint="install the chart, or say where it is by --control-plane-namespace",
        look=look_for_deployments,
        is_retried=True,
    ),
    Check(
        group=Group.EXISTENCE,
        description="the control plane's pods are ready",
        level=Level.FATAL,
        hint="a pod that is not ready says why in its log, or kubectl describe does",
        look=look_at_readiness,
        is_retried=True,
    ),
    Check(
        group=Group.EXISTENCE,
        description="the control plane's pods stay up",
        level=Level.WARNING,
        hint="a container that ends again and again is a fault: please report it with its log",
        look=look_at_restarts,
    ),
    Check(
        group=Group.EXISTENCE,
        description="the control plane is of this program's version",
        level=Level.WARNING,
        hint="what is checked here may have changed between versions",
        look=look_at_versions,
    ),
    Check(
        group=Group.EXISTENCE,
        description="an operator leads: the Lease is held",
        level=Level.ERROR,
        hint="without a leader nothing is compiled and nothing is renewed; look at the operators' logs",
        look=look_at_lease,
        is_retried=True,
    ),
    Check(
        group=Group.CRDS,
        description="the Gateway API is there, in versions that are read",
        level=Level.WARNING,
        hint="without it there are no routes, and everything else works: https://gateway-api.sigs.k8s.io/guides/",
        look=look_at_definitions,
    ),
    Check(
        group=Group.CRDS,
        description="the kinds of policy.linkerd.io are there, in versions that are read",
        level=Level.WARNING,
        hint="without them the default policy holds at every port; they are in the chart meshwright-crds",
        look=look_at_policy_kinds,
    ),
    Check(
        group=Group.CRDS,
        description="ExternalWorkloads are there, in a version that is read",
        level=Level.WARNING,
        hint="without it no machine outside the cluster joins; it is in the chart meshwright-crds",
        look=look_at_external_workloads,
    ),
)
