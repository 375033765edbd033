"""Inbound policy in a real Envoy that delivery serves, while Servers come and go."""

import asyncio
import json
import os
import sys
from pathlib import Path

from tests.edge.test_meshed import pytestmark

__all__ = ["pytestmark"]


async def test_a_proxy_does_what_the_servers_of_its_pod_say_from_one_moment_to_the_next() -> None:
    process = await asyncio.create_subprocess_exec(
        *("unshare", "-n", "-m", sys.executable, "-m", "tests.edge.governed"),
        cwd=Path(__file__).parents[2],
        # A program is started beside gRPC's threads, for which its handlers of fork are not made.
        env={**os.environ, "PYTHONPATH": os.pathsep.join(("operator", ".")), "GRPC_ENABLE_FORK_SUPPORT": "0"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    everybody = "200 web, heard"
    denied = {"client": "403, heard", "stranger": "403, cut", "probe": "200 web"}
    assert json.loads(output) == {
        "no Server": {"client": everybody, "stranger": everybody, "probe": "200 web"},
        "a Server for requests": {"client": everybody, "stranger": "403, heard", "probe": "200 web"},
        "and one for bytes": {"client": everybody, "stranger": "403, cut", "probe": "200 web"},
        "nobody named": denied,
        "a unit that cannot be read": denied,
        "the first one gone": {"client": everybody, "stranger": "200 web, cut", "probe": "200 web"},
        "identities asked for by default": {"client": everybody, "stranger": "403, cut", "probe": "200 web"},
    }
