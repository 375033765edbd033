"""A pod with its proxy, and without it again. Works on a Pod and on everything that makes pods.

What was added is written on the pod, so that it can be taken away without a trace.

Probes stay as they are: the kubelet's requests come in plaintext, and the inbound proxy passes them on. One kind says
less than before: ``tcpSocket`` finds the proxy's listener, which takes connections whatever the application does. Write
``httpGet``, ``grpc`` or ``exec``, or name the port in ``skip-inbound-ports``.

Source of the skips: linkerd2 ``pkg/inject/report.go`` Injectable, ``pkg/healthcheck/sidecar.go`` HasExistingSidecars.
"""

import json
from collections.abc import Iterator, Mapping
from copy import copy, deepcopy
from dataclasses import replace
from typing import Any

from meshwright.emit.sidecar import VOLUMES, emit_proxy, emit_redirect, emit_volumes
from meshwright.emit.unfit import find_misshape, find_unfit
from meshwright.model.desired import Json
from meshwright.model.injection import (
    Amounts,
    Injected,
    Injection,
    InjectionSettings,
    Mode,
    Skip,
    find_template,
    read_path,
)
from meshwright.model.pod import PROXY_CONTAINER, REDIRECT_CONTAINER
from meshwright.model.units import Namespace

LABEL_CONTROL_PLANE = "meshwright.dev/control-plane-ns"
ANNOTATION_VERSION = "meshwright.dev/proxy-version"
ANNOTATION_INJECTED = "meshwright.dev/injected"
ANNOTATION_DEFAULT_CONTAINER = "kubectl.kubernetes.io/default-container"
ANNOTATION_INJECT = "linkerd.io/inject"

_SCRAPE = "prometheus.io/"
"""What a scrape configuration that goes by annotations reads: whether, at which port and path. A convention, in
prometheus ``documentation/examples/prometheus-kubernetes.yml``; a pod has one of each."""

_OURS = (REDIRECT_CONTAINER, PROXY_CONTAINER)
_REPLACED = (ANNOTATION_VERSION, ANNOTATION_INJECTED, ANNOTATION_INJECT)
"""What is written even where somebody has written something else: the mode is, when what stands there says nothing."""

_USUAL_GRACE_SECONDS = 30
"""Source: kubernetes/api ``core/v1/types.go`` DefaultTerminationGracePeriodSeconds."""

_PLACES = ("metadata", "metadata.annotations", "metadata.labels", "spec.initContainers", "spec.volumes")
"""What a pod may lack and an injected one has, outer before inner."""


def inject(
    manifest: Json,
    injection: Injection,
    settings: InjectionSettings,
    *,
    namespace: Namespace,
    asked: Mode | None = None,
) -> Injected:
    """Return the object with a proxy in its pods, or as it is and why. ``manifest`` is not changed. Never raises.

    ``namespace``: where it is, or will be. ``asked``: what counts where neither pod nor namespace say anything.
    """
    warnings = tuple(
        f"{whose}{problem}"
        for whose, problems in (("", injection.problems), (f"namespace {namespace}: ", injection.namespace_problems))
        for problem in problems
    )
    path = find_template(manifest)
    template = read_path(manifest, path or ())
    mode = injection.mode or asked
    found = _find_refusal(mode)
    if path is None:
        found = Skip.UNREADABLE, "it makes no pods"
    elif found is None and (misshape := find_misshape(template)):
        found = Skip.UNREADABLE, f"{'.'.join((*path, misshape))} is not what Kubernetes expects there"
    found = found or find_unfit(template, settings, namespace)
    if found is not None:
        skip, message = found
        return Injected(manifest=manifest, skip=skip, message=message, warnings=warnings)
    concerns = _find_concerns(manifest, template, injection)
    if _has_budget(template):
        injection = replace(injection, amounts=Amounts())
    changed = _copy_what_changes(manifest, path or ())
    asking = {ANNOTATION_INJECT: mode.value} if mode and not injection.mode else {}
    _add(read_path(changed, path or ()), injection, settings, asking)
    return Injected(manifest=changed, warnings=warnings + concerns)


