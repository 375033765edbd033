"""The operator's flags about inbound policy: what they become, and which are refused."""

import argparse

import pytest

from meshwright.edge.injection_flags import add_injection_flags, read_injection_settings
from meshwright.edge.operator import add_arguments
from meshwright.edge.policy_flags import read_policy_arguments
from meshwright.model.inbound import PolicyDefaults
from meshwright.model.policy import AccessPolicy


def read(*words: str) -> PolicyDefaults:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return read_policy_arguments(parser.parse_args(words))


def test_by_default_everybody_may_call() -> None:
    assert read() == PolicyDefaults()


CHOSEN = PolicyDefaults(
    access=AccessPolicy.CLUSTER_AUTHENTICATED,
    cluster_networks=("10.0.0.0/8", "fd00::/8", "192.0.2.1/32"),
    probe_networks=("192.0.2.0/24",),
    follows_namespace=True,
)
WORDS = {
    "--default-inbound-policy": "cluster-authenticated",
    "--cluster-networks": "10.0.0.0/8, FD00::/8,192.0.2.1,10.0.0.0/8",
    "--probe-networks": "192.0.2.0/24",
}


def test_every_flag_counts() -> None:
    assert read(*(f"{flag}={text}" for flag, text in WORDS.items()), "--default-inbound-follows-namespace") == CHOSEN


def test_every_flag_can_be_set_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for flag, text in (WORDS | {"--default-inbound-follows-namespace": "true"}).items():
        monkeypatch.setenv("MESHWRIGHT_" + flag.removeprefix("--").replace("-", "_").upper(), text)
    assert read() == CHOSEN


def test_probes_may_be_let_in_from_nowhere() -> None:
    assert read("--probe-networks=").probe_networks == ()


@pytest.mark.parametrize("text", ["1", "TRUE", "true"])
def test_the_webhook_knows_if_namespaces_are_followed(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    parser = argparse.ArgumentParser()
    monkeypatch.setenv("MESHWRIGHT_DEFAULT_INBOUND_FOLLOWS_NAMESPACE", text)
    add_injection_flags(parser)
    assert read_injection_settings(parser.parse_args([])).follows_namespace


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("--default-inbound-policy=Deny", "write one of all-unauthenticated"),
        ("--default-inbound-policy=", "write one of all-unauthenticated"),
        ("--cluster-networks=", "write the ranges of pods and nodes"),
        ("--cluster-networks=10.0.0.1/8", "10.0.0.1/8 has host bits set"),
        ("--cluster-networks=cluster", "write ranges like 10.0.0.0/8,fd00::/8"),
        ("--probe-networks=::ffff:10.0.0.0/104", "write it as IPv4"),
    ],
)
def test_wrong_flags_are_named(word: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        read(word)
    assert message in capsys.readouterr().err
