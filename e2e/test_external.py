"""Machines outside the cluster join with one command, and are then as pods are: called, calling, named, and asked for
who they are."""

import base64
import json
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from e2e.agents import SHOP, Agent, ready_addresses, registrar_address, slices, status_condition, workloads
from e2e.certificates import TRUST, identity
from e2e.cluster import network
from e2e.fleet import GROUP, Fleet
from e2e.kube import Json, Kube, eventually
from e2e.machines import MESHWRIGHT
from e2e.mesh import NAMESPACE, OPERATOR
from e2e.pods import pods_of, the_pod
from meshwright.link.enroll import make_workload_name
from meshwright.model.units import Namespace

CLIENT = TRUST.dns(identity(SHOP, "client"))
URL = f"http://{GROUP}/"


def server_name(agent: Agent) -> str:
    """Return what a machine is called in certificates' DNS names."""
    return TRUST.machine_dns(Namespace(SHOP), agent.group, agent.workload()["metadata"]["name"])


def headers(answer: Json) -> dict[str, str]:
    """Return the headers, in lower case, that the application of the last answer was told."""
    assert answer["statuses"].keys() == {"200"}, answer
    return {name.lower(): value for name, value in json.loads(answer["last"])["headers"].items()}


def status(answer: Json) -> str:
    """Return the status of one request."""
    (found,) = answer["statuses"]
    return str(found)


def at_once(**calls: Callable[[], Json]) -> dict[str, str]:
    """Return the status of each of these requests, sent at once."""
    with ThreadPoolExecutor() as threads:
        running = {name: threads.submit(call) for name, call in calls.items()}
        return {name: status(each.result()) for name, each in running.items()}


def test_one_command_makes_a_machine_the_endpoint_of_a_service_without_pods(fleet: Fleet) -> None:
    kube = fleet.kube
    for agent in fleet.agents:
        uid = agent.state()["uid"]
        found = agent.workload()
        name = make_workload_name(Namespace(SHOP), GROUP, uid)
        assert found["metadata"]["name"] == name
        assert found["spec"]["meshTLS"] == {
            "identity": TRUST.machine_uri(Namespace(SHOP), GROUP, uid),
            "serverName": TRUST.machine_dns(Namespace(SHOP), GROUP, name),
        }
        assert "ownerReferences" not in found["metadata"]
    machines = [agent.machine for agent in fleet.agents]
    wanted = {machine.ip for machine in machines}
    if not network.find_ipv6_obstacle():
        wanted |= {machine.ip6 for machine in machines}
    eventually(lambda: ready_addresses(kube, GROUP), until=wanted.__eq__)
    assert {piece["addressType"] for piece in slices(kube, GROUP)} == {
        "IPv6" if ":" in each else "IPv4" for each in wanted
    }
    answer = eventually(
        lambda: kube.app(SHOP, "client", "get", URL, "--count", "30"),
        until=lambda seen: seen["statuses"] == {"200": 30} and len(seen["names"]) == len(machines),
    )
    assert answer["names"].keys() == {machine.name for machine in machines}


def test_whoever_is_on_call_sees_that_all_is_well(fleet: Fleet) -> None:
    agent = fleet.agents[0]
    said = agent.machine.run(MESHWRIGHT, "agent", "status")
    for word in (agent.workload()["metadata"]["name"], "lease for", "ready, process"):
        assert word in said, said
    done = fleet.mesh.command("group", "status", GROUP, "-n", SHOP)
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(agent.workload()["metadata"]["name"] in done.stdout for agent in fleet.agents)
    group = fleet.kube.get("externalgroup", GROUP, "-n", SHOP)["status"]
    assert (group["instances"]["total"], group["instances"]["ready"]) == (3, 3)
    assert [status_condition(fleet.kube, GROUP, type_) for type_ in ("Accepted", "SelectedByService")] == ["True"] * 2


def test_who_may_not_join_is_told_why(fleet: Fleet) -> None:
    forged = re.sub(r"\..*", "." + "A" * 43, fleet.token["token"])
    before = len(workloads(fleet.kube, GROUP))
    with fleet.another("forger", 21, GROUP) as agent:
        # Straight to the leader: nobody else comes from this address, which is blocked when it guesses on.
        straight = ("--registrar", f"{registrar_address(fleet.kube)}:15013")
        agent.install(fleet.token["command"], forged, *straight)
        agent.start()
        assert agent.machine.wait_end("agent") != 0, "there is nothing to wait for"
        assert "BadToken" in agent.machine.log("agent")
        assert forged.partition(".")[2] not in agent.machine.log("agent")
        # With a token of its own it still may not have a pod's calls.
        pod = the_pod(fleet.kube, SHOP, "app=web,version=v1")["status"]["podIP"]
        agent.install(fleet.token["command"], fleet.token["token"], *straight, "--address", pod)
        agent.start()
        eventually(lambda: "BadAddress" in agent.machine.log("agent"))
        assert len(workloads(fleet.kube, GROUP)) == before
        assert pod not in ready_addresses(fleet.kube, GROUP)


