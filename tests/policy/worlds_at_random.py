"""Random policies and random callers, as raw manifests: small numbers of names, so that they meet."""

from random import Random
from typing import Any

from tests.policy.table import HOST, TRUST, read_caller

Raw = dict[str, Any]

POLICY = "policy.linkerd.io"
GATEWAY = "gateway.networking.k8s.io"
NAMESPACES = ("shop", "other")
SERVERS = ("a", "b", "c")
PORTS = (8080, 8080, 8080, 8081, 3306)
PROTOCOLS = ("unknown", "unknown", "HTTP/1", "HTTP/2", "gRPC", "gRPC", "opaque", "TLS", "nonsense")
ACCESS = (
    "deny",
    "deny",
    "deny",
    "audit",
    "all-unauthenticated",
    "all-authenticated",
    "cluster-unauthenticated",
    "cluster-authenticated",
    "nonsense",
)
CIDRS = ("10.1.0.0/16", "10.1.2.3/8", "192.0.2.7", "192.0.2.0/24", "fd00::/64", "2001:db8::/32", "0.0.0.0/0", "::/0")
EXCEPTS = ("10.1.2.0/24", "192.0.2.0/25", "2001:db8:1::/48", "10.1.2.3")
FAULTY = ("10.0.0.0/33", "::ffff:10.0.0.0/104", "nonsense")
ADDRESSES = ("10.1.2.3", "10.1.0.1", "10.9.0.1", "192.0.2.7", "192.0.2.200", "fd00::7", "2001:db8::7", "2001:db8:1::7")
LOCAL = ("127.0.0.1", "::1", "::ffff:10.1.2.3", "::ffff:127.0.0.1")
CALLERS = ("", "shop/client", "shop/ops", "other/client", "workshop/client", "spiffe://cluster.local/external/vm")
IDENTITIES = (
    "*",
    f"*.shop.{TRUST}",
    f"client.shop.{TRUST}",
    f"*.{TRUST}",
    "spiffe://cluster.local/external/vm",
    "spiffe://cluster.local/ns/shop/sa/client",
)
FAULTY_IDENTITIES = ("client.*.local", "Client.shop", "*.")
PATHS = ("/", "/a", "/a/", "/a/b", "/ab", "/a/b/c", "/b", "/a/../b", "/%61", "//a", "/a/..;x/b", "/b?q=1", "/a?q=2&q=1")
MATCHED = ("/", "/a", "/a/", "/a/b", "/b")
EXPRESSIONS = ("/a.*", "/[ab]", "/a/.+", "(", "/a/b/?")
HOSTS = (HOST, "shop.example", "www.shop.example:8080", "SHOP.example")
HOSTNAMES = ("shop.example", "*.shop.example", HOST)
CALLS = ("pkg.A/Get", "pkg.A/Put", "pkg.B/Get", "pkg.AB/Get")
AGES = (None, "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z")


