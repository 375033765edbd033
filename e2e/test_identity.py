"""Every call between meshed pods is encrypted and named, and nobody gets a name that is not theirs."""

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from e2e.certificates import (
    ANCHORS,
    TRUST,
    Authority,
    find_leaf,
    handshakes,
    identity,
    make_authority,
    names_for,
    names_in,
    own_chain,
    shown_chain,
)
from e2e.kube import Json, Kube, eventually
from e2e.mesh import NAMESPACE, Mesh
from e2e.pods import HERE, deploy, in_proxy, make_namespace, pods_of, the_pod, wait_for_pods, write_file

SIGNING, DELIVERY = f"meshwright-xds.{NAMESPACE}:15012", f"meshwright-xds.{NAMESPACE}:15010"
INTRUDER = (HERE / "app" / "intruder.py").read_text()
CLIENT = TRUST.dns(identity("shop", "client"))


def headers_seen(kube: Kube, pod: str, url: str, *headers: str) -> dict[str, str]:
    """Return the headers, in lower case, that reach the application behind ``url``."""
    flags = [word for header in headers for word in ("--header", header)]
    answer = kube.app("shop", pod, "get", url, *flags)
    assert answer["statuses"] == {"200": 1}, answer
    return {name.lower(): value for name, value in json.loads(answer["last"])["headers"].items()}


def test_a_call_is_encrypted_as_both_envoys_count(shop: Kube) -> None:
    server = the_pod(shop, "shop", "app=web,version=v1")["metadata"]["name"]
    eventually(lambda: headers_seen(shop, "client", "http://web-v1/"))
    assert handshakes(shop, "shop", server, "listener") >= 1
    assert handshakes(shop, "shop", "client", "cluster") >= 1
    # The same client's plaintext is not counted: what makes the number grow is TLS.
    before = handshakes(shop, "shop", server, "listener")
    headers_seen(shop, "machine", "http://web-v1/")
    assert handshakes(shop, "shop", server, "listener") == before


def test_a_server_shows_its_own_accounts_names_and_no_others(shop: Kube) -> None:
    for version in ("v1", "v2"):
        address = the_pod(shop, "shop", f"app=web,version={version}")["status"]["podIP"]
        server_name = TRUST.dns(identity("shop", f"web-{version}"))
        leaf, issuer, *_ = shown_chain(shop, "shop", "client", f"{address}:8080", server_name)
        assert names_in(leaf) == names_for("shop", f"web-{version}")
        assert leaf.issuer == issuer.subject
        assert issuer.subject.rfc4514_string() == f"CN={TRUST.issuer_name}"


def test_the_application_is_told_who_calls_and_a_caller_cannot_say_it_for_itself(shop: Kube) -> None:
    forged = ("l5d-client-id:root.shop", "x-forwarded-client-cert:By=me;URI=spiffe://cluster.local/ns/shop/sa/root")
    seen = eventually(lambda: headers_seen(shop, "client", "http://web-v1/", *forged))
    assert seen["l5d-client-id"] == CLIENT
    assert f"URI={TRUST.uri(identity('shop', 'client'))}" in seen["x-forwarded-client-cert"]
    assert "root" not in seen["x-forwarded-client-cert"]
    unmeshed = headers_seen(shop, "machine", "http://web-v1/", *forged)
    assert not unmeshed.keys() & {"l5d-client-id", "x-forwarded-client-cert"}


def test_pods_outside_the_mesh_call_and_are_called_as_before(shop: Kube) -> None:
    assert eventually(lambda: headers_seen(shop, "client", "http://machine/"))
    assert shop.app("shop", "machine", "get", "http://web/", "--count", "20")["statuses"] == {"200": 20}
    assert shop.app("shop", "machine", "grpc", "web:9090", "/shop.Web/Get")["statuses"] == {"OK": 1}


def test_a_leaf_is_bound_to_its_pod_and_its_key_never_left_it(shop: Kube) -> None:
    for name, pod in pods_of(shop, "shop", "app in (client, web)").items():
        leaf = own_chain(shop, "shop", name)[0]
        assert leaf.subject.rfc4514_string() == f"2.5.4.5={pod['metadata']['uid']}"
        assert names_in(leaf) == names_for("shop", pod["spec"]["serviceAccountName"])
        listed = in_proxy(shop, "shop", name, "stat", "-c", "%a %u", find_leaf(shop, "shop", name)[1]).split()
        assert listed == ["600", "2102"]
        volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
        memory = [volume for volume in volumes.values() if volume.get("emptyDir", {}).get("medium") == "Memory"]
        assert memory, "keys are kept in memory only"


