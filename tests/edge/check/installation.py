"""A cluster where meshwright is installed and all is well, for tests to break one thing of."""

import copy
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from email.utils import format_datetime
from typing import Any, Self

import orjson
from aiohttp import web

from meshwright import __version__
from meshwright.edge.api_resource import Resource
from meshwright.edge.check.inquiry import (
    ACCESS_REVIEWS,
    CERTIFICATE_REQUESTS,
    CERTIFICATES,
    CLUSTER_ISSUERS,
    CONFIG_MAPS,
    DEPLOYMENTS,
    ISSUERS,
    NAMESPACES,
    NODES,
    PODS,
    SECRETS,
    WEBHOOKS,
)
from meshwright.edge.client import Json
from meshwright.edge.resources import LEASES, RESOURCES
from meshwright.parse.kinds import KINDS
from tests.certificates import (
    ISSUER,
    LEAF,
    NOW,
    Made,
    anchor,
    issuer,
    make,
    make_bundle,
    make_issuer_secret,
    make_secret,
)
from tests.edge.apiserver import ApiServer
from tests.edge.cluster import Refusal

HOME = "meshwright"
SETTABLE = (DEPLOYMENTS, WEBHOOKS, NODES, SECRETS, CERTIFICATES, ISSUERS, CLUSTER_ISSUERS, CERTIFICATE_REQUESTS)
ROUTING = tuple(RESOURCES[kind] for kind in KINDS if kind.group)
GROUPS = {"operator": 1, "xds": 2, "webhook": 2}
"""How many pods each process has."""


def stamp(age: timedelta = timedelta(0)) -> str:
    """Return a time so long before now, as Kubernetes writes it."""
    return (NOW - age).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def serving(**changes: Any) -> Made:
    """Return the webhook's certificate."""
    wish = replace(LEAF, name="webhook", number=7, dns=("meshwright-webhook.meshwright.svc",))
    return make(replace(wish, **changes), by=anchor(9))


def webhook_secret(made: Made) -> Json:
    data = {"tls.crt": made.pem, "tls.key": made.key_pem, "ca.crt": anchor(9).pem}
    return make_secret(data, name="meshwright-webhook-tls")


@dataclass(kw_only=True)
class Installation:
    """The cluster, and what is not an object in it.

    ``metrics``: what pods answer at ``/metrics``, by namespace and name; a pod without does not answer. ``forbidden``:
    what may not be created, by plural. ``skew``: how far the API server's clock is ahead. ``version`` ``""``: it is not
    up. ``try_pod`` answers a pod that is only tried.
    """

    server: ApiServer
    metrics: dict[tuple[str, str], str] = field(default_factory=dict)
    forbidden: set[str] = field(default_factory=set)
    skew: timedelta = timedelta(0)
    version: str = "v1.36.0"
    tried: list[Json] = field(default_factory=list)
    try_pod: Callable[[Json], Json] = lambda pod: add_proxy(pod)

    def put(self, resource: Resource, name: str, namespace: str = HOME, **more: Any) -> None:
        metadata = {"name": name, **more.pop("metadata", {})}
        if resource.is_namespaced:
            metadata["namespace"] = namespace
        self.server.cluster.put(resource, {**more, "metadata": metadata})

    def edit(self, resource: Resource, name: str, change: Callable[[Json], Any], namespace: str = HOME) -> Self:
        where = namespace if resource.is_namespaced else ""
        self.server.cluster.edit(resource, where, name, lambda raw: (change(raw), None)[1])
        return self

    def remove(self, resource: Resource, name: str, namespace: str = HOME) -> Self:
        self.server.cluster.remove(resource, namespace if resource.is_namespaced else "", name)
        return self

    def clock(self) -> datetime:
        """Return the time of this machine."""
        return NOW

    def put_issuer(self, made: Made, *roots: Made) -> Self:
        self.server.cluster.put(SECRETS, make_issuer_secret(made, roots))
        return self

    def put_bundle(self, *roots: Made) -> Self:
        """Have the trust bundle come from a ConfigMap."""
        self.server.cluster.put(CONFIG_MAPS, make_bundle(roots))
        return self.edit(
            DEPLOYMENTS, "meshwright-xds", lambda raw: arguments(raw).append("--trust-bundle=configmap/roots")
        )

    def deploy(self, process: str, *args: str, **status: Any) -> None:
        """Put a Deployment and its pods."""
        count = GROUPS[process]
        labels = {
            "app.kubernetes.io/part-of": "meshwright",
            "app.kubernetes.io/component": process,
            "app.kubernetes.io/version": __version__,
        }
        command = ["meshwright", process]
        container = {"name": process, "image": f"meshwright:{__version__}", "command": command, "args": [*args]}
        self.put(
            DEPLOYMENTS,
            f"meshwright-{process}",
            metadata={"labels": labels, "generation": 2},
            spec={"replicas": count, "template": {"spec": {"containers": [container]}}},
            status={"observedGeneration": 2, "updatedReplicas": count, "readyReplicas": count, **status},
        )
        for number in range(count):
            self.put(PODS, f"meshwright-{process}-{number}", **_control_plane_pod(process, labels))

    def put_pod(self, name: str, namespace: str = "shop", *, is_meshed: bool = True, **metadata: Any) -> None:
        """Put a pod that runs."""
        spec = {"containers": [{"name": "app", "image": "app"}]}
        status: Json = {"phase": "Running", "containerStatuses": [running("app")]}
        pod: Json = {
            "metadata": {"creationTimestamp": stamp(timedelta(hours=1)), **metadata},
            "spec": spec,
            "status": status,
        }
        if is_meshed:
            pod = add_proxy(pod)
            pod["status"]["initContainerStatuses"] = [running("meshwright-proxy")]
            self.metrics[namespace, name] = proxy_metrics()
        self.put(PODS, name, namespace, **pod)


