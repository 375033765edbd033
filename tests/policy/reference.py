"""Who may call whom, once more: slowly, on raw manifests, straight from what Linkerd and the Gateway API document.

It shares no code with the package, so that both being wrong in the same way is unlikely. It knows what the table of
cases and the random policies use, and no more.

Source: https://linkerd.io/2-edge/reference/authorization-policy/ and linkerd2 ``policy-controller``; Gateway API
``apis/v1/httproute_types.go`` (matching and precedence).
"""

import ipaddress
import re
from dataclasses import dataclass, field
from typing import Any

from tests.policy.reference_callers import IDENTITY, LABEL, account, are_sound, is_one_of, within
from tests.policy.reference_routes import Raw, age, choose, tidy

CLUSTER = ["10.0.0.0/8", "100.64.0.0/10", "172.16.0.0/12", "192.168.0.0/16", "fd00::/8"]
EVERYWHERE = ["0.0.0.0/0", "::/0"]
ACCESS = [
    "all-unauthenticated",
    "all-authenticated",
    "cluster-unauthenticated",
    "cluster-authenticated",
    "deny",
    "audit",
]
USUALLY_OPAQUE = [25, 587, 3306, 4444, 5432, 6379, 9300, 11211]
PREFIXES = ("config.meshwright.dev/", "config.linkerd.io/")


@dataclass(kw_only=True)
class Installed:
    """What the installation says."""

    access: str = "all-unauthenticated"
    cluster: list[str] = field(default_factory=lambda: list(CLUSTER))
    probes: list[str] = field(default_factory=lambda: list(EVERYWHERE))


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """``server``: its name, ``""`` for the default policy, whose name ``default`` is then."""

    outcome: str
    server: str = ""
    default: str = ""
    route: str = ""
    by: str = ""

    @property
    def log(self) -> str:
        return {"denied": "denied", "audited": "audit"}.get(self.outcome, "none")


def judge(
    objects: list[Raw],
    installed: Installed,
    caller: Raw,
    workload: tuple[str, str, str],
    port: int,
    request: Raw | None,
) -> Verdict:
    """``caller``: address, dns, uri, tls. ``workload``: kind (Pod or ExternalWorkload), namespace, name. ``request``:
    method, path with query, host, headers (pairs); ``None`` for bytes."""
    kind, namespace, name = workload
    own = find(objects, kind, namespace, name)
    above, annotations = inherited(objects, namespace, kind), own["metadata"].get("annotations", {})
    labels = own["metadata"].get("labels", {})
    server = governing(objects, kind, namespace, labels, own, port)
    address = ipaddress.ip_address(caller["address"])
    if address.version == 6 and address.ipv4_mapped:
        address = address.ipv4_mapped
    local = address.is_loopback
    grants: dict[str, bool] = {}
    if local:
        grants["default/localhost"] = True
    if server is None:
        # A word that is none counts as not said, on a pod too: there the namespace's holds then.
        words = (said(each, "default-inbound-policy", ACCESS) for each in (annotations, above))
        access = next(filter(None, words), installed.access)
        if port in ports_of({**above, **annotations}, "proxy-require-identity-inbound-ports", []):
            access = access.replace("unauthenticated", "authenticated")
        opaque = port in ports_of({**above, **annotations}, "opaque-ports", USUALLY_OPAQUE)
        protocol, shown = ("opaque" if opaque else "unknown"), {"default": access}
        attached: list[Raw] = []
    else:
        access = server["spec"].get("accessPolicy", "deny")
        access = access if access in ACCESS and server["apiVersion"].endswith("/v1beta3") else "deny"
        protocol = server["spec"].get("proxyProtocol", "unknown")
        if protocol not in ("unknown", "HTTP/1", "HTTP/2", "gRPC", "opaque", "TLS"):
            protocol = "unknown"
        shown = {"server": server["metadata"]["name"]}
        attached = routes_of(objects, server, protocol)
        grants |= granted(objects, installed, caller, address, server)
    if access not in ("deny", "audit"):
        networks = installed.cluster if access.startswith("cluster") else EVERYWHERE
        has_identity = bool(caller.get("dns"))
        grants[f"default/{access}"] = within(address, networks) and (access.endswith("unauthenticated") or has_identity)

    def answer(route: str = "", more: dict[str, bool] | None = None) -> Verdict:
        let_in = sorted(name for name, good in {**grants, **(more or {})}.items() if good)
        outcome = "allowed" if let_in else "audited" if access == "audit" else "denied"
        return Verdict(outcome=outcome, **shown, route=route, by=let_in[0] if let_in else "")

    if request is None or protocol in ("opaque", "TLS"):
        if protocol in ("HTTP/1", "HTTP/2", "gRPC"):
            return Verdict(outcome="refused", **shown)
        return answer()
    path, _, query = request["path"].partition("?")
    seen = tidy(path)
    if seen is None:
        return Verdict(outcome="refused", **shown)
    if attached:
        best = choose(attached, request, seen, query)
        if best is None:
            return Verdict(outcome="not found", **shown)
        return answer(best["metadata"]["name"], granted_to_route(objects, caller, address, best))
    more: dict[str, bool] = {}
    is_probed = kind == "Pod" and protocol != "gRPC" and request["method"] == "GET" and bool(installed.probes)
    if is_probed and (port, seen) in probes_of(own):
        more["default/probe"] = within(address, installed.probes)
    return answer(more=more)