class Maker:
    """Makes manifests by the dice of ``seed``."""

    def __init__(self, seed: int) -> None:
        self.dice = Random(seed)

    def flip(self, share: float = 0.5) -> bool:
        return self.dice.random() < share

    def some(self, of: tuple[Any, ...], most: int = 3) -> list[Any]:
        return self.dice.sample(of, self.dice.randint(1, min(most, len(of))))

    def world(self) -> list[Raw]:
        """Return a pod and a machine of each namespace, and policy around them."""
        objects = [self.namespace(name) for name in NAMESPACES]
        objects += [self.pod(name) for name in NAMESPACES]
        objects.append(self.machine())
        for namespace in NAMESPACES:
            servers = self.some(SERVERS) if self.flip(0.9) else []
            made = [self.server(namespace, name) for name in servers]
            objects += made
            objects += [self.authentication(namespace, f"tls-{n}") for n in range(2)]
            objects += [self.network_authentication(namespace, f"net-{n}") for n in range(2)]
            objects += [self.server_authorization(namespace, f"saz-{n}") for n in range(self.dice.randint(0, 2))]
            count = self.dice.randint(1, 6) if made and self.flip(0.7) else 0
            routes = [self.route(namespace, f"r{n}", self.dice.choice(made)) for n in range(count)]
            unique = {
                (each["apiVersion"].partition("/")[0], each["kind"], each["metadata"]["name"]): each for each in routes
            }
            objects += list(unique.values())
            targets = [*self.targets(namespace), *(aim(route) for route in unique.values())]
            objects += [self.policy(namespace, f"pol-{n}", targets) for n in range(self.dice.randint(0, 5))]
        return objects

    def meta(self, namespace: str, name: str, **more: Any) -> Raw:
        age = self.dice.choice(AGES)
        return {"name": name, "namespace": namespace, **({"creationTimestamp": age} if age else {}), **more}

    def annotations(self, *, of_pod: bool) -> Raw:
        found = {}
        if self.flip(0.4):
            found["config.linkerd.io/default-inbound-policy"] = self.dice.choice(ACCESS)
        if of_pod and self.flip(0.2):
            found["config.linkerd.io/proxy-require-identity-inbound-ports"] = "8081"
        if of_pod and self.flip(0.2):
            found["config.linkerd.io/opaque-ports"] = self.dice.choice(("8081", "3306,8080-8080", ""))
        return found

    def namespace(self, name: str) -> Raw:
        metadata = {"name": name, "annotations": self.annotations(of_pod=False)}
        return {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}

    def pod(self, namespace: str) -> Raw:
        container: Raw = {"name": "app"}
        if self.flip(0.7):
            container["ports"] = [{"name": "http", "containerPort": 8080}, {"name": "more", "containerPort": 8081}]
        if self.flip(0.5):
            get = {"path": self.dice.choice(("/a", "/live")), "port": self.dice.choice((8080, 8081, 3306))}
            container["livenessProbe"] = {"httpGet": get}
        labels = {"app": "web", **({"tier": "front"} if self.flip() else {})}
        metadata = {
            "name": "web",
            "namespace": namespace,
            "labels": labels,
            "annotations": self.annotations(of_pod=True),
        }
        return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"containers": [container]}}

    def machine(self) -> Raw:
        spec = {
            "meshTLS": {"identity": "spiffe://cluster.local/external/web", "serverName": "web"},
            "workloadIPs": [{"ip": "192.0.2.50"}],
            "ports": [{"name": "http", "port": 8081}],
        }
        metadata = {
            "name": "vm",
            "namespace": "shop",
            "labels": {"app": "web"},
            "annotations": self.annotations(of_pod=True),
        }
        return {
            "apiVersion": "workload.linkerd.io/v1beta1",
            "kind": "ExternalWorkload",
            "metadata": metadata,
            "spec": spec,
        }

    def selector(self) -> Raw:
        return self.dice.choice(
            (
                {},
                {},
                {"matchLabels": {"app": "web"}},
                {"matchLabels": {"tier": "front"}},
                {"matchLabels": {"app": "other"}},
                {"matchExpressions": [{"key": "tier", "operator": "NotIn", "values": ["front"]}]},
                {"matchExpressions": [{"key": "tier", "operator": "Exists"}]},
                {"matchExpressions": [{"key": "app", "operator": "In", "values": ["web", "x"]}]},
                {"matchExpressions": [{"key": "app", "operator": "In"}]},
            )
        )

    def server(self, namespace: str, name: str) -> Raw:
        which = "externalWorkloadSelector" if self.flip(0.15) else "podSelector"
        spec: Raw = {
            which: self.selector(),
            "port": self.dice.choice((8080, 8080, 8080, 8081, "http", "more", 3306, 0, 65536)),
        }
        if self.flip(0.7):
            spec["proxyProtocol"] = self.dice.choice(PROTOCOLS)
        if self.flip(0.7):
            spec["accessPolicy"] = self.dice.choice(ACCESS)
        metadata = self.meta(namespace, name, labels={"s": self.dice.choice(("1", "2"))})
        return {"apiVersion": f"{POLICY}/v1beta3", "kind": "Server", "metadata": metadata, "spec": spec}

    def networks(self) -> list[Raw]:
        return [self.network() for _ in range(self.dice.randint(1, 2))]

    def network(self) -> Raw:
        if self.flip(0.05):
            return {"cidr": self.dice.choice(FAULTY)}
        found: Raw = {"cidr": self.dice.choice(CIDRS)}
        return found | ({"except": [self.dice.choice(EXCEPTS)]} if self.flip(0.3) else {})

    def identities(self) -> list[str]:
        return [*self.some(IDENTITIES, 2), *([self.dice.choice(FAULTY_IDENTITIES)] if self.flip(0.05) else [])]

    def authentication(self, namespace: str, name: str) -> Raw:
        spec: Raw = {}
        if self.flip(0.95):
            spec["identities" if self.flip() else "identityRefs"] = []
        if "identities" in spec:
            spec["identities"] = self.identities()
        elif spec:
            spec["identityRefs"] = [
                self.dice.choice(
                    (
                        {"kind": "ServiceAccount", "name": "client"},
                        {"kind": "ServiceAccount", "name": "client", "namespace": "other"},
                        {"kind": "Namespace", "name": "shop"},
                    )
                )
            ]
        metadata = self.meta(namespace, name)
        return {"apiVersion": f"{POLICY}/v1alpha1", "kind": "MeshTLSAuthentication", "metadata": metadata, "spec": spec}

    def network_authentication(self, namespace: str, name: str) -> Raw:
        metadata, spec = self.meta(namespace, name), {"networks": self.networks()}
        return {"apiVersion": f"{POLICY}/v1alpha1", "kind": "NetworkAuthentication", "metadata": metadata, "spec": spec}

    def server_authorization(self, namespace: str, name: str) -> Raw:
        server = {"name": self.dice.choice(SERVERS)} if self.flip() else {"selector": {"matchLabels": {"s": "1"}}}
        client: Raw = {"networks": self.networks()} if self.flip() else {}
        match self.dice.randrange(6):
            case 0:
                client["unauthenticated"] = True
            case 1:
                client["meshTLS"] = {"unauthenticatedTLS": True}
            case 2:
                client["meshTLS"] = {"serviceAccounts": [{"name": "client"}]}
            case 3:
                client["meshTLS"] = {"identities": self.some(IDENTITIES[:4], 2)}
            case 4:
                client |= {"unauthenticated": True, "meshTLS": {"identities": ["*"]}}
            case _:
                pass
        metadata, spec = self.meta(namespace, name), {"server": server, "client": client}
        return {"apiVersion": f"{POLICY}/v1beta1", "kind": "ServerAuthorization", "metadata": metadata, "spec": spec}

    def targets(self, namespace: str) -> list[Raw]:
        servers = [{"group": POLICY, "kind": "Server", "name": name} for name in SERVERS]
        return [*servers, {"kind": "Namespace", "name": namespace}]

    def policy(self, namespace: str, name: str, targets: list[Raw]) -> Raw:
        spec: Raw = {"targetRef": self.dice.choice(targets)}
        if self.flip(0.97):
            spec["requiredAuthenticationRefs"] = self.required()
        metadata = self.meta(namespace, name)
        return {"apiVersion": f"{POLICY}/v1alpha1", "kind": "AuthorizationPolicy", "metadata": metadata, "spec": spec}

    def required(self) -> list[Raw]:
        found: list[Raw] = []
        if self.flip(0.5):
            found.append(
                {"group": POLICY, "kind": "MeshTLSAuthentication", "name": self.dice.choice(("tls-0", "tls-1"))}
            )
        elif self.flip(0.3):
            found.append({"kind": "ServiceAccount", "name": self.dice.choice(("client", "ops"))})
        if self.flip(0.3):
            names = ("net-0", "net-1", "missing")
            found.append({"group": POLICY, "kind": "NetworkAuthentication", "name": self.dice.choice(names)})
        for each in found:
            if self.flip(0.2):
                each["namespace"] = self.dice.choice(NAMESPACES)
        return found

    def route(self, namespace: str, name: str, server: Raw) -> Raw:
        is_grpc = server["spec"].get("proxyProtocol") == "gRPC"
        kinds = [("HTTPRoute", GATEWAY), ("HTTPRoute", POLICY), ("GRPCRoute", GATEWAY)]
        likely = kinds[2:] if is_grpc else kinds[:2]
        kind, group = self.dice.choice(kinds if self.flip(0.1) else likely)
        parent: Raw = {"group": POLICY, "kind": "Server", "name": server["metadata"]["name"]}
        if self.flip(0.05):
            parent |= self.dice.choice(({"port": 8080}, {"sectionName": "x"}, {"namespace": "elsewhere"}))
        is_call = kind == "GRPCRoute"
        rules = [self.rule(is_call=is_call) for _ in range(self.dice.randint(0 if is_call else 1, 2))]
        spec: Raw = {"parentRefs": [parent], "rules": rules}
        if self.flip(0.2):
            spec["hostnames"] = self.some(HOSTNAMES, 2)
        version = "v1" if group == GATEWAY else "v1beta3"
        metadata = self.meta(namespace, name)
        return {"apiVersion": f"{group}/{version}", "kind": kind, "metadata": metadata, "spec": spec}

    def rule(self, *, is_call: bool) -> Raw:
        made: Raw = {}
        if self.flip(0.95):
            made["matches"] = [self.call() if is_call else self.match() for _ in range(self.dice.randint(1, 2))]
        if self.flip(0.1):
            wanted = {"type": "RequestHeaderModifier", "requestHeaderModifier": {"set": [{"name": "x", "value": "1"}]}}
            made["filters"] = [wanted if is_call or self.flip(0.8) else REWRITE]
        return made

    def match(self) -> Raw:
        made: Raw = {}
        if self.flip(0.85):
            how = self.dice.choice(("PathPrefix", "PathPrefix", "Exact", "RegularExpression"))
            values = EXPRESSIONS if how == "RegularExpression" else MATCHED
            made["path"] = {"type": how, "value": self.dice.choice(values)}
        if self.flip(0.3):
            made["method"] = self.dice.choice(("GET", "POST"))
        if self.flip(0.2):
            made["headers"] = [{"name": "X-Tier", "value": self.dice.choice(("gold", "silver"))}]
        if self.flip(0.15):
            made["queryParams"] = [{"name": "q", "value": self.dice.choice(("1", "2"))}]
        return made

    def call(self) -> Raw:
        service, _, method = self.dice.choice(CALLS).partition("/")
        made: Raw = {"method": {"service": service, "method": method}}
        match self.dice.randrange(5):
            case 0:
                del made["method"]["method"]
            case 1:
                del made["method"]["service"]
            case 2:
                made = {}
            case 3:
                made = {"method": {"type": "RegularExpression", "service": "pkg[.][AB]", "method": "G.*"}}
            case _:
                pass
        if self.flip(0.2):
            made["headers"] = [{"name": "x-tier", "value": "gold"}]
        return made

    def attempt(self) -> tuple[Raw, tuple[str, str, str], int, Raw | None]:
        """Return a caller, whom it calls, at which port, and what it says."""
        address = self.dice.choice(LOCAL) if self.flip(0.05) else self.dice.choice(ADDRESSES)
        caller = read_caller(f"{self.dice.choice(CALLERS)} @{address}")
        workload = self.dice.choice(
            (*(("Pod", name, "web") for name in NAMESPACES * 3), ("ExternalWorkload", "shop", "vm"))
        )
        return caller, workload, self.dice.choice(PORTS), self.request()

    def request(self) -> Raw | None:
        if self.flip(0.3):
            return None
        headers = [["x-tier", value] for value in self.some(("gold", "silver"), 2)] if self.flip(0.3) else []
        host = self.dice.choice(HOSTS)
        if self.flip(0.25):
            path = f"/{self.dice.choice(CALLS)}"
            return {
                "method": "POST",
                "path": path,
                "host": host,
                "headers": [["content-type", "application/grpc"], *headers],
            }
        path = self.dice.choice((*PATHS, "/live"))
        return {"method": self.dice.choice(("GET", "GET", "POST")), "path": path, "host": host, "headers": headers}


REWRITE = {"type": "URLRewrite", "urlRewrite": {"hostname": "other.example"}}


def aim(route: Raw) -> Raw:
    """Return the targetRef of a policy for ``route``."""
    group = route["apiVersion"].partition("/")[0]
    return {"group": group, "kind": route["kind"], "name": route["metadata"]["name"]}
