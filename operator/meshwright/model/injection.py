"""What is decided about giving a pod its proxy: what was asked for, what the installation says, what came of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from meshwright.model.desired import Json
from meshwright.model.identity import TrustDomain
from meshwright.model.pod import PortRanges
from meshwright.model.problem import Problem
from meshwright.model.units import Millis, Namespace

TEMPLATES: Mapping[tuple[str, str], tuple[str, ...]] = {
    ("", "Pod"): (),
    ("", "ReplicationController"): ("spec", "template"),
    ("apps", "Deployment"): ("spec", "template"),
    ("apps", "StatefulSet"): ("spec", "template"),
    ("apps", "DaemonSet"): ("spec", "template"),
    ("apps", "ReplicaSet"): ("spec", "template"),
    ("batch", "Job"): ("spec", "template"),
    ("batch", "CronJob"): ("spec", "jobTemplate", "spec", "template"),
}
"""Where each kind (by API group and word) keeps what its pods are made of; of a Pod that is itself."""


_NO_PORTS = PortRanges()


class Mode(StrEnum):
    """What ``linkerd.io/inject`` asks for. ``INGRESS``: the proxy of an ingress controller, which routes by headers.

    Source: linkerd2 ``pkg/k8s/labels.go`` ProxyInjectAnnotation.
    """

    ENABLED = "enabled"
    INGRESS = "ingress"
    DISABLED = "disabled"


class Skip(StrEnum):
    """Why a pod gets no proxy: the CamelCase word of it, for events and metrics."""

    NOT_ASKED = "NotAsked"
    DISABLED = "Disabled"
    UNREADABLE = "Unreadable"
    EXCLUDED_NAMESPACE = "ExcludedNamespace"
    CONTROL_PLANE = "ControlPlane"
    ALREADY_INJECTED = "AlreadyInjected"
    OTHER_MESH = "OtherMesh"
    HOST_NETWORK = "HostNetwork"
    STATIC_POD = "StaticPod"
    NOT_LINUX = "NotLinux"
    NAME_CLASH = "NameClash"
    PORT_CLASH = "PortClash"
    UID_CLASH = "UidClash"


@dataclass(frozen=True, slots=True, kw_only=True)
class Amounts:
    """What a container may use, by Kubernetes' quantities (``100m``, ``64Mi``): sorted pairs of resource and amount."""

    requests: tuple[tuple[str, str], ...] = ()
    limits: tuple[tuple[str, str], ...] = ()


_NO_AMOUNTS = Amounts()


@dataclass(frozen=True, slots=True, kw_only=True)
class Injection:
    """What a pod's annotations, its namespace's and the installation's defaults come to.

    ``mode``: ``None`` when nobody says. ``image`` and ``version`` (a tag) are ``""`` when nobody says.
    ``cores``: how many threads suit what the proxy may use, ``None`` when that is not said. ``grace_ms``: how long
    connections may go on once it is asked to stop, ``None`` when nobody says. ``exit_delay_seconds``: how long it waits
    before it begins to stop. ``waits_for_proxy``: the application starts once the proxy is ready. ``carried``:
    annotations that the pod lacks and shall have: who reads a pod sees no namespace.
    ``problems``: those of the pod's annotations, ``namespace_problems`` of its namespace's.
    """

    mode: Mode | None = None
    skip_inbound: PortRanges = _NO_PORTS
    skip_outbound: PortRanges = _NO_PORTS
    skip_subnets: tuple[str, ...] = ()
    amounts: Amounts = _NO_AMOUNTS
    cores: int | None = None
    log_level: str = "warning"
    access_log: str = ""
    image: str = ""
    version: str = ""
    pull_policy: str = "IfNotPresent"
    is_native: bool = True
    waits_for_proxy: bool = True
    grace_ms: Millis | None = None
    exit_delay_seconds: int = 0
    carried: tuple[tuple[str, str], ...] = ()
    problems: tuple[Problem, ...] = ()
    namespace_problems: tuple[Problem, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class InjectionSettings:
    """What an installation decides for all pods.

    ``image``: with its tag or digest; annotations may name another. ``xds`` and ``signing`` are ``HOST:PORT``.
    ``version`` is what the pod is marked with. ``defaults``: texts by an annotation's name without its prefix
    (``proxy-cpu-request``), for pods where neither they nor their namespace say otherwise. ``excluded``: namespaces
    where no pod gets a proxy. ``redirect_mode``: ``auto``, ``nft`` or ``legacy``. ``concurrency``: threads of a proxy
    whose CPU nobody limits. ``follows_namespace``: the default inbound policy of pods that do not say is their
    namespace's as it is now, and so is not written on them. ``has_scrape_annotations``: pods that say nothing of
    Prometheus bear where it finds the proxy's metrics.
    """

    trust: TrustDomain
    image: str
    version: str
    xds: str
    signing: str
    defaults: Mapping[str, str] = field(default_factory=dict)
    excluded: tuple[Namespace, ...] = (Namespace("kube-system"), Namespace("kube-public"), Namespace("kube-node-lease"))
    redirect_mode: str = "auto"
    concurrency: int = 1
    follows_namespace: bool = False
    has_scrape_annotations: bool = False
    inbound_port: int = 4143
    outbound_port: int = 4140
    admin_port: int = 4191


@dataclass(frozen=True, slots=True, kw_only=True)
class Injected:
    """What came of it. ``manifest`` is the object, changed or as it was; ``skip`` says why it is as it was, with
    ``message`` in words for people. ``warnings``: what in it is not as its author may think."""

    manifest: Json
    skip: Skip | None = None
    message: str = ""
    warnings: tuple[str, ...] = ()


def find_template(manifest: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Return the path to what an object's pods are made of, ``None`` when it makes none. Never raises."""
    version, kind = manifest.get("apiVersion"), manifest.get("kind")
    if not isinstance(version, str) or not isinstance(kind, str):
        return None
    return TEMPLATES.get((version.rpartition("/")[0], kind))


def read_path(manifest: object, path: tuple[str, ...]) -> Any:
    """Return what stands at ``path``, ``None`` when nothing does. Never raises."""
    for name in path:
        manifest = manifest.get(name) if isinstance(manifest, dict) else None
    return manifest
