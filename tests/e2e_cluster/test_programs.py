"""Configuration files and command lines of the node, its network and its control groups."""

import json
import os
import subprocess
import tomllib
from ipaddress import ip_network
from pathlib import Path

import pytest
from cryptography import x509

from e2e.cluster import Cluster, NotOurCluster, find_users_kubeconfig
from e2e.cluster.addons import make_cert_manager, make_dns
from e2e.cluster.debian import PACKAGES, select_missing
from e2e.cluster.golang import TOOLS
from e2e.cluster.groups import Trees, select_trees
from e2e.cluster.network import find_conflicts, find_ipv6_obstacle
from e2e.cluster.node import select_listening
from e2e.cluster.pki import LEAVES, write_pki
from e2e.cluster.places import NODE_ADDRESS, Places, find_places
from e2e.cluster.probe import has_answer, is_node_ready, make_query
from e2e.cluster.programs import (
    Spec,
    make_specs,
    render_containerd,
    render_kubelet,
    render_pod_network,
    write_pod_plugins,
)
from e2e.cluster.teardown import select_mounts
from tests.documents import read_document

PLACES = Places(repo=Path("/repo"), cache=Path("/cache"))
SPECS = make_specs(PLACES, {tool.name: Path("/cache/bin") / tool.name for tool in TOOLS}, has_ipv6=True)


def test_the_cache_is_where_the_user_wants_it() -> None:
    assert find_places({"MESHWRIGHT_CACHE": "/a", "XDG_CACHE_HOME": "/b", "HOME": "/c"}).cache == Path("/a")
    assert find_places({"XDG_CACHE_HOME": "/b", "HOME": "/c"}).cache == Path("/b/meshwright")
    assert find_places({"HOME": "/c"}).cache == Path("/c/.cache/meshwright")


def test_every_certificate_a_program_names_is_made(tmp_path: Path) -> None:
    write_pki(tmp_path)
    made = {path.name for path in tmp_path.iterdir()}
    flags = [word for spec in SPECS.values() for word in spec.argv if word.endswith((".crt", ".key", ".pub", "config"))]
    named = {Path(word.partition("=")[2]).name for word in flags if f"{PLACES.pki}/" in word}
    assert named
    assert named - made == set()


def test_leaves_are_signed_and_name_their_hosts(tmp_path: Path) -> None:
    write_pki(tmp_path)
    authority = x509.load_pem_x509_certificate((tmp_path / "ca.crt").read_bytes())
    for leaf in LEAVES:
        found = x509.load_pem_x509_certificate((tmp_path / f"{leaf.file}.crt").read_bytes())
        found.verify_directly_issued_by(authority)
        if leaf.hosts:
            names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            assert {str(name.value) for name in names} == set(leaf.hosts)


def test_a_kubeconfig_carries_everything_it_needs(tmp_path: Path) -> None:
    write_pki(tmp_path)
    text = (tmp_path / "admin.kubeconfig").read_text()
    assert read_document(text)["clusters"][0]["cluster"]["server"] == f"https://{NODE_ADDRESS}:6443"
    assert str(tmp_path) not in text


@pytest.mark.parametrize("spec", SPECS.values(), ids=lambda spec: spec.name)
def test_no_program_writes_outside_the_cache(spec: Spec) -> None:
    words = " ".join(spec.argv)
    for flag in ("-dir=/", "-config=/", "kubeconfig=/"):
        for rest in words.split(flag)[1:]:
            assert rest.startswith("cache/")


def test_containerd_is_told_what_this_machine_needs() -> None:
    whole = tomllib.loads(render_containerd(PLACES))
    cri = whole["plugins"]["io.containerd.grpc.v1.cri"]
    assert cri["restrict_oom_score_adj"] is True
    assert cri["netns_mounts_under_state_dir"] is True
    assert whole["state"].startswith("/cache/cluster/")


def test_kubelet_accepts_cgroup_v1_and_uses_our_group() -> None:
    whole = read_document(render_kubelet(PLACES))
    assert whole["failCgroupV1"] is False
    assert whole["cgroupRoot"] == "/mw-e2e"