def find(objects: list[Raw], kind: str, namespace: str, name: str, group: str | None = None) -> Raw:
    for each in objects:
        where = each["metadata"].get("namespace", "default") if kind != "Namespace" else namespace
        its_group = each["apiVersion"].rpartition("/")[0]
        if (each["kind"], where, each["metadata"]["name"]) == (kind, namespace, name) and group in (None, its_group):
            return each
    raise KeyError((kind, namespace, name))


def all_of(objects: list[Raw], kind: str, namespace: str, group: str = "policy.linkerd.io") -> list[Raw]:
    return [
        each
        for each in objects
        if each["kind"] == kind
        and each["apiVersion"].rpartition("/")[0] == group
        and each["metadata"].get("namespace", "default") == namespace
    ]


def inherited(objects: list[Raw], namespace: str, kind: str) -> Raw:
    """What injection copies from a namespace to its pods."""
    if kind != "Pod":
        return {}
    try:
        found = find(objects, "Namespace", namespace, namespace)["metadata"].get("annotations", {})
    except KeyError:
        return {}
    return {key: value for key, value in found.items() if key.startswith(PREFIXES)}


def said(annotations: Raw, key: str, legal: list[str]) -> str:
    return next((annotations[p + key] for p in PREFIXES if annotations.get(p + key) in legal), "")


def ports_of(annotations: Raw, key: str, usual: list[int]) -> set[int]:
    text = next((annotations[prefix + key] for prefix in PREFIXES if prefix + key in annotations), None)
    if text is None:
        return set(usual)
    found: set[int] = set()
    for part in filter(None, (each.strip() for each in text.split(","))):
        low, _, high = part.partition("-")
        found |= set(range(int(low), int(high or low) + 1))
    return found


# ---- Servers


def governing(objects: list[Raw], kind: str, namespace: str, labels: Raw, own: Raw, port: int) -> Raw | None:
    def is_for(server: Raw) -> bool:
        spec = server["spec"]
        selectors = [key for key in ("podSelector", "externalWorkloadSelector") if key in spec]
        wanted = "podSelector" if kind == "Pod" else "externalWorkloadSelector"
        if selectors != [wanted] or not selects(spec[wanted], labels):
            return False
        if isinstance(spec["port"], int):
            return 1 <= spec["port"] <= 65535 and spec["port"] == port
        return port in named_ports(own, spec["port"])

    found = [server for server in all_of(objects, "Server", namespace) if is_for(server)]
    return min(found, key=age, default=None)


