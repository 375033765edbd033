"""What is put into the API server of a new cluster: custom kinds, the Services of CoreDNS and cert-manager."""

import base64
from pathlib import Path
from typing import Any

import yaml

from e2e.cluster.network import ENTER, require_cable
from e2e.cluster.places import DNS_SERVICE, NODE_ADDRESS, WEBHOOK_PORT, Places
from e2e.cluster.shell import run

Json = dict[str, Any]
FIELD_MANAGER = "meshwright-e2e"


def kubectl(places: Places, clients: Path, *args: str, stdin: str | None = None) -> str:
    """Return what kubectl printed, run inside the namespace. Raises ClusterError when it fails."""
    require_cable()
    words: list[str | Path] = [*ENTER, clients / "kubectl", f"--kubeconfig={places.kubeconfig}", *args]
    return run(words, stdin=stdin, seconds=120)


def apply(places: Places, clients: Path, *args: str, stdin: str | None = None) -> None:
    """Apply server-side: the large CRDs do not fit into the annotation of a client-side apply."""
    manager = f"--field-manager={FIELD_MANAGER}"
    kubectl(places, clients, "apply", "--server-side", "--force-conflicts", manager, *args, stdin=stdin)


def install_crds(places: Places, clients: Path, builds: dict[str, Path]) -> None:
    """Install the CRDs of Gateway API (standard channel), cert-manager and the repository, and wait for them."""
    folders = [builds["gateway-api"] / "crds", builds["cert-manager"] / "crds"]
    own = places.repo / "crds"
    if any(own.rglob("*.yaml")):
        folders.append(own)
    apply(places, clients, "--recursive", *(f"--filename={folder}" for folder in folders))
    kubectl(places, clients, "wait", "--for=condition=Established", "--timeout=60s", "crd", "--all")


def make_service(namespace: str, name: str, ports: list[Json], *, address: str | None = None) -> Json:
    """Return a Service without selector: its endpoints are written by hand, for its servers are not pods."""
    spec: Json = {"ports": ports}
    if address:
        spec["clusterIP"] = address
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": namespace, "name": name}, "spec": spec}


def make_slice(service: Json) -> Json:
    """Return the EndpointSlice that leads such a Service to the same ports of the node's address.

    Not to a loopback address: the API server refuses those.
    """
    named = service["metadata"]
    ports = [
        {"name": port["name"], "port": port["targetPort"], "protocol": port["protocol"]}
        for port in service["spec"]["ports"]
    ]
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "namespace": named["namespace"],
            "name": f"{named['name']}-node",
            "labels": {"kubernetes.io/service-name": named["name"]},
        },
        "addressType": "IPv4",
        "endpoints": [{"addresses": [NODE_ADDRESS], "conditions": {"ready": True}}],
        "ports": ports,
    }


def make_dns() -> list[Json]:
    ports = [
        {"name": "dns", "port": 53, "targetPort": 53, "protocol": "UDP"},
        {"name": "dns-tcp", "port": 53, "targetPort": 53, "protocol": "TCP"},
    ]
    service = make_service("kube-system", "kube-dns", ports, address=DNS_SERVICE)
    service["metadata"]["labels"] = {"k8s-app": "kube-dns"}
    return [service, make_slice(service)]


def make_webhook(kind: str, path: str, rule: Json, authority: bytes) -> Json:
    """Return an admission configuration for cert-manager's webhook, as its chart has it (``kind`` without suffix)."""
    service = {"namespace": "cert-manager", "name": "cert-manager-webhook", "path": path}
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": f"{kind}WebhookConfiguration",
        "metadata": {"name": "cert-manager-webhook"},
        "webhooks": [
            {
                "name": "webhook.cert-manager.io",
                "rules": [{"apiVersions": ["v1"], **rule}],
                "admissionReviewVersions": ["v1"],
                "matchPolicy": "Equivalent",
                "timeoutSeconds": 10,
                "failurePolicy": "Fail",
                "sideEffects": "None",
                "clientConfig": {"service": service, "caBundle": base64.b64encode(authority).decode()},
            }
        ],
    }


def make_cert_manager(authority: bytes) -> list[Json]:
    """Return cert-manager's namespace, Service and webhooks; ``authority`` signed the webhook's certificate."""
    ports = [{"name": "https", "port": 443, "targetPort": WEBHOOK_PORT, "protocol": "TCP"}]
    service = make_service("cert-manager", "cert-manager-webhook", ports)
    both = ["cert-manager.io", "acme.cert-manager.io"]
    writes = {"apiGroups": both, "operations": ["CREATE", "UPDATE"], "resources": ["*/*"]}
    requests = {"apiGroups": both[:1], "operations": ["CREATE"], "resources": ["certificaterequests"]}
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "cert-manager"}},
        service,
        make_slice(service),
        make_webhook("Validating", "/validate", writes, authority),
        make_webhook("Mutating", "/mutate", requests, authority),
    ]


def install_services(places: Places, clients: Path) -> None:
    """Put CoreDNS's and cert-manager's objects into the API server."""
    objects = make_dns() + make_cert_manager((places.pki / "ca.crt").read_bytes())
    apply(places, clients, "--filename=-", stdin=yaml.safe_dump_all(objects))


def make_sample_issuer() -> Json:
    """Return an Issuer to create with ``dryRun``: it goes through the webhook, and nothing is kept."""
    return {
        "apiVersion": "cert-manager.io/v1",
        "kind": "Issuer",
        "metadata": {"name": "probe", "namespace": "default"},
        "spec": {"selfSigned": {}},
    }