def test_pods_are_wired_point_to_point() -> None:
    plugins = json.loads(render_pod_network(Path("/s"), has_ipv6=True))["plugins"]
    assert [plugin["type"] for plugin in plugins] == ["ptp", "portmap"]


def test_a_plugin_is_debians_but_for_the_one_that_would_wait(tmp_path: Path) -> None:
    there, made = tmp_path / "there", tmp_path / "made"
    there.mkdir()
    for name in ("ptp", "host-local"):
        (there / name).write_text(f"#!/bin/sh\necho {name} $CNI_COMMAND; cat\n")
        (there / name).chmod(0o755)
    write_pod_plugins(made, there)
    for name in ("ptp", "host-local"):
        for command in ("ADD", "DEL"):
            environ = {"PATH": os.environ["PATH"], "CNI_COMMAND": command, "CNI_NETNS": "/none"}
            done = subprocess.run([made / name], input="in", capture_output=True, text=True, env=environ, check=True)
            assert done.stdout == f"{name} {command}\nin"


@pytest.mark.parametrize(("has_ipv6", "families"), [(True, {4, 6}), (False, {4})])
def test_every_range_has_the_families_that_the_machine_has(has_ipv6: bool, families: set[int]) -> None:
    specs = make_specs(PLACES, {tool.name: Path("/b") for tool in TOOLS}, has_ipv6=has_ipv6)
    flags = {
        (name, flag): value.split(",")
        for name, spec in specs.items()
        for flag, _, value in (word.partition("=") for word in spec.argv)
        if flag in ("--service-cluster-ip-range", "--cluster-cidr", "--node-ip")
    }
    assert {name for name, _ in flags} == {"kube-apiserver", "kube-controller-manager", "kubelet", "kube-proxy"}
    pods = json.loads(render_pod_network(Path("/s"), has_ipv6=has_ipv6))["plugins"][0]["ipam"]
    flags["pods", "ranges"] = [each["subnet"] for [each] in pods["ranges"]]
    flags["pods", "routes"] = [each["dst"] for each in pods["routes"]]
    for flag, values in flags.items():
        found = [ip_network(value).version for value in values]
        assert (found, set(found)) == (sorted(found), families), flag


@pytest.mark.parametrize(
    ("switches", "said"),
    [
        ({"all": "0", "default": "0"}, ""),
        ({"all": "1", "default": "0"}, "IPv6 is turned off on this machine: net.ipv6.conf.all.disable_ipv6 is 1"),
        ({"all": "0", "default": "1"}, "IPv6 is turned off on this machine: net.ipv6.conf.default.disable_ipv6 is 1"),
        ({}, "this machine's kernel has no IPv6"),
    ],
)
def test_a_machine_without_ipv6_says_why(tmp_path: Path, switches: dict[str, str], said: str) -> None:
    for name, value in switches.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "disable_ipv6").write_text(f"{value}\n")
    assert find_ipv6_obstacle(tmp_path) == said


def test_hand_made_endpoints_carry_the_ports_of_their_service() -> None:
    objects = make_dns() + make_cert_manager(b"ca")
    services = {o["metadata"]["name"]: o["spec"]["ports"] for o in objects if o["kind"] == "Service"}
    slices = {o["metadata"]["labels"]["kubernetes.io/service-name"]: o for o in objects if o["kind"] == "EndpointSlice"}
    assert services.keys() == slices.keys() == {"kube-dns", "cert-manager-webhook"}
    for name, ports in services.items():
        assert [(p["name"], p["targetPort"]) for p in ports] == [(p["name"], p["port"]) for p in slices[name]["ports"]]
        assert slices[name]["endpoints"][0]["addresses"] == [NODE_ADDRESS]


def test_routes_of_others_in_our_ranges_are_conflicts() -> None:
    routes = [
        {"dst": "default", "dev": "eth0"},
        {"dst": "192.0.2.0/24", "dev": "eth0"},
        {"dst": "10.96.0.0/16", "dev": "mw-host"},
        {"dst": "10.96.5.0/24", "dev": "tun0"},
        {"dst": "10.0.0.0/8", "dev": "vpn0"},
        {"dst": "10.98.0.7", "dev": "br0"},
    ]
    assert find_conflicts(routes) == ["10.96.5.0/24 dev tun0", "10.0.0.0/8 dev vpn0", "10.98.0.7 dev br0"]


