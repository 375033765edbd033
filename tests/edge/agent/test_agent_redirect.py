"""A machine whose connections the agent redirects with real iptables, to a real Envoy fed by a real delivery."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from tests.edge.agent.machine import ROOT

CAN_REDIRECT = os.getuid() == 0 and all(
    shutil.which(tool) for tool in ("unshare", "ip", "iptables", "ip6tables", "mount", "setpriv")
)
pytestmark = pytest.mark.skipif(not CAN_REDIRECT, reason="redirecting connections needs root, unshare and iptables")


def test_a_machine_is_part_of_the_mesh_both_ways() -> None:
    done = subprocess.run(
        ("unshare", "-n", "-m", sys.executable, "-m", "tests.edge.agent.redirected_vm"),
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(("operator", ".")), "GRPC_ENABLE_FORK_SUPPORT": "0"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "redirect": "meshwright agent: IPv4 is redirected (nft); IPv6 is redirected (nft)",
        "addresses": ["10.244.0.3", "fd00:244::3"],
        "told": "",
        "a pod calls the machine": "200 vm",
        "over IPv6": "200 vm",
        "the machine calls a pod": "200 client",
        "a port that is skipped": "200 vm",
        "the machine, by itself": "200 vm",
        "other ports are wanted": 75,
        "redirect again": "meshwright agent: IPv4 is redirected (nft); IPv6 is redirected (nft)",
        "after the restart": "200 vm",
        "asked to end": 0,
        "drained": 1,
        "after the end": "503",
        "leaves": 1,
        "has left, by itself": "200 client",
    }
