"""Which pods cannot have a proxy, and why. A pod that would break, or only seem to be meshed, is left alone."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from meshwright.emit.sidecar import VOLUMES
from meshwright.model.injection import InjectionSettings, Skip
from meshwright.model.pod import PROXY_CONTAINER, PROXY_UID, REDIRECT_CONTAINER
from meshwright.model.units import Namespace

OTHER_MESHES: Mapping[str, str] = {
    "linkerd-proxy": "Linkerd",
    "linkerd-init": "Linkerd",
    "istio-proxy": "Istio",
    "istio-init": "Istio",
    "istio-validation": "Istio",
    "kuma-sidecar": "Kuma",
    "kuma-init": "Kuma",
    "consul-dataplane": "Consul",
    "consul-connect-inject-init": "Consul",
    "osm-init": "Open Service Mesh",
    "proxyinit": "AWS App Mesh",
}
"""Whose sidecar or init container has which name: two meshes in one pod would redirect to each other."""

_IMAGES: Mapping[str, str] = {
    "/linkerd/proxy:": "Linkerd",
    "/linkerd/proxy-init:": "Linkerd",
    "istio-release/proxyv2:": "Istio",
    "istio/proxyv2:": "Istio",
}
_MIRROR = "kubernetes.io/config.mirror"

Found = tuple[Skip, str]


def find_unfit(template: Mapping[str, Any], settings: InjectionSettings, namespace: Namespace) -> Found | None:
    """Return why a pod with this template can have no proxy, and that in words; ``None`` when it can.

    The template is well shaped (see `find_misshape`).
    """
    return next(_find(template, settings, namespace), None)


def _find(template: Mapping[str, Any], settings: InjectionSettings, namespace: Namespace) -> Iterator[Found]:
    metadata, spec = template.get("metadata") or {}, template["spec"]
    containers = list(_containers(spec))
    names = {container["name"] for container in containers}
    if namespace == settings.trust.control_plane:
        yield Skip.CONTROL_PLANE, f"namespace {namespace} is the control plane's own, which starts without itself"
    if namespace in settings.excluded:
        yield Skip.EXCLUDED_NAMESPACE, f"no pod of namespace {namespace} gets a proxy"
    if PROXY_CONTAINER in names:
        version = (metadata.get("annotations") or {}).get("meshwright.dev/proxy-version", "unknown")
        yield Skip.ALREADY_INJECTED, f"it has a proxy already, version {version}"
    if mesh := _find_mesh(containers):
        yield Skip.OTHER_MESH, f"it has the sidecar of {mesh}"
    if spec.get("hostNetwork") is True:
        yield Skip.HOST_NETWORK, "hostNetwork: true; its connections are the node's, which cannot be redirected"
    is_static = any(owner.get("kind") == "Node" for owner in metadata.get("ownerReferences") or ())
    if is_static or _MIRROR in (metadata.get("annotations") or {}):
        yield Skip.STATIC_POD, "it is a static pod: the kubelet runs what is in its file, not what is stored"
    if _is_windows(spec):
        yield Skip.NOT_LINUX, "it runs on Windows"
    yield from _find_clashes(spec, containers, names, settings)


def _find_clashes(
    spec: Mapping[str, Any], containers: Iterable[Mapping[str, Any]], names: set[str], settings: InjectionSettings
) -> Iterator[Found]:
    if REDIRECT_CONTAINER in names:
        yield Skip.NAME_CLASH, f'a container is called "{REDIRECT_CONTAINER}"; rename it'
    for volume in spec.get("volumes") or ():
        if volume["name"] in VOLUMES:
            yield Skip.NAME_CLASH, f'a volume is called "{volume["name"]}"; rename it'
    ours = (settings.inbound_port, settings.outbound_port, settings.admin_port)
    for container in containers:
        for port in container.get("ports") or ():
            if port.get("containerPort") in ours and port.get("protocol", "TCP") == "TCP":
                number = port["containerPort"]
                yield Skip.PORT_CLASH, f'container "{container["name"]}" has port {number}, which is the proxy\'s'
    for whose, context in (("the pod", spec), *((f'container "{each["name"]}"', each) for each in containers)):
        if (context.get("securityContext") or {}).get("runAsUser") == PROXY_UID:
            yield (
                Skip.UID_CLASH,
                f"{whose} runs as user {PROXY_UID}, whose connections are not redirected; take another",
            )


def find_misshape(template: object) -> str:
    """Return the first field of a pod that is not what Kubernetes has there, ``""`` when all that is read is well."""
    if not isinstance(template, dict):
        return "metadata"
    return next(_find_misshapes(template), "")


def _find_misshapes(template: Mapping[str, Any]) -> Iterator[str]:
    metadata, spec = template.get("metadata"), template.get("spec")
    if metadata is not None and not isinstance(metadata, dict):
        yield "metadata"
    for name in ("annotations", "labels"):
        found = (metadata or {}).get(name)
        if found is not None and not isinstance(found, dict):
            yield f"metadata.{name}"
    owners = (metadata or {}).get("ownerReferences")
    if owners is not None and not _are_objects(owners):
        yield "metadata.ownerReferences"
    if not isinstance(spec, dict):
        yield "spec"
        return
    if not isinstance(spec.get("containers"), list) or not spec["containers"]:
        yield "spec.containers"
        return
    yield from _find_in_spec(spec)


def _find_in_spec(spec: Mapping[str, Any]) -> Iterator[str]:
    for name in ("nodeSelector", "os", "resources", "securityContext"):
        if spec.get(name) is not None and not isinstance(spec[name], dict):
            yield f"spec.{name}"
    for part in ("containers", "initContainers", "volumes"):
        found = spec.get(part)
        if found is None:
            continue
        if not _are_objects(found):
            yield f"spec.{part}"
            continue
        for index, each in enumerate(found):
            where = f"spec.{part}[{index}]"
            if not isinstance(each.get("name"), str):
                yield f"{where}.name"
            if part == "volumes":
                continue
            if each.get("ports") is not None and not _are_objects(each["ports"]):
                yield f"{where}.ports"
            if each.get("securityContext") is not None and not isinstance(each["securityContext"], dict):
                yield f"{where}.securityContext"


def _are_objects(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(each, dict) for each in value)


def _containers(spec: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield from spec.get("initContainers") or ()
    yield from spec["containers"]


def _find_mesh(containers: Iterable[Mapping[str, Any]]) -> str:
    for container in containers:
        if container["name"] in OTHER_MESHES:
            return OTHER_MESHES[container["name"]]
        image = str(container.get("image"))
        for part, mesh in _IMAGES.items():
            if part in image:
                return mesh
    return ""


def _is_windows(spec: Mapping[str, Any]) -> bool:
    words = ((spec.get("os") or {}).get("name"), (spec.get("nodeSelector") or {}).get("kubernetes.io/os"))
    return any(isinstance(word, str) and word.lower() == "windows" for word in words)
