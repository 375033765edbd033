"""Over IPv6 everything is as over IPv4: what is meshed, who is named, which way routes send it, and who may call."""

import json
import os
import subprocess
from collections.abc import Iterator

import pytest

from e2e.certificates import TRUST, handshakes, identity
from e2e.cluster import network
from e2e.kube import Json, Kube, eventually
from e2e.mesh import NAMESPACE, PROCESSES, Mesh
from e2e.pods import deploy, pods_of, restarts, the_pod

CLIENT = TRUST.dns(identity("shop", "client"))
OUTSIDE = "2001:db8::1"
"""An address that is nobody's (RFC 3849)."""
SERVICES = ("both", "six-v1", "six-v2", "six-headless", "six-machine")


def addresses_of(pod: Json) -> tuple[str, str]:
    """Return a pod's addresses, IPv4 first. Raises KeyError: it has not got both."""
    found = {":" in each["ip"]: str(each["ip"]) for each in pod["status"].get("podIPs", ())}
    return found[False], found[True]


@pytest.fixture(scope="module")
def six_services(shop_namespaces: Kube, mesh: Mesh) -> Iterator[Kube]:
    """The shop with Services of both families. Skips with the reason where pods have no IPv6 address, or fails if
    MESHWRIGHT_E2E=required and the cluster is ours on a machine that has IPv6."""
    kube = shop_namespaces
    try:
        addresses_of(kube.get("pod", "client", "-n", "shop"))
    except KeyError:
        reason = (
            network.find_ipv6_obstacle() if mesh.cluster.netns else "KUBECONFIG's cluster gives pods no IPv6 address"
        )
        if not reason and os.environ.get("MESHWRIGHT_E2E") == "required":
            raise
        pytest.skip(f"no IPv6: {reason or 'pods have none, though this machine has it'}")
    deploy(mesh, "shop", "dual_stack.yaml")
    yield kube
    kube.delete("service", *SERVICES, "-n", "shop", "--wait=false")


@pytest.fixture
def dual(six_services: Kube, shop: Kube) -> Kube:
    return shop


@pytest.fixture
def server(dual: Kube) -> tuple[str, str]:
    """The addresses of the pod web-v1, IPv4 first."""
    return addresses_of(the_pod(dual, "shop", "app=web,version=v1"))


def cluster_ips(kube: Kube, name: str) -> list[str]:
    return list(map(str, kube.get("service", name, "-n", "shop")["spec"]["clusterIPs"]))


def call(kube: Kube, pod: str, *words: str) -> dict[str, int]:
    return dict(kube.app("shop", pod, *words)["statuses"])


def statuses(kube: Kube, pod: str, *urls: str) -> dict[str, str]:
    """Return the status of one request to each URL, the requests at once."""
    running = {url: kube.start_app("shop", pod, "get", url) for url in urls}
    found = {}
    for url, process in running.items():
        out, error = process.communicate(timeout=60)
        assert process.returncode == 0, error
        (found[url],) = json.loads(out)["statuses"]
    return found


def caller_seen(kube: Kube, pod: str, url: str) -> str | None:
    """Return who calls, as the application behind ``url`` is told; ``None``: nobody is named."""
    answer = kube.app("shop", pod, "get", url)
    assert answer["statuses"] == {"200": 1}, answer
    said = {name.lower(): value for name, value in json.loads(answer["last"])["headers"].items()}
    return said.get("l5d-client-id")


def test_services_have_the_families_they_ask_for_and_dns_says_so(dual: Kube) -> None:
    four, six = cluster_ips(dual, "both")
    assert (":" in four, ":" in six) == (False, True)
    [only] = cluster_ips(dual, "six-v1")
    script = (
        "import json,socket;print(json.dumps({n: sorted({a[4][0] for a in socket.getaddrinfo(n, 80)}) for n in "
        "('both', 'six-v1', 'six-headless')}))"
    )
    answered = json.loads(dual.run("-n", "shop", "exec", "client", "-c", "app", "--", "python3", "-c", script))
    pod = addresses_of(the_pod(dual, "shop", "app=web,version=v1"))
    assert answered == {"both": sorted((four, six)), "six-v1": [only], "six-headless": sorted(pod)}


