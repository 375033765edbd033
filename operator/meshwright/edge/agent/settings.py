"""What an agent is told by the machine's owner: ``agent.json``, and where its folders are."""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

from meshwright.edge.host_port import split_address
from meshwright.model.group import JoinMode
from meshwright.model.identity import TrustDomain
from meshwright.model.pod import PortRanges
from meshwright.model.proxy import ProxySettings
from meshwright.model.units import Namespace, Port
from meshwright.parse.names import LABEL, SUBDOMAIN
from meshwright.parse.ports import find_port_faults, parse_port_list

SETTINGS_FILE = "/etc/meshwright/agent.json"
STATE_FOLDER = "/var/lib/meshwright/agent"
RUN_FOLDER = "/run/meshwright"
SPIFFE_SOCKET = "unix:///tmp/spire-agent/public/api.sock"
"""Where a SPIRE agent listens unless it is told otherwise: spiffe/spire ``doc/spire_agent.md`` socket_path."""

_PIN = re.compile(r"sha256:[0-9a-f]{64}")
_PLAIN = ProxySettings()


class SettingsError(Exception):
    """The settings cannot be used. The text has all that is wrong with them, and what to write."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """``agent.json``. ``registrar``: host:port. ``ca_hashes``: ``sha256:`` of trust anchors (DER), for first contact.

    Which address the machine is reached at: ``address`` (one of each IP version at most), else those of ``interface``,
    else those in ``address_from``, else where the route to the registrar begins. ``allowed_probe_hosts``: other hosts
    than this machine that a group's probe may ask. ``envoy``: the program, ``""`` for the one that is found.
    ``inbound_port`` and ``outbound_port`` are where delivery has Envoy listen.
    """

    registrar: str
    namespace: Namespace
    group: str
    ca_hashes: tuple[str, ...] = ()
    trust_domain: str = TrustDomain().name
    control_plane: Namespace = TrustDomain().control_plane
    mode: JoinMode = JoinMode.TOKEN
    token_file: str = ""
    spiffe_socket: str = SPIFFE_SOCKET
    certificate_file: str = ""
    key_file: str = ""
    address: tuple[str, ...] = ()
    interface: str = ""
    address_from: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    skip_inbound_ports: str = ""
    skip_outbound_ports: str = ""
    skip_subnets: str = ""
    drain_seconds: float = 30.0
    envoy: str = ""
    envoy_log_level: str = "warning"
    concurrency: int = 1
    allowed_probe_hosts: tuple[str, ...] = ()
    inbound_port: Port = _PLAIN.inbound_port
    outbound_port: Port = _PLAIN.outbound_port
    admin_port: Port = _PLAIN.admin_port

    @property
    def trust(self) -> TrustDomain:
        return TrustDomain(name=self.trust_domain, control_plane=self.control_plane)

    @property
    def skipped_inbound(self) -> PortRanges:
        return parse_port_list(self.skip_inbound_ports)


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where an agent keeps what: ``state`` survives a reboot, ``run`` does not."""

    settings: Path = Path(SETTINGS_FILE)
    state: Path = Path(STATE_FOLDER)
    run: Path = Path(RUN_FOLDER)

    @property
    def identity(self) -> Path:
        return self.state / "identity"

    @property
    def identity_link(self) -> Path:
        """Where delivery tells every Envoy to find its certificate: `ProxySettings.identity_folder`, which is below
        ``/run/meshwright``."""
        return self.run / "identity"

    @property
    def bundle(self) -> Path:
        return self.state / "secrets" / "ca-bundle.crt"

    @property
    def config(self) -> Path:
        """The last MachineConfig."""
        return self.state / "config.json"

    @property
    def pending_key(self) -> Path:
        """The key that a certificate is being asked for."""
        return self.state / "pending.key"

    @property
    def failure(self) -> Path:
        """Why the agent could not go on, for who asks when it is gone."""
        return self.state / "failure.json"

    @property
    def redirected(self) -> Path:
        """What was last put in place with iptables, and the product's UUID, which only root may read."""
        return self.run / "redirected.json"

    @property
    def socket(self) -> Path:
        return self.run / "agent.sock"

    def token(self, settings: Settings) -> Path:
        return Path(settings.token_file) if settings.token_file else self.state / "token"

    def proxy_settings(self, settings: Settings) -> ProxySettings:
        """Return what Envoy is told of this machine."""
        return ProxySettings(
            trust=settings.trust,
            identity_folder=str(self.identity),
            secrets_folder=str(self.bundle.parent),
            inbound_port=settings.inbound_port,
            outbound_port=settings.outbound_port,
            admin_port=settings.admin_port,
            admin_folder=str(self.run),
        )