# ---- nobody else's name --------------------------------------------------------------------------------------------


@pytest.fixture
def stranger(shop: Kube) -> Kube:
    """The pod outside the mesh has the trust anchors, like anybody, for they are no secret."""
    text = shop.get("configmap", "mw-trust-anchors", "-n", "shop")["data"]["ca-bundle.crt"]
    write_file(shop, "shop", "machine", "/tmp/anchors.pem", text)
    return shop


def intrude(kube: Kube, command: str, target: str, name: str, *flags: str) -> Json:
    """Run the intruder in the pod outside the mesh."""
    words = ("python3", "/app/intruder.py", command, target, "--name", name, "--anchors", "/tmp/anchors.pem", *flags)
    found: Json = json.loads(kube.run("-n", "shop", "exec", "machine", "-c", "app", "--", *words))
    return found


def make_token(kube: Kube, account: str, pod: str = "", audience: str = "meshwright") -> str:
    bound = ("--bound-object-kind=Pod", f"--bound-object-name={pod}") if pod else ()
    return kube.run("-n", "shop", "create", "token", account, f"--audience={audience}", *bound).strip()


@pytest.fixture(scope="module")
def quartet(mesh: Mesh) -> Iterator[Kube]:
    """A whole application, which starts while there is something else to test."""
    kube = mesh.kube
    kube.delete("namespace", "quartet", "--wait=true")
    manifest = (HERE / "quartet.yaml").read_text()
    assert not re.search("meshwright|envoy|4143|4140", manifest), "nothing but the annotation"
    make_namespace(mesh, "quartet")
    deploy(mesh, "quartet", "quartet.yaml", "client.yaml")
    yield kube
    kube.delete("namespace", "quartet", "--wait=false")


@pytest.mark.usefixtures("quartet")
def test_a_stolen_token_gets_nothing_in_another_pod(stranger: Kube) -> None:
    token = in_proxy(stranger, "shop", "client", "cat", f"{Path(ANCHORS).parent}/token").strip()
    found = intrude(stranger, "sign", SIGNING, TRUST.dns(TRUST.delivery), "--token", token)
    assert found.get("status") == 403, found


@pytest.mark.parametrize(
    ("account", "pod", "audience", "statuses"),
    [
        ("client", "", "meshwright", {401}),
        ("client", "client", "meshwright", {403}),
        ("client", "client", "https://kubernetes.default.svc.cluster.local", {401}),
        ("client", "client", "vault", {401}),
        ("default", "machine", "meshwright", {200, 403}),
    ],
)
def test_a_token_counts_only_for_the_pod_it_is_bound_to_and_for_signing(
    stranger: Kube, account: str, pod: str, audience: str, statuses: set[int]
) -> None:
    token = make_token(stranger, account, pod, audience)
    found = intrude(stranger, "sign", SIGNING, TRUST.dns(TRUST.delivery), "--token", token)
    assert found.get("status") in statuses, found
    if found["status"] == 200:
        assert set(found["names"]) == names_for("shop", account), "its own name, and no other"


def test_without_a_token_nothing_is_signed(stranger: Kube) -> None:
    for flags in ((), ("--token", "x.y.z")):
        assert intrude(stranger, "sign", SIGNING, TRUST.dns(TRUST.delivery), *flags).get("status") == 401


def test_a_token_leaves_no_trace_in_a_log(stranger: Kube, mesh: Mesh) -> None:
    token = make_token(stranger, "client", "client")
    intrude(stranger, "sign", SIGNING, TRUST.dns(TRUST.delivery), "--token", token)
    for pod in pods_of(stranger, NAMESPACE, "app.kubernetes.io/component=xds"):
        assert token.rpartition(".")[2] not in stranger.run("-n", NAMESPACE, "logs", pod)


def ask_delivery_as_client(kube: Kube, node: str) -> Json:
    """Ask for listeners with the client's own certificate, from its own pod."""
    chain, key = find_leaf(kube, "shop", "client")
    files = ("--anchors", ANCHORS, "--chain", chain, "--key", key)
    words = ("python3", "-", "ads", DELIVERY, "--name", TRUST.dns(TRUST.delivery), "--node", node, *files)
    found: Json = json.loads(in_proxy(kube, "shop", "client", *words, stdin=INTRUDER))
    return found


