"""Pods, read for what the mesh must know of them, and nothing else."""

from collections.abc import Iterator, Mapping
from functools import lru_cache
from ipaddress import ip_address
from itertools import pairwise
from typing import Any

from meshwright.model.identity import ServiceAccount
from meshwright.model.injection import Mode
from meshwright.model.pod import PROXY_CONTAINER, REDIRECT_CONTAINER, AccessLog, Pod, PortRanges
from meshwright.model.ref import Kind, Ref
from meshwright.model.units import Namespace, Port
from meshwright.parse.access import DEFAULT_INBOUND_POLICY, read_access_policy
from meshwright.parse.ports import parse_port_list

Json = dict[str, Any]

_INJECT = ("meshwright.dev/inject", "linkerd.io/inject")
_SKIP_INBOUND = ("config.meshwright.dev/skip-inbound-ports", "config.linkerd.io/skip-inbound-ports")
_OPAQUE = ("config.meshwright.dev/opaque-ports", "config.linkerd.io/opaque-ports")
_ACCESS_LOG = ("config.meshwright.dev/access-log", "config.linkerd.io/access-log")
_ASKS_IDENTITY = (
    "config.meshwright.dev/proxy-require-identity-inbound-ports",
    "config.linkerd.io/proxy-require-identity-inbound-ports",
)
"""Of two annotations that say the same, our own prefix's counts; a word that is none counts as not said."""

_MODES = {mode.value: mode for mode in Mode}
_LOGS = {"apache": AccessLog.APACHE, "json": AccessLog.JSON, "none": AccessLog.NONE}
_ANNOTATIONS = (*_INJECT, *_SKIP_INBOUND, *_OPAQUE, *_ACCESS_LOG, *_ASKS_IDENTITY, *DEFAULT_INBOUND_POLICY)
_PROBES = ("livenessProbe", "readinessProbe", "startupProbe")
_SKIP_FLAG = "--skip-inbound-ports"
_ENDED = ("Succeeded", "Failed")


def parse_pod(raw: object) -> Pod:
    """Return the pod ``raw``. What is missing or of a wrong type counts as absent. Never raises.

    A pod that has ended has no addresses: its node gives them to another one while its status still lists them
    (kubernetes ``pkg/kubelet/kubelet_pods.go`` generateAPIPodStatus). The ports that an injected pod skips are those
    its init container was told, and the annotation's where that does not say.
    """
    meta, spec, status = (_object(_object(raw).get(name)) for name in ("metadata", "spec", "status"))
    annotations = _object(meta.get("annotations"))
    containers = tuple(_containers(spec))
    namespace = Namespace(_text(meta.get("namespace")))
    has_addresses = spec.get("hostNetwork") is not True and status.get("phase") not in _ENDED
    ports = _named_ports(containers)
    skipped = _skipped_by_init(containers)
    logs = (text.strip() for text in _said(annotations, _ACCESS_LOG))
    skip_said, opaque = _first(annotations, _SKIP_INBOUND), _first(annotations, _OPAQUE)
    labels = _object(meta.get("labels"))
    return Pod(
        ref=Ref(Kind.POD, namespace, _text(meta.get("name"))),
        uid=_text(meta.get("uid")),
        account=ServiceAccount(namespace, _text(spec.get("serviceAccountName")) or "default"),
        addresses=_addresses(status) if has_addresses else (),
        is_meshed=any(each.get("name") == PROXY_CONTAINER for each in containers),
        is_ingress=next((_MODES[text] for text in _said(annotations, _INJECT) if text in _MODES), None) is Mode.INGRESS,
        skipped_inbound=parse_port_list(skip_said or "", ports) if skipped is None else skipped,
        opaque=None if opaque is None else parse_port_list(opaque, ports),
        access_log=next((_LOGS[text] for text in logs if text in _LOGS), AccessLog.NONE),
        labels=_share(tuple(sorted((key, text) for key, text in labels.items() if isinstance(text, str)))),
        ports=_share(tuple(sorted({pair for each in containers for pair in _tcp_ports(each)}))),
        probes=_share(tuple(sorted({pair for each in containers for pair in _http_probes(each)}))),
        access=read_access_policy(annotations, []),
        asks_identity=parse_port_list(_first(annotations, _ASKS_IDENTITY) or "", ports),
    )


def trim_pod(raw: Json) -> Json:
    """Return what `parse_pod` reads of a pod, and what tells one state of it from another. Never raises.

    A pod is some ten kilobytes, and what this leaves is a few hundred bytes.
    """
    meta, spec, status = (_object(raw.get(name)) for name in ("metadata", "spec", "status"))
    annotations = _object(meta.get("annotations"))
    trimmed_spec = _keep(spec, "serviceAccountName", "hostNetwork")
    for name in ("containers", "initContainers"):
        trimmed_spec[name] = [_trim_container(each) for each in _objects(spec.get(name))]
    return {
        **_keep(raw, "apiVersion", "kind"),
        "metadata": {
            **_keep(meta, "name", "namespace", "uid", "resourceVersion"),
            "annotations": _keep(annotations, *_ANNOTATIONS),
            **_keep(meta, "labels"),
        },
        "spec": trimmed_spec,
        "status": _keep(status, "phase", "podIP", "podIPs"),
    }


