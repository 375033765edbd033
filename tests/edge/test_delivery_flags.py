"""The flags of `meshwright xds`: what they are read as, and what is refused."""

import argparse
from datetime import timedelta

import pytest

from meshwright.edge.delivery import add_arguments, find_fault
from meshwright.model.proxy import DEFAULT_OPAQUE_PORTS
from meshwright.model.ref import Kind
from meshwright.parse.bundle_source import BundleSource


def test_a_range_that_is_none_is_bad_usage(capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    with pytest.raises(SystemExit):
        parser.parse_args(["--service-cidr", "10.96.0.1/12"])
    assert "write a range like 10.96.0.0/12" in capsys.readouterr().err
    assert parser.parse_args(["--service-cidr", "10.96.0.0/12"]).service_cidr == ["10.96.0.0/12"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--trust-bundle", "roots"], "write configmap/NAME or secret/NAME"),
        (["--leaf-lifetime", "1"], "write one whole number and one unit"),
        (["--leaf-lifetime", "29s"], "write at least 30s"),
        (["--opaque-ports", "25,mysql"], "found '25,mysql'; write ports and ranges such as 25,3306,9300-9302"),
        (["--opaque-ports", "1-101"], "found '1-101'; write at most 100 ports"),
    ],
)
def test_a_flag_that_is_wrong_says_what_to_write(
    flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    with pytest.raises(SystemExit):
        parser.parse_args(flags)
    assert message in capsys.readouterr().err


def test_every_flag_can_be_set_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    said = {
        "KUBECONFIG": "file",
        "HOST": "::1",
        "PORT": "1",
        "METRICS_PORT": "2",
        "LINGER": "3",
        "NAMESPACE": "mesh",
        "TRUST_DOMAIN": "here.local",
        "ISSUER_SECRET": "issuer",
        "TRUST_BUNDLE": "secret/roots/ca.crt",
        "LEAF_LIFETIME": "2h",
        "SIGNING_PORT": "4",
        "PLAINTEXT": "true",
        "OPAQUE_PORTS": "1-2,25",
        "POLICY_LOG_RATE": "7",
        "LOG_FORMAT": "json",
        "LOG_LEVEL": "debug",
    }
    for name, value in said.items():
        monkeypatch.setenv(f"MESHWRIGHT_{name}", value)
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    found = vars(parser.parse_args([]))
    assert found == {
        "kubeconfig": "file",
        "host": "::1",
        "port": 1,
        "metrics_port": 2,
        "service_cidr": None,
        "linger": 3.0,
        "namespace": "mesh",
        "trust_domain": "here.local",
        "issuer_secret": "issuer",
        "trust_bundle": BundleSource(kind=Kind.SECRET, name="roots", key="ca.crt"),
        "leaf_lifetime": timedelta(hours=2),
        "signing_port": 4,
        "plaintext": True,
        "policy_log_rate": 7,
        "opaque_ports": (1, 2, 25),
        "log_format": "json",
        "log_level": "debug",
    }
    assert {name.upper() for name in found} == {*said, "SERVICE_CIDR"}
    monkeypatch.setenv("MESHWRIGHT_SERVICE_CIDR", "10.0.0.1/8")
    assert find_fault(parser.parse_args([])).startswith("$MESHWRIGHT_SERVICE_CIDR: 10.0.0.1/8 has host bits set")
    assert find_fault(parser.parse_args(["--service-cidr", "10.0.0.0/8"])) == ""


@pytest.mark.parametrize(
    ("host", "is_fine"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False), ("delivery", False)],
)
def test_without_tls_it_listens_on_loopback_only(host: str, is_fine: bool) -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    fault = find_fault(parser.parse_args(["--plaintext", "--host", host]))
    assert fault == ("" if is_fine else "--plaintext is for loopback addresses only; write --host 127.0.0.1")
    assert find_fault(parser.parse_args(["--host", host])) == ""


def test_usual_opaque_ports_are_those_of_the_model_and_may_be_none() -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    assert parser.parse_args([]).opaque_ports == DEFAULT_OPAQUE_PORTS
    assert parser.parse_args(["--opaque-ports", ""]).opaque_ports == ()