def uninject(manifest: Json) -> Json | None:
    """Return the object as it was before `inject`, ``None`` when it has no proxy of ours. Never raises.

    What was written on the pod to tell is believed where it can be read; else what is known to be ours is taken away.
    """
    path = find_template(manifest)
    template = read_path(manifest, path or ())
    if path is None or find_misshape(template) or not _is_injected(template):
        return None
    changed = deepcopy(manifest)
    _remove(read_path(changed, path))
    return changed


def _find_refusal(mode: Mode | None) -> tuple[Skip, str] | None:
    match mode:
        case None:
            return Skip.NOT_ASKED, f'neither the pod nor its namespace has the annotation "{ANNOTATION_INJECT}"'
        case Mode.DISABLED:
            return Skip.DISABLED, f'"{ANNOTATION_INJECT}: disabled" says so'
        case _:
            return None


def _find_concerns(manifest: Mapping[str, Any], template: Mapping[str, Any], injection: Injection) -> tuple[str, ...]:
    owners = read_path(dict(template), ("metadata", "ownerReferences")) or []
    is_job = manifest["kind"] in ("Job", "CronJob") or any(owner.get("kind") == "Job" for owner in owners)
    concerns = []
    if is_job and not injection.is_native:
        concerns.append(
            "the proxy is a plain container here, so this Job ends only when it asks the proxy to: POST /shutdown"
        )
    grace = template["spec"].get("terminationGracePeriodSeconds")
    limit = grace if isinstance(grace, int) else _USUAL_GRACE_SECONDS
    if 0 < limit <= injection.exit_delay_seconds:
        concerns.append(
            f"the proxy waits {injection.exit_delay_seconds} s before it stops (proxy-wait-before-exit-seconds), and "
            f"the pod is killed after {limit}; make terminationGracePeriodSeconds longer"
        )
    if _has_budget(template) and injection.amounts != Amounts():
        amounts = (f"{word} {resource} {amount}" for word, resource, amount in _list_amounts(injection.amounts))
        concerns.append(
            f"the pod's own resources (spec.resources) count for its proxy, too, which gets none beside them; "
            f"have room there for {', '.join(amounts)}"
        )
    return tuple(concerns)


def _has_budget(template: Mapping[str, Any]) -> bool:
    """Whether the pod as a whole says what it uses: its containers' requests must fit in, or it is refused.

    Source: kubernetes ``pkg/apis/core/validation/validation.go`` validatePodResourceConsistency.
    """
    whole = template["spec"].get("resources") or {}
    return bool(whole.get("requests") or whole.get("limits"))


def _list_amounts(amounts: Amounts) -> Iterator[tuple[str, str, str]]:
    for word, pairs in (("request", amounts.requests), ("limit", amounts.limits)):
        for resource, amount in pairs:
            yield word, resource, amount


def _copy_what_changes(manifest: Json, path: tuple[str, ...]) -> Json:
    """Return a copy whose template can be added to; all that stays is shared, so that a large pod costs no more."""
    changed = template = dict(manifest)
    for name in path:
        template[name] = dict(template[name])
        template = template[name]
    for part, inner in (("metadata", ("annotations", "labels")), ("spec", ("initContainers", "containers", "volumes"))):
        if template.get(part) is None:
            continue
        template[part] = dict(template[part])
        for name in inner:
            if template[part].get(name) is not None:
                template[part][name] = copy(template[part][name])
    return changed