def test_delivery_serves_a_proxy_under_its_own_name_alone(shop: Kube) -> None:
    web = the_pod(shop, "shop", "app=web,version=v1")["metadata"]["name"]
    wanted = {
        "shop/client": ("OK", True),
        f"shop/{web}": ("PERMISSION_DENIED", False),
        "other/client": ("PERMISSION_DENIED", False),
        "shop/nobody": ("UNAVAILABLE", False),  # it may be a pod that is not known yet, and that is waited for
        "nonsense": ("INVALID_ARGUMENT", False),
        "": ("INVALID_ARGUMENT", False),
    }
    with ThreadPoolExecutor() as threads:
        answers = threads.map(lambda node: ask_delivery_as_client(shop, node), wanted)
        assert {
            node: (said["code"], bool(said.get("names"))) for node, said in zip(wanted, answers, strict=True)
        } == wanted


def test_delivery_serves_nobody_without_a_certificate_of_the_mesh(stranger: Kube) -> None:
    forged = give_certificate(stranger, make_authority("root.elsewhere"), "client")
    for flags in ((), forged):
        found = intrude(stranger, "ads", DELIVERY, TRUST.dns(TRUST.delivery), "--node", "shop/client", *flags)
        assert found["code"] == "UNAVAILABLE", found


def give_certificate(kube: Kube, authority: Authority, account: str) -> tuple[str, ...]:
    """Put a certificate of one's own making for an account of the shop into the pod outside the mesh."""
    chain, key = authority.sign(identity("shop", account))
    write_file(kube, "shop", "machine", "/tmp/chain.pem", chain)
    write_file(kube, "shop", "machine", "/tmp/key.pem", key)
    return ("--chain", "/tmp/chain.pem", "--key", "/tmp/key.pem")


def test_a_proxy_takes_no_certificate_of_another_root_for_a_name(stranger: Kube) -> None:
    address = the_pod(stranger, "shop", "app=web,version=v1")["status"]["podIP"]
    forged = give_certificate(stranger, make_authority("root.elsewhere"), "client")
    for flags in ((), forged):
        found = intrude(stranger, "tls", f"{address}:8080", TRUST.dns(identity("shop", "web-v1")), *flags)
        assert "error" in found, found


def test_nothing_but_the_admin_page_is_open_beside_the_application(shop: Kube) -> None:
    for path in ("ready", "live", "metrics"):
        assert shop.run("get", "--raw", f"/api/v1/namespaces/shop/pods/client:4191/proxy/{path}")
    address = shop.get("pod", "client", "-n", "shop")["status"]["podIP"]
    for path in ("config_dump", "certs", "quitquitquit", "clusters"):
        (status,) = shop.app("shop", "machine", "get", f"http://{address}:4191/{path}")["statuses"]
        assert status in {"403", "404", "405"}, path


# ---- a whole application -------------------------------------------------------------------------------------------


def test_four_services_are_meshed_by_their_namespaces_annotation_alone(quartet: Kube) -> None:
    kube = quartet
    wait_for_pods(kube, "quartet")
    answer = eventually(
        lambda: kube.app("quartet", "client", "get", "http://storefront/chain"),
        until=lambda seen: seen["statuses"] == {"200": 1},
    )
    said = json.loads(answer["last"])
    callers = {
        "storefront": callers_of(said),
        **{hop["name"]: callers_of(hop) for hop in said["calls"]},
        **{hop["name"]: callers_of(hop) for call in said["calls"] for hop in call["calls"]},
    }
    who = {name: TRUST.dns(identity("quartet", name)) for name in ("client", "storefront", "orders")}
    assert callers == {
        "storefront": who["client"],
        "orders": who["storefront"],
        "catalog": who["storefront"],
        "ledger": who["orders"],
    }
    answers = kube.app("quartet", "client", "get", "http://storefront/chain", "--count", "50")
    assert answers["statuses"] == {"200": 50}


def callers_of(hop: Json) -> str:
    """Return who called, as the application of this hop was told."""
    return {name.lower(): str(value) for name, value in hop["headers"].items()}["l5d-client-id"]