def arguments(deployment: Json) -> list[str]:
    found: list[str] = deployment["spec"]["template"]["spec"]["containers"][0]["args"]
    return found


def running(name: str, **more: Any) -> Json:
    return {"name": name, "ready": True, "restartCount": 0, "state": {"running": {"startedAt": stamp()}}, **more}


def add_proxy(pod: Json) -> Json:
    """Return a pod as the webhook changes it, as far as anybody looks."""
    changed = copy.deepcopy(pod)
    changed["spec"].setdefault("initContainers", []).append({"name": "meshwright-proxy", "restartPolicy": "Always"})
    annotations = changed["metadata"].setdefault("annotations", {})
    annotations["meshwright.dev/proxy-version"] = __version__
    changed["metadata"].setdefault("labels", {})["meshwright.dev/control-plane-ns"] = HOME
    return changed


def proxy_metrics(
    *, connected: int = 1, ends: datetime = NOW + timedelta(hours=20), anchors: datetime | None = None
) -> str:
    """Return what an Envoy says of itself."""
    name = "envoy_listener_ssl_certificate_expiration_unix_time_seconds"
    until = anchors or anchor().certificate.not_valid_after_utc
    return (
        "# TYPE envoy_control_plane_connected_state gauge\n"
        f"envoy_control_plane_connected_state{{}} {connected}\n"
        f"# TYPE {name} gauge\n"
        f'{name}{{envoy_tls_certificate="mesh/anchors",envoy_listener_address="[__]_4143"}} {until.timestamp():.0f}\n'
        f'{name}{{envoy_tls_certificate="mesh/identity",envoy_listener_address="[__]_4143"}} {ends.timestamp():.0f}\n'
        "# TYPE envoy_server_live gauge\nenvoy_server_live{} 1\n"
    )


def delivery_metrics(*, usable: int = 1, made: Made | None = None, anchors: int = 1, rejected: int = 0) -> str:
    """Return what a replica of delivery says of itself."""
    end = (made or issuer()).certificate.not_valid_after_utc.timestamp()
    return (
        f"meshwright_issuer_usable {float(usable)}\nmeshwright_issuer_end_timestamp_seconds {end}\n"
        f"meshwright_trust_anchors {float(anchors)}\nmeshwright_xds_rejected_resources {float(rejected)}\n"
    )


def _control_plane_pod(process: str, labels: dict[str, str]) -> Json:
    return {
        "metadata": {"labels": labels},
        "spec": {"containers": [{"name": process, "image": "meshwright"}]},
        "status": {"phase": "Running", "containerStatuses": [running(process)]},
    }


@asynccontextmanager
async def installed() -> AsyncIterator[Installation]:
    """Give a cluster where all is well while the context lasts. ``server.url`` is where it listens."""
    async with ApiServer() as server:
        found = Installation(server=server)
        server.cluster.define(*SETTABLE, *ROUTING)
        server.reviews[ACCESS_REVIEWS.plural] = lambda body: _review(found, body)
        _fill(found)
        runner = web.AppRunner(_make_front(found), handle_signals=False, shutdown_timeout=0.1)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            server.url = "http://{}:{}".format(*runner.addresses[0][:2])
            yield found
        finally:
            await runner.cleanup()


