"""While the control plane fails no endpoint changes: machines go on as they are, and are found again."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest

from e2e.agents import SHOP, registrar_address, unchanged_slices
from e2e.fleet import GROUP, LEASE, Fleet
from e2e.kube import eventually
from e2e.mesh import NAMESPACE
from e2e.pods import start_load

URL = f"http://{GROUP}/"


def test_another_leader_takes_over_without_a_write_to_any_endpoint(fleet: Fleet) -> None:
    kube, mesh = fleet.kube, fleet.mesh
    mesh.wait_ready()
    load = start_load(kube, SHOP, "client", URL)
    with unchanged_slices(kube, GROUP):
        before = registrar_address(kube)
        mesh.kill_leader()
        eventually(lambda: registrar_address(kube), until=lambda seen: seen not in ("", before))
        eventually(lambda: all_beat(fleet))
        time.sleep(LEASE)  # the amnesty of a new leader is over
        eventually(lambda: all_beat(fleet))
    assert load.stop()["statuses"].keys() == {"200"}


def all_beat(fleet: Fleet) -> bool:
    """Tell if every machine's last beat was answered within its lease."""
    with ThreadPoolExecutor() as threads:
        said = [json.loads(text or "{}") for text in threads.map(lambda agent: agent.status("--json"), fleet.agents)]
    return all(each.get("registered") and each["beatenSecondsAgo"] < LEASE for each in said)


@pytest.mark.slow
def test_without_an_api_server_for_a_minute_endpoints_never_flap(fleet: Fleet) -> None:
    cluster = fleet.mesh.own_cluster()
    load = start_load(fleet.kube, SHOP, "client", URL)
    with unchanged_slices(fleet.kube, GROUP):
        cluster.restart_apiserver(down_seconds=60)
        back = datetime.now(UTC).isoformat()
        lease = ("lease", "meshwright-operator", "-n", NAMESPACE)
        eventually(lambda: fleet.kube.get(*lease)["spec"]["renewTime"], until=lambda at: at > back)
        fleet.mesh.wait_ready()
        time.sleep(LEASE)  # what would have expired has
        eventually(lambda: all_beat(fleet))
    seen = load.stop()
    assert seen["statuses"].keys() == {"200"}, seen
    assert {agent.condition()[0] for agent in fleet.agents} == {"True"}
