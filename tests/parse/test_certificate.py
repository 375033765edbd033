"""Certificates, issuers' Secrets and trust bundles: what is read, and what is said about the rest."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import example, given
from hypothesis import strategies as st

from meshwright.model.identity import Certificate, IssuerSecret, TrustBundle
from meshwright.model.problem import Problem, Reason
from meshwright.parse.certificate import encode_pem, parse_bundle, parse_certificates, parse_issuer_secret
from tests.certificates import (
    ANCHOR,
    ISSUER,
    LEAF,
    NOW,
    Made,
    anchor,
    issuer,
    make,
    make_bundle,
    make_issuer_secret,
    make_key,
    make_secret,
)

BAD = Reason.INVALID_CERTIFICATE
ENCRYPTED = make_key().private_bytes(
    serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"secret")
)


def read(*made: Made) -> tuple[Certificate, ...]:
    certificates, problems = parse_certificates("".join(one.pem for one in made), "f")
    assert problems == ()
    return certificates


def test_a_certificate_is_read_whole() -> None:
    leaf = make(replace(LEAF, dns=("web.shop.example",), uris=("spiffe://cluster.local/ns/shop/sa/web",)), by=issuer())
    (ca,) = read(issuer())
    (found,) = read(leaf)
    assert found == Certificate(
        der=leaf.der,
        subject="",
        issuer="CN=identity.meshwright.cluster.local",
        serial=format(leaf.certificate.serial_number, "x"),
        not_before=NOW - timedelta(hours=1),
        not_after=NOW + timedelta(hours=23),
        key="ECDSA P-256",
        signature="ecdsa-with-SHA256",
        is_ca=False,
        path_length=None,
        key_usages=("digitalSignature",),
        extended_usages=("clientAuth", "serverAuth"),
        dns_names=("web.shop.example",),
        uris=("spiffe://cluster.local/ns/shop/sa/web",),
        key_id=found.key_id,
        issuer_key_id=ca.key_id,
        fingerprint=leaf.fingerprint,
    )


@pytest.mark.parametrize(
    ("made", "key", "signature"),
    [
        (make(replace(ANCHOR, key="RSA 2048")), "RSA 2048", "sha256WithRSAEncryption"),
        (make(replace(ANCHOR, key="P-384")), "ECDSA P-384", "ecdsa-with-SHA256"),
    ],
)
def test_keys_and_signatures_are_called_by_their_names(made: Made, key: str, signature: str) -> None:
    (found,) = read(made)
    assert (found.key, found.signature) == (key, signature)


def test_extensions_that_are_missing_differ_from_empty_ones() -> None:
    (found,) = read(make(replace(ISSUER, usages=None, extended=None)))
    assert (found.key_usages, found.extended_usages) == (None, None)
    (found,) = read(make(replace(ISSUER, usages=(), extended=(ExtendedKeyUsageOID.OCSP_SIGNING,), path_length=0)))
    assert (found.key_usages, found.extended_usages, found.path_length) == ((), ("OCSPSigning",), 0)


def test_every_block_is_read_whatever_stands_around_it() -> None:
    text = f"# roots\n{anchor().pem}\r\nBag Attributes\n{issuer().pem.replace(chr(10), chr(13) + chr(10))}end"
    assert parse_certificates(text.encode(), "f") == (read(anchor(), issuer()), ())


def test_certificates_encode_to_the_text_they_came_from() -> None:
    text = anchor().pem + issuer().pem
    assert encode_pem(parse_certificates(text, "f")[0]) == text


@pytest.mark.parametrize(
    ("block", "message"),
    [
        (
            anchor().key_pem,
            "is a private key; write certificates only, and make a new key: this one may have been read",
        ),
        (
            anchor().pem.replace("BEGIN CERT", "BEGIN TRUSTED CERT").replace("END CERT", "END TRUSTED CERT"),
            "is a TRUSTED CERTIFICATE; write -----BEGIN CERTIFICATE-----",
        ),
        (anchor().pem[:300] + "\n", "has no -----END CERTIFICATE-----; was the text cut off?"),
        (anchor().pem.replace("MII", "M?I", 1), "is not Base64; copy the certificate anew"),
        (
            anchor().pem.replace(anchor().pem.splitlines()[3] + "\n", ""),
            "is not an X.509 certificate; copy the certificate anew",
        ),
    ],
)
def test_a_broken_block_costs_no_other_its_place(block: str, message: str) -> None:
    expected = (read(anchor(1), anchor(2)), (Problem("data[x]", BAD, f"PEM block 2 {message}"),))
    assert parse_certificates(anchor(1).pem + block + anchor(2).pem, "data[x]") == expected


@pytest.mark.parametrize(("text", "found"), [("", "nothing"), (" \n", "nothing"), ("x", "text without a PEM block")])
def test_a_text_without_certificates_is_a_problem(text: str, found: str) -> None:
    message = f"found {found}; write at least one certificate, -----BEGIN CERTIFICATE----- and so on"
    assert parse_certificates(text, "f") == ((), (Problem("f", BAD, message),))


@pytest.mark.filterwarnings("ignore::UserWarning")  # cryptography warns of oddities that it lets pass
@given(st.integers(0, len(anchor().der) - 1), st.integers(0, 255))
@example(place=15, byte=128)
def test_no_byte_that_is_wrong_in_a_certificate_raises(place: int, byte: int) -> None:
    der = bytearray(anchor().der)
    der[place] = byte
    (certificate,) = read(anchor())
    parse_certificates(encode_pem([replace(certificate, der=bytes(der))]), "f")


def test_a_certificate_of_a_version_there_is_none_of_is_a_problem() -> None:
    der = anchor().der
    place = der.index(b"\xa0\x03\x02\x01\x02") + 4
    (certificate,) = read(anchor())
    text = encode_pem([replace(certificate, der=der[:place] + b"\x07" + der[place + 1 :])])
    message = "PEM block 1 is not an X.509 certificate; copy the certificate anew"
    assert parse_certificates(text, "f") == ((), (Problem("f", BAD, message),))


@pytest.mark.filterwarnings("ignore::UserWarning")  # cryptography warns of oddities that it lets pass
@given(st.binary())
def test_no_bytes_raise(content: bytes) -> None:
    parse_certificates(content, "f")
    parse_bundle({"kind": "Secret", "data": {"ca.crt": content.decode("latin-1")}})


PEM, PEM_KEY, ROOT = issuer().pem, issuer().key_pem, anchor().pem


@pytest.mark.parametrize(
    ("crt", "key", "ca"), [("tls.crt", "tls.key", "ca.crt"), ("crt.pem", "key.pem", "ca.pem")], ids=["tls", "linkerd"]
)
def test_both_schemes_of_issuers_are_read_and_the_key_is_forgotten(crt: str, key: str, ca: str) -> None:
    found = parse_issuer_secret(make_secret({crt: PEM + ROOT, key: PEM_KEY, ca: ROOT}))
    assert found == IssuerSecret(
        chain=read(issuer(), anchor()), anchors=read(anchor()), has_fitting_key=True, field=f"data[{crt}]"
    )
    assert PEM_KEY.splitlines()[1] not in repr(found)


def test_an_issuer_needs_no_anchors_of_its_own() -> None:
    expected = IssuerSecret(chain=read(issuer()), anchors=(), has_fitting_key=True)
    assert parse_issuer_secret(make_secret({"tls.crt": PEM, "tls.key": PEM_KEY})) == expected
    assert parse_issuer_secret(make_secret({"tls.crt": PEM, "tls.key": PEM_KEY, "ca.crt": ""})) == expected


def missing(key: str, found: str = "it is missing") -> Problem:
    what = {
        "key": "the private key of the issuer's certificate",
        "crt": "the issuer's certificate and, after it, those it hangs from",
    }[key.partition(".")[2].replace("pem", key.partition(".")[0])]
    return Problem(f"data[{key}]", Reason.MISSING, f"{found}; write {what}, in PEM")


UNREADABLE_KEY = Problem(
    "data[tls.key]",
    BAD,
    "found no private key that can be read; write one in PEM (SEC 1 or PKCS#8), without a password",
)


@pytest.mark.parametrize(
    ("data", "problems"),
    [
        ({}, (missing("tls.crt"), missing("tls.key"))),
        ({"tls.key": PEM_KEY}, (missing("tls.crt", "it is missing, found tls.key"),)),
        ({"key.pem": PEM_KEY}, (missing("crt.pem", "it is missing, found key.pem"),)),
        ({"tls.crt": "", "tls.key": ""}, (missing("tls.crt", "it is empty"), missing("tls.key", "it is empty"))),
        ({"tls.crt": PEM}, (missing("tls.key", "it is missing, found tls.crt"),)),
        ({"tls.crt": PEM, "key.pem": PEM_KEY}, (missing("tls.key", "it is missing, found key.pem, tls.crt"),)),
        ({"tls.crt": PEM, "tls.key": "key"}, (UNREADABLE_KEY,)),
        ({"tls.crt": PEM, "tls.key": PEM_KEY[:100]}, (UNREADABLE_KEY,)),
        ({"tls.crt": PEM, "tls.key": ENCRYPTED.decode()}, (UNREADABLE_KEY,)),
        (
            {"tls.crt": PEM, "tls.key": anchor().key_pem},
            (
                Problem(
                    "data[tls.key]",
                    Reason.KEY_MISMATCH,
                    "it is not the key of the first certificate; write the key that the certificate was asked for with",
                ),
            ),
        ),
        (
            {"tls.crt": PEM[:200], "tls.key": PEM_KEY},
            (
                Problem(
                    "data[tls.crt]",
                    BAD,
                    "PEM block 1 has no -----END CERTIFICATE-----; was the text cut off?",
                ),
            ),
        ),
    ],
)
def test_half_an_issuer_is_none(data: dict[str, str], problems: tuple[Problem, ...]) -> None:
    found = parse_issuer_secret(make_secret(data))
    assert (found.has_fitting_key, found.problems) == (False, problems)
    assert "PRIVATE" not in repr(found)


def test_a_secret_that_is_not_base64_says_so() -> None:
    found = parse_issuer_secret({"kind": "Secret", "data": {"tls.crt": PEM, "tls.key": 7}})
    assert found.problems == (
        Problem(
            "data[tls.crt]",
            BAD,
            "found text that is not Base64; write the issuer's certificate and, after it, those it hangs from, "
            "in PEM, as a Secret encodes it",
        ),
        missing("tls.key", "it is empty"),
    )


@pytest.mark.parametrize("raw", [{}, {"data": None}, {"data": []}, {"kind": "Secret", "data": "x"}])
def test_objects_without_data_hold_nothing(raw: dict[str, Any]) -> None:
    assert parse_issuer_secret(raw).problems == (missing("tls.crt"), missing("tls.key"))
    assert parse_bundle(raw).anchors == ()
    assert [problem.reason for problem in parse_bundle(raw).problems] == [Reason.MISSING]


def by_fingerprint(*made: Made) -> tuple[Certificate, ...]:
    return tuple(sorted(read(*made), key=lambda certificate: certificate.fingerprint))


@pytest.mark.parametrize("order", [lambda made: made, lambda made: made[::-1]])
def test_a_bundle_is_sorted_by_fingerprint(order: Callable[[list[Made]], list[Made]]) -> None:
    made = [anchor(1), anchor(2), anchor(3)]
    assert parse_bundle(make_bundle(order(made))) == TrustBundle(anchors=by_fingerprint(*made))


@pytest.mark.parametrize(
    ("data", "key", "expected"),
    [
        ({"ca.crt": ROOT, "tls.crt": PEM}, "", anchor()),
        ({"ca.crt": "", "tls.crt": ROOT}, "", anchor()),
        ({"tls.crt": ROOT}, "", anchor()),
        ({"ca.crt": ROOT, "tls.crt": PEM}, "tls.crt", issuer()),
        ({"roots": ROOT}, "roots", anchor()),
    ],
)
def test_anchors_may_be_in_a_secret(data: dict[str, str], key: str, expected: Made) -> None:
    assert parse_bundle(make_secret(data), key) == TrustBundle(anchors=read(expected))


def test_anchors_that_come_twice_count_once() -> None:
    found = parse_bundle(make_bundle([anchor(), anchor(), anchor()]))
    problem = Problem(
        "data[ca-bundle.crt]", Reason.DUPLICATE, "found CN=root.cluster.local more than once; once is enough"
    )
    assert found == TrustBundle(anchors=read(anchor()), problems=(problem,))


def test_a_leaf_is_no_anchor() -> None:
    found = parse_bundle(make_bundle([make(LEAF, by=issuer()), anchor()]))
    problem = Problem("data[ca-bundle.crt]", Reason.NOT_A_CA, "found a certificate, which is no CA's; leave it out")
    assert found == TrustBundle(anchors=read(anchor()), problems=(problem,))


def test_a_bundle_without_its_key_names_those_that_are_there() -> None:
    found = parse_bundle({"kind": "ConfigMap", "data": {"roots.pem": ROOT, "a": ""}})
    message = "it is missing, found a, roots.pem; write the trust anchors, in PEM"
    assert found == TrustBundle(anchors=(), problems=(Problem("data[ca-bundle.crt]", Reason.MISSING, message),))


def test_an_issuer_as_cert_manager_writes_it_is_clean() -> None:
    assert parse_issuer_secret(make_issuer_secret(issuer(), [anchor()])).problems == ()
