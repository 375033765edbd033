"""What an installation can choose."""

from dataclasses import dataclass, field
from enum import StrEnum

from meshwright.model.identity import TrustDomain
from meshwright.model.inbound import PolicyDefaults
from meshwright.model.proxy import DEFAULT_OPAQUE_PORTS
from meshwright.model.units import Millis, Namespace, Port

FIELD_MANAGER = "meshwright"
STATUS_MANAGER = "meshwright-status"
CONTROLLER_NAME = "meshwright.dev/policy-controller"

LABEL_MANAGED_BY = "app.kubernetes.io/managed-by"
LABEL_UNIT = "meshwright.dev/unit"
ANNOTATION_HASH = "meshwright.dev/hash"


class IssuerKind(StrEnum):
    """Who signs the issuer of identities: nobody that we ask, the anchor in a Secret, or an issuer of cert-manager."""

    NONE = "none"
    ANCHOR_SECRET = "anchor-secret"
    ISSUER = "Issuer"
    CLUSTER_ISSUER = "ClusterIssuer"


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Settings that change what is compiled. ``namespace`` is the control plane's own.

    ``issuer_name``: the anchor's Secret or the Issuer, by ``issuer_kind``. ``issuer_secret``: where the issuer of
    identities is kept, whoever makes it; its Certificate has the same name. ``asks_webhook_certificate``: cert-manager
    is to make the webhook's certificate. ``opaque_ports``: not HTTP where neither a Service nor its namespace says.
    ``policy``: what holds for callers where no Server does.
    """

    namespace: Namespace = Namespace("meshwright")
    trust_domain: str = "cluster.local"
    issuer_kind: IssuerKind = IssuerKind.NONE
    issuer_name: str = ""
    issuer_secret: str = "meshwright-identity-issuer"
    issuer_duration: Millis = Millis(48 * 3_600_000)
    issuer_renew_before: Millis = Millis(25 * 3_600_000)
    asks_webhook_certificate: bool = False
    opaque_ports: tuple[Port, ...] = DEFAULT_OPAQUE_PORTS
    policy: PolicyDefaults = field(default_factory=PolicyDefaults)

    @property
    def trust(self) -> TrustDomain:
        return TrustDomain(name=self.trust_domain, control_plane=self.namespace)