def _add(template: Json, injection: Injection, settings: InjectionSettings, asked: Mapping[str, str]) -> None:
    made = {place: "null" if _has(template, place) else "absent" for place in _PLACES if _get(template, place) is None}
    metadata = _fill(template, "metadata", dict)
    annotations, labels = _fill(metadata, "annotations", dict), _fill(metadata, "labels", dict)
    spec = template["spec"]
    init, volumes = _fill(spec, "initContainers", list), _fill(spec, "volumes", list)
    new = {**asked, **dict(injection.carried), ANNOTATION_INJECTED: "", ANNOTATION_VERSION: settings.version}
    if settings.has_scrape_annotations and not any(key.startswith(_SCRAPE) for key in annotations):
        new |= {f"{_SCRAPE}scrape": "true", f"{_SCRAPE}port": str(settings.admin_port), f"{_SCRAPE}path": "/metrics"}
    redirect, proxy = emit_redirect(injection, settings), emit_proxy(injection, settings)
    if injection.is_native:
        init[:0] = [redirect, proxy]
    else:
        # Last of the init containers: the others run when there is no proxy yet that their connections could go to.
        new[ANNOTATION_DEFAULT_CONTAINER] = spec["containers"][0]["name"]
        init.append(redirect)
        spec["containers"].insert(0, proxy)
    volumes += emit_volumes()
    before = {
        "annotations": {key: annotations[key] for key in _REPLACED if key in annotations and key in new},
        "labels": {key: labels[key] for key in (LABEL_CONTROL_PLANE,) if key in labels},
    }
    added = sorted(key for key in new if key not in annotations or key in _REPLACED)
    annotations |= {key: new[key] for key in added}
    labels[LABEL_CONTROL_PLANE] = str(settings.trust.control_plane)
    record = {"annotations": [key for key in added if key != ANNOTATION_INJECTED], "before": before, "made": made}
    annotations[ANNOTATION_INJECTED] = json.dumps(record, sort_keys=True, separators=(",", ":"))


def _remove(template: Json) -> None:
    spec = template["spec"]
    for name in ("initContainers", "containers"):
        if spec.get(name):
            spec[name] = [each for each in spec[name] if each["name"] not in _OURS]
    if spec.get("volumes"):
        spec["volumes"] = [each for each in spec["volumes"] if each["name"] not in VOLUMES]
    metadata = template.get("metadata") or {}
    annotations, labels = metadata.get("annotations") or {}, metadata.get("labels") or {}
    record = _read_record(annotations.pop(ANNOTATION_INJECTED, None))
    for key in (*record["annotations"], ANNOTATION_VERSION):
        annotations.pop(key, None)
    labels.pop(LABEL_CONTROL_PLANE, None)
    annotations |= record["before"]["annotations"]
    labels |= record["before"]["labels"]
    for place in reversed(_PLACES):
        said = record["made"].get(place)
        if said is not None and not _get(template, place):
            parent, _, name = place.rpartition(".")
            inside = template[parent] if parent else template
            if said == "null":
                inside[name] = None
            else:
                inside.pop(name, None)


def _read_record(text: object) -> Json:
    empty: Json = {"annotations": [], "before": {"annotations": {}, "labels": {}}, "made": {}}
    try:
        found = json.loads(text) if isinstance(text, str) else None
    except ValueError:
        return empty
    match found:
        case {
            "annotations": [*keys],
            "before": {"annotations": dict(annotations), "labels": dict(labels)},
            "made": dict(made),
        } if all(isinstance(key, str) for key in keys):
            return {"annotations": keys, "before": {"annotations": annotations, "labels": labels}, "made": made}
        case _:
            return empty


def _is_injected(template: Any) -> bool:
    spec = template["spec"]
    parts = ("initContainers", "containers")
    return any(each["name"] == PROXY_CONTAINER for part in parts for each in spec.get(part) or ())


def _has(template: Mapping[str, Any], place: str) -> bool:
    parent, _, name = place.rpartition(".")
    inside = template.get(parent) if parent else template
    return inside is not None and name in inside


def _get(template: Mapping[str, Any], place: str) -> Any:
    return read_path(dict(template), tuple(place.split(".")))


def _fill(parent: Json, name: str, kind: type[Any]) -> Any:
    if parent.get(name) is None:
        parent[name] = kind()
    return parent[name]