def selects(selector: Raw, labels: Raw) -> bool:
    good = all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())
    for each in selector.get("matchExpressions", []):
        value, values = labels.get(each["key"]), each.get("values", [])
        good &= {
            "In": value is not None and value in values,
            "NotIn": bool(values) and value not in values,
            "Exists": not values and value is not None,
            "DoesNotExist": not values and value is None,
        }[each["operator"]]
    return good


def named_ports(own: Raw, name: str) -> set[int]:
    if own["kind"] == "ExternalWorkload":
        return {each["port"] for each in own["spec"].get("ports", []) if each.get("name") == name and is_tcp(each)}
    return {
        each["containerPort"]
        for container in containers(own)
        for each in container.get("ports", [])
        if each.get("name") == name and is_tcp(each)
    }


def is_tcp(port: Raw) -> bool:
    return bool(port.get("protocol", "TCP") == "TCP")


def containers(own: Raw) -> list[Raw]:
    return [*own["spec"].get("containers", []), *own["spec"].get("initContainers", [])]


def probes_of(own: Raw) -> set[tuple[int, str]]:
    found = set()
    for container in containers(own):
        for word in ("livenessProbe", "readinessProbe", "startupProbe"):
            if get := container.get(word, {}).get("httpGet"):
                numbers = (
                    [get["port"]]
                    if isinstance(get["port"], int)
                    else [p["containerPort"] for p in container.get("ports", []) if p.get("name") == get["port"]]
                )
                found |= {(number, get.get("path", "/").partition("?")[0]) for number in numbers}
    return found


# ---- who


def granted(objects: list[Raw], installed: Installed, caller: Raw, address: Any, server: Raw) -> dict[str, bool]:
    namespace, name = server["metadata"].get("namespace", "default"), server["metadata"]["name"]
    found = {}
    for each in all_of(objects, "ServerAuthorization", namespace):
        about = each["spec"]["server"]
        is_about = about.get("name") == name or (
            "selector" in about and selects(about["selector"], server["metadata"].get("labels", {}))
        )
        if is_about:
            good = may_by_client(each["spec"]["client"], namespace, installed, caller, address)
            found[f"serverauthorization/{namespace}/{each['metadata']['name']}"] = good
    for each in all_of(objects, "AuthorizationPolicy", namespace):
        target = aimed(each)
        if target in (("policy.linkerd.io", "server", name), ("", "namespace", namespace)):
            good = may_by_policy(objects, each, caller, address)
            found[f"authorizationpolicy/{namespace}/{each['metadata']['name']}"] = good
    return found


def granted_to_route(objects: list[Raw], caller: Raw, address: Any, route: Raw) -> dict[str, bool]:
    namespace = route["metadata"].get("namespace", "default")
    group = route["apiVersion"].rpartition("/")[0]
    return {
        f"authorizationpolicy/{namespace}/{each['metadata']['name']}": may_by_policy(objects, each, caller, address)
        for each in all_of(objects, "AuthorizationPolicy", namespace)
        if aimed(each) == (group, route["kind"].lower(), route["metadata"]["name"])
    }


def aimed(policy: Raw) -> tuple[str, str, str]:
    target = policy["spec"]["targetRef"]
    group = target.get("group", "").lower()
    return ("" if group == "core" else group), target["kind"].lower(), target["name"]


def may_by_client(client: Raw, namespace: str, installed: Installed, caller: Raw, address: Any) -> bool:
    networks = client.get("networks") or installed.cluster
    if not are_sound(client.get("networks", [])) or not within(address, networks):
        return False
    tls = client.get("meshTLS")
    if client.get("unauthenticated"):
        return tls is None
    if tls is None:
        return False
    identities = tls.get("identities", [])
    accounts = [account(each["name"], each.get("namespace", namespace)) for each in tls.get("serviceAccounts", [])]
    if tls.get("unauthenticatedTLS"):
        return not (identities or accounts) and bool(caller.get("tls") or caller.get("dns") or caller.get("uri"))
    if not all(re.fullmatch(rf"(\*|{LABEL})(\.{LABEL})*", each) for each in identities):
        return False
    return is_one_of(caller, [*identities, *accounts])


