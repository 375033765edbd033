"""The pods and machines of a folder of manifests, as `meshwright dev` has them: loopback addresses with stand-ins."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from meshwright.edge.catalog import Catalog
from meshwright.edge.loopback import Block, is_loopback, shift
from meshwright.edge.manifests import Manifest
from meshwright.edge.offline import Pod, read_labels, read_ports
from meshwright.edge.standin import Behaviour, Endpoint, read_behaviour
from meshwright.model.desired import Json
from meshwright.model.problem import Problem
from meshwright.model.ref import Ref
from meshwright.model.units import Namespace, Port
from meshwright.model.workload import ExternalWorkload

MAX_REPLICAS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """Who answers at an address, and how. ``workload`` is ``namespace/name``."""

    workload: str
    replica: str
    behaviour: Behaviour


@dataclass(frozen=True, slots=True, kw_only=True)
class Population:
    """Who lives here. ``roles`` by address. ``notes``: what is not as written, in words."""

    pods: tuple[Pod, ...] = ()
    roles: Mapping[str, Role] = field(default_factory=dict)
    problems: tuple[tuple[Manifest, Problem], ...] = ()
    notes: tuple[str, ...] = ()


def populate(catalog: Catalog, block: Block) -> Population:
    """Return a pod for every replica that the workloads ask for, and for every Pod on its own."""
    pods: list[Pod] = []
    roles: dict[str, Role] = {}
    problems: list[tuple[Manifest, Problem]] = []
    notes: list[str] = []
    singles = [(manifest, manifest.raw, 1) for manifest in catalog.pods.values()]
    templates = [
        (manifest, _part(manifest.raw, "spec", "template"), _replicas(manifest, notes))
        for manifest in catalog.workloads.values()
    ]
    for manifest, template, replicas in (*templates, *singles):
        metadata = manifest.raw["metadata"]
        namespace, name = Namespace(metadata["namespace"]), metadata["name"]
        annotations = read_labels(_part(template, "metadata").get("annotations"))
        behaviour, found = read_behaviour(annotations | read_labels(metadata.get("annotations")))
        problems += [(manifest, problem) for problem in found]
        for index in range(replicas):
            replica = name if template is manifest.raw else f"{name}-{index}"
            ip = block.pod(f"{namespace}/{replica}")
            roles[ip] = Role(workload=f"{namespace}/{name}", replica=replica, behaviour=behaviour)
            pods.append(
                Pod(
                    namespace=namespace,
                    name=replica,
                    labels=read_labels(_part(template, "metadata").get("labels")),
                    ips=(ip,),
                    ports=read_ports(template.get("spec")),
                )
            )
    return Population(pods=tuple(pods), roles=roles, problems=tuple(problems), notes=tuple(notes))


def place_machines(
    machines: Mapping[Ref, ExternalWorkload], block: Block
) -> tuple[dict[Ref, ExternalWorkload], Population]:
    """Return the ExternalWorkloads at addresses of stand-ins, in place of their own."""
    placed: dict[Ref, ExternalWorkload] = {}
    roles: dict[str, Role] = {}
    notes: list[str] = []
    for ref, machine in sorted(machines.items()):
        placed[ref] = machine
        if machine.ips:
            name = f"{ref.namespace}/{ref.name}"
            own = block.pod(f"machine {name}")
            roles[own] = Role(workload=name, replica=ref.name, behaviour=Behaviour())
            placed[ref] = replace(machine, ips=(own,))
            notes.append(f"{ref}: {', '.join(machine.ips)} is not called, a stand-in answers at {own}")
    return placed, Population(roles=roles, notes=tuple(notes))


def settle_slices(slices: Iterable[Json], lowest: int, offset: int) -> list[Json]:
    """Return EndpointSlices with ports that may be listened on without root, and loopback endpoints only."""
    return [
        piece
        | {
            "ports": [
                port | {"port": shift(port["port"], lowest, offset)}
                for port in piece.get("ports") or ()
                if isinstance(port.get("port"), int)
            ],
            "endpoints": [
                endpoint
                for endpoint in piece.get("endpoints") or ()
                if all(is_loopback(address) for address in endpoint.get("addresses") or ())
            ],
        }
        for piece in slices
    ]


def find_stand_ins(slices: Iterable[Json], roles: Mapping[str, Role]) -> dict[Endpoint, Behaviour]:
    """Return the stand-ins that ``slices`` need: one for every port that somebody with a role is called at."""
    return {
        Endpoint(address, Port(port["port"]), role.workload, role.replica): role.behaviour
        for piece in slices
        for port in piece["ports"]
        for endpoint in piece["endpoints"]
        for address in endpoint["addresses"]
        if (role := roles.get(address))
    }


def _replicas(manifest: Manifest, notes: list[str]) -> int:
    wanted = _part(manifest.raw, "spec").get("replicas", 1)
    if not isinstance(wanted, int) or wanted < 0:
        return 1
    if wanted > MAX_REPLICAS:
        metadata = manifest.raw["metadata"]
        notes.append(f"{metadata['namespace']}/{metadata['name']}: {MAX_REPLICAS} of {wanted} replicas stand in")
    return min(wanted, MAX_REPLICAS)


def _part(raw: Json, *path: str) -> Json:
    value: Any = raw
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value if isinstance(value, dict) else {}