def test_a_pod_calls_a_machine_and_the_application_there_is_told_who_calls(fleet: Fleet) -> None:
    forged = ("--header", "l5d-client-id:root.shop")
    seen = headers(eventually(lambda: fleet.kube.app(SHOP, "client", "get", URL, *forged)))
    assert seen["l5d-client-id"] == CLIENT
    assert f"URI={TRUST.uri(identity(SHOP, 'client'))}" in seen["x-forwarded-client-cert"]
    for way in (("grpc", f"{GROUP}:9090", "/shop.Ledger/Get"), ("tcp", f"{GROUP}:7000")):
        assert status(fleet.kube.app(SHOP, "client", *way)) in ("OK", "echo"), way


def test_a_machine_calls_a_pod_and_the_application_there_is_told_which_machine(fleet: Fleet) -> None:
    for agent in fleet.agents[:2]:
        seen = headers(agent.machine.get(f"http://web-v1.{SHOP}.svc.cluster.local/"))
        assert seen["l5d-client-id"] == server_name(agent)
        uri = TRUST.machine_uri(Namespace(SHOP), GROUP, agent.state()["uid"])
        assert f"URI={uri}" in seen["x-forwarded-client-cert"]
    said = agent.machine.app("grpc", f"web-v1.{SHOP}.svc.cluster.local:9090", "/shop.Web/Get")
    assert status(said) == "OK"


def test_machines_call_each_other_through_their_service(fleet: Fleet) -> None:
    caller = fleet.agents[0]
    answer = eventually(
        lambda: caller.machine.get(f"http://{GROUP}.{SHOP}.svc.cluster.local/", 20),
        until=lambda seen: len(seen["names"]) > 1,
    )
    assert answer["statuses"] == {"200": 20}


def test_over_ipv6_it_is_the_same(fleet: Fleet) -> None:
    if reason := network.find_ipv6_obstacle():
        pytest.skip(f"no IPv6: {reason}")
    addresses = fleet.kube.get("service", GROUP, "-n", SHOP)["spec"]["clusterIPs"]
    (six,) = [address for address in addresses if ":" in address]
    assert headers(fleet.kube.app(SHOP, "client", "get", f"http://[{six}]/"))["l5d-client-id"] == CLIENT
    agent = fleet.agents[0]
    (pod,) = [
        each["ip"] for each in the_pod(fleet.kube, SHOP, "app=web,version=v1")["status"]["podIPs"] if ":" in each["ip"]
    ]
    assert headers(agent.machine.get(f"http://[{pod}]:8080/"))["l5d-client-id"] == server_name(agent)


GUARDED = """
apiVersion: policy.linkerd.io/v1beta3
kind: Server
metadata: {name: ledger, namespace: shop}
spec: {externalWorkloadSelector: {matchLabels: {app: ledger}}, port: http, accessPolicy: deny}
---
apiVersion: policy.linkerd.io/v1beta3
kind: Server
metadata: {name: ledger-bytes, namespace: shop}
spec: {externalWorkloadSelector: {matchLabels: {app: ledger}}, port: 7000, accessPolicy: deny, proxyProtocol: opaque}
---
apiVersion: policy.linkerd.io/v1alpha1
kind: MeshTLSAuthentication
metadata: {name: ledger, namespace: shop}
spec: {identityRefs: [{kind: ServiceAccount, name: client}]}
---
apiVersion: policy.linkerd.io/v1alpha1
kind: AuthorizationPolicy
metadata: {name: ledger, namespace: shop}
spec:
  targetRef: {group: policy.linkerd.io, kind: Server, name: ledger}
  requiredAuthenticationRefs: [{group: policy.linkerd.io, kind: MeshTLSAuthentication, name: ledger}]
"""


def remove_policy(kube: Kube) -> None:
    for kind in ("servers.policy.linkerd.io", "meshtlsauthentications", "authorizationpolicies.policy.linkerd.io"):
        kube.delete(kind, "--all", "-n", SHOP, "--wait=false")


