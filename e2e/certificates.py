"""Certificates as tests see them: what a pod's proxy shows, what its Envoy counts, and some of our own making."""

import base64
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from e2e.kube import Json, Kube, eventually
from e2e.mesh import NAMESPACE
from e2e.pods import in_proxy
from meshwright.model.identity import ServiceAccount, TrustDomain
from meshwright.model.units import Namespace

TRUST = TrustDomain(name="cluster.local", control_plane=Namespace(NAMESPACE))
ISSUER = "meshwright-identity-issuer"
FOLDER = "/var/run/meshwright/identity"
ANCHORS = "/var/run/secrets/meshwright.dev/ca-bundle.crt"
PEM = re.compile(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----\n?", re.DOTALL)


def identity(namespace: str, account: str) -> ServiceAccount:
    return ServiceAccount(Namespace(namespace), account)


def names_for(namespace: str, account: str) -> set[str]:
    """Return the two names that an account's certificate bears."""
    who = identity(namespace, account)
    return {TRUST.uri(who), TRUST.dns(who)}


def read_chain(text: str) -> list[x509.Certificate]:
    """Return the certificates in a text, in its order."""
    return [x509.load_pem_x509_certificate(found.encode()) for found in PEM.findall(text)]


def names_in(certificate: x509.Certificate) -> set[str]:
    """Return every DNS name and URI of a certificate."""
    found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return {str(name.value) for name in found}


def fingerprint(certificate: x509.Certificate) -> str:
    return certificate.fingerprint(hashes.SHA256()).hex()


def find_leaf(kube: Kube, namespace: str, pod: str) -> tuple[str, str]:
    """Return the files of the chain and the key that a pod's Envoy uses now; each renewal makes new ones."""
    document = json.loads(in_proxy(kube, namespace, pod, "cat", f"{FOLDER}/identity.json"))
    [secret] = document["resources"]
    pair = secret["tls_certificate"]
    return str(pair["certificate_chain"]["filename"]), str(pair["private_key"]["filename"])


def own_chain(kube: Kube, namespace: str, pod: str) -> list[x509.Certificate]:
    """Return what a pod's proxy has on disk: its leaf, then its issuer."""
    return read_chain(in_proxy(kube, namespace, pod, "cat", find_leaf(kube, namespace, pod)[0]))


def shown_chain(kube: Kube, namespace: str, pod: str, target: str, server_name: str) -> list[x509.Certificate]:
    """Return the chain that ``target`` shows to the proxy of ``pod``, verified by openssl with the mesh's anchors."""
    chain, key = find_leaf(kube, namespace, pod)
    own = ("-cert", chain, "-cert_chain", chain, "-key", key)
    said = in_proxy(
        *(kube, namespace, pod),
        *("openssl", "s_client", "-connect", target, "-servername", server_name, "-showcerts", "-tls1_3"),
        *("-verify_return_error", "-verify_hostname", server_name, "-CAfile", ANCHORS, *own),
        stdin="",
    )
    assert "Verify return code: 0 (ok)" in said, said
    return read_chain(said)


def handshakes(kube: Kube, namespace: str, pod: str, side: str) -> float:
    """Return how many TLS handshakes a pod's Envoy has counted: ``listener`` as a server, ``cluster`` as a client.

    Delivery's own connections count as a client's too.
    """
    page = kube.run("get", "--raw", f"/api/v1/namespaces/{namespace}/pods/{pod}:4191/proxy/metrics")
    found = re.findall(rf"^envoy_{side}_ssl_handshake(?:\{{[^}}]*\}})? (\S+)$", page, re.MULTILINE)
    return sum(float(value) for value in found)


def read_bundle(kube: Kube, namespace: str) -> set[str]:
    """Return the fingerprints of the trust anchors that a namespace's pods are given."""
    found = kube.get("configmap", "mw-trust-anchors", "-n", namespace)["data"]["ca-bundle.crt"]
    return {fingerprint(certificate) for certificate in read_chain(found)}


def renew(kube: Kube, name: str = ISSUER) -> x509.Certificate:
    """Have cert-manager make a Certificate anew, as ``cmctl renew`` does, and return what it made.

    Source: cmctl ``pkg/renew/renew.go``: the status condition Issuing, with reason ManuallyTriggered.
    """
    found = kube.get("certificate", name, "-n", NAMESPACE)
    before = found["status"].get("revision", 0)
    condition = {
        "type": "Issuing",
        "status": "True",
        "reason": "ManuallyTriggered",
        "message": "Certificate re-issuance manually triggered",
        "lastTransitionTime": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        "observedGeneration": found["metadata"]["generation"],
    }
    conditions = [each for each in found["status"].get("conditions", ()) if each["type"] != "Issuing"]
    patch = json.dumps({"status": {"conditions": [*conditions, condition]}})
    kube.run("-n", NAMESPACE, "patch", "certificate", name, "--subresource=status", "--type=merge", "-p", patch)
    eventually(lambda: kube.get("certificate", name, "-n", NAMESPACE)["status"]["revision"] > before)
    return read_secret(kube, name)[0]


def read_secret(kube: Kube, name: str = ISSUER, key: str = "tls.crt") -> list[x509.Certificate]:
    """Return the certificates under one key of a Secret in the control plane's namespace."""
    return read_chain(base64.b64decode(kube.get("secret", name, "-n", NAMESPACE)["data"][key]).decode())


@dataclass(frozen=True, slots=True, kw_only=True)
class Authority:
    """A trust anchor of the test's own making."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def pem(self) -> str:
        return self.certificate.public_bytes(serialization.Encoding.PEM).decode()

    @property
    def key_pem(self) -> str:
        return write_key(self.key)

    def sign(self, who: ServiceAccount) -> tuple[str, str]:
        """Return a leaf for an account of the mesh, and its key."""
        return self.sign_names(x509.UniformResourceIdentifier(TRUST.uri(who)), x509.DNSName(TRUST.dns(who)))

    def sign_names(self, *names: x509.GeneralName) -> tuple[str, str]:
        """Return a leaf that bears these names, and its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        builder = _begin(key, x509.Name([]), self.certificate.subject)
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=True)
        leaf = builder.sign(self.key, hashes.SHA256())
        return leaf.public_bytes(serialization.Encoding.PEM).decode(), write_key(key)


def make_authority(name: str) -> Authority:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    usage = x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
    builder = _begin(key, subject, subject)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    builder = builder.add_extension(usage, critical=True)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    return Authority(certificate=builder.sign(key, hashes.SHA256()), key=key)


def _begin(key: ec.EllipticCurvePrivateKey, subject: x509.Name, issuer: x509.Name) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=30))
    )


def write_key(key: ec.EllipticCurvePrivateKey) -> str:
    form = serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()).decode()


@contextmanager
def secret(kube: Kube, name: str, data: dict[str, str], *, namespace: str = NAMESPACE) -> Iterator[str]:
    """Have a TLS Secret for the time of the block."""
    manifest: Json = {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "kubernetes.io/tls",
        "metadata": {"name": name, "namespace": namespace},
        "stringData": data,
    }
    kube.apply(json.dumps(manifest))
    try:
        yield name
    finally:
        kube.delete("secret", name, "-n", namespace)
