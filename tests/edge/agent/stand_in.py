#!/usr/bin/env -S python3 -I -S
"""Stands in for Envoy where only its life counts: it says that it is ready, for as long as nobody ends it.

It reads its bootstrap as Envoy does, and will not begin without its certificate. A file `unready` beside the bootstrap
keeps it from being ready, a file `refused` from listening: it says why.
"""

import sys

if "--version" in sys.argv:
    print("envoy  version: 0123456789abcdef/1.40.0/Clean/RELEASE/BoringSSL")
    sys.exit(0)  # at once: every agent asks for it, and what is imported below takes as long again

import json
import socket
from pathlib import Path

path = Path(sys.argv[sys.argv.index("-c") + 1])
bootstrap = json.loads(path.read_text())
document = json.loads((path.parent / "identity.json").read_text())
for file in document["resources"][0]["tls_certificate"].values():
    Path(file["filename"]).read_bytes()
pipe = bootstrap["admin"]["address"]["pipe"]["path"]
port = json.loads((path.parents[2] / "agent.json").read_text())["inboundPort"]
server = socket.socket(socket.AF_UNIX)
Path(pipe).unlink(missing_ok=True)  # of one that was killed
server.bind(pipe)
server.listen()
while True:
    connection, _ = server.accept()
    with connection:
        connection.settimeout(5)
        asked = connection.recv(4096).split()[1].decode()
        refused = path.parent / "refused"
        status, body = "200 OK", ""
        if asked == "/ready" and (path.parent / "unready").exists():
            status = "503 Service Unavailable"
        elif asked == "/listeners" and not refused.exists():
            body = f"admin::127.0.0.1:1\ninbound::0.0.0.0:{port}\n"
        elif asked.startswith("/config_dump") and refused.exists():
            body = json.dumps({"configs": [{"name": "inbound", "error_state": {"details": refused.read_text()}}]})
        answer = f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n{body}"
        connection.sendall(answer.encode())
