"""Each check, with one thing broken: what it finds, and that it alone does."""

import base64
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID

from meshwright import __version__
from meshwright.edge.check.inquiry import (
    CERTIFICATE_REQUESTS,
    CERTIFICATES,
    CONFIG_MAPS,
    DEPLOYMENTS,
    ISSUERS,
    NAMESPACES,
    NODES,
    PODS,
    SECRETS,
    WEBHOOKS,
    Inquiry,
    Options,
)
from meshwright.edge.check.outcome import Check, Group
from meshwright.edge.check.table import CHECKS, look_once
from meshwright.edge.resources import LEASES, RESOURCES
from meshwright.model.ref import Kind
from tests.certificates import ANCHOR, ISSUER, NOW, anchor, issuer, make, make_bundle, make_issuer_secret
from tests.edge.check.installation import (
    Installation,
    add_proxy,
    arguments,
    delivery_metrics,
    proxy_metrics,
    running,
    serving,
    stamp,
    webhook_secret,
)
from tests.edge.cluster import Refusal

GATEWAY = "the Gateway API is there, in versions that are read"
ISSUER_NAME = "meshwright-identity-issuer"
IS_ISSUER = "the issuer is a CA's certificate, with the key and the usages that it needs"


@dataclass(frozen=True, kw_only=True)
class Case:
    """``found``: pairs of object and beginning of what is said of it. ``fixes``: what the fixes have in them."""

    name: str
    group: Group
    check: str
    breaks: Callable[[Installation], object]
    found: tuple[tuple[str, str], ...]
    fixes: tuple[str, ...] = ()
    options: Options = field(default_factory=Options)


def edit_webhook(**changes: Any) -> Callable[[Installation], object]:
    return lambda mesh: mesh.edit(WEBHOOKS, "meshwright-inject", lambda raw: raw["webhooks"][0].update(changes))


def edit_ca_bundle(pem: str) -> Callable[[Installation], object]:
    text = base64.b64encode(pem.encode()).decode()
    return lambda mesh: mesh.edit(
        WEBHOOKS, "meshwright-inject", lambda raw: raw["webhooks"][0]["clientConfig"].update(caBundle=text)
    )


def set_status(resource: Any, name: str, **status: Any) -> Callable[[Installation], object]:
    return lambda mesh: mesh.edit(resource, name, lambda raw: raw["status"].update(status))


def not_ready(reason: str, message: str) -> dict[str, Any]:
    return {"conditions": [{"type": "Ready", "status": "False", "reason": reason, "message": message}]}


def put_webhook_secret(**changes: Any) -> Callable[[Installation], object]:
    return lambda mesh: mesh.server.cluster.put(SECRETS, webhook_secret(serving(**changes)))


def put_issuer(wish: Any, root: Any = anchor) -> Callable[[Installation], object]:
    return lambda mesh: mesh.put_issuer(make(wish, by=root()), root())


def refuse(message: str) -> Callable[[Installation], object]:
    def try_pod(_: Any) -> Any:
        raise Refusal(403, "Forbidden", message)

    return lambda mesh: setattr(mesh, "try_pod", try_pod)


def lags(mesh: Installation) -> None:
    mesh.edit(NAMESPACES, "shop", lambda raw: raw["metadata"]["managedFields"][0].update(time=stamp()))
    owner = {"kind": "ReplicaSet", "name": "old-7d9f", "controller": True}
    mesh.put_pod("old-7d9f-1", is_meshed=False, ownerReferences=[owner], labels={"pod-template-hash": "7d9f"})


def enforce(standard: str, namespace: str = "shop") -> Callable[[Installation], object]:
    label = {"pod-security.kubernetes.io/enforce": standard}
    return lambda mesh: mesh.edit(NAMESPACES, namespace, lambda raw: raw["metadata"].update(labels=label))


def uses_host_network(mesh: Installation) -> None:
    mesh.put_pod("probe", is_meshed=False)
    mesh.edit(PODS, "probe", lambda raw: raw["spec"].update(hostNetwork=True), "shop")


def old_root() -> Any:
    return make(replace(ANCHOR, until=timedelta(hours=-1)))


def late_root() -> Any:
    return make(replace(ANCHOR, since=timedelta(days=-100), until=timedelta(days=10)))


def expire_anchor(mesh: Installation) -> None:
    mesh.put_bundle(anchor(), make(replace(ANCHOR, name="old", number=5, until=timedelta(hours=-1))))


def put_policy(mesh: Installation, kind: Kind, name: str, made: str = "", **spec: Any) -> Installation:
    metadata = {"creationTimestamp": (made or stamp(timedelta(hours=2))).replace(".000000Z", "Z")}
    mesh.put(RESOURCES[kind], name, "shop", metadata=metadata, spec=spec)
    return mesh


def put_api(mesh: Installation) -> Installation:
    mesh.put_pod("api-1", labels={"app": "api"}, is_meshed=False)
    return mesh


def put_server(
    mesh: Installation, name: str, made: str = "", *, app: str = "web", port: int | str = 8080, **spec: Any
) -> Installation:
    selector = spec or {"podSelector": {"matchLabels": {"app": app}}}
    return put_policy(mesh, Kind.SERVER, name, made, port=port, **selector)


GONE = {"group": "policy.linkerd.io", "kind": "Server", "name": "gone"}
EVERYBODY = {"unauthenticated": True}

SHOP = Options(namespace="nowhere")
WEB = "pod/web in shop"
HOOK = "mutatingwebhookconfiguration/meshwright-inject"
TLS = "secret/meshwright-webhook-tls"

