"""Asks the cluster if it answers: its API server and its DNS. Sends nothing unless the node's cable is there."""

import http.client
import json
import secrets
import socket
import ssl
import struct
from typing import Any

from e2e.cluster.network import require_cable
from e2e.cluster.places import API_PORT, NODE_ADDRESS, Places

Json = dict[str, Any]


class Api:
    """A plain client of the API server, as administrator. Raises ClusterError when made without the cable."""

    def __init__(self, places: Places) -> None:
        require_cable()
        self.tls = ssl.create_default_context(cafile=str(places.pki / "ca.crt"))
        self.tls.load_cert_chain(places.pki / "admin.crt", places.pki / "admin.key")

    def ask(self, method: str, path: str, body: Json | None = None, *, seconds: float = 5) -> tuple[int, str]:
        """Return the status and the body of an answer; status 0 when there is none, with the reason. Never raises."""
        there = http.client.HTTPSConnection(NODE_ADDRESS, API_PORT, context=self.tls, timeout=seconds)
        try:
            data = json.dumps(body) if body is not None else None
            there.request(method, path, data, {"Content-Type": "application/json"} if data else {})
            answer = there.getresponse()
            return answer.status, answer.read().decode(errors="replace")
        except (OSError, http.client.HTTPException) as error:
            return 0, str(error)
        finally:
            there.close()

    def get(self, path: str) -> Json:
        """Return an object, empty when there is none or no answer."""
        status, text = self.ask("GET", path)
        return dict(json.loads(text)) if status == 200 else {}

    def is_ready(self) -> bool:
        return self.ask("GET", "/readyz")[0] == 200


def is_node_ready(node: Json) -> bool:
    """Tell if a Node object has the condition Ready."""
    conditions = node.get("status", {}).get("conditions", [])
    return any(found["type"] == "Ready" and found["status"] == "True" for found in conditions)


def make_query(name: str, number: int) -> bytes:
    """Return a DNS question for the IPv4 addresses of ``name`` (RFC 1035, 4.1)."""
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.rstrip(".").split("."))
    return struct.pack(">6H", number, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack(">2H", 1, 1)


def has_answer(answer: bytes, number: int) -> bool:
    """Tell if these bytes answer question ``number`` without an error and with at least one record."""
    if len(answer) < 12:
        return False
    got, flags, _, answers, _, _ = struct.unpack(">6H", answer[:12])
    return got == number and bool(flags & 0x8000) and not flags & 0x000F and answers > 0


def resolves(name: str, server: str) -> bool:
    """Tell if a DNS server in the cluster knows ``name``. Never raises but for a missing cable."""
    require_cable()
    number = secrets.randbelow(65536)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as wire:
        wire.settimeout(1)
        try:
            wire.sendto(make_query(name, number), (server, 53))
            return has_answer(wire.recv(4096), number)
        except OSError:
            return False
