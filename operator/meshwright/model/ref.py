"""What an object is called."""

from dataclasses import dataclass
from enum import StrEnum

from meshwright.model.units import Namespace


class Kind(StrEnum):
    """A kind that meshwright reads; the value is ``Kind.group`` as kubectl writes it (core: the kind alone)."""

    NAMESPACE = "Namespace"
    SERVICE = "Service"
    HTTP_ROUTE = "HTTPRoute.gateway.networking.k8s.io"
    GRPC_ROUTE = "GRPCRoute.gateway.networking.k8s.io"
    REFERENCE_GRANT = "ReferenceGrant.gateway.networking.k8s.io"
    EXTERNAL_WORKLOAD = "ExternalWorkload.workload.linkerd.io"
    EXTERNAL_GROUP = "ExternalGroup.workload.buoyant.io"
    REGISTRATION_POLICY = "RegistrationPolicy.meshwright.dev"
    ENDPOINT_SLICE = "EndpointSlice.discovery.k8s.io"
    CONFIG_MAP = "ConfigMap"
    POD = "Pod"
    SECRET = "Secret"
    ISSUER = "Issuer.cert-manager.io"
    CERTIFICATE = "Certificate.cert-manager.io"
    SERVER = "Server.policy.linkerd.io"
    SERVER_AUTHORIZATION = "ServerAuthorization.policy.linkerd.io"
    AUTHORIZATION_POLICY = "AuthorizationPolicy.policy.linkerd.io"
    MESH_TLS_AUTHENTICATION = "MeshTLSAuthentication.policy.linkerd.io"
    NETWORK_AUTHENTICATION = "NetworkAuthentication.policy.linkerd.io"
    POLICY_HTTP_ROUTE = "HTTPRoute.policy.linkerd.io"
    RATE_LIMIT_POLICY = "HTTPLocalRateLimitPolicy.policy.linkerd.io"

    @property
    def word(self) -> str:
        """Return the bare kind, as written in manifests: ``HTTPRoute``."""
        return self.value.partition(".")[0]

    @property
    def group(self) -> str:
        """Return the API group, ``""`` for core."""
        return self.value.partition(".")[2]


@dataclass(frozen=True, slots=True, order=True)
class Ref:
    """Kind, namespace and name. Sorts by the three in this order; ``namespace`` is ``""`` for cluster-wide kinds."""

    kind: Kind
    namespace: Namespace
    name: str

    def __str__(self) -> str:
        return f"{self.kind.word} {self.namespace}/{self.name}" if self.namespace else f"{self.kind.word} {self.name}"


@dataclass(frozen=True, slots=True, order=True)
class ServiceName:
    """A Service's namespace and name: what a route attaches to and sends to."""

    namespace: Namespace
    name: str

    @property
    def ref(self) -> Ref:
        return Ref(Kind.SERVICE, self.namespace, self.name)

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"