@pytest.mark.parametrize(("pod", "seen"), [("client", CLIENT), ("machine", None)])
def test_http_takes_every_way_and_the_caller_is_named_on_each(
    dual: Kube, server: tuple[str, str], pod: str, seen: str | None
) -> None:
    four, six = cluster_ips(dual, "both")
    for url in (f"http://[{six}]/", f"http://{four}/", "http://six-v1/", "http://six-headless:8080/"):
        assert eventually(lambda url=url: (caller_seen(dual, pod, url),)) == (seen,), url  # type: ignore[misc]
    assert caller_seen(dual, pod, f"http://[{server[1]}]:8080/") == seen


@pytest.mark.parametrize("pod", ["client", "machine"])
def test_grpc_and_bytes_take_them_too(dual: Kube, server: tuple[str, str], pod: str) -> None:
    _, both = cluster_ips(dual, "both")
    for host in (f"[{both}]", "six-v1", f"[{server[1]}]"):
        assert call(dual, pod, "grpc", f"{host}:9090", "/shop.Web/Get", "--count", "3") == {"OK": 3}, host
        assert call(dual, pod, "tcp", f"{host}:7000", "--count", "3") == {"echo": 3}, host


def test_it_is_encrypted_as_both_envoys_count(dual: Kube, server: tuple[str, str]) -> None:
    name = the_pod(dual, "shop", "app=web,version=v1")["metadata"]["name"]
    before = handshakes(dual, "shop", name, "listener"), handshakes(dual, "shop", "client", "cluster")
    # Bytes have a connection each, there and on.
    assert call(dual, "client", "tcp", "six-v1:7000") == {"echo": 1}
    after = handshakes(dual, "shop", name, "listener"), handshakes(dual, "shop", "client", "cluster")
    assert (after[0] > before[0], after[1] > before[1]) == (True, True)
    assert call(dual, "machine", "tcp", f"[{server[1]}]:7000") == {"echo": 1}
    assert handshakes(dual, "shop", name, "listener") == after[0], "from outside the mesh it is as it comes"


def test_the_mesh_calls_pods_outside_of_it(dual: Kube) -> None:
    _, six = addresses_of(dual.get("pod", "machine", "-n", "shop"))
    assert caller_seen(dual, "client", f"http://[{six}]:8080/") is None


def test_the_control_plane_listens_at_its_ipv6_addresses_too(dual: Kube) -> None:
    """Where IPv6 is a cluster's first family these are all that anybody uses."""
    ports = {
        (pod["metadata"]["name"], addresses_of(pod)[1], port["containerPort"])
        for pod in pods_of(dual, NAMESPACE).values()
        for container in pod["spec"]["containers"]
        for port in container["ports"]
    }
    assert {name.split("-")[1] for name, _, _ in ports} == set(PROCESSES)
    script = (
        "import json,socket,sys\n"
        "for name, address, port in json.loads(sys.argv[1]):\n"
        "    try: socket.create_connection((address, port), 5).close()\n"
        "    except OSError as error: print(name, port, error)"
    )
    words = ("exec", "machine", "-c", "app", "--", "python3", "-c", script, json.dumps(sorted(ports)))
    assert dual.run("-n", "shop", *words) == ""


def test_a_pod_calls_itself(dual: Kube) -> None:
    _, six = addresses_of(dual.get("pod", "client", "-n", "shop"))
    assert set(statuses(dual, "client", "http://[::1]:8080/", f"http://[{six}]:8080/").values()) == {"200"}


ROUTE = """
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: both, namespace: shop}}
spec:
  parentRefs: [{{group: "", kind: Service, name: both, port: 80}}]
  rules:
  - backendRefs:
    - {{name: six-v1, port: 80, weight: {v1}}}
    - {{name: six-v2, port: 80, weight: {v2}}}
"""


def test_a_route_splits_what_is_sent_to_an_ipv6_address(dual: Kube) -> None:
    four, six = cluster_ips(dual, "both")

    def names(address: str) -> set[str]:
        return set(dual.app("shop", "client", "get", f"http://{address}/", "--count", "10")["names"])

    for v1, v2, only in ((0, 100, "v2"), (100, 0, "v1")):
        dual.apply(ROUTE.format(v1=v1, v2=v2))
        eventually(lambda: names(f"[{six}]"), until={only}.__eq__)
        assert names(four) == {only}


