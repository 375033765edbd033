"""One AdmissionReview in, one out: the patch that gives a pod its proxy, or why there is none. No I/O.

Source: kubernetes/api ``admission/v1/types.go`` AdmissionReview; kubernetes/website
``docs/reference/access-authn-authz/extensible-admission-controllers``.
"""

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jsonpatch
import orjson

from meshwright.edge.injection import inject_object
from meshwright.edge.review import read_review, write_review, write_warnings
from meshwright.model.desired import Json
from meshwright.model.injection import Injected, InjectionSettings, Skip
from meshwright.model.units import Namespace


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is asked: ``pod`` as it would be stored, ``None`` when the request is about something else."""

    uid: str
    namespace: Namespace
    pod: Json | None
    is_dry_run: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """``injected`` is ``None`` when there was no pod to speak of. ``operations``: the JSON patch, RFC 6902."""

    injected: Injected | None = None
    operations: tuple[Json, ...] = ()


def read_request(body: bytes) -> Request:
    """Return what a review asks.

    Raises:
        NotReviewable: it is no AdmissionReview.
    """
    uid, asked = read_review(body)
    return Request(
        uid=uid,
        namespace=Namespace(str(asked.get("namespace") or "")),
        pod=_read_pod(asked),
        is_dry_run=asked.get("dryRun") is True,
    )


def _read_pod(asked: Mapping[str, Any]) -> Json | None:
    pod, kind = asked.get("object"), asked.get("kind")
    is_pod = isinstance(kind, dict) and (kind.get("group") or "", kind.get("kind")) == ("", "Pod")
    if not is_pod or asked.get("operation") != "CREATE" or asked.get("subResource") or not isinstance(pod, dict):
        return None
    return {"apiVersion": "v1", "kind": "Pod"} | pod


def decide(request: Request, annotations: Mapping[str, str], settings: InjectionSettings) -> Verdict:
    """Return what becomes of the pod; ``annotations`` are its namespace's."""
    if request.pod is None:
        return Verdict()
    injected = inject_object(request.pod, annotations, settings, namespace=request.namespace)
    if injected.skip is not None:
        return Verdict(injected=injected)
    return Verdict(injected=injected, operations=tuple(jsonpatch.make_patch(request.pod, injected.manifest)))


def write_response(request: Request, verdict: Verdict) -> bytes:
    """Return the review to answer with: the pod is always allowed."""
    response: Json = {"uid": request.uid, "allowed": True}
    if verdict.operations:
        response["patchType"] = "JSONPatch"
        response["patch"] = base64.b64encode(orjson.dumps(verdict.operations)).decode()
    if warnings := say_warnings(verdict.injected):
        response["warnings"] = warnings
    return write_review(response)


def say_warnings(injected: Injected | None) -> list[str]:
    """Return what who made the pod is told: nothing where nobody asked for a proxy, or said no to one, or where it is
    there already: the API server asks again when others have changed the pod after us."""
    if injected is None or injected.skip is Skip.ALREADY_INJECTED:
        lines: tuple[str, ...] = ()
    elif injected.skip in (Skip.NOT_ASKED, Skip.DISABLED):
        lines = injected.warnings
    elif injected.skip is not None:
        lines = (f"this pod gets no proxy: {injected.message}", *injected.warnings)
    else:
        lines = injected.warnings
    return write_warnings(lines)