def may_by_policy(objects: list[Raw], policy: Raw, caller: Raw, address: Any) -> bool:
    namespace = policy["metadata"].get("namespace", "default")
    if "requiredAuthenticationRefs" not in policy["spec"]:
        return False
    good, counts = True, {"meshtls": 0, "network": 0}
    for each in policy["spec"]["requiredAuthenticationRefs"]:
        where, name = each.get("namespace", namespace), each["name"]
        match each.get("group", "").lower(), each["kind"].lower():
            case ("policy.linkerd.io", "meshtlsauthentication"):
                counts["meshtls"] += 1
                found = [each for each in all_of(objects, "MeshTLSAuthentication", where) if name_of(each) == name]
                good &= bool(found) and proves_identity(found[0], caller)
            case ("policy.linkerd.io", "networkauthentication"):
                counts["network"] += 1
                found = [each for each in all_of(objects, "NetworkAuthentication", where) if name_of(each) == name]
                networks = found[0]["spec"].get("networks", []) if found else []
                good &= bool(networks) and are_sound(networks) and within(address, networks)
            case ("" | "core", "serviceaccount"):
                counts["meshtls"] += 1
                good &= is_one_of(caller, [account(name, where)])
            case _:
                good = False
    return good and max(counts.values()) <= 1


def name_of(raw: Raw) -> str:
    return str(raw["metadata"]["name"])


def proves_identity(authentication: Raw, caller: Raw) -> bool:
    spec, namespace = authentication["spec"], authentication["metadata"].get("namespace", "default")
    identities, refs = spec.get("identities"), spec.get("identityRefs")
    if bool(identities) == bool(refs):
        return False
    for each in identities or []:
        dns = re.fullmatch(rf"(\*|{LABEL})(\.{LABEL})*", each)
        if not dns and not re.fullmatch(r"spiffe://[a-z0-9._-]+(/[A-Za-z0-9._-]+)*", each):
            return False
    wanted = list(identities or [])
    for each in refs or []:
        match each["kind"].lower():
            case "serviceaccount" if "name" in each:
                wanted.append(account(each["name"], each.get("namespace", namespace)))
            case "namespace" if "namespace" not in each and "name" in each:
                wanted.append(f"*.{each['name']}.{IDENTITY}")
            case _:
                return False
    return is_one_of(caller, wanted)


# ---- routes


def routes_of(objects: list[Raw], server: Raw, protocol: str) -> list[Raw]:
    """Return the routes that are attached to ``server``."""
    namespace, name = server["metadata"].get("namespace", "default"), server["metadata"]["name"]
    if protocol in ("opaque", "TLS"):
        return []
    gateway = "gateway.networking.k8s.io"
    kinds = (
        [("GRPCRoute", gateway)] if protocol == "gRPC" else [("HTTPRoute", gateway), ("HTTPRoute", "policy.linkerd.io")]
    )
    found = []
    for kind, group in kinds:
        for route in all_of(objects, kind, namespace, group):
            good = any(
                each.get("group", group) == "policy.linkerd.io"
                and each.get("kind") == "Server"
                and each["name"] == name
                and not {"port", "sectionName"} & each.keys()
                and each.get("namespace", namespace) == namespace
                for each in route["spec"].get("parentRefs", [])
            )
            filters = {f["type"] for rule in route["spec"].get("rules", []) for f in rule.get("filters", [])}
            if good and filters <= {"RequestHeaderModifier", "RequestRedirect", "ResponseHeaderModifier"}:
                found.append(route)
    return found
