"""Groups and machines as the registrar leaves them in the cluster."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from meshwright.edge.client import Json
from meshwright.edge.resources import RESOURCES
from meshwright.model.ref import Kind
from tests.edge.check.installation import HOME, Installation, stamp

GROUPS, WORKLOADS = RESOURCES[Kind.EXTERNAL_GROUP], RESOURCES[Kind.EXTERNAL_WORKLOAD]
POLICIES, SERVICES = RESOURCES[Kind.REGISTRATION_POLICY], RESOURCES[Kind.SERVICE]
SLICES = RESOURCES[Kind.ENDPOINT_SLICE]
TEMPLATE = "sha256:00112233aabbccdd"


def condition(type_: str, status: str, reason: str = "", message: str = "", age: timedelta = timedelta(0)) -> Json:
    time = stamp(age).replace(".000000Z", "Z")
    return {"type": type_, "status": status, "reason": reason, "message": message, "lastTransitionTime": time}


GOOD = (
    condition("Accepted", "True", "Accepted"),
    condition("SelectedByService", "True", "Selected"),
    condition("QuotaExceeded", "False", "WithinQuota"),
    condition("ExpirySuspended", "False", "NotSuspended"),
)


def change_condition(conditions: Sequence[Json], changed: Json) -> list[Json]:
    return [changed if each["type"] == changed["type"] else each for each in conditions]


def put_group(
    mesh: Installation,
    name: str = "ledger",
    namespace: str = "shop",
    *,
    conditions: Sequence[Json] = GOOD,
    rejections: Sequence[Json] = (),
    spec: Json | None = None,
) -> Installation:
    template = {"metadata": {"labels": {"app": name}}, "ports": [{"port": 8000}]}
    status = {"conditions": list(conditions), "templateHash": TEMPLATE, "lastRejections": list(rejections)}
    mesh.put(GROUPS, name, namespace, spec={"template": template} if spec is None else spec, status=status)
    return mesh


def put_machine(
    mesh: Installation,
    name: str,
    namespace: str = "shop",
    *,
    group: str = "ledger",
    ready: Json | None = None,
    others: Sequence[Json] = (),
    annotations: Mapping[str, str] = {},
    is_ours: bool = True,
    **metadata: Any,
) -> None:
    labels = {"app.kubernetes.io/managed-by": "meshwright", "meshwright.dev/external": "true"} if is_ours else {}
    notes = {
        "meshwright.dev/group": group,
        "meshwright.dev/instance-uid": f"uid-{name}",
        "meshwright.dev/template-hash": TEMPLATE,
        **annotations,
    }
    mesh.put(
        WORKLOADS,
        name,
        namespace,
        metadata={"labels": labels, "annotations": notes if is_ours else {}, **metadata},
        spec={"workloadIPs": [{"ip": "192.0.2.10"}], "ports": [{"port": 8000}]},
        status={"conditions": [ready or condition("Ready", "True", "Ready", "", timedelta(hours=3)), *others]},
    )


def put_registrar(mesh: Installation, *, addresses: Sequence[str] = ("10.1.0.7",), **spec: Any) -> Installation:
    """Put the registrar's Service, as a load balancer has it, and the leader's slice."""
    mesh.put(
        SERVICES,
        "meshwright-registrar",
        spec={"type": "LoadBalancer", "clusterIP": "10.96.0.15", "ports": [{"port": 15013}], **spec},
        status={"loadBalancer": {"ingress": [{"ip": "203.0.113.5"}]}} if not spec else {},
    )
    mesh.put(SLICES, "meshwright-registrar", endpoints=[{"addresses": [each]} for each in addresses])
    return mesh.edit(
        RESOURCES[Kind.POD], "meshwright-operator-0", lambda raw: raw["status"].update(podIP="10.1.0.7"), HOME
    )