def test_an_external_workload_may_have_an_ipv6_address(dual: Kube) -> None:
    _, machine = addresses_of(dual.get("pod", "machine", "-n", "shop"))
    dual.apply(f"""
apiVersion: workload.linkerd.io/v1beta1
kind: ExternalWorkload
metadata:
  name: vm-six
  namespace: shop
  labels: {{vm: six}}
  annotations: {{config.linkerd.io/skip-inbound-ports: "8080"}}  # no proxy is there
spec:
  meshTLS: {{identity: vm-six.example, serverName: vm-six.example}}
  ports: [{{name: http, port: 8080}}]
  workloadIPs: [{{ip: "{machine}"}}]
""")
    try:
        ready = json.dumps({"status": {"conditions": [{"type": "Ready", "status": "True"}]}})
        patch = ("patch", "externalworkload", "vm-six", "--subresource=status", "--type=merge", "-p", ready)
        dual.run("-n", "shop", *patch)
        answer = eventually(
            lambda: dual.app("shop", "client", "get", "http://six-machine/"),
            until=lambda seen: seen["statuses"] == {"200": 1},
        )
        assert answer["names"] == {"machine": 1}
        [piece] = dual.items("endpointslices", "-n", "shop", "-l", "app.kubernetes.io/managed-by=meshwright")
        assert (piece["addressType"], piece["endpoints"][0]["addresses"]) == ("IPv6", [machine])
    finally:
        dual.delete("externalworkload", "vm-six", "-n", "shop")


def test_an_address_outside_the_cluster_is_refused_and_soon(dual: Kube) -> None:
    answer = dual.app("shop", "client", "get", f"http://[{OUTSIDE}]/")
    assert answer["statuses"] == {"503": 1}, answer
    assert answer["seconds"] < 10
    assert call(dual, "client", "tcp", f"[{OUTSIDE}]:7000") != {"echo": 1}


POLICY = """
apiVersion: policy.linkerd.io/v1beta3
kind: Server
metadata: {{name: six, namespace: shop}}
spec: {{podSelector: {{matchLabels: {{app: web, version: v1}}}}, port: 8080, accessPolicy: deny}}
---
apiVersion: policy.linkerd.io/v1alpha1
kind: NetworkAuthentication
metadata: {{name: six, namespace: shop}}
spec: {{networks: [{{cidr: "{client}/128"}}]}}
---
apiVersion: policy.linkerd.io/v1alpha1
kind: AuthorizationPolicy
metadata: {{name: six, namespace: shop}}
spec:
  targetRef: {{group: policy.linkerd.io, kind: Server, name: six}}
  requiredAuthenticationRefs: [{{group: policy.linkerd.io, kind: NetworkAuthentication, name: six}}]
"""


def test_who_may_call_can_be_said_by_an_ipv6_address(dual: Kube, mesh: Mesh, server: tuple[str, str]) -> None:
    _, client = addresses_of(dual.get("pod", "client", "-n", "shop"))
    four, six = f"http://{server[0]}:8080/shop", f"http://[{server[1]}]:8080/shop"
    before = restarts(dual, "shop")
    dual.apply(POLICY.format(client=client))
    try:
        wanted = {six: "200", "http://six-v1/shop": "200", four: "403"}
        eventually(lambda: statuses(dual, "client", *wanted), until=wanted.__eq__)
        assert statuses(dual, "machine", six, four) == {six: "403", four: "403"}
        # The kubelet asks at a pod's first address. Where that is an IPv6 one it asks like this.
        if mesh.cluster.netns:
            assert (ask_from_node(server[1], "/"), ask_from_node(server[1], "/shop")) == ("200", "403")
        assert restarts(dual, "shop") == before
    finally:
        for kind in ("server.policy.linkerd.io", "networkauthentication", "authorizationpolicy"):
            dual.delete(kind, "six", "-n", "shop")
    eventually(lambda: statuses(dual, "machine", six), until={six: "200"}.__eq__)


def ask_from_node(address: str, path: str) -> str:
    """Return the status of one request from the node itself."""
    script = (
        "import http.client,sys;c=http.client.HTTPConnection(sys.argv[1],8080,timeout=20);"
        "c.request('GET',sys.argv[2]);print(c.getresponse().status)"
    )
    command = [*network.ENTER, "python3", "-c", script, address, path]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.strip()
