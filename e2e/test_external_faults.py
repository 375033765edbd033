"""What befalls a machine shows at its endpoint, soon and for what it is; what befalls us does not show there."""

import json
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from e2e.agents import GROUP as GROUP_MANIFEST
from e2e.agents import (
    SETTINGS,
    SHOP,
    STATE,
    UNIT,
    Agent,
    ready_addresses,
    status_condition,
    unchanged_slices,
    workloads,
)
from e2e.fleet import GROUP, LEASE, Fleet
from e2e.kube import eventually
from e2e.machines import MESHWRIGHT, split_network

URL = f"http://{GROUP}/"


def test_an_application_that_is_down_is_no_endpoint_a_second_later_and_one_again_when_it_is_back(fleet: Fleet) -> None:
    agent = fleet.agents[0]
    uid = agent.workload()["metadata"]["uid"]
    agent.machine.end("app", "KILL")
    down = time.monotonic()
    eventually(lambda: agent.machine.ip not in ready_addresses(fleet.kube, GROUP), every=0.05)
    # It is asked once in a second. The rest is for a machine that is busy.
    assert time.monotonic() - down < 5
    assert agent.condition() == ("False", "ProbeFailed")
    assert agent.condition("meshwright.dev/HeartbeatCurrent")[0] == "True"
    agent.machine.start_app()
    agent.wait_ready()
    assert agent.workload()["metadata"]["uid"] == uid


def test_an_agent_that_dies_is_named_as_what_is_gone_and_its_envoy_serves_on(fleet: Fleet) -> None:
    agent = fleet.agents[0]
    name, epoch = agent.workload()["metadata"]["name"], agent.state()["epoch"]
    agent.kill()
    eventually(agent.condition, until=("False", "LeaseExpired").__eq__, seconds=LEASE + 10)
    eventually(lambda: agent.machine.ip not in ready_addresses(fleet.kube, GROUP))
    answer = fleet.kube.app(SHOP, "client", "get", f"http://{agent.machine.ip}:8080/")
    assert answer["names"] == {agent.machine.name: 1}
    proxies = agent.machine.run("pgrep", "-c", "envoy")
    agent.start()
    agent.wait_ready()
    assert agent.machine.run("pgrep", "-c", "envoy") == proxies, "the next agent takes the proxy over"
    assert agent.workload()["metadata"]["name"] == name
    assert agent.state()["epoch"] == epoch + 1


def test_a_machine_without_power_leaves_and_comes_back_under_its_name(fleet: Fleet) -> None:
    agent = fleet.agents[0]
    name, epoch = agent.workload()["metadata"]["name"], agent.state()["epoch"]
    agent.machine.lose_power()
    try:
        eventually(agent.condition, until=("False", "LeaseExpired").__eq__, seconds=LEASE + 10)
        eventually(lambda: agent.machine.ip not in ready_addresses(fleet.kube, GROUP))
        answer = eventually(
            lambda: fleet.kube.app(SHOP, "client", "get", URL, "--count", "20"),
            until=lambda seen: agent.machine.name not in seen["names"],
        )
        assert answer["statuses"] == {"200": 20}
    finally:
        agent.machine.boot()
        agent.machine.start_app()
        agent.start()
    agent.wait_ready()
    assert agent.workload()["metadata"]["name"] == name
    assert agent.state()["epoch"] == epoch + 1


def test_a_copy_of_a_machine_is_another_machine(fleet: Fleet) -> None:
    agent = fleet.agents[0]
    state = agent.state()
    with fleet.another("copy", 22, GROUP) as copy:
        copy.machine.lose_power()
        copy.machine.clone_disk(agent.machine)
        copy.machine.boot()
        copy.machine.start_app()
        copy.install(fleet.token["command"], fleet.token["token"])
        copy.start()
        copy.wait_ready()
        assert "copy of another machine" in copy.machine.log("agent")
        assert copy.state()["uid"] != state["uid"]
        assert copy.workload()["metadata"]["name"] != agent.workload()["metadata"]["name"]
        assert agent.condition()[0] == "True"
        assert agent.state() == state
        leave_group(copy, fleet)


