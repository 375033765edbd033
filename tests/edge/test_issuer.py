"""Which issuer signs, as Secrets, bundles and time change."""

import logging
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from meshwright.edge.issuer import NoIssuer, Signer
from meshwright.model.identity import ServiceAccount
from tests.certificates import ANCHOR, ISSUER, make, make_bundle, make_issuer_secret, make_secret
from tests.edge.authority import SHOP, Clock, Root, make_signer

KEY = ec.generate_private_key(ec.SECP256R1()).public_key()
ONE, TWO = Root(number=1), Root(number=2)
HOUR = timedelta(hours=1)


def signs(signer: Signer) -> str:
    """Return the anchor that a leaf signed now hangs from, ``""`` when none is signed."""
    try:
        leaf = signer.sign(KEY, ServiceAccount(SHOP, "web"), "uid-1")
    except NoIssuer:
        return ""
    between = x509.load_pem_x509_certificates(leaf.chain.encode())[1]
    return between.issuer.rfc4514_string().removeprefix("CN=")


def sample(signer: Signer, name: str, reason: str | None = None) -> float | None:
    labels = {} if reason is None else {"reason": reason}
    return signer._metrics.registry.get_sample_value(f"meshwright_{name}", labels)


def without(secret: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {**secret, "data": {key: value for key, value in secret["data"].items() if key not in keys}}


def cut(secret: dict[str, Any], key: str) -> dict[str, Any]:
    """Return a Secret whose value at ``key`` was cut off."""
    whole = secret["data"][key]
    return {**secret, "data": {**secret["data"], key: whole[: len(whole) // 16 * 12]}}


def test_nothing_is_signed_before_an_issuer_is_known() -> None:
    signer = make_signer()
    signer.look()
    assert signs(signer) == ""
    assert not signer.may_sign
    signer.put_issuer(ONE.secret())
    assert (signs(signer), signer.may_sign, signer.problems) == ("root-1", True, ())
    assert sample(signer, "issuer_usable") == 1
    assert sample(signer, "issuer_end_timestamp_seconds") == ONE.issuer.certificate.not_valid_after_utc.timestamp()


def test_the_other_scheme_of_a_secret_is_read() -> None:
    made = ONE.issuer
    signer = make_signer()
    signer.put_issuer(make_secret({"crt.pem": made.pem, "key.pem": made.key_pem, "ca.pem": ONE.anchor.pem}))
    assert signs(signer) == "root-1"


def test_a_renewed_issuer_is_used_at_once_and_says_so() -> None:
    signer = make_signer()
    told: list[str] = []
    signer.changed = lambda: told.append(signs(signer))
    signer.put_issuer(ONE.secret())
    signer.put_issuer(TWO.secret())
    signer.look()
    signer.put_issuer(TWO.secret())
    signer.put_issuer(TWO.secret(ONE))
    assert told == ["root-1", "root-2", "root-2"]
    assert len(signer.anchors) == 2


UNUSABLE: list[tuple[str, dict[str, Any] | None, str]] = [
    ("deleted", None, "Missing"),
    ("empty", make_secret({}), "Missing"),
    ("no key", without(TWO.secret(), "tls.key"), "Missing"),
    ("no certificate", without(TWO.secret(), "tls.crt"), "Missing"),
    ("no anchors", without(TWO.secret(), "ca.crt"), "Untrusted"),
    ("half a certificate", cut(TWO.secret(), "tls.crt"), "InvalidCertificate"),
    ("half a key", cut(TWO.secret(), "tls.key"), "InvalidCertificate"),
    ("half the anchors", cut(TWO.secret(ONE), "ca.crt"), "InvalidCertificate"),
    (
        "another issuer's key",
        make_secret({"tls.crt": TWO.issuer.pem, "tls.key": ONE.anchor.key_pem, "ca.crt": TWO.anchor.pem}),
        "KeyMismatch",
    ),
    ("another anchor", make_issuer_secret(TWO.issuer, [ONE.anchor]), "Untrusted"),
    ("ended", Root(number=2, since=-2 * HOUR, until=-HOUR).secret(), "Expired"),
    ("an hour ahead", Root(number=2, since=HOUR).secret(), "NotYetValid"),
]


@pytest.mark.parametrize(("secret", "reason"), [case[1:] for case in UNUSABLE], ids=[case[0] for case in UNUSABLE])
def test_an_issuer_that_may_not_sign_is_refused_and_the_one_before_stays(
    secret: dict[str, Any] | None, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    signer = make_signer()
    signer.put_issuer(ONE.secret())
    with caplog.at_level(logging.ERROR):
        signer.put_issuer(secret)
        signer.look()
    assert signs(signer) == "root-1"
    assert reason in [problem.reason.value for problem in signer.problems]
    assert sample(signer, "issuer_refusals_total", reason) == 1
    assert len(caplog.messages) == len(signer.problems)
    assert all("the one in use stays" in line for line in caplog.messages)
    assert "PRIVATE KEY" not in caplog.text
    signer.put_issuer(TWO.secret())
    assert (signs(signer), signer.problems) == ("root-2", ())


@pytest.mark.parametrize("secret", [case[1] for case in UNUSABLE], ids=[case[0] for case in UNUSABLE])
def test_without_one_before_nothing_is_signed(secret: dict[str, Any] | None) -> None:
    signer = make_signer()
    signer.put_issuer(secret)
    assert (signs(signer), signer.may_sign, sample(signer, "issuer_usable")) == ("", False, 0)
    assert signer.problems


def test_an_issuer_that_is_kept_ends_at_its_time() -> None:
    clock = Clock()
    signer = make_signer(clock=clock)
    signer.put_issuer(ONE.secret())
    signer.put_issuer(None)
    clock.offset = timedelta(hours=46)
    signer.look()
    assert signs(signer) == "root-1"
    clock.offset = timedelta(hours=48)
    assert signs(signer) == ""
    signer.look()
    assert not signer.may_sign


def test_an_issuer_of_an_hour_ahead_is_used_when_its_time_has_come() -> None:
    clock = Clock()
    signer = make_signer(clock=clock)
    signer.put_issuer(Root(since=HOUR).secret())
    assert signs(signer) == ""
    clock.offset = HOUR + timedelta(minutes=1)
    signer.look()
    assert signs(signer) == "root-1"


def test_an_anchor_that_was_renewed_with_its_key_goes_on_when_the_old_one_ends() -> None:
    """Both are in the bundle; the new one is not valid yet when it comes."""
    clock = Clock()
    wish = replace(ANCHOR, number=31, name="root-31")
    old = make(replace(wish, until=2 * HOUR), now=ONE.now)
    new = make(replace(wish, since=HOUR, until=100 * HOUR), now=ONE.now)
    issuer = make(replace(ISSUER, number=32, until=40 * HOUR), by=old, now=ONE.now)
    signer = make_signer(clock=clock)
    signer.put_issuer(make_issuer_secret(issuer, [old, new]))
    assert signer.sign(KEY, ServiceAccount(SHOP, "web"), "uid-1").not_after == old.certificate.not_valid_after_utc
    clock.offset = 1.5 * HOUR
    signer.look()
    clock.offset = 3 * HOUR
    signer.look()
    assert (signs(signer), signer.problems) == ("root-31", ())


def test_the_bundle_decides_where_one_is_named() -> None:
    signer = make_signer(bundle_key="")
    signer.put_issuer(ONE.secret())
    assert (signs(signer), signer.may_sign) == ("", False)
    signer.put_bundle(make_bundle([TWO.anchor]))
    assert signs(signer) == ""
    assert [problem.reason.value for problem in signer.problems] == ["Untrusted"]
    signer.put_bundle(make_bundle([ONE.anchor, TWO.anchor]))
    assert (signs(signer), len(signer.anchors)) == ("root-1", 2)
    signer.put_issuer(Root(number=3).secret())
    assert signs(signer) == "root-1", "an issuer that the bundle does not know is not used"
    signer.put_issuer(TWO.secret())
    assert signs(signer) == "root-2"
    signer.put_bundle(make_bundle([ONE.anchor]))
    assert signs(signer) == "", "nobody would believe it any more"
    signer.put_bundle(make_bundle([TWO.anchor]))
    assert signs(signer) == "root-2"


@pytest.mark.parametrize(
    "bundle",
    [
        None,
        {},
        make_bundle([]),
        {**make_bundle([]), "data": {"ca-bundle.crt": ONE.anchor.pem + TWO.anchor.pem[:200]}},
        {**make_bundle([]), "data": {"other": ONE.anchor.pem}},
    ],
    ids=["deleted", "nothing", "empty", "cut off", "another key"],
)
def test_a_bundle_that_cannot_be_read_is_refused_and_the_one_before_stays(
    bundle: dict[str, Any] | None, caplog: pytest.LogCaptureFixture
) -> None:
    signer = make_signer(bundle_key="")
    signer.put_bundle(make_bundle([ONE.anchor, TWO.anchor]))
    signer.put_issuer(ONE.secret())
    before = signer.anchors
    with caplog.at_level(logging.ERROR):
        signer.put_bundle(bundle)
    assert (signs(signer), signer.anchors) == ("root-1", before)
    assert signer.problems
    assert "the one in use stays" in caplog.text
    signer.put_bundle(make_bundle([ONE.anchor]))
    assert (signer.problems, len(signer.anchors)) == ((), 1)


def test_no_key_is_shown_anywhere() -> None:
    signer = make_signer()
    signer.put_issuer(ONE.secret())
    shown = repr((signer._issuer, signer._secret, signer._offer, signer.problems))
    assert "PRIVATE" not in shown
    assert "key=" not in repr(signer._issuer)
