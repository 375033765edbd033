"""The cluster's own certificate authority, the certificates under it and the kubeconfig files that carry them."""

import base64
import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from e2e.cluster.places import API_PORT, API_SERVICE, NODE_ADDRESS, NODE_NAME

YEAR = datetime.timedelta(days=365)
HOUR = datetime.timedelta(hours=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaf:
    """A certificate to make: who it names, in which group, for which host names and addresses."""

    file: str
    name: str
    group: str = ""
    hosts: tuple[str, ...] = ()


API_NAMES = tuple(".".join(["kubernetes", "default", "svc", "cluster", "local"][:parts]) for parts in (1, 2, 3, 5))
LEAVES = (
    Leaf(
        file="apiserver", name="kube-apiserver", hosts=(*API_NAMES, "localhost", "127.0.0.1", API_SERVICE, NODE_ADDRESS)
    ),
    Leaf(file="admin", name="admin", group="system:masters"),
    Leaf(file="controller-manager", name="system:kube-controller-manager"),
    Leaf(file="scheduler", name="system:kube-scheduler"),
    Leaf(file="proxy", name="system:kube-proxy"),
    Leaf(file="kubelet", name=f"system:node:{NODE_NAME}", group="system:nodes", hosts=(NODE_NAME, NODE_ADDRESS)),
    Leaf(file="coredns", name="coredns", group="system:masters"),
    Leaf(file="cert-manager", name="cert-manager", group="system:masters"),
    Leaf(file="webhook", name="cert-manager-webhook", hosts=("cert-manager-webhook.cert-manager.svc",)),
    Leaf(file="front-proxy", name="front-proxy"),
)
"""CoreDNS and cert-manager run beside the cluster, not in it, and are trusted with everything."""


def encode_key(key: ec.EllipticCurvePrivateKey) -> bytes:
    form, none = serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, form, none)


def make_authority(now: datetime.datetime) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """Return a self-signed authority, valid for a year, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "meshwright-e2e")])
    built = (
        x509.CertificateBuilder(subject_name=name, issuer_name=name, public_key=key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - HOUR)
        .not_valid_after(now + YEAR)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    return built.sign(key, hashes.SHA256()), key


def make_leaf(
    leaf: Leaf, *, authority: x509.Certificate, authority_key: ec.EllipticCurvePrivateKey, now: datetime.datetime
) -> tuple[bytes, bytes]:
    """Return a certificate for servers and clients alike, and its key, in PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    names = [x509.NameAttribute(NameOID.COMMON_NAME, leaf.name)]
    if leaf.group:
        names.insert(0, x509.NameAttribute(NameOID.ORGANIZATION_NAME, leaf.group))
    usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    built = (
        x509.CertificateBuilder(
            subject_name=x509.Name(names), issuer_name=authority.subject, public_key=key.public_key()
        )
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - HOUR)
        .not_valid_after(now + YEAR)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key()), critical=False)  # type: ignore[arg-type]
    )
    if leaf.hosts:
        built = built.add_extension(
            x509.SubjectAlternativeName([name_host(host) for host in leaf.hosts]), critical=False
        )
    return built.sign(authority_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM), encode_key(key)


def name_host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def make_kubeconfig(*, authority: bytes, certificate: bytes, key: bytes, user: str) -> str:
    """Return a kubeconfig for the API server at the node's address, with everything inside: it can be moved."""

    def text(data: bytes) -> str:
        return base64.b64encode(data).decode()

    server = f"https://{NODE_ADDRESS}:{API_PORT}"
    whole = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "e2e", "cluster": {"server": server, "certificate-authority-data": text(authority)}}],
        "users": [{"name": user, "user": {"client-certificate-data": text(certificate), "client-key-data": text(key)}}],
        "contexts": [{"name": "e2e", "context": {"cluster": "e2e", "user": user}}],
        "current-context": "e2e",
    }
    return yaml.safe_dump(whole, sort_keys=False)


def write_pki(folder: Path) -> None:
    """Write ``ca``, ``service-accounts`` and every leaf to ``folder``: .crt, .key, and for leaves a .kubeconfig."""
    now = datetime.datetime.now(datetime.UTC)
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    authority, authority_key = make_authority(now)
    authority_pem = authority.public_bytes(serialization.Encoding.PEM)
    (folder / "ca.crt").write_bytes(authority_pem)
    (folder / "ca.key").write_bytes(encode_key(authority_key))
    signer = ec.generate_private_key(ec.SECP256R1())
    (folder / "service-accounts.key").write_bytes(encode_key(signer))
    spki = serialization.PublicFormat.SubjectPublicKeyInfo
    (folder / "service-accounts.pub").write_bytes(signer.public_key().public_bytes(serialization.Encoding.PEM, spki))
    for leaf in LEAVES:
        certificate, key = make_leaf(leaf, authority=authority, authority_key=authority_key, now=now)
        (folder / f"{leaf.file}.crt").write_bytes(certificate)
        (folder / f"{leaf.file}.key").write_bytes(key)
        config = make_kubeconfig(authority=authority_pem, certificate=certificate, key=key, user=leaf.file)
        (folder / f"{leaf.file}.kubeconfig").write_text(config)