def read_settings(path: Path) -> Settings:
    """Return what the file says.

    Raises:
        SettingsError: it cannot be read, or something in it is wrong.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise SettingsError(f"{path} is not there; `meshwright agent install` writes it") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} cannot be read: {_why(error)}") from None
    try:
        raw = json.loads(text)
    except ValueError as error:
        raise SettingsError(f"{path} is not JSON: {error}") from None
    try:
        return parse_settings(raw)
    except SettingsError as error:
        raise SettingsError(f"{path}: {error}") from None


def parse_settings(raw: object) -> Settings:
    """Return what ``raw``, as JSON, says.

    Raises:
        SettingsError: it is no object, a key is unknown or missing, or a value is wrong; the text names all of these.
    """
    if not isinstance(raw, dict):
        raise SettingsError('found no object; write {"registrar": …, "namespace": …, "group": …}')
    faults = [f"{key}: is unknown; known are {', '.join(sorted(_KEYS))}" for key in raw if key not in _KEYS]
    values: dict[str, Any] = {}
    for key, (name, read) in _KEYS.items():
        if raw.get(key) is None:
            continue
        try:
            values[name] = read(raw[key])
        except ValueError as error:
            faults.append(f"{key}: found {json.dumps(raw[key])[:200]}; write {error}")
    faults += [f"{key}: is missing" for key in ("registrar", "namespace", "group") if raw.get(key) is None]
    if not faults:
        settings = Settings(**values)
        faults = _find_contradictions(settings)
        if not faults:
            return settings
    raise SettingsError("; ".join(faults))


def write_settings(settings: Settings) -> dict[str, Any]:
    """Return ``settings`` as JSON, without what says nothing; `parse_settings` reads it back."""
    plain = {each.name: each for each in fields(Settings)}
    found: dict[str, Any] = {}
    for key, (name, _) in _KEYS.items():
        value = getattr(settings, name)
        if value in ("", (), {}) or (name in _UNSAID and value == plain[name].default):
            continue
        found[key] = list(value) if isinstance(value, tuple) else dict(value) if name == "labels" else value
    return found


def _find_contradictions(settings: Settings) -> list[str]:
    faults = []
    if not settings.ca_hashes:
        faults.append(
            "caHashes: is missing: who the registrar is could not be known; `meshwright group token create` prints it"
        )
    if settings.mode is JoinMode.CERTIFICATE and not (settings.certificate_file and settings.key_file):
        faults.append("certificateFile, keyFile: both are needed with mode ClientCertificate")
    ports = (settings.inbound_port, settings.outbound_port, settings.admin_port)
    if len(set(ports)) != len(ports):
        faults.append("inboundPort, outboundPort, adminPort: are not three different ports")
    return faults


def _text(raw: object) -> str:
    if not isinstance(raw, str) or not raw or any(ord(each) < 32 for each in raw):
        raise ValueError("a text in one line")
    return raw


def _place(raw: object) -> str:
    try:
        split_address(_text(raw))
    except ValueError:
        raise ValueError("host:port, such as registrar.example:15013 or [fd00::1]:15013") from None
    return _text(raw)


def _pins(raw: object) -> tuple[str, ...]:
    found = _texts(raw)
    if not found or not all(_PIN.fullmatch(each) for each in found):
        raise ValueError("a list of sha256: and 64 hexadecimal digits, in lower case")
    return found


def _texts(raw: object) -> tuple[str, ...]:
    if not isinstance(raw, list) or not all(isinstance(each, str) and each for each in raw):
        raise ValueError("a list of texts")
    return tuple(raw)


def _namespace(raw: object) -> Namespace:
    if not isinstance(raw, str) or not LABEL.fullmatch(raw):
        raise ValueError("a namespace: letters in lower case, digits and -, at most 63")
    return Namespace(raw)


def _name(raw: object) -> str:
    if not isinstance(raw, str) or not SUBDOMAIN.fullmatch(raw):
        raise ValueError("a name: letters in lower case, digits, - and .")
    return raw


def _mode(raw: object) -> JoinMode:
    try:
        return JoinMode(str(raw))
    except ValueError:
        raise ValueError(" or ".join(JoinMode)) from None


def _addresses(raw: object) -> tuple[str, ...]:
    try:
        found = tuple(str(ip_address(each)) for each in _texts([raw] if isinstance(raw, str) else raw))
    except ValueError:
        found = ()
    if not found or len({ip_address(each).version for each in found}) != len(found):
        raise ValueError("an IP address, or a list of one of IPv4 and one of IPv6")
    return found


def _ranges(raw: object) -> tuple[str, ...]:
    try:
        return tuple(str(ip_network(each)) for each in _texts(raw))
    except ValueError:
        raise ValueError("a list of CIDRs, such as 10.0.0.0/8") from None


def _ports(raw: object) -> str:
    text = raw if isinstance(raw, str) else ""
    if not isinstance(raw, str) or find_port_faults(text):
        raise ValueError("ports and ranges as text, such as 22,9000-9010")
    return text


def _subnets(raw: object) -> str:
    try:
        return ",".join(str(ip_network(each.strip(), strict=False)) for each in _text(raw).split(","))
    except ValueError:
        raise ValueError("ranges as text, such as 10.1.0.0/16,fd00::/8") from None


def _labels(raw: object) -> dict[str, str]:
    if not isinstance(raw, dict) or not all(isinstance(value, str) for value in raw.values()) or len(raw) > 16:
        raise ValueError("an object of at most 16 texts")
    return dict(raw)


def _seconds(raw: object) -> float:
    if isinstance(raw, bool) or not isinstance(raw, int | float) or not 0 <= raw <= 3600:
        raise ValueError("seconds, 0 to 3600")
    return float(raw)


def _port(raw: object) -> Port:
    if isinstance(raw, bool) or not isinstance(raw, int) or not 1024 <= raw <= 65535:
        raise ValueError("a port, 1024 to 65535")
    return Port(raw)


def _count(raw: object) -> int:
    if isinstance(raw, bool) or not isinstance(raw, int) or not 1 <= raw <= 256:
        raise ValueError("a whole number, 1 to 256")
    return raw


def _level(raw: object) -> str:
    levels = ("trace", "debug", "info", "warning", "error", "critical", "off")
    if raw not in levels:
        raise ValueError(", ".join(levels))
    return str(raw)


_KEYS: Mapping[str, tuple[str, Callable[[Any], Any]]] = {
    "registrar": ("registrar", _place),
    "caHashes": ("ca_hashes", _pins),
    "trustDomain": ("trust_domain", _name),
    "controlPlane": ("control_plane", _namespace),
    "namespace": ("namespace", _namespace),
    "group": ("group", _name),
    "mode": ("mode", _mode),
    "tokenFile": ("token_file", _text),
    "spiffeSocket": ("spiffe_socket", _text),
    "certificateFile": ("certificate_file", _text),
    "keyFile": ("key_file", _text),
    "address": ("address", _addresses),
    "interface": ("interface", _text),
    "addressFrom": ("address_from", _ranges),
    "labels": ("labels", _labels),
    "skipInboundPorts": ("skip_inbound_ports", _ports),
    "skipOutboundPorts": ("skip_outbound_ports", _ports),
    "skipSubnets": ("skip_subnets", _subnets),
    "drainSeconds": ("drain_seconds", _seconds),
    "envoy": ("envoy", _text),
    "envoyLogLevel": ("envoy_log_level", _level),
    "concurrency": ("concurrency", _count),
    "allowedProbeHosts": ("allowed_probe_hosts", _texts),
    "inboundPort": ("inbound_port", _port),
    "outboundPort": ("outbound_port", _port),
    "adminPort": ("admin_port", _port),
}
"""Each key of the file: the field it sets, and what reads it. A value that is wrong is a ValueError with what to
write."""

_UNSAID = ("spiffe_socket", "envoy_log_level", "concurrency", "inbound_port", "outbound_port", "admin_port")


def _why(error: Exception) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)
