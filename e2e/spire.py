"""SPIRE, built from its Go module: a server on a machine of its own, and agents beside it. The mesh's anchor signs the
server's own authority, so that what it issues hangs from the mesh's anchors.

Source: spiffe/spire ``doc/spire_server.md``, ``doc/spire_agent.md``, ``doc/plugin_server_upstreamauthority_disk.md``.
"""

import base64
import json
from pathlib import Path

from e2e.certificates import TRUST
from e2e.cluster import golang
from e2e.cluster.places import find_places
from e2e.kube import Kube, eventually
from e2e.machines import Machine
from e2e.mesh import NAMESPACE
from meshwright.model.pod import PROXY_UID

ANCHOR_SECRET = "meshwright-trust-anchor"
PORT = 8081
SERVER_SOCKET = "/run/spire-server.sock"
SOCKET = "unix:///run/spire/agent-sockets/api.sock"
"""Where programs ask for who they are."""
FOLDER = "/etc/spire"

SERVER = f"""
server {{
  bind_address = "0.0.0.0"
  bind_port = "{PORT}"
  socket_path = "{SERVER_SOCKET}"
  trust_domain = "{TRUST.name}"
  data_dir = "/var/lib/spire"
  log_level = "INFO"
  ca_key_type = "ec-p256"
  ca_ttl = "12h"
  default_x509_svid_ttl = "1h"
  experimental {{ cache_reload_interval = "500ms" }}
}}
plugins {{
  DataStore "sql" {{ plugin_data {{ database_type = "sqlite3", connection_string = "/var/lib/spire/data.sqlite3" }} }}
  KeyManager "memory" {{ plugin_data {{}} }}
  NodeAttestor "join_token" {{ plugin_data {{}} }}
  UpstreamAuthority "disk" {{
    plugin_data {{ cert_file_path = "{FOLDER}/upstream.crt", key_file_path = "{FOLDER}/upstream.key" }}
  }}
}}
"""

AGENT = f"""
agent {{
  server_address = "SERVER"
  server_port = "{PORT}"
  socket_path = "{SOCKET.removeprefix("unix://")}"
  trust_domain = "{TRUST.name}"
  trust_bundle_path = "{FOLDER}/anchors.crt"
  data_dir = "/var/lib/spire"
  log_level = "INFO"
  experimental {{ sync_interval = "500ms" }}
}}
plugins {{
  KeyManager "memory" {{ plugin_data {{}} }}
  NodeAttestor "join_token" {{ plugin_data {{}} }}
  WorkloadAttestor "unix" {{ plugin_data {{}} }}
}}
"""


class Spire:
    """A SPIRE server that runs on a machine."""

    def __init__(self, kube: Kube, machine: Machine) -> None:
        self.machine = machine
        self.program = str(find_program())
        data = kube.get("secret", ANCHOR_SECRET, "-n", NAMESPACE)["data"]
        certificate, key = (base64.b64decode(data[name]).decode() for name in ("tls.crt", "tls.key"))
        self.anchor = certificate
        machine.write(f"{FOLDER}/server.conf", SERVER)
        machine.write(f"{FOLDER}/upstream.crt", certificate)
        machine.write(f"{FOLDER}/upstream.key", key, mode=0o600)
        machine.start("spire-server", self.program, "server", "run", "-config", f"{FOLDER}/server.conf")
        eventually(lambda: self._server("healthcheck"))

    def _server(self, *words: str) -> str:
        return self.machine.ask(self.program, "server", *words, "-socketPath", SERVER_SOCKET)

    def attend(self, machine: Machine, name: str) -> None:
        """Start an agent on a machine, where our agent and its proxy are ``name``, a SPIFFE ID, from now on."""
        node = f"spiffe://{TRUST.name}/node/{machine.name}"
        said = self._server("token", "generate", "-spiffeID", node, "-output", "json")
        self._server("entry", "create", "-parentID", node, "-spiffeID", name, "-selector", f"unix:uid:{PROXY_UID}")
        machine.write(f"{FOLDER}/agent.conf", AGENT.replace("SERVER", self.machine.ip))
        machine.write(f"{FOLDER}/anchors.crt", self.anchor)
        words = (
            self.program,
            "agent",
            "run",
            "-config",
            f"{FOLDER}/agent.conf",
            "-joinToken",
            json.loads(said)["value"],
        )
        machine.start("spire-agent", *words)
        fetch = (self.program, "agent", "api", "fetch", "x509", "-socketPath", SOCKET.removeprefix("unix://"))
        eventually(lambda: machine.ask(*fetch, uid=PROXY_UID), until=lambda said: name in said)


def find_program() -> Path:
    places = find_places()
    return golang.build_all(places)["spire"] / "spire"