CASES = (
    Case(
        name="old Kubernetes",
        group=Group.KUBERNETES,
        check="Kubernetes is new enough",
        breaks=lambda mesh: setattr(mesh, "version", "v1.29.9+k3s1"),
        found=(("the API server", "it is Kubernetes v1.29.9+k3s1"),),
        fixes=("upgrade to 1.30",),
    ),
    Case(
        name="no answer",
        group=Group.KUBERNETES,
        check="the API server answers",
        breaks=lambda mesh: setattr(mesh, "version", ""),
        found=(("the API server", "it answered 503 "),),
    ),
    Case(
        name="this machine is behind",
        group=Group.KUBERNETES,
        check="this machine's clock agrees with the API server's",
        breaks=lambda mesh: setattr(mesh, "skew", timedelta(hours=1)),
        found=(("this machine", "its clock is 1h behind the API server's"),),
    ),
    Case(
        name="this machine is ahead",
        group=Group.KUBERNETES,
        check="this machine's clock agrees with the API server's",
        breaks=lambda mesh: setattr(mesh, "skew", timedelta(minutes=-2)),
        found=(("this machine", "its clock is 2m ahead of the API server's"),),
    ),
    Case(
        name="a node is ahead",
        group=Group.KUBERNETES,
        check="the nodes' clocks agree with the API server's",
        breaks=lambda mesh: mesh.put(
            LEASES,
            "one",
            "kube-node-lease",
            spec={"renewTime": stamp(timedelta(minutes=-3)), "leaseDurationSeconds": 40},
        ),
        found=(("node/one", "its clock is 3m ahead of the API server's"),),
    ),
    Case(
        name="a node is behind",
        group=Group.KUBERNETES,
        check="the nodes' clocks agree with the API server's",
        breaks=lambda mesh: mesh.put(
            LEASES, "one", "kube-node-lease", spec={"renewTime": stamp(timedelta(hours=1)), "leaseDurationSeconds": 40}
        ),
        found=(("node/one", "its clock is up to 1h behind the API server's, or its kubelet is late"),),
    ),
    Case(
        name="others in the namespace",
        group=Group.PRE,
        check="the control plane's namespace is free, or meshwright's own",
        breaks=lambda mesh: mesh.put_pod("db", "meshwright"),
        found=(("namespace/meshwright", "it has pods of others: db; they would never get a proxy there"),),
    ),
    Case(
        name="namespace going away",
        group=Group.PRE,
        check="the control plane's namespace is free, or meshwright's own",
        breaks=lambda mesh: mesh.edit(
            NAMESPACES, "meshwright", lambda raw: raw["metadata"].update(deletionTimestamp=stamp())
        ),
        found=(("namespace/meshwright", "it is being deleted"),),
    ),
    Case(
        name="may not create",
        group=Group.PRE,
        check="you may create what the charts have",
        breaks=lambda mesh: mesh.forbidden.update({"clusterroles", "deployments", "certificates"}),
        found=(
            ("deployments.apps", "you may not create any in namespace meshwright"),
            ("clusterroles.rbac.authorization.k8s.io", "you may not create any"),
            ("certificates.cert-manager.io", "you may not create any in namespace meshwright"),
        ),
        fixes=("can-i create deployments.apps -n meshwright",),
    ),
    *(
        Case(
            name=f"no GRPCRoutes, {group}",
            group=group,
            check=GATEWAY,
            breaks=lambda mesh: mesh.server.cluster.undefine(RESOURCES[Kind.GRPC_ROUTE]),
            found=(("crd/grpcroutes.gateway.networking.k8s.io", "there is none"),),
            fixes=("v1",),
        )
        for group in (Group.PRE, Group.CRDS)
    ),
    Case(
        name="no ExternalWorkloads",
        group=Group.CRDS,
        check="ExternalWorkloads are there, in a version that is read",
        breaks=lambda mesh: mesh.server.cluster.undefine(RESOURCES[Kind.EXTERNAL_WORKLOAD]),
        found=(("crd/externalworkloads.workload.linkerd.io", "there is none"),),
    ),
    Case(
        name="no Servers",
        group=Group.CRDS,
        check="the kinds of policy.linkerd.io are there, in versions that are read",
        breaks=lambda mesh: mesh.server.cluster.undefine(RESOURCES[Kind.SERVER]),
        found=(("crd/servers.policy.linkerd.io", "there is none"),),
    ),
    Case(
        name="old cert-manager that is down",
        group=Group.PRE,
        check="cert-manager is there, runs and is new enough",
        breaks=lambda mesh: mesh.put(
            DEPLOYMENTS,
            "cert-manager",
            "cert-manager",
            metadata={"labels": {"app.kubernetes.io/name": "cert-manager", "app.kubernetes.io/version": "v1.9.1"}},
            status={},
        ),
        found=(
            ("deployment/cert-manager in cert-manager", "it is v1.9.1"),
            ("deployment/cert-manager in cert-manager", "none of its pods is ready"),
        ),
    ),
    Case(
        name="no cert-manager",
        group=Group.PRE,
        check="cert-manager is there, runs and is new enough",
        breaks=lambda mesh: mesh.server.cluster.undefine(CERTIFICATES),
        found=(("crd/certificates.cert-manager.io", "there is none that serves v1"),),
    ),
    Case(
        name="no namespace",
        group=Group.EXISTENCE,
        check="the control plane's namespace is there",
        breaks=lambda mesh: mesh.remove(NAMESPACES, "meshwright"),
        found=(("namespace/meshwright", "there is none"),),
    ),
    Case(
        name="no webhook",
        group=Group.EXISTENCE,
        check="operator, delivery and webhook are there",
        breaks=lambda mesh: mesh.remove(DEPLOYMENTS, "meshwright-webhook"),
        found=(("deployment/meshwright-webhook", "there is none in namespace meshwright"),),
    ),
    Case(
        name="a pod that crashes",
        group=Group.EXISTENCE,
        check="the control plane's pods are ready",
        breaks=lambda mesh: (
            mesh.edit(DEPLOYMENTS, "meshwright-xds", lambda raw: raw["status"].update(readyReplicas=1)),
            mesh.edit(
                PODS,
                "meshwright-xds-1",
                lambda raw: raw["status"].update(
                    containerStatuses=[
                        {
                            "name": "xds",
                            "ready": False,
                            "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "x"}},
                        }
                    ]
                ),
            ),
        ),
        found=(
            ("deployment/meshwright-xds", "1 of 2 pods are ready"),
            ("pod/meshwright-xds-1", "container xds waits: CrashLoopBackOff x"),
        ),
        fixes=("", "logs meshwright-xds-1 -c xds --previous"),
    ),
    Case(
        name="a rollout that hangs",
        group=Group.EXISTENCE,
        check="the control plane's pods are ready",
        breaks=set_status(DEPLOYMENTS, "meshwright-xds", updatedReplicas=1),
        found=(("deployment/meshwright-xds", "1 of 2 pods are of its newest version"),),
    ),
    Case(
        name="a container that ended",
        group=Group.EXISTENCE,
        check="the control plane's pods stay up",
        breaks=lambda mesh: mesh.edit(
            PODS,
            "meshwright-operator-0",
            lambda raw: raw["status"].update(
                containerStatuses=[
                    running(
                        "operator",
                        restartCount=3,
                        lastState={
                            "terminated": {
                                "reason": "OOMKilled",
                                "exitCode": 137,
                                "finishedAt": stamp(timedelta(minutes=10)),
                            }
                        },
                    )
                ]
            ),
        ),
        found=(("pod/meshwright-operator-0", "container operator ended 10m ago (OOMKilled, exit code 137); it was"),),
    ),
    Case(
        name="another version",
        group=Group.EXISTENCE,
        check="the control plane is of this program's version",
        breaks=lambda mesh: mesh.edit(
            DEPLOYMENTS,
            "meshwright-xds",
            lambda raw: raw["metadata"]["labels"].update({"app.kubernetes.io/version": "9.9.9"}),
        ),
        found=(("deployment/meshwright-xds", "it is version 9.9.9"),),
        fixes=(f"this program is {__version__}",),
    ),
    Case(
        name="a Lease that ran out",
        group=Group.EXISTENCE,
        check="an operator leads: the Lease is held",
        breaks=lambda mesh: mesh.edit(
            LEASES, "meshwright-operator", lambda raw: raw["spec"].update(renewTime=stamp(timedelta(minutes=5)))
        ),
        found=(
            ("lease/meshwright-operator in meshwright", "meshwright-operator-0_1 held it, last renewed 5m ago, and"),
        ),
    ),
    Case(
        name="a Lease under another name",
        group=Group.EXISTENCE,
        check="an operator leads: the Lease is held",
        breaks=lambda mesh: mesh.edit(
            DEPLOYMENTS, "meshwright-operator", lambda raw: arguments(raw).extend(["--lease-name", "other"])
        ),
        found=(("lease/other in meshwright", "there is none: no operator has ever led"),),
    ),
    Case(
        name="two trust domains",
        group=Group.IDENTITY,
        check="all processes have one trust domain",
        breaks=lambda mesh: mesh.edit(
            DEPLOYMENTS, "meshwright-webhook", lambda raw: arguments(raw).append("--trust-domain=other.example")
        ),
        found=(("deployment/meshwright-webhook", "its trust domain is other.example, not cluster.local"),),
    ),
    Case(
        name="an Issuer without its Secret",
        group=Group.IDENTITY,
        check="the issuers that cert-manager is asked for are ready",
        breaks=set_status(
            ISSUERS, ISSUER_NAME, **not_ready("ErrGetKeyPair", 'secret "meshwright-trust-anchor" not found')
        ),
        found=((f"issuer/{ISSUER_NAME}", 'it is not ready: secret "meshwright-trust-anchor" not found'),),
    ),
    Case(
        name="an Issuer that is not there",
        group=Group.IDENTITY,
        check="the issuers that cert-manager is asked for are ready",
        breaks=lambda mesh: mesh.remove(ISSUERS, ISSUER_NAME),
        found=((f"issuer/{ISSUER_NAME}", "there is none, and a Certificate names it"),),
    ),
    Case(
        name="a Certificate that fails",
        group=Group.IDENTITY,
        check="cert-manager's certificates are ready, and renewed in time",
        breaks=set_status(
            CERTIFICATES,
            ISSUER_NAME,
            failedIssuanceAttempts=3,
            lastFailureTime=stamp(timedelta(hours=2)),
            **not_ready("Expired", "it expired"),
        ),
        found=(
            (f"certificate/{ISSUER_NAME}", "it is not ready: it expired"),
            (
                f"certificate/{ISSUER_NAME}",
                "3 attempts to issue it have failed, the last one 2h ago",
            ),
        ),
        fixes=("it was not renewed in time; look whether cert-manager runs", f"describe certificate {ISSUER_NAME}"),
    ),
    Case(
        name="a Certificate that is late",
        group=Group.IDENTITY,
        check="cert-manager's certificates are ready, and renewed in time",
        breaks=set_status(
            CERTIFICATES,
            ISSUER_NAME,
            notBefore=stamp(timedelta(hours=30)),
            notAfter=stamp(timedelta(hours=-18)),
            renewalTime=stamp(timedelta(hours=7)),
        ),
        found=((f"certificate/{ISSUER_NAME}", "it should have been renewed 7h ago, and ends in 18h"),),
    ),
    Case(
        name="a Certificate that the operator did not write",
        group=Group.IDENTITY,
        check="cert-manager's certificates are ready, and renewed in time",
        breaks=lambda mesh: mesh.remove(CERTIFICATES, ISSUER_NAME),
        found=((f"certificate for {ISSUER_NAME}", "there is none in namespace meshwright, and the operator was told"),),
    ),
    Case(
        name="a Certificate that nobody renews",
        group=Group.IDENTITY,
        check="cert-manager's certificates are ready, and renewed in time",
        breaks=lambda mesh: mesh.edit(
            CERTIFICATES, ISSUER_NAME, lambda raw: raw["spec"].update(renewal={"policy": "Disabled"})
        ),
        found=((f"certificate for {ISSUER_NAME}", "spec.renewal.policy is Disabled"),),
    ),
    Case(
        name="a root that changes by itself",
        group=Group.IDENTITY,
        check="the trust anchor keeps its key",
        breaks=lambda mesh: mesh.edit(
            CERTIFICATES, "meshwright-trust-anchor", lambda raw: raw["spec"].pop("privateKey")
        ),
        found=(
            ("certificate/meshwright-trust-anchor", "cert-manager gives the trust anchor a new key when it renews it"),
        ),
    ),
    Case(
        name="a request that nobody approves",
        group=Group.IDENTITY,
        check="no request for a certificate is denied, failed or forgotten",
        breaks=lambda mesh: mesh.put(
            CERTIFICATE_REQUESTS, "r-1", metadata={"creationTimestamp": stamp(timedelta(minutes=9))}, status={}
        ),
        found=(("certificaterequest/r-1", "nobody has approved it for 9m"),),
    ),
    Case(
        name="a request that was denied",
        group=Group.IDENTITY,
        check="no request for a certificate is denied, failed or forgotten",
        breaks=lambda mesh: mesh.put(
            CERTIFICATE_REQUESTS,
            "r-1",
            status={"conditions": [{"type": "Denied", "status": "True", "message": "no policy"}]},
        ),
        found=(("certificaterequest/r-1", "it was denied: no policy"),),
    ),
    Case(
        name="no issuer",
        group=Group.IDENTITY,
        check="the issuer's Secret can be read, and its key fits",
        breaks=lambda mesh: mesh.remove(SECRETS, ISSUER_NAME),
        found=((f"secret/{ISSUER_NAME}", "there is none in namespace meshwright"),),
        fixes=("kubectl -n meshwright describe certificate",),
    ),
    Case(
        name="half an issuer",
        group=Group.IDENTITY,
        check="the issuer's Secret can be read, and its key fits",
        breaks=lambda mesh: mesh.edit(SECRETS, ISSUER_NAME, lambda raw: raw["data"].pop("tls.key")),
        found=((f"secret/{ISSUER_NAME}", "data[tls.key]: "),),
    ),
    Case(
        name="an issuer whose key is another's",
        group=Group.IDENTITY,
        check="the issuer's Secret can be read, and its key fits",
        breaks=lambda mesh: mesh.edit(
            SECRETS,
            ISSUER_NAME,
            lambda raw: raw["data"].update({"tls.key": make_issuer_secret(anchor(3), [])["data"]["tls.key"]}),
        ),
        found=((f"secret/{ISSUER_NAME}", "data[tls.key]: "),),
    ),
    Case(
        name="no bundle",
        group=Group.IDENTITY,
        check="the trust anchors can be read",
        breaks=lambda mesh: (mesh.put_bundle(anchor()), mesh.remove(CONFIG_MAPS, "roots")),
        found=(("configmap/roots", "there is none in namespace meshwright"),),
    ),
    Case(
        name="an empty bundle",
        group=Group.IDENTITY,
        check="the trust anchors can be read",
        breaks=lambda mesh: mesh.edit(SECRETS, ISSUER_NAME, lambda raw: raw["data"].pop("ca.crt")),
        found=((f"secret/{ISSUER_NAME}", "it has no trust anchor"),),
    ),
    Case(
        name="an issuer that is no CA",
        group=Group.IDENTITY,
        check=IS_ISSUER,
        breaks=put_issuer(replace(ISSUER, is_ca=False)),
        found=((f"secret/{ISSUER_NAME}", "found CN=identity.meshwright.cluster.local, which is no CA's"),),
    ),
    Case(
        name="an issuer with RSA",
        group=Group.IDENTITY,
        check=IS_ISSUER,
        breaks=put_issuer(replace(ISSUER, key="RSA 2048")),
        found=((f"secret/{ISSUER_NAME}", "found a key RSA 2048; write one that is ECDSA P-256"),),
    ),
    Case(
        name="an issuer without server auth",
        group=Group.IDENTITY,
        check=IS_ISSUER,
        breaks=put_issuer(replace(ISSUER, extended=(ExtendedKeyUsageOID.CLIENT_AUTH,))),
        found=((f"secret/{ISSUER_NAME}", "found the extended key usages clientAuth, so that no certificate below it"),),
    ),
    Case(
        name="an issuer that ended",
        group=Group.IDENTITY,
        check="the issuer is within its validity",
        breaks=put_issuer(replace(ISSUER, until=timedelta(minutes=-5))),
        found=((f"secret/{ISSUER_NAME}", "CN=identity.meshwright.cluster.local ended "),),
    ),
    Case(
        name="an issuer from a clock that is ahead",
        group=Group.IDENTITY,
        check="the issuer is within its validity",
        breaks=put_issuer(replace(ISSUER, since=timedelta(hours=1))),
        found=((f"secret/{ISSUER_NAME}", "CN=identity.meshwright.cluster.local is valid from "),),
    ),
    Case(
        name="an issuer from elsewhere",
        group=Group.IDENTITY,
        check="the issuer hangs from a trust anchor that is valid",
        breaks=lambda mesh: mesh.put_issuer(issuer(2), anchor()),
        found=((f"secret/{ISSUER_NAME}", "found CN=identity.meshwright.cluster.local, signed by CN=root-2"),),
    ),
    Case(
        name="an anchor that ended",
        group=Group.IDENTITY,
        check="the issuer hangs from a trust anchor that is valid",
        breaks=put_issuer(ISSUER, old_root),
        found=((f"secret/{ISSUER_NAME}", "CN=root.cluster.local ended "),),
    ),
    Case(
        name="an issuer with little left",
        group=Group.IDENTITY,
        check="the issuer was renewed in time",
        breaks=put_issuer(replace(ISSUER, since=timedelta(hours=-40), until=timedelta(hours=8))),
        found=((f"secret/{ISSUER_NAME}", "CN=identity.meshwright.cluster.local ends "),),
    ),
    Case(
        name="an issuer that outlives its anchor",
        group=Group.IDENTITY,
        check="the issuer ends before its anchor",
        breaks=put_issuer(replace(ISSUER, until=timedelta(days=20)), late_root),
        found=((f"secret/{ISSUER_NAME}", "found CN=identity.meshwright.cluster.local, valid until "),),
    ),
    Case(
        name="an anchor with little left",
        group=Group.IDENTITY,
        check="the trust anchors live on for long enough",
        breaks=put_issuer(ISSUER, late_root),
        found=((f"secret/{ISSUER_NAME}", "CN=root.cluster.local ends "),),
    ),
    Case(
        name="an old anchor in the bundle",
        group=Group.IDENTITY,
        check="every trust anchor is in order",
        breaks=expire_anchor,
        found=(("configmap/roots", "CN=old ended "),),
    ),
    Case(
        name="an anchor twice",
        group=Group.IDENTITY,
        check="every trust anchor is in order",
        breaks=lambda mesh: mesh.put_bundle(anchor(), anchor()),
        found=(("configmap/roots", "found CN=root.cluster.local more than once"),),
    ),
    Case(
        name="another mesh's issuer",
        group=Group.IDENTITY,
        check="the issuer bears this mesh's name",
        breaks=put_issuer(replace(ISSUER, name="identity.linkerd.cluster.local")),
        found=((f"secret/{ISSUER_NAME}", "found the common name identity.linkerd.cluster.local"),),
    ),
    Case(
        name="an anchor that is not in the bundle",
        group=Group.IDENTITY,
        check="the anchors beside the issuer are in the trust bundle",
        breaks=lambda mesh: (mesh.put_bundle(anchor()), mesh.put_issuer(issuer(), anchor(), anchor(2))),
        found=((f"secret/{ISSUER_NAME}", "its ca.crt has CN=root-2.cluster.local ("),),
        fixes=("add it to configmap/roots",),
    ),
    Case(
        name="anchors that were not published",
        group=Group.IDENTITY,
        check="every namespace has the trust anchors that are written",
        breaks=lambda mesh: (
            mesh.remove(CONFIG_MAPS, "mw-trust-anchors", "shop"),
            mesh.server.cluster.put(
                CONFIG_MAPS,
                {
                    **make_bundle([anchor(2)]),
                    "metadata": {
                        "name": "mw-trust-anchors",
                        "namespace": "default",
                        "labels": {"meshwright.dev/unit": "anchors"},
                    },
                },
            ),
        ),
        found=(
            (
                "configmap/mw-trust-anchors in default",
                f"it lacks 1 anchor ({anchor().fingerprint[:16]}) and has 1 anchor ({anchor(2).fingerprint[:16]}) too",
            ),
            ("configmap/mw-trust-anchors in shop", "there is none: no proxy can start there"),
        ),
    ),
    Case(
        name="a replica that says nothing",
        group=Group.IDENTITY,
        check="delivery says how it is",
        breaks=lambda mesh: mesh.metrics.pop(("meshwright", "meshwright-xds-1")),
        found=(("pod/meshwright-xds-1", "it does not say how it is: 503 ServiceUnavailable: connection refused"),),
        fixes=("8080",),
    ),
    Case(
        name="a signer that lags",
        group=Group.IDENTITY,
        check="delivery signs with this issuer, and trusts these anchors",
        breaks=lambda mesh: mesh.metrics.update(
            {
                ("meshwright", "meshwright-xds-0"): delivery_metrics(made=anchor(), anchors=2),
                ("meshwright", "meshwright-xds-1"): delivery_metrics(usable=0),
            }
        ),
        found=(
            ("pod/meshwright-xds-0", "it signs with another issuer than the one that is written"),
            ("pod/meshwright-xds-0", "it trusts 2 anchors, and there are 1"),
            ("pod/meshwright-xds-1", "it has no issuer that it may sign with"),
        ),
    ),
    Case(
        name="what the operator says",
        group=Group.IDENTITY,
        check="the operator finds nothing wrong with identity",
        breaks=lambda mesh: mesh.put(
            CONFIG_MAPS,
            "mw-mesh",
            data={"identity.json": '{"problems": [{"field": "data[tls.crt]", "message": "bad"}], "issuer": null}'},
        ),
        found=(
            ("configmap/mw-mesh", "data[tls.crt]: bad"),
            ("configmap/mw-mesh", "it speaks of another issuer than the one that is written"),
        ),
    ),
    Case(
        name="an operator that says nothing",
        group=Group.IDENTITY,
        check="the operator finds nothing wrong with identity",
        breaks=lambda mesh: mesh.remove(CONFIG_MAPS, "mw-mesh"),
        found=(("configmap/mw-mesh", "there is none: the operator has said nothing of identity yet"),),
    ),
    Case(
        name="no webhook configuration",
        group=Group.WEBHOOK,
        check="the API server sends pods to the webhook",
        breaks=lambda mesh: mesh.remove(WEBHOOKS, "meshwright-inject"),
        found=(("the webhook of service/meshwright-webhook", "no MutatingWebhookConfiguration names it"),),
    ),
    Case(
        name="no CA bundle",
        group=Group.WEBHOOK,
        check="the API server believes the webhook's Secret",
        breaks=edit_ca_bundle(""),
        found=((HOOK, "it has no caBundle: the API server believes no answer"),),
    ),
    Case(
        name="an old CA bundle",
        group=Group.WEBHOOK,
        check="the API server believes the webhook's Secret",
        breaks=edit_ca_bundle(anchor(8).pem),
        found=((HOOK, "its caBundle lacks what ca.crt of secret/meshwright-webhook-tls has"),),
    ),
    Case(
        name="no webhook Secret",
        group=Group.WEBHOOK,
        check="the webhook's certificate is valid, for its name",
        breaks=lambda mesh: mesh.remove(SECRETS, "meshwright-webhook-tls"),
        found=((TLS, "there is none in namespace meshwright"),),
    ),
    Case(
        name="a webhook certificate for another name",
        group=Group.WEBHOOK,
        check="the webhook's certificate is valid, for its name",
        breaks=put_webhook_secret(dns=("meshwright-webhook.other.svc",)),
        found=(
            (TLS, "its certificate is for meshwright-webhook.other.svc, and the API server asks for meshwright-webh"),
        ),
    ),
    Case(
        name="a webhook certificate that ended",
        group=Group.WEBHOOK,
        check="the webhook's certificate is valid, for its name",
        breaks=put_webhook_secret(until=timedelta(minutes=-30)),
        found=((TLS, "its certificate ended 30m ago"),),
    ),
    Case(
        name="a webhook certificate from elsewhere",
        group=Group.WEBHOOK,
        check="the webhook's certificate is valid, for its name",
        breaks=edit_ca_bundle(anchor(8).pem),
        found=((TLS, "its certificate does not hang from the caBundle of meshwright-inject"),),
    ),
    Case(
        name="a webhook certificate with little left",
        group=Group.WEBHOOK,
        check="the webhook's certificate was renewed in time",
        breaks=put_webhook_secret(since=timedelta(hours=-20), until=timedelta(hours=4)),
        found=((TLS, "its certificate ends in 4h, of the 1d that it lives"),),
    ),
    Case(
        name="a webhook that is away",
        group=Group.WEBHOOK,
        check="a new pod gets a proxy",
        breaks=lambda mesh: setattr(mesh, "try_pod", lambda pod: pod),
        found=(("a pod tried in namespace shop", "it got no proxy: the webhook was not asked, or gave no answer"),),
    ),
    Case(
        name="a namespace that admits no NET_ADMIN",
        group=Group.WEBHOOK,
        check="a new pod gets a proxy",
        breaks=refuse('pods "meshwright-check-x" is forbidden: violates PodSecurity "restricted:latest": NET_ADMIN'),
        found=(("a pod tried in namespace shop", "the API server refuses it: pods "),),
        fixes=("kubectl label namespace shop pod-security.kubernetes.io/enforce=privileged",),
    ),
    Case(
        name="no right to create pods",
        group=Group.WEBHOOK,
        check="a new pod gets a proxy",
        breaks=refuse(
            'pods is forbidden: User "eve" cannot create resource "pods" in API group "" in the namespace "shop"'
        ),
        found=(("create pods", "you may not create pods in namespace shop, so this is not known: pods is forbidden"),),
        fixes=("kubectl auth can-i create pods -n shop",),
    ),
    Case(
        name="failurePolicy Fail",
        group=Group.WEBHOOK,
        check="the cluster lives on without the webhook",
        breaks=lambda mesh: (
            edit_webhook(failurePolicy="Fail", namespaceSelector={})(mesh),
            set_status(DEPLOYMENTS, "meshwright-webhook", readyReplicas=1)(mesh),
        ),
        found=(
            (HOOK, "failurePolicy is Fail, and it takes pods of meshwright, too: without it none starts there"),
            (HOOK, "failurePolicy is Fail, and it takes pods of kube-system, too: without it none starts there"),
            (HOOK, "failurePolicy is Fail, and 1 replica of the webhook is ready: without it no pod starts anywhere"),
        ),
    ),
    *(
        Case(
            name=f"a namespace that is meshed and {standard}",
            group=Group.WEBHOOK,
            check="meshed namespaces let the proxy's init container in",
            breaks=enforce(standard),
            found=(("namespace/shop", f"it enforces the Pod Security standard {standard}, which refuses "),),
            fixes=("kubectl label namespace shop pod-security.kubernetes.io/enforce=privileged --overwrite",),
        )
        for standard in ("baseline", "restricted")
    ),
    Case(
        name="a pod older than the annotation",
        group=Group.WEBHOOK,
        check="every pod that should have a proxy has one",
        breaks=lags,
        found=(("pod/old-7d9f-1 in shop", "it is older than the namespace's annotation"),),
        fixes=("kubectl -n shop rollout restart deployment/old",),
    ),
    Case(
        name="a pod that the webhook missed",
        group=Group.WEBHOOK,
        check="every pod that should have a proxy has one",
        breaks=lambda mesh: mesh.put_pod("lone", is_meshed=False),
        found=(
            ("pod/lone in shop", "the webhook did not change it: it was away when the pod was made, or is not asked"),
        ),
        fixes=("kubectl -n shop delete pod lone",),
    ),
    Case(
        name="a pod on the node's network",
        group=Group.WEBHOOK,
        check="every pod that should have a proxy has one",
        breaks=uses_host_network,
        found=(("pod/probe in shop", "it can have no proxy: hostNetwork: true"),),
        fixes=('"linkerd.io/inject: disabled"',),
    ),
    Case(
        name="a namespace that is not there",
        group=Group.DATA_PLANE,
        check="the namespace is there",
        breaks=lambda mesh: None,
        found=(("namespace/nowhere", "there is none"),),
        options=SHOP,
    ),
    Case(
        name="nobody is meshed",
        group=Group.DATA_PLANE,
        check="there are pods with a proxy",
        breaks=lambda mesh: mesh.remove(PODS, "web", "shop"),
        found=(("pods", "none in any namespace has a proxy"),),
    ),
    Case(
        name="a proxy that is not ready",
        group=Group.DATA_PLANE,
        check="the proxies are ready",
        breaks=lambda mesh: mesh.edit(
            PODS,
            "web",
            lambda raw: raw["status"].update(initContainerStatuses=[running("meshwright-proxy", ready=False)]),
            "shop",
        ),
        found=((WEB, "its proxy is not ready"),),
        fixes=("kubectl -n shop logs web -c meshwright-proxy",),
    ),
    Case(
        name="an old proxy",
        group=Group.DATA_PLANE,
        check="the proxies are of the control plane's version",
        breaks=lambda mesh: mesh.edit(
            PODS,
            "web",
            lambda raw: raw["metadata"]["annotations"].update({"meshwright.dev/proxy-version": "0.0.9"}),
            "shop",
        ),
        found=((WEB, f"its proxy is of version 0.0.9, the control plane of {__version__}"),),
    ),
    Case(
        name="a proxy that says nothing",
        group=Group.DATA_PLANE,
        check="the proxies say how they are",
        breaks=lambda mesh: mesh.metrics.pop(("shop", "web")),
        found=((WEB, "it does not say how it is: 503 ServiceUnavailable: connection refused"),),
        fixes=("NetworkPolicies",),
    ),
    Case(
        name="a proxy that is not connected",
        group=Group.DATA_PLANE,
        check="the proxies are connected to delivery",
        breaks=lambda mesh: mesh.metrics.update({("shop", "web"): proxy_metrics(connected=0)}),
        found=((WEB, "it is not connected to delivery: what it knows gets older"),),
    ),
    Case(
        name="a proxy whose certificate ended",
        group=Group.DATA_PLANE,
        check="the proxies' certificates are valid",
        breaks=lambda mesh: mesh.metrics.update({("shop", "web"): proxy_metrics(ends=NOW - timedelta(hours=1))}),
        found=((WEB, "its certificate ended 1h ago"),),
    ),
    Case(
        name="a proxy without a certificate",
        group=Group.DATA_PLANE,
        check="the proxies' certificates are valid",
        breaks=lambda mesh: mesh.metrics.update({("shop", "web"): "envoy_control_plane_connected_state{} 1\n"}),
        found=((WEB, "it has no certificate in use"),),
    ),
    Case(
        name="a proxy that renews late",
        group=Group.DATA_PLANE,
        check="the proxies renew their certificates in time",
        breaks=lambda mesh: mesh.metrics.update({("shop", "web"): proxy_metrics(ends=NOW + timedelta(hours=3))}),
        found=((WEB, "its certificate ends in 3h, of the 1d that it lives"),),
    ),
    Case(
        name="a proxy with old anchors",
        group=Group.DATA_PLANE,
        check="the proxies trust the anchors that are written",
        breaks=lambda mesh: mesh.metrics.update({("shop", "web"): proxy_metrics(anchors=NOW + timedelta(days=1))}),
        found=((WEB, "the first of its anchors ends 2026-09-02T12:00:00Z, and of those that are written 2036-"),),
    ),
    Case(
        name="configuration that was refused",
        group=Group.DATA_PLANE,
        check="the proxies have taken their configuration",
        breaks=lambda mesh: mesh.metrics.update({("meshwright", "meshwright-xds-0"): delivery_metrics(rejected=2)}),
        found=(("pod/meshwright-xds-0", "of what it sends, 2 resources were refused by proxies"),),
        fixes=("kubectl get --raw /api/v1/namespaces/meshwright/pods/meshwright-xds-0:8080/proxy/debug/problems",),
    ),
    Case(
        name="Servers that hold nothing",
        group=Group.POLICY,
        check="every Server selects something, and keeps its port",
        breaks=lambda mesh: (
            put_api(mesh),
            put_server(mesh, "api", app="api"),
            put_server(mesh, "late", stamp(timedelta(hours=1)), app="api", port=8080),
            put_server(mesh, "named", app="api", port="admin"),
            put_server(mesh, "nobody", app="nobody"),
            put_server(mesh, "young", stamp(timedelta(seconds=30)), app="nobody", port=1),
            put_server(mesh, "elsewhere", app="web", externalWorkloadSelector={}),
        ),
        found=(
            ("server/elsewhere in shop", "spec.externalWorkloadSelector: it selects no ExternalWorkload of"),
            ("server/late in shop", "spec.port: Server shop/api, which is older, has the same selector and port"),
            ("server/named in shop", 'spec.port: no pod that it selects has a TCP port named "admin"'),
            ("server/nobody in shop", "spec.podSelector: it selects no pod of namespace shop"),
        ),
        fixes=("kubectl -n shop get pods,externalworkloads --show-labels",),
    ),
    Case(
        name="authorizations for nothing",
        group=Group.POLICY,
        check="every authorization and every route is for something",
        breaks=lambda mesh: (
            put_policy(mesh, Kind.SERVER_AUTHORIZATION, "all", server={"name": "gone"}, client=EVERYBODY),
            put_policy(mesh, Kind.AUTHORIZATION_POLICY, "web", targetRef=GONE, requiredAuthenticationRefs=[]),
            put_policy(mesh, Kind.POLICY_HTTP_ROUTE, "web", parentRefs=[GONE]),
        ),
        found=(
            ("authorizationpolicy/web in shop", "spec.targetRef.name: Server shop/gone does not exist"),
            ("httproute/web in shop", "spec.parentRefs[0]"),
            ("serverauthorization/all in shop", "spec.server.name: Server shop/gone does not exist"),
        ),
        fixes=("kubectl -n shop get servers,httproutes.policy.linkerd.io",),
    ),
    Case(
        name="an authentication that is not there",
        group=Group.POLICY,
        check="every authentication that a policy requires is there",
        breaks=lambda mesh: (
            put_server(mesh, "gone"),
            put_policy(
                mesh,
                Kind.AUTHORIZATION_POLICY,
                "web",
                targetRef=GONE,
                requiredAuthenticationRefs=[
                    {"group": "policy.linkerd.io", "kind": "NetworkAuthentication", "name": "office"}
                ],
            ),
        ),
        found=(("authorizationpolicy/web in shop", "spec.requiredAuthenticationRefs: NetworkAuthentication shop/off"),),
        fixes=("kubectl -n shop get meshtlsauthentications,networkauthentications",),
    ),
    Case(
        name="a second rate limit",
        group=Group.POLICY,
        check="every rate limit holds",
        breaks=lambda mesh: (
            put_server(mesh, "gone"),
            *(
                put_policy(mesh, Kind.RATE_LIMIT_POLICY, name, targetRef=GONE, total={"requestsPerSecond": 5})
                for name in ("first", "second")
            ),
        ),
        found=(("httplocalratelimitpolicy/second in shop", ""),),
        fixes=("kubectl -n shop get httplocalratelimitpolicies",),
    ),
    Case(
        name="networks that are none",
        group=Group.POLICY,
        check="nothing written about who may call is faulty",
        breaks=lambda mesh: put_policy(mesh, Kind.NETWORK_AUTHENTICATION, "office", networks=[{"cidr": "10.0.0.1/8"}]),
        found=(("networkauthentication/office in shop", "spec.networks[0].cidr"),),
    ),
    Case(
        name="only the namespace that was asked about",
        group=Group.POLICY,
        check="every Server selects something, and keeps its port",
        breaks=lambda mesh: put_server(mesh, "nobody", app="nobody"),
        found=(),
        options=Options(namespace="default"),
    ),
)


