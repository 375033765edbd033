"""What a leaf says, and which requests get none."""

import base64
import contextlib
from dataclasses import replace
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from meshwright.edge.leaves import BadCsr, SignedLeaf, make_issuer, make_leaf, read_csr
from meshwright.link.trust import chain_to_anchor
from meshwright.model.identity import Certificate, ServiceAccount
from meshwright.parse.certificate import parse_certificates
from tests.certificates import ANCHOR, ISSUER, NOW, Made, make
from tests.edge.authority import SHOP, TRUST, make_csr

WEB = ServiceAccount(SHOP, "web")
KEY = ec.generate_private_key(ec.SECP256R1())
DAY = timedelta(hours=24)


def parsed(*made: Made) -> tuple[Certificate, ...]:
    return parse_certificates("".join(each.pem for each in made), "")[0]


def sign(*chain: Made, anchor: Made, lifetime: timedelta = DAY) -> SignedLeaf:
    key = chain[0].key
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    issuer = make_issuer(parsed(*chain), parsed(anchor), key, NOW)
    csr = make_csr(KEY, "admin.kube-system")
    return make_leaf(issuer, read_csr(csr), account=WEB, uid="uid-1", trust=TRUST, lifetime=lifetime, now=NOW)


def test_a_leaf_names_the_account_and_nothing_that_was_asked_for() -> None:
    anchor = make(ANCHOR)
    issuer = make(ISSUER, by=anchor)
    signed = sign(issuer, anchor=anchor)
    leaf, above = parse_certificates(signed.chain, "")[0]
    assert above == parsed(issuer)[0]
    found = x509.load_der_x509_certificate(leaf.der)
    found.verify_directly_issued_by(issuer.certificate)
    assert found.public_key() == KEY.public_key()
    assert 0 < found.serial_number.bit_length() <= 128
    assert leaf == replace(
        leaf,
        subject="2.5.4.5=uid-1",
        issuer="CN=identity.meshwright.cluster.local",
        not_before=NOW - timedelta(seconds=20),
        not_after=NOW + DAY,
        key="ECDSA P-256",
        signature="ecdsa-with-SHA256",
        is_ca=False,
        path_length=None,
        key_usages=("digitalSignature",),
        extended_usages=("clientAuth", "serverAuth"),
        dns_names=("web.shop.serviceaccount.identity.meshwright.cluster.local",),
        uris=("spiffe://cluster.local/ns/shop/sa/web",),
        issuer_key_id=above.key_id,
    )
    assert leaf.key_id
    assert chain_to_anchor((leaf, above), parsed(anchor), NOW) is not None
    assert [each.oid for each in found.extensions if each.critical] == [
        x509.BasicConstraints.oid,
        x509.KeyUsage.oid,
    ]


def test_every_leaf_has_a_serial_of_its_own() -> None:
    anchor = make(ANCHOR)
    issuer = make(ISSUER, by=anchor)
    serials = {parse_certificates(sign(issuer, anchor=anchor).chain, "")[0][0].serial for _ in range(20)}
    assert len(serials) == 20


def test_a_leaf_ends_with_its_issuer_and_its_anchor() -> None:
    anchor = make(replace(ANCHOR, until=timedelta(hours=30)))
    issuer = make(replace(ISSUER, until=timedelta(hours=2)), by=anchor)
    assert sign(issuer, anchor=anchor).not_after == NOW + timedelta(hours=2)
    later = make(replace(ISSUER, until=timedelta(hours=40)), by=anchor)
    assert sign(later, anchor=anchor, lifetime=timedelta(hours=48)).not_after == NOW + timedelta(hours=30)


def test_a_leaf_ends_with_what_lies_between_its_issuer_and_the_anchor() -> None:
    anchor = make(ANCHOR)
    between = make(replace(ISSUER, name="between", number=4, until=timedelta(hours=3)), by=anchor)
    issuer = make(ISSUER, by=between)
    assert sign(issuer, between, anchor=anchor).not_after == NOW + timedelta(hours=3)


def test_a_leaf_lives_as_long_as_the_last_anchor_with_the_key_of_its_issuers_signer() -> None:
    """A renewed anchor may keep its key; for a while both are in the bundle."""
    anchors = [make(replace(ANCHOR, until=timedelta(hours=hours))) for hours in (1, 100, 2)]
    issuer = make(ISSUER, by=anchors[0])
    assert isinstance(issuer.key, ec.EllipticCurvePrivateKey)
    found = make_issuer(parsed(issuer), parsed(*anchors), issuer.key, NOW)
    assert found.not_after == NOW + timedelta(hours=47)


def test_the_anchor_is_not_sent_along_and_what_lies_between_is() -> None:
    anchor = make(ANCHOR)
    between = make(replace(ISSUER, name="between", number=4), by=anchor)
    issuer = make(ISSUER, by=between)
    chain = parse_certificates(sign(issuer, between, anchor, anchor=anchor).chain, "")[0]
    assert [each.subject for each in chain[1:]] == ["CN=identity.meshwright.cluster.local", "CN=between"]


ED25519 = (
    x509.CertificateSigningRequestBuilder()
    .subject_name(x509.Name([]))
    .sign(ed25519.Ed25519PrivateKey.generate(), None)
    .public_bytes(Encoding.PEM)
    .decode()
)


def of_version(number: int) -> str:
    """Return a request that says it is of a version there is none of."""
    der = x509.load_pem_x509_csr(make_csr().encode()).public_bytes(Encoding.DER)
    place = der.index(b"\x02\x01\x00")  # the first INTEGER
    changed = der[:place] + bytes((2, 1, number)) + der[place + 3 :]
    text = base64.b64encode(changed).decode()
    return f"-----BEGIN CERTIFICATE REQUEST-----\n{text}\n-----END CERTIFICATE REQUEST-----\n"


@pytest.mark.parametrize(
    ("csr", "message"),
    [
        ("", "cannot be read"),
        (of_version(7), "cannot be read"),
        ("-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n", "cannot be read"),
        ("ünicode", "cannot be read"),
        (make(ANCHOR).pem, "cannot be read"),
        (make_csr(rsa.generate_private_key(65537, 2048)), "its key is of another type"),
        (make_csr(ec.generate_private_key(ec.SECP384R1())), "its key is of another type"),
        (ED25519, "its key is of another type"),
        (make_csr(is_broken=True), "its signature is not by its own key"),
    ],
)
def test_a_request_that_cannot_be_granted_says_why(csr: str, message: str) -> None:
    with pytest.raises(BadCsr, match=message):
        read_csr(csr)


DER = x509.load_pem_x509_csr(make_csr(name="web.example").encode()).public_bytes(Encoding.DER)


@pytest.mark.filterwarnings("ignore::UserWarning")  # cryptography warns of oddities that it lets pass
@given(st.integers(0, len(DER) - 1), st.binary(max_size=3), st.integers(0, 3))
def test_a_request_that_is_wrong_somewhere_is_refused_and_nothing_else(place: int, put: bytes, taken: int) -> None:
    text = base64.b64encode(DER[:place] + put + DER[place + taken :]).decode()
    with contextlib.suppress(BadCsr):
        read_csr(f"-----BEGIN CERTIFICATE REQUEST-----\n{text}\n-----END CERTIFICATE REQUEST-----\n")
