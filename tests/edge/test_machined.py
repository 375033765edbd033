"""Machines outside the cluster in real Envoys: who is believed, what is encrypted, and whom they let in."""

import asyncio
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

CAN_REDIRECT = os.getuid() == 0 and all(
    shutil.which(tool) for tool in ("unshare", "ip", "iptables", "ip6tables", "mount")
)
pytestmark = pytest.mark.skipif(not CAN_REDIRECT, reason="redirecting connections needs root, unshare and iptables")
IMPOSTORS = ("another machine's", "a pod's", "only the name TLS calls it", "nobody can read who")


async def watch() -> dict[str, Any]:
    process = await asyncio.create_subprocess_exec(
        *("unshare", "-n", "-m", sys.executable, "-m", "tests.edge.machined"),
        cwd=Path(__file__).parents[2],
        # A program is started beside gRPC's threads, for which its handlers of fork are not made.
        env={**os.environ, "PYTHONPATH": os.pathsep.join(("operator", ".")), "GRPC_ENABLE_FORK_SUPPORT": "0"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    return dict(json.loads(output))


async def test_pods_and_machines_speak_tls_to_whom_they_mean_and_machines_hold_their_policy() -> None:
    assert await watch() == {
        "a Service": "200 vm",
        "a Service, IPv6": "200 vm",
        "a Service, gRPC": "(<StatusCode.OK: (0, 'ok')>, 'vm')",
        "a Service, server speaks first": "vm",
        "pods and machines": ["200 vm", "200 web"],
        "its address": "200 vm",
        "its address, IPv6": "200 vm",
        "a URI only": "200 svid",
        "a DNS name": "200 dns",
        "a skipped port": "200 vm",
        "no proxy": "503",
        "somebody else, by Service": dict.fromkeys(IMPOSTORS, "503"),
        "somebody else, by address": dict.fromkeys(IMPOSTORS, "503"),
        "a Server's port": ["200 vm", "403", "403"],
        "a Server's bytes": ["heard b'\\x00\\x01 hello\\r\\n'", ""],
        "its own default": ["200 svid", "403"],
        "the installation's default": "200 vm",
        "itself, by Service": "200 vm",
        "itself, by address": "200 vm",
        "a machine calls a pod": "200 web",
        "a machine calls a machine": "200 vm",
        "gone and back": ["503", "200 vm"],
        "encrypted": [
            "10.244.0.5_8080",
            "10.244.0.5_8081",
            "10.244.0.5_9000",
            "10.244.0.6_8080",
            "10.96.0.14_5432",
            "[fd00_244__5]_8080",
            "mesh/delivery",
            "shop/dns/80",
            "shop/ledger/80",
            "shop/mixed/80",
            "shop/svid/80",
        ],
        "who calls": {"vm": "vm.ledger.shop.external.identity.meshwright.cluster.local", "svid": None},
        "its URI": [True, True],
    }
