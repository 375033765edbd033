"""Objects of inbound policy made by hand, as parse would make them."""

from typing import Any

from meshwright.model.identity import ServiceAccount
from meshwright.model.policy import (
    AuthorizationPolicy,
    MeshTlsAuthentication,
    NetworkAuthentication,
    Proof,
    RateLimitPolicy,
    Server,
    ServerAuthorization,
)
from meshwright.model.problem import Problem, Reason
from meshwright.model.ref import Kind, Ref
from meshwright.model.route import ParentRef
from meshwright.model.selector import Selector
from meshwright.model.units import Namespace, Port

SHOP = Namespace("shop")
FAULT = Problem("spec", Reason.INVALID_OBJECT, "found nothing; write something")
SELECTOR = Selector(labels=(("app", "web"),))


def ref(kind: Kind, name: str, namespace: str = "shop") -> Ref:
    return Ref(kind, Namespace(namespace), name)


WEB = ref(Kind.SERVER, "web")
OF_SHOP = ref(Kind.NAMESPACE, "shop", "")


def account(name: str, namespace: str = "shop") -> ServiceAccount:
    return ServiceAccount(Namespace(namespace), name)


def server(name: str = "web", namespace: str = "shop", **more: Any) -> Server:
    made = {"uid": f"uid-{name}", "created": 1000, "selector": SELECTOR, "port": Port(8080), **more}
    return Server(ref=ref(Kind.SERVER, name, namespace), **made)


def server_authorization(name: str = "saz", namespace: str = "shop", **more: Any) -> ServerAuthorization:
    made = {"server": None if "selector" in more else "web", "proof": Proof.NOTHING, **more}
    return ServerAuthorization(ref=ref(Kind.SERVER_AUTHORIZATION, name, namespace), **made)


def policy(name: str = "authz", namespace: str = "shop", target: Ref = WEB, **more: Any) -> AuthorizationPolicy:
    return AuthorizationPolicy(ref=ref(Kind.AUTHORIZATION_POLICY, name, namespace), target=target, **more)


def mesh_tls(name: str = "people", namespace: str = "shop", **more: Any) -> MeshTlsAuthentication:
    return MeshTlsAuthentication(ref=ref(Kind.MESH_TLS_AUTHENTICATION, name, namespace), **more)


def network(name: str = "office", namespace: str = "shop", **more: Any) -> NetworkAuthentication:
    return NetworkAuthentication(ref=ref(Kind.NETWORK_AUTHENTICATION, name, namespace), **more)


def limit(name: str = "limit", namespace: str = "shop", **more: Any) -> RateLimitPolicy:
    made = {"generation": 1, "created": 1000, "server": "web", "total": 10, **more}
    return RateLimitPolicy(ref=ref(Kind.RATE_LIMIT_POLICY, name, namespace), **made)


def on_server(name: str = "web", namespace: str = "shop", index: int = 0, **more: Any) -> ParentRef:
    return ParentRef(
        field=f"spec.parentRefs[{index}]",
        group="policy.linkerd.io",
        kind="Server",
        namespace=Namespace(namespace),
        name=name,
        written=(("group", "policy.linkerd.io"), ("kind", "Server"), ("name", name)),
        **more,
    )
