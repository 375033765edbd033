"""Whether meshwright can be installed: what its chart needs, asked before anything is changed."""

from collections.abc import Iterable

from meshwright.edge.check.inquiry import DEPLOYMENTS, NAMESPACES, PODS, Inquiry
from meshwright.edge.check.kubernetes import read_version
from meshwright.edge.check.outcome import Check, Finding, Group, Level
from meshwright.edge.resources import VERSIONS
from meshwright.model.ref import Kind

CREATED = (
    ("", "namespaces", False),
    ("", "configmaps", True),
    ("", "secrets", True),
    ("", "serviceaccounts", True),
    ("", "services", True),
    ("apps", "deployments", True),
    ("policy", "poddisruptionbudgets", True),
    ("networking.k8s.io", "networkpolicies", True),
    ("rbac.authorization.k8s.io", "clusterroles", False),
    ("rbac.authorization.k8s.io", "clusterrolebindings", False),
    ("rbac.authorization.k8s.io", "roles", True),
    ("rbac.authorization.k8s.io", "rolebindings", True),
    ("admissionregistration.k8s.io", "mutatingwebhookconfigurations", False),
    ("admissionregistration.k8s.io", "validatingwebhookconfigurations", False),
    ("admissionregistration.k8s.io", "validatingadmissionpolicies", False),
    ("admissionregistration.k8s.io", "validatingadmissionpolicybindings", False),
    ("apiextensions.k8s.io", "customresourcedefinitions", False),
)
"""What the charts and helm create on every cluster: API group, kind in the plural, whether it is in a namespace.

A namespace for ``helm install --create-namespace``, Secrets because helm keeps its releases in them.
"""

CREATED_BY_CERT_MANAGER = (("cert-manager.io", "issuers", True), ("cert-manager.io", "certificates", True))
"""What the chart creates when it makes the trust anchor."""

MIN_CERT_MANAGER = (1, 18)
"""The oldest cert-manager that we have been tried with; older ones keep a key when they renew, unless told not to."""

_OURS = ("app.kubernetes.io/part-of", "meshwright")
_GATEWAY = (Kind.HTTP_ROUTE, Kind.GRPC_ROUTE, Kind.REFERENCE_GRANT)


async def look_at_namespace(inquiry: Inquiry) -> list[Finding]:
    """Find out whether the control plane's namespace is free, or has a meshwright that can be upgraded."""
    name = inquiry.options.control_plane
    what = f"namespace/{name}"
    namespace = await inquiry.read(NAMESPACES, "", name)
    if namespace is None:
        return []
    if namespace["metadata"].get("deletionTimestamp"):
        return [Finding(what=what, found="it is being deleted", fix="wait until it is gone")]
    strangers = [
        pod["metadata"]["name"]
        for pod in await inquiry.list_all(PODS, name)
        if (pod["metadata"].get("labels") or {}).get(_OURS[0]) != _OURS[1]
    ]
    if not strangers:
        return []
    return [
        Finding(
            what=what,
            found=f"it has pods of others: {list_names(strangers)}; they would never get a proxy there",
            fix="install into a namespace of its own",
            is_lasting=True,
        )
    ]


async def look_at_permissions(inquiry: Inquiry) -> list[Finding]:
    """Ask for each kind of the chart whether it could be created."""
    home = inquiry.options.control_plane
    wanted = list(CREATED)
    if await inquiry.served_versions("certificates", "cert-manager.io"):
        wanted += CREATED_BY_CERT_MANAGER
    findings = []
    for group, plural, is_namespaced in wanted:
        where = home if is_namespaced else ""
        if not await inquiry.may("create", group, plural, where):
            kind = f"{plural}.{group}" if group else plural
            place = f" in namespace {home}" if where else ""
            again = f"kubectl auth can-i create {kind}" + (f" -n {home}" if where else "")
            findings.append(
                Finding(what=kind, found=f"you may not create any{place}", fix=f"be granted it; ask: {again}")
            )
    return findings


async def look_at_gateway(inquiry: Inquiry) -> list[Finding]:
    """Find out which kinds of the Gateway API are served, in a version that is read."""
    findings = []
    for kind in _GATEWAY:
        findings += await find_unserved(inquiry, kind)
    return findings


async def find_unserved(inquiry: Inquiry, kind: Kind) -> list[Finding]:
    """Return what is wrong with a kind's definition: nothing when one of the versions that are read is served."""
    read = [resource.version for resource in VERSIONS[kind]]
    plural = VERSIONS[kind][0].plural
    served = await inquiry.served_versions(plural, kind.group)
    if served & set(read):
        return []
    found = f"it is served as {', '.join(sorted(served))} only" if served else "there is none"
    return [
        Finding(what=f"crd/{plural}.{kind.group}", found=found, fix=f"install it so that it serves {' or '.join(read)}")
    ]


async def look_at_cert_manager(inquiry: Inquiry) -> list[Finding]:
    """Find cert-manager, its version and whether it runs."""
    if "v1" not in await inquiry.served_versions("certificates", "cert-manager.io"):
        return [Finding(what="crd/certificates.cert-manager.io", found="there is none that serves v1", is_lasting=True)]
    controllers = await inquiry.list_all(DEPLOYMENTS, labels="app.kubernetes.io/name=cert-manager")
    if not controllers:
        return [
            Finding(
                what="deployment cert-manager",
                found="its definitions are here, and no Deployment labelled app.kubernetes.io/name=cert-manager",
                is_lasting=True,
            )
        ]
    findings = []
    for controller in controllers:
        meta = controller["metadata"]
        what = f"deployment/{meta['name']} in {meta['namespace']}"
        text = str((meta.get("labels") or {}).get("app.kubernetes.io/version") or "")
        version = read_version(text)
        if version is not None and version < MIN_CERT_MANAGER:
            least = ".".join(map(str, MIN_CERT_MANAGER))
            fix = f"upgrade to {least} or later"
            findings.append(Finding(what=what, found=f"it is {text}", fix=fix, is_lasting=True))
        if not (controller.get("status") or {}).get("readyReplicas"):
            fix = f"kubectl -n {meta['namespace']} describe deployment {meta['name']}"
            findings.append(Finding(what=what, found="none of its pods is ready", fix=fix))
    return findings


def list_names(names: Iterable[str], most: int = 3) -> str:
    """Return some names and how many more there are: ``a, b, c and 4 more``."""
    found = sorted(names)
    more = f" and {len(found) - most} more" if len(found) > most else ""
    return ", ".join(found[:most]) + more


CHECKS = (
    Check(
        group=Group.PRE,
        description="the control plane's namespace is free, or meshwright's own",
        level=Level.ERROR,
        hint="choose another by --control-plane-namespace",
        look=look_at_namespace,
        is_retried=True,
    ),
    Check(
        group=Group.PRE,
        description="you may create what the charts have",
        level=Level.ERROR,
        hint="install as a cluster administrator",
        look=look_at_permissions,
    ),
    Check(
        group=Group.PRE,
        description="the Gateway API is there, in versions that are read",
        level=Level.WARNING,
        hint="without it there are no routes, and everything else works: https://gateway-api.sigs.k8s.io/guides/",
        look=look_at_gateway,
    ),
    Check(
        group=Group.PRE,
        description="cert-manager is there, runs and is new enough",
        level=Level.WARNING,
        hint="it makes and renews certificates: https://cert-manager.io/docs/installation/ ; without it bring them "
        "yourself, by identity.issuer.external=true",
        look=look_at_cert_manager,
        is_retried=True,
    ),
)
