"""The operator's flags about identity: what they become, and which are refused."""

import argparse

import pytest

from meshwright.edge.identity_flags import read_identity_arguments
from meshwright.edge.operator import add_arguments
from meshwright.model.config import Config, IssuerKind
from meshwright.model.ref import Kind
from meshwright.model.units import Millis, Namespace
from meshwright.parse.bundle_source import BundleSource


def read(*words: str) -> tuple[Config, BundleSource | None]:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return read_identity_arguments(parser.parse_args(words))


def test_by_default_certificates_come_from_outside() -> None:
    assert read() == (Config(), None)


def test_every_flag_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MESHWRIGHT_TRUST_DOMAIN", "example.org")
    words = "--namespace mesh --issuer-kind ClusterIssuer --issuer-name corp --issuer-secret own"
    words += " --issuer-duration 2h --issuer-renew-before 1h30m --trust-bundle configmap/roots/ca.pem"
    assert read(*words.split(), "--webhook-certificate", "cert-manager") == (
        Config(
            namespace=Namespace("mesh"),
            trust_domain="example.org",
            issuer_kind=IssuerKind.CLUSTER_ISSUER,
            issuer_name="corp",
            issuer_secret="own",
            issuer_duration=Millis(7_200_000),
            issuer_renew_before=Millis(5_400_000),
            asks_webhook_certificate=True,
        ),
        BundleSource(kind=Kind.CONFIG_MAP, name="roots", key="ca.pem"),
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--issuer-kind Issuer", "--issuer-kind Issuer with --issuer-name ''"),
        ("--issuer-name x", "a name goes with every kind but none"),
        ("--issuer-duration 2d", "--issuer-duration 2d: write one to four whole numbers"),
        ("--issuer-duration 30m", "write at least 60m"),
        ("--issuer-renew-before 1m", "write at least 5m"),
        ("--issuer-renew-before 48h", "write less than --issuer-duration, which is 48h"),
        ("--trust-bundle roots", "--trust-bundle roots: write configmap/NAME or secret/NAME"),
        ("--trust-domain A.b", "--trust-domain A.b: write a domain name in lower case"),
        ("--issuer-secret a/b", "--issuer-secret a/b: write a Secret's name"),
        ("--issuer-kind Issuer --issuer-name a/b", "--issuer-name a/b: write an object's name"),
        (f"--issuer-kind Issuer --issuer-name a --trust-domain {'a' * 60}", "64 are allowed"),
    ],
)
def test_wrong_flags_are_named(words: str, message: str) -> None:
    with pytest.raises(ValueError) as raised:
        read(*words.split())
    assert message in str(raised.value)


@pytest.mark.parametrize("variable", ["ISSUER_KIND", "WEBHOOK_CERTIFICATE"])
def test_a_wrong_word_in_the_environment_is_refused(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"MESHWRIGHT_{variable}", "anchor")
    with pytest.raises((ValueError, SystemExit)):
        read()