def find(group: Group, description: str) -> Check:
    return next(check for check in CHECKS if (check.group, check.description) == (group, description))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_what_is_broken_is_found_and_named(case: Case, inquiry: Inquiry, mesh: Installation) -> None:
    case.breaks(mesh)
    inquiry.options = case.options
    result, _ = await look_once(inquiry, find(case.group, case.check))
    findings = result.findings
    assert [(each.what, each.found[: len(found)]) for each, (_, found) in zip(findings, case.found, strict=True)] == [
        *case.found
    ]
    assert [fix in each.fix for each, fix in zip(findings, case.fixes, strict=False)] == [True] * len(case.fixes)


def test_every_check_has_a_case() -> None:
    told = {(case.group, case.check) for case in CASES}
    # Those of machines have a module of their own. This one only connects; what it says when it cannot is in the tests
    # of the table.
    assert {(each.group, each.description) for each in CHECKS if each.group is not Group.EXTERNAL} - told == {
        (Group.KUBERNETES, "it is known where the API server is")
    }
    assert len({case.name for case in CASES}) == len(CASES)


async def test_the_pod_that_is_tried_asks_for_a_proxy_and_is_one_that_every_namespace_takes(
    inquiry: Inquiry, mesh: Installation
) -> None:
    await find(Group.WEBHOOK, "a new pod gets a proxy").look(inquiry)
    (pod,) = mesh.tried
    assert pod["metadata"]["annotations"] == {"linkerd.io/inject": "enabled"}
    assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
    assert pod["spec"]["containers"][0]["resources"].keys() == {"requests", "limits"}
    assert (mesh.server.cluster.get(PODS, "shop", "meshwright-check-"), add_proxy(pod) != pod) == (None, True)