def _fill(found: Installation) -> None:
    for name in ("default", "kube-system", HOME):
        found.put(NAMESPACES, name)
    managed = {
        "manager": "kubectl-annotate",
        "time": stamp(timedelta(days=1)),
        "fieldsV1": {"f:metadata": {"f:annotations": {"f:linkerd.io/inject": {}}}},
    }
    found.put(
        NAMESPACES, "shop", metadata={"annotations": {"linkerd.io/inject": "enabled"}, "managedFields": [managed]}
    )
    found.put(NODES, "one", status={"conditions": [{"type": "Ready", "status": "True"}]})
    found.put(
        LEASES, "one", "kube-node-lease", spec={"renewTime": stamp(timedelta(seconds=5)), "leaseDurationSeconds": 40}
    )
    found.deploy("operator", "--issuer-kind=anchor-secret", "--issuer-name=meshwright-trust-anchor")
    found.deploy("xds", "--leaf-lifetime=24h")
    found.deploy("webhook")
    lease = {"holderIdentity": "meshwright-operator-0_1", "renewTime": stamp(), "leaseDurationSeconds": 15}
    found.put(LEASES, "meshwright-operator", spec=lease)
    _fill_identity(found)
    found.put(
        DEPLOYMENTS,
        "cert-manager",
        "cert-manager",
        metadata={"labels": {"app.kubernetes.io/name": "cert-manager", "app.kubernetes.io/version": "v1.21.0"}},
        status={"readyReplicas": 1},
    )
    secret = webhook_secret(serving())
    found.server.cluster.put(SECRETS, secret)
    webhook = {
        "name": "inject.meshwright.dev",
        "clientConfig": {
            "service": {"name": "meshwright-webhook", "namespace": HOME},
            "caBundle": secret["data"]["ca.crt"],
        },
        "failurePolicy": "Ignore",
        "namespaceSelector": {
            "matchExpressions": [
                {"key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": [HOME, "kube-system"]}
            ]
        },
    }
    found.put(WEBHOOKS, "meshwright-inject", webhooks=[webhook])
    found.put_pod("web")
    for number in range(GROUPS["xds"]):
        found.metrics[HOME, f"meshwright-xds-{number}"] = delivery_metrics()


def _fill_identity(found: Installation) -> None:
    found.put_issuer(issuer(), anchor())
    for name in ("default", HOME, "shop"):
        found.server.cluster.put(
            CONFIG_MAPS,
            {
                **make_bundle([anchor()], name="mw-trust-anchors", namespace=name),
                "metadata": {
                    "name": "mw-trust-anchors",
                    "namespace": name,
                    "labels": {"meshwright.dev/unit": "anchors"},
                },
            },
        )
    found.put(
        CONFIG_MAPS,
        "mw-mesh",
        data={
            "identity.json": orjson.dumps({"problems": [], "issuer": {"fingerprint": issuer().fingerprint}}).decode()
        },
    )
    ready = {"conditions": [{"type": "Ready", "status": "True"}]}
    found.put(
        ISSUERS, "meshwright-identity-issuer", spec={"ca": {"secretName": "meshwright-trust-anchor"}}, status=ready
    )
    found.put(ISSUERS, "meshwright-trust-anchor", spec={"selfSigned": {}}, status=ready)
    ages = {"notBefore": 1, "notAfter": -47, "renewalTime": -22}
    times = {key: (NOW - timedelta(hours=hours)).strftime("%Y-%m-%dT%H:%M:%SZ") for key, hours in ages.items()}
    for name, rotation in (("meshwright-identity-issuer", "Always"), ("meshwright-trust-anchor", "Never")):
        spec = {
            "secretName": name,
            "issuerRef": {"name": name, "kind": "Issuer"},
            "privateKey": {"rotationPolicy": rotation},
        }
        found.put(CERTIFICATES, name, spec=spec, status={**ready, **times})
    request = {
        "conditions": [{"type": "Approved", "status": "True"}, {"type": "Ready", "status": "True", "reason": "Issued"}]
    }
    found.put(CERTIFICATE_REQUESTS, "meshwright-identity-issuer-1", status=request)


def _review(found: Installation, body: Json) -> Json:
    wanted = body["spec"]["resourceAttributes"]
    return {**body, "status": {"allowed": wanted["resource"] not in found.forbidden}}


def _make_front(found: Installation) -> web.Application:
    """Return what stands before the API server: pods behind it, pods that are only tried, and its clock."""

    async def serve(request: web.Request) -> web.StreamResponse:
        answer = await _answer(found, request)
        if not answer.prepared:
            answer.headers["Date"] = format_datetime(NOW + found.skew, usegmt=True)
        return answer

    app = web.Application(client_max_size=2**24)
    app.router.add_route("*", "/{path:.*}", serve)
    return app


async def _answer(found: Installation, request: web.Request) -> web.StreamResponse:
    match request.path.strip("/").split("/"):
        case ["version"]:
            return web.json_response({"gitVersion": found.version}, status=200 if found.version else 503)
        case ["api", "v1", "namespaces", namespace, "pods", place, "proxy", "metrics"]:
            for fault in found.server.faults:
                if fault.takes(request, "pods/proxy", False):
                    return web.json_response({"message": "no"}, status=fault.status)
            text = found.metrics.get((namespace, place.partition(":")[0]))
            if text is None:
                return web.json_response({"reason": "ServiceUnavailable", "message": "connection refused"}, status=503)
            return web.Response(text=text)
        case ["api", "v1", "namespaces", _, "pods"] if request.query.get("dryRun") == "All":
            pod = orjson.loads(await request.read())
            found.tried.append(pod)
            try:
                return web.json_response(found.try_pod(pod))
            except Refusal as refusal:
                return web.json_response(refusal.body, status=refusal.status)
        case _:
            return await found.server._serve(request)


__all__ = ["HOME", "ISSUER", "Installation", "installed", "serving", "webhook_secret"]
