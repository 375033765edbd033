"""Who lives on this machine: stand-ins for pods and for machines, on loopback addresses."""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address

import pytest

from meshwright.edge.catalog import sort_manifests
from meshwright.edge.local_pods import Role, find_stand_ins, place_machines, populate, settle_slices
from meshwright.edge.loopback import Block, shift
from meshwright.edge.manifests import read_text
from meshwright.edge.standin import Behaviour, Endpoint
from meshwright.model.ref import Kind, Ref
from meshwright.model.units import Namespace, Port
from meshwright.model.workload import ExternalWorkload

SHOP = Namespace("shop")
DEPLOYMENT = """\
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop, annotations: {dev.meshwright.dev/delay: 5ms, dev.meshwright.dev/status: odd}}
spec:
  replicas: %s
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{ports: [{name: http, containerPort: 80}]}]}
"""


@pytest.fixture
def block() -> Iterator[Block]:
    block = Block()
    yield block
    block.close()


def test_every_replica_is_a_pod_with_an_address_and_a_role(block: Block) -> None:
    catalog = sort_manifests(read_text(DEPLOYMENT % 2, "f").manifests, SHOP)

    population = populate(catalog, block)

    assert [(pod.name, dict(pod.labels), dict(pod.ports)) for pod in population.pods] == [
        ("web-0", {"app": "web"}, {"http": 80}),
        ("web-1", {"app": "web"}, {"http": 80}),
    ]
    assert [population.roles[pod.ips[0]] for pod in population.pods] == [
        Role(workload="shop/web", replica=name, behaviour=Behaviour(delay_ms=5)) for name in ("web-0", "web-1")
    ]
    [(manifest, problem)] = population.problems
    assert (manifest.place.line, problem.field) == (1, "metadata.annotations[dev.meshwright.dev/status]")


@pytest.mark.parametrize(("replicas", "pods", "notes"), [("0", 0, 0), ("10", 10, 0), ("400", 10, 1), ("odd", 1, 0)])
def test_a_laptop_has_room_for_ten_replicas(replicas: str, pods: int, notes: int, block: Block) -> None:
    population = populate(sort_manifests(read_text(DEPLOYMENT % replicas, "f").manifests, SHOP), block)

    assert (len(population.pods), len(population.notes)) == (pods, notes)


def test_a_machine_is_stood_in_for_if_it_has_an_address(block: Block) -> None:
    def machine(name: str, *ips: str) -> ExternalWorkload:
        ref = Ref(Kind.EXTERNAL_WORKLOAD, SHOP, name)
        return ExternalWorkload(ref=ref, uid="", ips=ips, ports=(), is_ready=True)

    away, nowhere = machine("vm", "192.0.2.1", "2001:db8::1"), machine("nowhere")

    placed, population = place_machines({each.ref: each for each in (away, nowhere)}, block)

    [own] = population.roles
    assert ip_address(own).is_loopback
    assert placed == {away.ref: replace(away, ips=(own,)), nowhere.ref: nowhere}
    assert population.notes == (
        f"ExternalWorkload shop/vm: 192.0.2.1, 2001:db8::1 is not called, a stand-in answers at {own}",
    )


def test_slices_keep_loopback_endpoints_and_get_ports_that_need_no_root() -> None:
    raw = {
        "metadata": {"name": "web-x"},
        "ports": [{"name": "http", "port": 80}, {"name": "all"}, {"name": "high", "port": 8080}],
        "endpoints": [{"addresses": ["127.16.0.1"]}, {"addresses": ["10.0.0.1"]}],
    }

    [piece] = settle_slices([raw], lowest=1024, offset=8000)
    role = Role(workload="shop/web", replica="web-0", behaviour=Behaviour(status=201))

    assert [(port["name"], port["port"]) for port in piece["ports"]] == [("http", 8080), ("high", 8080)]
    assert piece["endpoints"] == [{"addresses": ["127.16.0.1"]}]
    assert find_stand_ins([piece], {"127.16.0.1": role, "127.16.0.2": role}) == {
        Endpoint("127.16.0.1", Port(8080), "shop/web", "web-0"): Behaviour(status=201)
    }


@pytest.mark.parametrize(
    ("port", "lowest", "shifted"), [(80, 1024, 8080), (80, 0, 80), (8080, 1024, 8080), (1023, 1024, 9023)]
)
def test_only_ports_that_need_root_are_shifted(port: int, lowest: int, shifted: int) -> None:
    assert shift(port, lowest, 8000) == shifted


def test_two_processes_never_share_a_block(block: Block) -> None:
    program = "from meshwright.edge.loopback import Block; print(Block().service('shop/web'))"

    other = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)

    mine, theirs = block.service("shop/web"), other.stdout.strip()
    assert mine.split(".")[2:] == theirs.split(".")[2:]
    assert mine != theirs