@pytest.mark.parametrize("node", [{"conditions": [{"type": "Ready", "status": "Unknown"}]}, {}])
async def test_of_a_node_that_is_away_no_clock_is_judged(node: Any, inquiry: Inquiry, mesh: Installation) -> None:
    mesh.put(NODES, "one", status=node)
    mesh.put(LEASES, "one", "kube-node-lease", spec={"renewTime": stamp(timedelta(hours=9))})
    assert await find(Group.KUBERNETES, "the nodes' clocks agree with the API server's").look(inquiry) == []


@pytest.mark.parametrize("phase", ["Succeeded", "Failed"])
async def test_pods_that_have_ended_or_are_not_meant_to_be_meshed_are_left_out(
    phase: str, inquiry: Inquiry, mesh: Installation
) -> None:
    mesh.put_pod("job", is_meshed=False)
    mesh.edit(PODS, "job", lambda raw: raw["status"].update(phase=phase), "shop")
    mesh.put_pod("out", is_meshed=False, annotations={"linkerd.io/inject": "disabled"})
    mesh.put_pod("other", "default", is_meshed=False)
    mesh.put_pod("going", is_meshed=False, deletionTimestamp=stamp())
    assert await find(Group.WEBHOOK, "every pod that should have a proxy has one").look(inquiry) == []


