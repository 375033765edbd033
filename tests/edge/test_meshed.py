"""Meshed pods in real Envoys: what is encrypted, who is believed, and what the application sees."""

import asyncio
import json
import os
import re
import shutil
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

CAN_REDIRECT = os.getuid() == 0 and all(
    shutil.which(tool) for tool in ("unshare", "ip", "iptables", "ip6tables", "mount")
)
pytestmark = pytest.mark.skipif(not CAN_REDIRECT, reason="redirecting connections needs root, unshare and iptables")
SUFFIX = "serviceaccount.identity.meshwright.cluster.local"


async def watch(scene: str) -> dict[str, Any]:
    process = await asyncio.create_subprocess_exec(
        *("unshare", "-n", "-m", sys.executable, "-m", "tests.edge.meshed", scene),
        cwd=Path(__file__).parents[2],
        # A program is started beside gRPC's threads, for which its handlers of fork are not made.
        env={**os.environ, "PYTHONPATH": os.pathsep.join(("operator", ".")), "GRPC_ENABLE_FORK_SUPPORT": "0"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    return dict(json.loads(output))


async def test_meshed_pods_speak_tls_to_each_other_whatever_they_say_and_plaintext_to_all_others() -> None:
    assert await watch("ordinary") == {
        "a Service": "200 web",
        "a Service, IPv6": "200 web",
        "a Service, gRPC": "(<StatusCode.OK: (0, 'ok')>, 'web')",
        "a Service, WebSocket": "101 heard hello",
        "a Service, bytes": "heard b'\\x00\\x01 hello\\r\\n'",
        "a Service, silent at first": "HTTP/1.1 200 OK",
        "a Service, server speaks first": "web",
        "two identities": ["200 other", "200 web"],
        "a pod": "200 web",
        "a pod, IPv6": "200 web",
        "a pod, server speaks first": "web",
        "a pod, skipped port": "200 web",
        "unmeshed": "200 old",
        "outside": "200 stranger",
        "from outside": "200 web",
        "from outside, IPv6": "200 web",
        "from outside, bytes": "heard b'\\x00\\x01 hello\\r\\n'",
        "from outside, server speaks first": "web",
        "itself, by Service": "200 web",
        "itself, by address": "200 web",
        "encrypted": [
            "10.244.0.3_8080",
            "10.244.0.3_9001",
            "10.96.0.10_80",
            "10.96.0.13_3306",
            "10.96.0.14_5432",
            "[fd00_244__3]_8080",
            "mesh/delivery",
            "shop/both/80",
            "shop/chat/80",
            "shop/web/80",
        ],
        "versions": ["3"],
        "a meshed caller": {"l5d-client-id": f"client.shop.{SUFFIX}", "proxy-status": None},
        "its certificate": ["By", "DNS", "Hash", "URI"],
        "its URI": True,
        "an unmeshed caller": [],
        "the pod itself": None,
        "shutdown from outside": ["403", "403"],
        "live": "200",
        "ready": "200",
        "metrics": "200",
        "anything else": "404",
        "shutdown by GET": "404",
        "shut down": True,
    }


async def test_only_the_identity_that_is_meant_is_believed() -> None:
    bad = ("another account", "another namespace", "another authority", "another trust domain", "expired")
    assert await watch("refused") == {
        "as servers": {"good": "200 tls", "by an issuer": "200 tls", **dict.fromkeys((*bad, "not yet valid"), "503")},
        "as clients": {
            **dict.fromkeys(("good", "by an issuer", "another account", "another namespace"), "200"),
            **dict.fromkeys((*bad[2:], "not yet valid", "no certificate"), "refused"),
        },
        "an older TLS": "refused",
        "HTTP offers": ["http/1.1"],
        "bytes offer": ["None"],
        "somebody else at the same address": ["503", "200 tls"],
        "an endpoint that does not say who it is": "503",
    }


async def test_an_ingress_controller_names_the_service_a_request_is_for() -> None:
    assert await watch("ingress") == {
        "a Service": "200 web",
        "a pod": "200 web",
        "a Service, another named": "200 api",
        "a pod, a Service named": "200 api",
        "a pod, a Service named shortly": "200 api",
        "a pod, a Service without a port": "200 web",
        "policy of the one named": "410",
        "nobody named": "503",
        "nonsense named": "503",
        "bytes": "heard b'\\x00\\x01 hello\\r\\n'",
        "left over": [],
        "who calls": f"controller.shop.{SUFFIX}",
        "not a controller": "200 web",
    }


async def test_opaque_ports_are_passed_on_as_they_are() -> None:
    taken_by_caller_only, by_server_only, by_nobody = [1, 0, 1, None], [0, 1, 0, None], [0, 0, 1, "mine"]
    assert await watch("opaque") == {
        "the pod's port": taken_by_caller_only,
        "the pod's port, from outside": [0, 0, 0, "mine"],
        "the Service's port": by_nobody,
        "another port, from outside": by_server_only,
        "server speaks first": "web",
    }


async def test_requests_are_written_down_as_the_servers_pod_asks() -> None:
    seen = await watch("written")
    for line in seen["json"]:
        assert line.pop("client.addr").rpartition(":")[0] in ("10.244.0.2", "10.244.0.3")
        assert datetime.fromisoformat(line.pop("timestamp")).tzinfo is not None
        assert 0 < line.pop("total_ns") < 15e9
        assert line.pop("response_bytes") > 100
    shared = {"method": "GET", "version": "HTTP/1.1", "user_agent": 'curl "1"\\', "request_bytes": 0}
    shared |= {"status": 200, "route": "default", "flags": "-"}
    assert seen["json"] == [
        {**shared, "client.id": f"client.shop.{SUFFIX}", "uri": "/a?b=c", "host": "10.96.0.10"},
        {**shared, "client.id": None, "uri": "/from-outside", "host": "10.244.0.4:8080"},
    ]
    assert [re.sub(r"\[.*?\]|(?<= 200 )\d+", "#", line) for line in seen["apache"]] == [
        f'10.244.0.2 client.shop.{SUFFIX} - # "GET /a?b=c HTTP/1.1" 200 # "http://a.example/" "curl "1"\\"',
        '10.244.0.3 - - # "GET /from-outside HTTP/1.1" 200 # "http://a.example/" "curl "1"\\"',
    ]
    assert seen["silent"] == []
