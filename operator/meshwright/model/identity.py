"""Who is who: service accounts, the names that certificates bear, and what is read off a certificate."""

from dataclasses import dataclass
from datetime import datetime

from meshwright.model.problem import Problem
from meshwright.model.units import Namespace


@dataclass(frozen=True, slots=True, order=True)
class ServiceAccount:
    """A Kubernetes ServiceAccount: what a workload's identity is made of."""

    namespace: Namespace
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True, order=True)
class MachineIdentity:
    """Who a machine outside the cluster is. ``name``: what its certificate must say, a SPIFFE ID or a DNS name;
    ``server_name``: what TLS calls it (SNI)."""

    name: str
    server_name: str

    @property
    def is_uri(self) -> bool:
        return "://" in self.name


Whom = ServiceAccount | MachineIdentity
"""Whom a connection leads to."""

MACHINE_MARK = ".external.identity."
"""What stands in what TLS calls a machine of ours, between its namespace and the name of the mesh."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustDomain:
    """The root that the names of a mesh hang from. ``control_plane`` is the control plane's own namespace.

    Source: SPIFFE-ID specification (``spiffe://<trust domain>/<path>``); linkerd2 ``pkg/identity`` (DNS form).
    """

    name: str = "cluster.local"
    control_plane: Namespace = Namespace("meshwright")

    def uri(self, account: ServiceAccount) -> str:
        """Return the SPIFFE form of an identity: ``spiffe://cluster.local/ns/shop/sa/web``."""
        return f"spiffe://{self.name}/ns/{account.namespace}/sa/{account.name}"

    def dns(self, account: ServiceAccount) -> str:
        """Return the DNS form: ``web.shop.serviceaccount.identity.meshwright.cluster.local``."""
        return f"{account.name}.{account.namespace}.{self.suffix}"

    @property
    def suffix(self) -> str:
        """Return what every identity's DNS form ends in, without a leading dot."""
        return f"serviceaccount.identity.{self.control_plane}.{self.name}"

    @property
    def uri_prefix(self) -> str:
        """Return what every identity's SPIFFE form starts with."""
        return f"spiffe://{self.name}/"

    @property
    def issuer_name(self) -> str:
        """Return the common name of the issuer of identities: ``identity.meshwright.cluster.local``."""
        return f"identity.{self.control_plane}.{self.name}"

    @property
    def delivery(self) -> ServiceAccount:
        """Return who delivery is."""
        return ServiceAccount(self.control_plane, "meshwright-xds")

    @property
    def registrar(self) -> ServiceAccount:
        """Return who the registrar is."""
        return ServiceAccount(self.control_plane, "meshwright-registrar")

    def machine_uri(self, namespace: Namespace, group: str, uid: str) -> str:
        """Return who a machine is that joined a group by token or certificate:
        ``spiffe://cluster.local/ns/shop/external/ledger/3f2a…``."""
        return f"spiffe://{self.name}/ns/{namespace}/external/{group}/{uid}"

    def machine_dns(self, namespace: Namespace, group: str, workload: str) -> str:
        """Return the DNS form of it, which is also what TLS calls the machine (SNI):
        ``ledger-k3v9q2m7xapd4h.ledger.shop.external.identity.meshwright.cluster.local``. A policy for a whole group
        names what follows the first dot."""
        return f"{workload}.{self.group_dns(namespace, group)}"

    def group_dns(self, namespace: Namespace, group: str) -> str:
        """Return what the DNS forms of a group's machines end in, without a leading dot. A machine that joins by a
        certificate of its own calls the registrar so (SNI): which authorities sign such certificates is each group's
        own affair."""
        return f"{group}.{namespace}{MACHINE_MARK}{self.control_plane}.{self.name}"

    def read_group_dns(self, text: str) -> tuple[Namespace, str] | None:
        """Return namespace and name of the group that `group_dns` calls ``text``, ``None`` when it calls none so. Never
        raises."""
        end = f"{MACHINE_MARK}{self.control_plane}.{self.name}"
        group, _, namespace = text.removesuffix(end).rpartition(".")
        return (Namespace(namespace), group) if text.endswith(end) and group and namespace else None

    def read_dns(self, text: str) -> ServiceAccount | None:
        """Return whose identity the DNS form ``text`` is, ``None`` when it is no workload's of this mesh. A name of a
        ServiceAccount may have dots, a namespace's has none. Never raises."""
        name, _, namespace = text.removesuffix(f".{self.suffix}").rpartition(".")
        if not text.endswith(f".{self.suffix}") or not name or not namespace:
            return None
        return ServiceAccount(Namespace(namespace), name)

    def read_uri(self, text: str) -> ServiceAccount | None:
        """Return whose identity ``text`` is, ``None`` when it is no workload's of this trust domain. Never raises."""
        if not text.startswith(self.uri_prefix):
            return None
        match text.removeprefix(self.uri_prefix).split("/"):
            case ["ns", namespace, "sa", name] if namespace and name:
                return ServiceAccount(Namespace(namespace), name)
            case _:
                return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """What a certificate says, and ``der``, the certificate itself. Holds nothing secret.

    ``subject`` and ``issuer`` are RFC 4514 texts, ``key`` is like ``ECDSA P-256`` or ``RSA 2048``, ``signature`` like
    ``ecdsa-with-SHA256``; ``serial`` is hexadecimal; ``path_length`` ``None`` when unlimited; ``key_usages`` and
    ``extended_usages`` are ``None`` when the extension is missing, else OpenSSL's words (``keyCertSign``,
    ``serverAuth``), sorted. ``key_id`` and ``issuer_key_id`` are hexadecimal, ``""`` when missing. ``fingerprint`` is
    the SHA-256 of ``der``, hexadecimal. Times are in UTC.
    """

    der: bytes
    subject: str
    issuer: str
    serial: str
    not_before: datetime
    not_after: datetime
    key: str
    signature: str
    is_ca: bool
    path_length: int | None
    key_usages: tuple[str, ...] | None
    extended_usages: tuple[str, ...] | None
    dns_names: tuple[str, ...]
    uris: tuple[str, ...]
    key_id: str
    issuer_key_id: str
    fingerprint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuerSecret:
    """The public part of a Secret with an issuer: ``chain`` (leaf-most first), ``anchors`` its ``ca.crt``.

    ``has_fitting_key``: its private key is there, can be read, and is the first certificate's. ``problems``: what could
    not be read. ``field``: where the chain was found, for messages. The key itself is never in here.
    """

    chain: tuple[Certificate, ...]
    anchors: tuple[Certificate, ...]
    has_fitting_key: bool
    problems: tuple[Problem, ...] = ()
    field: str = "data[tls.crt]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Issuance:
    """How far cert-manager is with a Certificate of ours.

    ``ready`` and ``issuing`` are the conditions' status (``True``, ``False``, ``Unknown``; ``""`` when there is no such
    condition), ``reason`` and ``message`` those of the one that says why there is no good certificate, ``""`` when all
    is well. ``renewal_time`` is RFC 3339, ``""`` when not known. ``failures``: failed attempts in a row.
    ``is_adopted``: cert-manager has never made the certificate; it found one in the Secret and let it be.
    """

    name: str
    ready: str = ""
    issuing: str = ""
    reason: str = ""
    message: str = ""
    renewal_time: str = ""
    failures: int = 0
    is_adopted: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustBundle:
    """Trust anchors: sorted by fingerprint, each once. ``problems``: what could not be read, or should not be there."""

    anchors: tuple[Certificate, ...]
    problems: tuple[Problem, ...] = ()