async def test_the_bundle_may_be_a_configmap_and_hold_several_anchors(inquiry: Inquiry, mesh: Installation) -> None:
    mesh.put_bundle(anchor(2), anchor())
    for check in CHECKS:
        if check.group is Group.IDENTITY and check.description.startswith(
            ("the issuer", "the trust anchors", "every t")
        ):
            assert await check.look(inquiry) == [], check.description


async def test_an_authority_that_was_replaced_may_stay_believed(inquiry: Inquiry, mesh: Installation) -> None:
    edit_ca_bundle(anchor(9).pem + anchor(8).pem)(mesh)
    for check in CHECKS:
        if check.group is Group.WEBHOOK:
            assert await check.look(inquiry) == [], check.description


@pytest.mark.parametrize(
    ("group", "description", "note"),
    [
        (Group.KUBERNETES, "Kubernetes is new enough", "v1.36.0"),
        (
            Group.IDENTITY,
            "the issuer is within its validity",
            "CN=identity.meshwright.cluster.local, signed by CN=root.cluster.local, until 2026-09-03T11:00:00Z, "
            "next renewal 2026-09-02T10:00:00Z",
        ),
        (Group.IDENTITY, "every trust anchor is in order", "CN=root.cluster.local until 2036-08-29T12:00:00Z"),
        (Group.DATA_PLANE, "there are pods with a proxy", "1"),
    ],
)
async def test_what_is_well_says_how_it_is(group: Group, description: str, note: str, inquiry: Inquiry) -> None:
    result, _ = await look_once(inquiry, find(group, description))
    assert (result.findings, result.note) == ((), note)


async def test_a_clock_that_is_off_here_makes_no_certificate_look_old(inquiry: Inquiry, mesh: Installation) -> None:
    """What counts is the API server's time."""
    mesh.skew = timedelta(days=2)
    found = await find(Group.IDENTITY, "the issuer is within its validity").look(inquiry)
    assert [each.found.partition(" ended ")[0] for each in found] == ["CN=identity.meshwright.cluster.local"]


@pytest.mark.parametrize(("standard", "namespace"), [("privileged", "shop"), ("restricted", "default")])
async def test_where_nothing_is_meshed_or_all_is_admitted_pod_security_is_well(
    inquiry: Inquiry, mesh: Installation, standard: str, namespace: str
) -> None:
    enforce(standard, namespace)(mesh)
    assert await find(Group.WEBHOOK, "meshed namespaces let the proxy's init container in").look(inquiry) == []
