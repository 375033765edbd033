"""What `agent.json` may say, and what is said about what it may not."""

import json
from pathlib import Path
from typing import Any

import pytest

from meshwright.edge.agent.settings import Settings, SettingsError, parse_settings, read_settings, write_settings
from meshwright.model.group import JoinMode
from meshwright.model.units import Namespace, Port

PIN = f"sha256:{'0a' * 32}"
LEAST = {"registrar": "registrar.example:15013", "namespace": "shop", "group": "ledger", "caHashes": [PIN]}
ALL: dict[str, Any] = {
    **LEAST,
    "trustDomain": "example.org",
    "controlPlane": "mesh",
    "mode": "ClientCertificate",
    "tokenFile": "/t",
    "spiffeSocket": "unix:///s",
    "certificateFile": "/c",
    "keyFile": "/k",
    "address": ["192.0.2.10", "2001:db8::10"],
    "interface": "eth1",
    "addressFrom": ["192.0.2.0/24"],
    "labels": {"tier": "gold"},
    "skipInboundPorts": "22,9000-9010",
    "skipOutboundPorts": "25",
    "skipSubnets": "10.1.0.0/16,fd00::/8",
    "drainSeconds": 1.5,
    "envoy": "/opt/envoy",
    "envoyLogLevel": "debug",
    "concurrency": 2,
    "allowedProbeHosts": ["db.example"],
    "inboundPort": 5143,
    "outboundPort": 5140,
    "adminPort": 5191,
}


def test_the_least_that_must_be_said() -> None:
    assert parse_settings(LEAST) == Settings(
        registrar="registrar.example:15013", namespace=Namespace("shop"), group="ledger", ca_hashes=(PIN,)
    )


def test_every_key_is_read_and_written_back() -> None:
    settings = parse_settings(ALL)
    assert write_settings(settings) == ALL
    assert (settings.mode, settings.inbound_port) == (JoinMode.CERTIFICATE, Port(5143))
    assert {name for name in Settings.__slots__ if getattr(settings, name) == getattr(parse_settings(LEAST), name)} == {
        "registrar",
        "namespace",
        "group",
        "ca_hashes",
    }


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"registrar": "nowhere"}, 'registrar: found "nowhere"; write host:port'),
        ({"registrar": None, "group": None}, "registrar: is missing; group: is missing"),
        ({"caHashes": None}, "caHashes: is missing"),
        ({"caHashes": ["sha1:00"]}, "write a list of sha256:"),
        ({"namespace": "Shop"}, "write a namespace"),
        ({"group": "-"}, "write a name"),
        ({"mode": "Magic"}, "write JoinToken or SPIFFE or ClientCertificate"),
        ({"mode": "ClientCertificate"}, "certificateFile, keyFile: both are needed"),
        ({"address": ["192.0.2.1", "192.0.2.2"]}, "a list of one of IPv4 and one of IPv6"),
        ({"addressFrom": ["192.0.2.1/24"]}, "a list of CIDRs"),
        ({"labels": {"a": 1}}, "an object of at most 16 texts"),
        ({"skipInboundPorts": "22,ssh"}, "ports and ranges as text"),
        ({"skipSubnets": "here"}, "ranges as text"),
        ({"drainSeconds": -1}, "seconds, 0 to 3600"),
        ({"envoyLogLevel": "loud"}, "write trace, debug"),
        ({"concurrency": True}, "a whole number, 1 to 256"),
        ({"adminPort": 80}, "a port, 1024 to 65535"),
        ({"adminPort": 4143}, "are not three different ports"),
        ({"tokenfile": "/t"}, "tokenfile: is unknown; known are address, addressFrom"),
        (
            {"drainSeconds": "x", "concurrency": 0},
            'drainSeconds: found "x"; write seconds, 0 to 3600; concurrency: found 0',
        ),
    ],
)
def test_what_is_wrong_is_named_with_what_to_write(change: dict[str, Any], complaint: str) -> None:
    with pytest.raises(SettingsError) as error:
        parse_settings({**LEAST, **change})
    assert complaint in str(error.value)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (None, "is not there; `meshwright agent install` writes it"),
        ("{", "is not JSON"),
        ("[]", "found no object"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(text: str | None, complaint: str, tmp_path: Path) -> None:
    path = tmp_path / "agent.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(SettingsError) as error:
        read_settings(path)
    assert str(error.value).startswith(str(path))
    assert complaint in str(error.value)


def test_what_install_writes_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "agent.json"
    path.write_text(json.dumps(write_settings(parse_settings(LEAST))))
    assert read_settings(path) == parse_settings(LEAST)