def test_a_server_is_enforced_on_the_machine_and_withdrawn_from_it(fleet: Fleet) -> None:
    kube = fleet.kube

    def seen() -> dict[str, str]:
        direct = f"http://{fleet.agents[0].machine.ip}:8080/"
        return at_once(
            client=lambda: kube.app(SHOP, "client", "get", URL),
            stranger=lambda: kube.app("other", "client", "get", f"http://{GROUP}.{SHOP}/"),
            unmeshed=lambda: kube.app(SHOP, "machine", "get", direct),
            machine=lambda: fleet.agents[1].machine.get(direct),
        )

    everybody = dict.fromkeys(("client", "stranger", "unmeshed", "machine"), "200")
    assert seen() == everybody
    kube.apply(GUARDED)
    try:
        eventually(seen, until={**dict.fromkeys(everybody, "403"), "client": "200"}.__eq__)
        eventually(lambda: status(kube.app(SHOP, "client", "tcp", f"{GROUP}:7000")), until=lambda said: said != "echo")
        fleet.wait_ready()  # the agent's own probe needs nobody's leave
    finally:
        remove_policy(kube)
    eventually(seen, until=everybody.__eq__)


AT_THE_POD = """
apiVersion: policy.linkerd.io/v1beta3
kind: Server
metadata: {{name: web-v1, namespace: shop}}
spec: {{podSelector: {{matchLabels: {{app: web, version: v1}}}}, port: 8080, accessPolicy: deny}}
---
apiVersion: policy.linkerd.io/v1alpha1
kind: MeshTLSAuthentication
metadata: {{name: web-v1, namespace: shop}}
spec: {{identities: ["{identity}"]}}
---
apiVersion: policy.linkerd.io/v1alpha1
kind: AuthorizationPolicy
metadata: {{name: web-v1, namespace: shop}}
spec:
  targetRef: {{group: policy.linkerd.io, kind: Server, name: web-v1}}
  requiredAuthenticationRefs: [{{group: policy.linkerd.io, kind: MeshTLSAuthentication, name: web-v1}}]
"""


def test_a_pod_lets_in_one_machine_or_a_group_by_name_and_no_others(fleet: Fleet) -> None:
    kube = fleet.kube
    url = f"http://web-v1.{SHOP}.svc.cluster.local/shop"
    first, second, _ = fleet.agents

    def seen() -> tuple[str, ...]:
        found = at_once(
            first=lambda: first.machine.get(url),
            second=lambda: second.machine.get(url),
            stranger=lambda: kube.app("other", "client", "get", url),
        )
        return tuple(found.values())

    name = server_name(first)
    _, _, group = name.partition(".")
    try:
        for identity_, wanted in ((name, ("200", "403", "403")), (f"*.{group}", ("200", "200", "403"))):
            kube.apply(AT_THE_POD.format(identity=identity_))
            eventually(seen, until=wanted.__eq__)
    finally:
        remove_policy(kube)
    eventually(seen, until=("200", "200", "200").__eq__)


MIXED = """
apiVersion: v1
kind: Service
metadata: {name: mixed, namespace: shop}
spec:
  selector: {tier: mixed}
  ports: [{name: http, port: 80, targetPort: http}]
"""


def test_a_service_may_have_pods_and_machines(fleet: Fleet) -> None:
    kube = fleet.kube
    pod = the_pod(kube, SHOP, "app=web,version=v2")["metadata"]["name"]
    kube.run("-n", SHOP, "label", "pod", pod, "tier=mixed")
    kube.apply(MIXED)
    try:
        everybody = {"v2", *(agent.machine.name for agent in fleet.agents)}
        answer = eventually(
            lambda: kube.app(SHOP, "client", "get", "http://mixed/", "--count", "60"),
            until=lambda seen: seen["names"].keys() == everybody,
        )
        assert answer["statuses"] == {"200": 60}
    finally:
        kube.delete("service", "mixed", "-n", SHOP, "--wait=false")
        kube.run("-n", SHOP, "label", "pod", pod, "tier-")


def test_the_groups_owner_is_told_of_those_too(fleet: Fleet) -> None:
    """Not of each at once, for a status is not written at every guess."""

    def reasons() -> set[str]:
        found = fleet.kube.get("externalgroup", GROUP, "-n", SHOP)["status"].get("lastRejections", ())
        return {each["reason"] for each in found}

    eventually(reasons, until={"BadToken", "BadAddress"}.__le__)
    assert len(workloads(fleet.kube, GROUP)) == len(fleet.agents)


def test_no_token_is_in_a_log_an_event_or_a_status(fleet: Fleet) -> None:
    kube = fleet.kube
    secret = fleet.token["token"].partition(".")[2]
    assert len(secret) > 40
    texts = [kube.run("-n", NAMESPACE, "logs", pod) for pod in pods_of(kube, NAMESPACE, OPERATOR)]
    texts += [agent.machine.log("agent") for agent in fleet.agents]
    texts += [
        kube.run("get", kind, "-A", "-o", "json") for kind in ("events", "externalgroups", "secrets", "configmaps")
    ]
    forms = (secret, base64.b64encode(secret.encode()).decode())
    assert not [text for text in texts for form in forms if form in text]