def leave_group(agent: Agent, fleet: Fleet) -> None:
    """Take it out of its group; nothing is left of it, there or here."""
    agent.machine.run(MESHWRIGHT, "agent", "leave", seconds=60)
    assert agent.machine.wait_end("agent") == 0
    for path in (SETTINGS, UNIT, STATE):
        assert agent.machine.ask("ls", path) == "", path
    assert "4143" not in agent.machine.run("iptables-save")
    eventually(lambda: agent.machine.ip not in ready_addresses(fleet.kube, GROUP))
    with pytest.raises(KeyError):
        agent.workload()


@contextmanager
def slow_request(fleet: Fleet, agent: Agent) -> Iterator[subprocess.Popen[str]]:
    """Have a request under way that a machine's application is at for two seconds.

    The machine lost its power a moment ago: a connection from before, which the client's proxy still had, may end with
    the first request that is sent on it.
    """
    ended = []
    for _ in range(3):
        path = f"/?delay=2&id={uuid.uuid4()}"
        with fleet.kube.start_app(SHOP, "client", "get", f"http://{agent.machine.ip}:8080{path}") as slow:
            try:
                seen = eventually(
                    lambda path=path, slow=slow: (  # type: ignore[misc]
                        f"{path} has to wait" in agent.machine.log("app"),
                        slow.poll() is not None,
                    ),
                    until=any,
                    every=0.05,
                )
                if seen[0]:
                    yield slow
                    return
                ended.append(slow.communicate())
            finally:
                slow.kill()
    raise AssertionError(f"none reached the application: {ended}")


def test_a_machine_that_is_told_to_stop_is_sent_nothing_more_and_finishes_what_it_has(fleet: Fleet) -> None:
    agent = fleet.agents[0]
    with slow_request(fleet, agent) as slow:
        begun = time.monotonic()
        status = agent.stop()
        assert (status, time.monotonic() - begun < 10) == (0, True)
        out, error = slow.communicate(timeout=60)
        assert json.loads(out)["statuses"] == {"200": 1}, error
    assert agent.machine.ip not in ready_addresses(fleet.kube, GROUP)
    agent.start()
    agent.wait_ready()


def test_silence_of_all_machines_at_once_is_taken_for_our_fault_and_no_endpoint_leaves(fleet: Fleet) -> None:
    with unchanged_slices(fleet.kube, GROUP):
        with split_network(*(agent.machine for agent in fleet.agents)):
            eventually(lambda: status_condition(fleet.kube, GROUP, "ExpirySuspended"), until="True".__eq__)
            time.sleep(LEASE)  # what would have expired has
        eventually(lambda: status_condition(fleet.kube, GROUP, "ExpirySuspended"), until="False".__eq__)
        fleet.wait_ready()


def test_a_group_deleted_by_mistake_and_restored_costs_no_endpoint(fleet: Fleet) -> None:
    kube = fleet.kube
    names = {each["metadata"]["name"] for each in workloads(kube, GROUP)}
    with unchanged_slices(kube, GROUP):
        kube.delete("externalgroup", GROUP, "-n", SHOP)
        time.sleep(LEASE)
        assert kube.app(SHOP, "client", "get", URL)["statuses"] == {"200": 1}
        kube.apply(GROUP_MANIFEST.format(name=GROUP))
        eventually(
            lambda: kube.get("externalgroup", GROUP, "-n", SHOP)["status"]["instances"]["ready"], until=(3).__eq__
        )
    assert {each["metadata"]["name"] for each in workloads(kube, GROUP)} == names
    fleet.wait_ready()


def test_a_template_that_is_edited_reaches_every_machine(fleet: Fleet) -> None:
    kube = fleet.kube
    edited = GROUP_MANIFEST.format(name=GROUP).replace("tier: mixed", "tier: gold")
    kube.apply(edited)
    try:
        eventually(
            lambda: {each["metadata"]["labels"].get("tier") for each in workloads(kube, GROUP)}, until={"gold"}.__eq__
        )
        assert len(ready_addresses(kube, GROUP)) >= len(fleet.agents)
        (template,) = {
            each["metadata"]["annotations"]["meshwright.dev/template-hash"] for each in workloads(kube, GROUP)
        }
        eventually(
            lambda: kube.get("externalgroup", GROUP, "-n", SHOP)["status"]["templateHash"], until=template.__eq__
        )
    finally:
        kube.apply(GROUP_MANIFEST.format(name=GROUP))
    eventually(lambda: {each["metadata"]["labels"]["tier"] for each in workloads(kube, GROUP)}, until={"mixed"}.__eq__)
