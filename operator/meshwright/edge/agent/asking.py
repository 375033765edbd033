"""One question to the application: is it well?

Source: kubernetes ``pkg/probe/http``, ``pkg/probe/tcp``, ``pkg/probe/grpc`` (what counts as well, and that a
certificate is not looked at).
"""

import http.client
import socket
import ssl
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from meshwright.edge.agent.addresses import is_own
from meshwright.edge.agent.wire import explain
from meshwright.edge.host_port import write_address
from meshwright.model.group import Probe, ProbeKind
from meshwright.model.units import Millis, Port

_LOOPBACK = "127.0.0.1"
_MAX_BODY = 10 * 1024
_AGENT = "meshwright-agent-probe"


class Unwell(Exception):
    """The application is not well. The text says what was found."""


class Refused(Exception):
    """The probe may not be asked. The text says why, and what to do."""


@dataclass(frozen=True, slots=True)
class _Deadline:
    at: float

    def left(self) -> float:
        """Return the seconds left.

        Raises:
            TimeoutError: none are.
        """
        left = self.at - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left


def read_probe(raw: Mapping[str, Any]) -> Probe:
    """Return the probe that the registrar tells of, which has every default filled in already.

    Raises:
        ValueError: it is of a kind that this version does not know, or a field is not as it should be.
    """
    kinds = [kind for kind in ProbeKind if isinstance(raw.get(kind.value), dict)]
    if len(kinds) != 1:
        raise ValueError(f"the probe has none of {', '.join(ProbeKind)}, or several: is this agent too old for it?")
    action = raw[kinds[0].value]
    try:
        return Probe(
            kind=kinds[0],
            port=Port(int(action["port"])),
            host=str(action.get("host") or ""),
            path=str(action.get("path") or "/"),
            scheme=str(action.get("scheme") or "HTTP").upper(),
            headers=tuple((str(one["name"]), str(one["value"])) for one in action.get("httpHeaders") or ()),
            service=str(action.get("service") or ""),
            initial_delay_ms=Millis(round(float(raw.get("initialDelaySeconds", 0)) * 1000)),
            period_ms=Millis(max(10, round(float(raw.get("periodSeconds", 10)) * 1000))),
            timeout_ms=Millis(max(1, round(float(raw.get("timeoutSeconds", 1)) * 1000))),
            failure_threshold=max(1, int(raw.get("failureThreshold", 3))),
            success_threshold=max(1, int(raw.get("successThreshold", 1))),
        )
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"the probe cannot be read: {error!r}") from None


def describe(probe: Probe) -> str:
    """Return what is asked, for people; headers may be secret, and are left out."""
    host = probe.host or _LOOPBACK
    place = write_address(host, probe.port)
    match probe.kind:
        case ProbeKind.HTTP:
            return f"httpGet {probe.scheme.lower()}://{place}{probe.path}"
        case ProbeKind.TCP:
            return f"tcpSocket {place}"
        case ProbeKind.GRPC:
            return f"grpc {place}{f' {probe.service}' if probe.service else ''}"


def ask(probe: Probe, allowed: Sequence[str]) -> None:
    """Return when the application says that it is well, within the probe's time.

    It is asked at this machine's own addresses only, or at a host that is ``allowed``: who writes a group must not be
    able to have machines call anybody.

    Raises:
        Unwell: it does not.
        Refused: it may not be asked at this host.
    """
    host = probe.host or _LOOPBACK
    if host == "localhost":
        host = _LOOPBACK
    if host not in allowed and not is_own(host):
        raise Refused(
            f"the group's probe names {host}, which is not this machine; leave out `host`, or add it to "
            "allowedProbeHosts in agent.json"
        )
    deadline = _Deadline(time.monotonic() + probe.timeout_ms / 1000)
    try:
        match probe.kind:
            case ProbeKind.HTTP:
                _get(probe, host, deadline)
            case ProbeKind.TCP:
                _connect(host, probe.port, deadline).close()
            case ProbeKind.GRPC:
                # Its library is loaded by those only who need it: it takes 6 MiB.
                from meshwright.edge.agent.grpc_health import check

                with closing(_connect(host, probe.port, deadline)) as connection:
                    check(connection, f"{host}:{probe.port}", probe.service, deadline.left)
    except TimeoutError:
        raise Unwell(f"no answer within {probe.timeout_ms} ms") from None
    except http.client.HTTPException as error:
        raise Unwell(f"no HTTP: {type(error).__name__}") from None
    except OSError as error:
        raise Unwell(explain(error)) from None


def _connect(host: str, port: int, deadline: _Deadline) -> socket.socket:
    return socket.create_connection((host, port), timeout=deadline.left())


def _get(probe: Probe, host: str, deadline: _Deadline) -> None:
    connected = _connect(host, probe.port, deadline)
    if probe.scheme == "HTTPS":
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        connected.settimeout(deadline.left())
        connected = context.wrap_socket(connected)
    with closing(http.client.HTTPConnection(host, probe.port)) as connection:
        connection.sock = connected
        connected.settimeout(deadline.left())
        names = {name.lower() for name, _ in probe.headers}
        connection.putrequest("GET", probe.path, skip_host="host" in names, skip_accept_encoding=True)
        if "user-agent" not in names:
            connection.putheader("User-Agent", _AGENT)
        for name, value in (*probe.headers, ("Connection", "close")):
            connection.putheader(name, value)
        connection.endheaders()
        connected.settimeout(deadline.left())
        response = connection.getresponse()
        if not 200 <= response.status < 400:
            raise Unwell(f"it answers {response.status}")
        connected.settimeout(deadline.left())
        response.read(_MAX_BODY)