V1 = "cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\ncgroup /sys/fs/cgroup/pids cgroup rw,pids 0 0\n"
V2 = "cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n"
BOTH = V1 + "cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n"
CPU, PIDS = Path("/sys/fs/cgroup/cpu"), Path("/sys/fs/cgroup/pids")


@pytest.mark.parametrize(
    ("mounts", "trees"),
    [
        (V1, Trees(v1=(CPU, PIDS), v2=())),
        (V2, Trees(v1=(), v2=(Path("/sys/fs/cgroup"),))),
        (BOTH, Trees(v1=(CPU, PIDS), v2=(Path("/sys/fs/cgroup/unified"),))),
        ("proc /proc proc rw 0 0\n", Trees(v1=(), v2=())),
    ],
)
def test_cgroup_trees_are_found_on_either_version(mounts: str, trees: Trees) -> None:
    assert select_trees(mounts) == trees


def test_only_mounts_below_the_state_are_ours_and_the_latest_comes_first() -> None:
    mounts = "a /s/x t rw\nb /s/x/y t rw\nc /state t rw\nd /s t rw\ne /s/with\\040blank t rw\n"
    assert select_mounts(mounts, Path("/s")) == ["/s/with blank", "/s", "/s/x/y", "/s/x"]


def test_only_listening_ports_count() -> None:
    table = """\
  sl  local_address rem_address   st
   0: 0100007F:094B 00000000:0000 0A 0
   1: 0100007F:094C 0100007F:1234 01 0
   2: 00000000000000000000000000000000:192B 00000000000000000000000000000000:0000 0A 0
"""
    assert select_listening(table) == {2379, 6443}


def test_a_dns_answer_must_be_ours_without_error_and_with_a_record() -> None:
    query = make_query("a.bc.", 258)
    assert query == b"\x01\x02\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x01a\x02bc\x00\x00\x01\x00\x01"
    good = b"\x01\x02\x85\x80\x00\x01\x00\x01\x00\x00\x00\x00"
    assert has_answer(good, 258)
    assert not has_answer(good, 259)
    assert not has_answer(good[:3] + b"\x83" + good[4:], 258), "NXDOMAIN"
    assert not has_answer(good[:7] + b"\x00" + good[8:], 258), "no record"
    assert not has_answer(good[:2] + b"\x01\x00" + good[4:], 258), "a question"
    assert not has_answer(b"", 258)


def test_a_node_is_ready_only_when_it_says_so() -> None:
    def node(status: str) -> dict[str, object]:
        return {"status": {"conditions": [{"type": "Ready", "status": status}]}}

    assert is_node_ready(node("True"))
    assert not is_node_ready(node("Unknown"))
    assert not is_node_ready({})


def test_each_missing_package_is_named_once() -> None:
    assert select_missing(lambda command: command not in {"containerd", "ctr", "ip"}) == ["containerd", "iproute2"]
    assert select_missing(lambda _: False) == sorted(set(PACKAGES.values()))
    assert select_missing(lambda _: True) == []


def test_our_own_kubeconfig_is_not_a_users_cluster() -> None:
    assert find_users_kubeconfig(PLACES, {"KUBECONFIG": "/home/me/.kube/config"}) == "/home/me/.kube/config"
    assert find_users_kubeconfig(PLACES, {"KUBECONFIG": str(PLACES.kubeconfig)}) == ""
    assert find_users_kubeconfig(PLACES, {}) == ""


def test_parts_of_a_users_cluster_are_not_stopped() -> None:
    theirs = Cluster(kubeconfig=Path("/k"), kubectl=Path("/bin/true"), helm=Path("/bin/true"))
    with pytest.raises(NotOurCluster, match="not our cluster"):
        theirs.restart_apiserver()
    with pytest.raises(NotOurCluster, match="not our cluster"):
        theirs.stop("etcd")
    with pytest.raises(NotOurCluster, match="not our cluster"):
        theirs.start("etcd")
