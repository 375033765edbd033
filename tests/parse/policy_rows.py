"""Objects of policy.linkerd.io as rows: what a schema takes of them, and where parsing finds fault.

The API server's answers can be compared with ``is_taken``: they are those of ``crds/``.
"""

from dataclasses import dataclass

from tests.parse.made import GATEWAY, Raw

POLICY = "policy.linkerd.io"
PODS: Raw = {"matchLabels": {"app": "web"}}
ACCOUNT: Raw = {"kind": "ServiceAccount", "name": "web"}
SERVER: Raw = {"group": POLICY, "kind": "Server", "name": "web"}
MESH_TLS: Raw = {"group": POLICY, "kind": "MeshTLSAuthentication", "name": "web"}
NETWORK: Raw = {"group": POLICY, "kind": "NetworkAuthentication", "name": "web"}
ANYBODY: Raw = {"unauthenticated": True}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One object, in the namespace ``shop``. ``faults``: the fields of its problems, in order."""

    kind: str
    version: str
    spec: Raw
    is_taken: bool
    faults: tuple[str, ...]

    @property
    def raw(self) -> Raw:
        metadata = {"name": "web", "namespace": "shop"}
        return {"apiVersion": f"{POLICY}/{self.version}", "kind": self.kind, "metadata": metadata, "spec": self.spec}


def server(faults: str = "", *, version: str = "v1beta3", taken: bool = False, **spec: object) -> Row:
    return make_row("Server", version, {"podSelector": PODS, "port": 80, **spec}, faults, taken)


def bare(faults: str = "", *, version: str = "v1beta3", **spec: object) -> Row:
    return make_row("Server", version, spec, faults)


def permit(
    client: object, faults: str = "", *, taken: bool = False, version: str = "v1beta1", to: object = None
) -> Row:
    spec = {"server": {"name": "web"} if to is None else to, "client": client}
    return make_row("ServerAuthorization", version, spec, faults, taken)


def policy(faults: str = "", *refs: Raw, to: Raw = SERVER, taken: bool = False) -> Row:
    return make_row(
        "AuthorizationPolicy", "v1alpha1", {"targetRef": to, "requiredAuthenticationRefs": [*refs]}, faults, taken
    )


def authentication(faults: str = "", **spec: object) -> Row:
    return make_row("MeshTLSAuthentication", "v1alpha1", spec, faults)


def ranges(faults: str, *networks: Raw, taken: bool = False) -> Row:
    return make_row("NetworkAuthentication", "v1alpha1", {"networks": [*networks]}, faults, taken)


def limit(faults: str = "", *, taken: bool = False, **spec: object) -> Row:
    return make_row("HTTPLocalRateLimitPolicy", "v1alpha1", {"targetRef": SERVER, **spec}, faults, taken)


def route(faults: str, *rules: Raw, version: str = "v1beta3", taken: bool = False, **spec: object) -> Row:
    whole = {"parentRefs": [{"kind": "Server", "name": "web"}], "rules": [*rules], **spec}
    return make_row("HTTPRoute", version, whole, faults, taken)


def make_row(kind: str, version: str, spec: Raw, faults: str, taken: bool = False) -> Row:
    """Return the row; ``taken`` says that a schema takes it although parsing finds ``faults``."""
    return Row(kind=kind, version=version, spec=spec, is_taken=taken or not faults, faults=tuple(faults.split()))


def expressions(*items: Raw) -> Raw:
    return {"matchExpressions": [*items]}


RICH_RULE: Raw = {
    "matches": [
        {
            "path": {"value": "/a"},
            "method": "GET",
            "headers": [{"name": "x", "value": "y"}],
            "queryParams": [{"name": "q", "value": "1", "type": "RegularExpression"}],
        }
    ],
    "filters": [{"type": "RequestHeaderModifier", "requestHeaderModifier": {"set": [{"name": "a", "value": "b"}]}}],
    "backendRefs": [{"name": "web", "port": 80}],
}


def redirect(**settings: object) -> Raw:
    return {"filters": [{"type": "RequestRedirect", "requestRedirect": settings}]}


BAD_PORTS: tuple[object, ...] = ("8080", "", "HTTP", "a_b", "a" * 64, 0, -1, 65536, True, 80.5, [])
BAD_CIDRS: tuple[object, ...] = (
    "10.0.0.0/255.0.0.0",
    "fe80::1%eth0",
    "10.0.0.0/",
    "10.0.0.0/-1",
    " 10.0.0.0/8",
    "10/8",
    "",
    10,
    [],
)

ROWS = (
    *(server(version=version) for version in ("v1beta3", "v1beta2", "v1beta1", "v1alpha1")),
    *(server(port=port) for port in ("http", "grpc-8", "8a", 1, 65535)),
    *(server("spec.port", port=port) for port in BAD_PORTS),
    bare("spec.port", podSelector=PODS),
    bare(podSelector={}, port=1),
    bare("spec.podSelector", port=1),
    bare("spec.podSelector spec.port"),
    bare("spec.podSelector", podSelector=3, port=1),
    server("spec", externalWorkloadSelector={}),
    bare(version="v1beta2", externalWorkloadSelector={}, port=1),
    bare("spec.externalWorkloadSelector", version="v1beta1", externalWorkloadSelector={}, port=1),
    *(
        server(accessPolicy=access)
        for access in (
            "all-unauthenticated",
            "all-authenticated",
            "cluster-unauthenticated",
            "cluster-authenticated",
            "deny",
            "audit",
        )
    ),
    *(server("spec.accessPolicy", accessPolicy=access) for access in ("Deny", " deny", "", "allow", 3, ["deny"])),
    server("spec.accessPolicy", version="v1beta2", accessPolicy="audit"),
    *(server(proxyProtocol=each) for each in ("unknown", "HTTP/1", "HTTP/2", "gRPC", "opaque", "TLS")),
    *(server("spec.proxyProtocol", proxyProtocol=each) for each in ("http/1", "HTTP", "", 1)),
    server(podSelector=expressions({"key": "a", "operator": "In", "values": ["b"]})),
    server(podSelector=expressions({"key": "a", "operator": "Exists"}, {"key": "b", "operator": "DoesNotExist"})),
    server(
        "spec.podSelector.matchExpressions[0].operator",
        podSelector=expressions({"key": "a", "operator": "in", "values": ["b"]}),
    ),
    server("spec.podSelector.matchExpressions[0].key", podSelector=expressions({"operator": "Exists"})),
    server(
        "spec.podSelector.matchExpressions[0].values[1]",
        podSelector=expressions({"key": "a", "operator": "In", "values": ["b", 1]}),
    ),
    server("spec.podSelector.matchLabels[a]", podSelector={"matchLabels": {"a": 1}}),
    server("spec.podSelector.matchLabels", podSelector={"matchLabels": []}),
    # Never met, and said so.
    server(
        "spec.podSelector.matchExpressions[0].values",
        taken=True,
        podSelector=expressions({"key": "a", "operator": "In"}),
    ),
    server(
        "spec.podSelector.matchExpressions[0].values",
        taken=True,
        podSelector=expressions({"key": "a", "operator": "Exists", "values": ["b"]}),
    ),
    server(
        "spec.podSelector",
        taken=True,
        podSelector=expressions({"key": "a", "operator": "Exists"}, {"key": "a", "operator": "DoesNotExist"}),
    ),
    server(
        "spec.podSelector",
        taken=True,
        podSelector={**PODS, **expressions({"key": "app", "operator": "NotIn", "values": ["web", "api"]})},
    ),
    server(
        "spec.podSelector",
        taken=True,
        podSelector=expressions(
            {"key": "a", "operator": "In", "values": ["b", "c"]}, {"key": "a", "operator": "In", "values": ["d"]}
        ),
    ),
    server(
        podSelector={
            **PODS,
            **expressions(
                {"key": "app", "operator": "In", "values": ["web", "api"]},
                {"key": "app", "operator": "Exists"},
                {"key": "app", "operator": "NotIn", "values": ["api"]},
            ),
        }
    ),
    permit(ANYBODY),
    permit(ANYBODY, version="v1alpha1"),
    permit({"meshTLS": {"unauthenticatedTLS": True}}),
    permit({"meshTLS": {"unauthenticatedTLS": True, "identities": []}}),
    permit({"unauthenticated": False, "meshTLS": {"identities": ["*", "*.a.b", "x.y", "x.y"]}}),
    permit({"meshTLS": {"serviceAccounts": [{"name": "a"}, {"name": "b.c", "namespace": "d"}]}}),
    permit({"meshTLS": {"unauthenticatedTLS": True, "identities": ["*"]}}, "spec.client.meshTLS.unauthenticatedTLS"),
    permit(
        {"meshTLS": {"unauthenticatedTLS": True, "serviceAccounts": [{"name": "a"}]}},
        "spec.client.meshTLS.unauthenticatedTLS",
    ),
    permit({**ANYBODY, "meshTLS": {}}, "spec.client.unauthenticated"),
    permit({"unauthenticated": "true"}, "spec.client.unauthenticated"),
    *(
        permit({"meshTLS": {"identities": [identity]}}, "spec.client.meshTLS.identities[0]")
        for identity in ("a.*.b", "a*", "**", "*.*.a", "*a", "a.", ".a", "a..b", "A.b", "", "a b", "spiffe://a/b", 3)
    ),
    permit({"meshTLS": {"serviceAccounts": [{"namespace": "a"}]}}, "spec.client.meshTLS.serviceAccounts[0].name"),
    permit({"meshTLS": {"serviceAccounts": ["web"]}}, "spec.client.meshTLS.serviceAccounts[0]"),
    permit({}, "spec.client", taken=True),
    permit({"unauthenticated": False}, "spec.client", taken=True),
    permit({"meshTLS": {}}, "spec.client.meshTLS", taken=True),
    permit({"meshTLS": {"identities": []}}, "spec.client.meshTLS", taken=True),
    permit(None, "spec.client"),
    permit([], "spec.client"),
    permit(ANYBODY, to={"selector": {}}),
    permit(ANYBODY, "spec.server", to={}),
    permit(ANYBODY, "spec.server", to={"name": "a", "selector": {}}),
    permit(ANYBODY, "spec.server.name", to={"name": "A"}),
    permit(ANYBODY, "spec.server.name", to={"name": ""}),
    permit(ANYBODY, "spec.server.selector", to={"selector": []}),
    permit(
        {
            **ANYBODY,
            "networks": [{"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}, {"cidr": "::1"}, {"cidr": "1.2.3.4"}],
        }
    ),
    permit({**ANYBODY, "networks": []}),
    permit({**ANYBODY, "networks": [{"cidr": "10.0.0.0/33"}]}, "spec.client.networks[0].cidr", taken=True),
    permit({**ANYBODY, "networks": [{"cidr": "ten"}]}, "spec.client.networks[0].cidr"),
    permit({**ANYBODY, "networks": {}}, "spec.client.networks"),
    make_row("ServerAuthorization", "v1beta1", {"client": ANYBODY}, "spec.server"),
    policy(),
    policy("", MESH_TLS, NETWORK),
    policy("", NETWORK, ACCOUNT),
    policy("", {**ACCOUNT, "group": "core", "namespace": "x"}),
    policy("", {**MESH_TLS, "kind": "meshtlsauthentication"}),
    *(policy("spec.requiredAuthenticationRefs[1]", MESH_TLS, each) for each in (MESH_TLS, ACCOUNT)),
    *(policy("spec.requiredAuthenticationRefs[1]", each, each) for each in (NETWORK, ACCOUNT)),
    policy("spec.requiredAuthenticationRefs[0].group", {"kind": "MeshTLSAuthentication", "name": "x"}),
    policy("spec.requiredAuthenticationRefs[0].kind", {**ACCOUNT, "group": POLICY}),
    policy("spec.requiredAuthenticationRefs[0].kind", {"kind": "Namespace", "name": "x"}),
    policy("spec.requiredAuthenticationRefs[0].name", {"group": POLICY, "kind": "NetworkAuthentication"}),
    policy(to={"kind": "Namespace", "name": "shop"}),
    policy(to={"group": "core", "kind": "namespace", "name": "shop"}),
    # A schema does not see which namespace an object is in.
    policy("spec.targetRef.name", to={"kind": "Namespace", "name": "other"}, taken=True),
    policy(to={"group": POLICY, "kind": "HTTPRoute", "name": "a"}),
    policy(to={"group": GATEWAY, "kind": "HTTPRoute", "name": "a"}),
    policy(to={"group": GATEWAY, "kind": "GRPCRoute", "name": "a"}),
    *(
        policy("spec.targetRef.kind", to={**target, "name": "a"})
        for target in (
            {"group": "apps", "kind": "Deployment"},
            {"kind": "Service"},
            {"group": GATEWAY, "kind": "Gateway"},
        )
    ),
    *(
        policy("spec.targetRef.group", to={**target, "name": "a"})
        for target in ({"kind": "Server"}, {"group": "core", "kind": "server"}, {"group": POLICY, "kind": "GRPCRoute"})
    ),
    make_row("AuthorizationPolicy", "v1alpha1", {"targetRef": SERVER}, "spec.requiredAuthenticationRefs"),
    make_row("AuthorizationPolicy", "v1alpha1", {"requiredAuthenticationRefs": []}, "spec.targetRef"),
    *(
        authentication(identities=[identity])
        for identity in ("*", "*.a.b", "a", "spiffe://td", "spiffe://t_d.x/a/B.c", "spiffe://td/.../.b/..c")
    ),
    *(
        authentication("spec.identities[0]", identities=[identity])
        for identity in (
            "spiffe://",
            "spiffe:///b",
            "spiffe://td/",
            "spiffe://td/a/",
            "spiffe://td//a",
            "spiffe://td/./a",
            "spiffe://td/..",
            "spiffe://td/*",
            "spiffe://TD/a",
            "spiffe://u@td/a",
            "spiffe://td:1/a",
            "spiffe://td/a?b",
            "spiffe://td/a#b",
            "spiffe:/td/a",
            "http://td/a",
            "**",
            "a.*",
            "A.b",
            "a.",
        )
    ),
    authentication("spec.identities[1]", identities=["*", None]),
    authentication("spec", identities=[]),
    authentication("spec"),
    authentication("spec", identityRefs=[]),
    authentication("spec", identities=["a"], identityRefs=[ACCOUNT]),
    authentication(identityRefs=[ACCOUNT, {**ACCOUNT, "namespace": "x"}, {"kind": "Namespace", "name": "n"}]),
    authentication(
        "spec.identityRefs[0].namespace", identityRefs=[{"kind": "Namespace", "name": "n", "namespace": "m"}]
    ),
    authentication("spec.identityRefs[0].kind", identityRefs=[{"kind": "Pod", "name": "n"}]),
    authentication("spec.identityRefs[0].kind", identityRefs=[{**ACCOUNT, "group": POLICY}]),
    authentication("spec.identityRefs[0].name", identityRefs=[{"kind": "Namespace"}]),
    ranges("", {"cidr": "0.0.0.0/0"}, {"cidr": "::/0", "except": ["fd00::/8", "::1"]}),
    ranges("spec.networks"),
    make_row("NetworkAuthentication", "v1alpha1", {}, "spec.networks"),
    ranges("spec.networks[0].cidr", {"except": ["::1"]}),
    ranges("spec.networks[1].cidr", {"cidr": "10.0.0.0/8"}, {"cidr": "10.1.2.3/8"}, taken=True),
    ranges("spec.networks[0].cidr", {"cidr": "fd00::1/8"}, taken=True),
    *(
        ranges("spec.networks[0].cidr", {"cidr": cidr}, taken=True)
        for cidr in (
            "::ffff:10.0.0.0/104",
            "::ffff:1.2.3.4",
            "10.0.0.0/33",
            "::/129",
            "256.0.0.0/8",
            "1::2::3",
            "010.0.0.1",
        )
    ),
    *(ranges("spec.networks[0].cidr", {"cidr": cidr}) for cidr in BAD_CIDRS),
    *(
        ranges("spec.networks[0].except[0]", {"cidr": "10.0.0.0/8", "except": [outside]}, taken=True)
        for outside in ("11.0.0.0/16", "10.0.0.0/8", "0.0.0.0/0", "fd00::/8", "10.0.0.0/40")
    ),
    ranges("spec.networks[0].except", {"cidr": "10.0.0.0/8", "except": "10.1.0.0/16"}),
    limit(),
    limit(
        total={"requestsPerSecond": 10},
        identity={"requestsPerSecond": 10},
        overrides=[{"requestsPerSecond": 5, "clientRefs": [ACCOUNT]}],
    ),
    limit(identity={"requestsPerSecond": 2**32 - 1}),
    *(limit("spec.total.requestsPerSecond", total={"requestsPerSecond": rate}) for rate in (0, -1, 2**32, "1", 1.5)),
    limit("spec.total.requestsPerSecond", total={}),
    limit("spec.total", total=3),
    limit("spec.identity.requestsPerSecond", total={"requestsPerSecond": 1}, identity={"requestsPerSecond": 2}),
    limit(
        "spec.overrides[0].requestsPerSecond",
        total={"requestsPerSecond": 1},
        overrides=[{"requestsPerSecond": 2, "clientRefs": [ACCOUNT]}],
    ),
    limit(
        "spec.overrides[0].clientRefs[0].kind",
        overrides=[{"requestsPerSecond": 2, "clientRefs": [{"kind": "Namespace", "name": "a"}]}],
    ),
    limit("spec.overrides[0].clientRefs", overrides=[{"requestsPerSecond": 2}]),
    limit("spec.overrides[0].clientRefs", taken=True, overrides=[{"requestsPerSecond": 2, "clientRefs": []}]),
    limit("spec.targetRef.kind", targetRef={"kind": "Service", "name": "a"}),
    limit("spec.targetRef.group", targetRef={"group": "core", "kind": "Server", "name": "a"}),
    limit("spec.targetRef.name", targetRef={"group": POLICY, "kind": "Server"}),
    limit("spec.targetRef", targetRef=None),
    *(route("", RICH_RULE, version=version) for version in ("v1beta3", "v1beta2", "v1beta1", "v1alpha1")),
    route(""),
    make_row("HTTPRoute", "v1beta3", {"parentRefs": [{"kind": "Server", "name": "web"}]}, ""),
    route("", {}, hostnames=["*.a.b", "c"]),
    route("spec.hostnames[0]", {}, hostnames=["A"]),
    route("spec.rules[0].matches[0].path.value", {"matches": [{"path": {"value": "a"}}]}),
    route("spec.rules[0].matches[0].method", {"matches": [{"method": "get"}]}),
    route("", {"matches": [{"path": {"type": "RegularExpression", "value": "a.*"}}]}),
    route(
        "spec.rules[0].matches[0].path.value",
        {"matches": [{"path": {"type": "RegularExpression", "value": "a("}}]},
        taken=True,
    ),
    route("", {"timeouts": {"request": "1.5s", "backendRequest": "1s"}}),
    route("", {"timeouts": {"request": "0", "backendRequest": "2s"}}),
    route("", {"timeouts": {"request": "1h30m"}}),
    route("spec.rules[0].timeouts.backendRequest", {"timeouts": {"request": "1s", "backendRequest": "2s"}}),
    *(route("spec.rules[0].timeouts.request", {"timeouts": {"request": text}}) for text in ("-1s", "1d", "1", "")),
    route("spec.rules[0].filters[0].type", {"filters": [{"type": "URLRewrite"}]}),
    route("", redirect(path={"type": "ReplaceFullPath", "replaceFullPath": "/x"}, statusCode=301)),
    route(
        "spec.rules[0].filters[0].requestRedirect.path.replaceFullPath",
        redirect(path={"type": "ReplaceFullPath", "replaceFullPath": "x"}),
    ),
    route("spec.rules[0].filters[0].requestRedirect", {"filters": [{"type": "RequestRedirect"}]}),
    route("", {}, parentRefs=[{"group": "", "kind": "Service", "name": "web"}]),
    route("", {}, parentRefs=[{"group": "core", "kind": "Service", "name": "web", "port": 80}]),
    route("spec.parentRefs[0].group", {}, parentRefs=[{"kind": "Service", "name": "web"}], taken=True),
    route("spec.parentRefs[0].name", {}, parentRefs=[{"kind": "Server"}]),
    route("spec.parentRefs[0].port", {}, parentRefs=[{"kind": "Server", "name": "web", "port": 0}]),
    route("spec.parentRefs[1]", {}, parentRefs=[{"kind": "Server", "name": "web"}] * 2, taken=True),
)