def _trim_container(raw: Mapping[str, Any]) -> Json:
    kept = _keep(raw, "name", "restartPolicy")
    if named := [
        _keep(port, "name", "containerPort", "protocol") for port in _objects(raw.get("ports")) if port.get("name")
    ]:
        kept["ports"] = named
    for name in _PROBES:
        if get := _object(_object(raw.get(name)).get("httpGet")):
            kept[name] = {"httpGet": _keep(get, "port", "path", "scheme")}
    if raw.get("name") == REDIRECT_CONTAINER:
        kept |= _keep(raw, "command", "args")
    return kept


def _containers(spec: Mapping[str, Any]) -> Iterator[Json]:
    yield from _objects(spec.get("containers"))
    yield from _objects(spec.get("initContainers"))


def _named_ports(containers: tuple[Json, ...]) -> dict[str, Port]:
    """Return port numbers by name; of two ports with one name the first counts."""
    found: dict[str, Port] = {}
    for container in containers:
        for port in _objects(container.get("ports")):
            match port:
                case {"name": str(name), "containerPort": int(number)} if name and 1 <= number <= 65535:
                    found.setdefault(name, Port(number))
    return found


def _tcp_ports(container: Mapping[str, Any]) -> Iterator[tuple[str, Port]]:
    for port in _objects(container.get("ports")):
        match port:
            case {"name": str(name), "containerPort": int(number)} if name and 1 <= number <= 65535:
                if port.get("protocol", "TCP") == "TCP":
                    yield name, Port(number)


def _http_probes(container: Mapping[str, Any]) -> Iterator[tuple[Port, str]]:
    """Yield the port and path of every probe that is plain HTTP. The proxy's own do not pass it.

    Source: kubernetes ``pkg/probe/util.go`` ResolveContainerPort (a name of the container's own ports, else a number)
    and ``pkg/probe/http/request.go`` (the path); linkerd2 ``policy-controller/k8s/index/src/inbound/pod.rs``.
    """
    if container.get("name") == PROXY_CONTAINER:
        return
    names = dict(reversed(tuple(_tcp_ports(container))))
    for name in _PROBES:
        get = _object(_object(container.get(name)).get("httpGet"))
        port = get.get("port")
        if isinstance(port, str):
            port = names.get(port) or (int(port) if port.isascii() and port.isdecimal() and len(port) <= 5 else None)
        if get.get("scheme", "HTTP") == "HTTP" and type(port) is int and 1 <= port <= 65535:
            yield Port(port), f"/{_text(get.get('path')).partition('?')[0].removeprefix('/')}"


@lru_cache(maxsize=4096)
def _share(pairs: tuple[tuple[Any, Any], ...]) -> tuple[tuple[Any, Any], ...]:
    """Return an equal value, the same one for all who ask: pods of one Deployment are alike, and there are many."""
    return pairs


def _skipped_by_init(containers: tuple[Json, ...]) -> PortRanges | None:
    """Return the ports that the init container of an injected pod skips, ``None`` when it does not say."""
    for container in containers:
        if container.get("name") != REDIRECT_CONTAINER:
            continue
        words = [*_texts(container.get("command")), *_texts(container.get("args"))]
        for word, following in pairwise((*words, "")):
            if word == _SKIP_FLAG:
                return parse_port_list(following)
            if word.startswith(f"{_SKIP_FLAG}="):
                return parse_port_list(word.partition("=")[2])
    return None


def _addresses(status: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the pod's IPs in canonical form, in the order of its status, each once."""
    texts = [_text(each.get("ip")) for each in _objects(status.get("podIPs"))] or [_text(status.get("podIP"))]
    found: dict[str, None] = {}
    for text in texts:
        try:
            found[str(ip_address(text))] = None
        except ValueError:
            continue
    return tuple(found)


def _first(annotations: Mapping[str, Any], keys: tuple[str, ...]) -> str | None:
    return next(_said(annotations, keys), None)


def _said(annotations: Mapping[str, Any], keys: tuple[str, ...]) -> Iterator[str]:
    return (value for key in keys if isinstance(value := annotations.get(key), str))


def _keep(raw: Mapping[str, Any], *names: str) -> Json:
    return {name: raw[name] for name in names if name in raw}


def _object(value: object) -> Json:
    return value if isinstance(value, dict) else {}


def _objects(value: object) -> tuple[Json, ...]:
    return tuple(each for each in value if isinstance(each, dict)) if isinstance(value, list) else ()


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _texts(value: object) -> tuple[str, ...]:
    return tuple(each for each in value if isinstance(each, str)) if isinstance(value, list) else ()
