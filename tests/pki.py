"""Anchors, issuers and leaves for tests: real certificates, good ones and every kind of bad one.

>>> anchor = make_anchor()
>>> leaf = anchor.issue(trust, ServiceAccount(SHOP, "web"))
>>> leaf.write(folder, anchor)   # as a proxy's container has it
"""

import json
import os
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from meshwright.emit.sds import ANCHORS_FILE, BUNDLE_FILE, IDENTITY_FILE, emit_anchors, emit_identity
from meshwright.model.identity import ServiceAccount, TrustDomain
from meshwright.model.proxy import ProxySettings

_DAY = timedelta(days=1)
_PEM = serialization.Encoding.PEM


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A certificate, its key, and what its chain needs below an anchor. All PEM but ``certificate``."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey
    between: bytes = b""

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(_PEM)

    @property
    def chain(self) -> bytes:
        return self.pem + self.between

    @property
    def key_pem(self) -> bytes:
        return self.key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())

    def make_issuer(self, name: str = "identity.meshwright.cluster.local") -> "Pair":
        """Return an issuer of leaves that this authority has signed."""
        made = _sign(name, self, is_ca=True, names=())
        return replace(made, between=made.pem + self.between)

    def issue(
        self,
        trust: TrustDomain,
        account: ServiceAccount,
        *,
        starts: datetime | None = None,
        ends: datetime | None = None,
        uid: str = "",
        is_named: bool = True,
    ) -> "Pair":
        """Return the leaf of ``account``, valid for a day around now unless told otherwise. ``is_named``: it has the
        DNS form, too."""
        names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(trust.uri(account))]
        if is_named:
            names.append(x509.DNSName(trust.dns(account)))
        made = _sign("", self, is_ca=False, names=names, serial=uid, starts=starts, ends=ends)
        return replace(made, between=self.between)

    def issue_names(self, *names: x509.GeneralName) -> "Pair":
        """Return a leaf with these names and no other: a machine's."""
        return replace(_sign("", self, is_ca=False, names=list(names)), between=self.between)

    def write(self, settings: ProxySettings, *anchors: "Pair") -> None:
        """Write this leaf, and what Envoy must know of it, where ``settings`` say. Anybody may read it."""
        folder, secrets = Path(settings.identity_folder), Path(settings.secrets_folder)
        for each in (folder, secrets):
            each.mkdir(parents=True, exist_ok=True)
        chain, key = folder / f"{self.certificate.serial_number}.crt", folder / f"{self.certificate.serial_number}.key"
        _swap(secrets / BUNDLE_FILE, b"".join(anchor.pem for anchor in anchors))
        _swap(chain, self.chain)
        _swap(key, self.key_pem)
        _swap(folder / ANCHORS_FILE, json.dumps(emit_anchors(settings)).encode())
        _swap(folder / IDENTITY_FILE, json.dumps(emit_identity(str(chain), str(key))).encode())


def make_anchor(name: str = "root.meshwright.cluster.local") -> Pair:
    """Return a trust anchor."""
    return _sign(name, None, is_ca=True, names=())


def _sign(
    name: str,
    by: Pair | None,
    *,
    is_ca: bool,
    names: list[x509.GeneralName] | tuple[()],
    serial: str = "",
    starts: datetime | None = None,
    ends: datetime | None = None,
) -> Pair:
    key = ec.generate_private_key(ec.SECP256R1())
    attributes = [x509.NameAttribute(NameOID.COMMON_NAME, name)] if name else []
    attributes += [x509.NameAttribute(NameOID.SERIAL_NUMBER, serial)] if serial else []
    subject = x509.Name(attributes)
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(by.certificate.subject if by else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(starts or now - _DAY)
        .not_valid_after(ends or now + _DAY)
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    if names:
        usages = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=not attributes)
        builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
    return Pair(certificate=builder.sign(by.key if by else key, hashes.SHA256()), key=key)


def _swap(path: Path, content: bytes) -> None:
    """Write a file so that nobody sees half of it."""
    new = path.with_suffix(".new")
    new.write_bytes(content)
    os.chmod(new, 0o644)
    new.replace(path)
