"""Everything that decides who may call whom, read from raw objects: the same for a folder and for a cluster."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from meshwright.link.govern import govern
from meshwright.model.config import Config
from meshwright.model.desired import Json
from meshwright.model.inbound import Inbound
from meshwright.model.injection import find_template
from meshwright.model.linked_server import LinkedServer
from meshwright.model.pod import PROXY_CONTAINER, Pod, PortRanges
from meshwright.model.ref import Kind, Ref
from meshwright.model.snapshot import Snapshot
from meshwright.model.units import Namespace, Port
from meshwright.model.workload import ExternalWorkload, NamespaceObject
from meshwright.parse.injection import parse_injection
from meshwright.parse.kinds import parse_object, ref_of
from meshwright.parse.pod import parse_pod
from meshwright.pipeline import Compiler

Key = tuple[Namespace, str]
"""A workload's namespace and name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Something that calls or is called. ``word``: its kind. ``is_expected``: it stands for pods that will be there,
    with a proxy, and is not one of them. ``declared``: the TCP ports that it says it has, by number, with their names
    (``""`` for none); it may listen on others, too."""

    word: str
    workload: Pod | ExternalWorkload
    is_expected: bool = False
    declared: tuple[tuple[str, Port], ...] = ()

    def __str__(self) -> str:
        ref = self.workload.ref
        return f"{self.word} {ref.namespace}/{ref.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """What there is. ``places``: pods, what makes pods, and ExternalWorkloads by name, in this order of preference;
    ``by_address``: those that have one."""

    config: Config
    objects: Snapshot
    servers: Mapping[Ref, LinkedServer]
    places: Mapping[Key, Place]
    by_address: Mapping[str, Place]

    def govern(self, place: Place) -> Inbound:
        """Return what holds at the ports of ``place``."""
        namespace = self.objects.get(Ref(Kind.NAMESPACE, Namespace(""), place.workload.ref.namespace))
        said = namespace if isinstance(namespace, NamespaceObject) else None
        inbound = govern(
            place.workload,
            [linked.policy for linked in self.servers.values()],
            self.config.policy,
            said.access if said else None,
            said.opaque if said else None,
            usual=self.config.opaque_ports,
        )
        usual = PortRanges(tuple((port, port) for port in sorted(self.config.opaque_ports)))
        return inbound if inbound.opaque is not None else replace(inbound, opaque=usual)


def make_world(raws: Iterable[Json], config: Config, namespace: Namespace, *, is_live: bool = False) -> World:
    """Return the world of ``raws``; of two objects with one name the first counts. Never raises.

    ``namespace``: of objects that name none. Unless they are of a cluster (``is_live``), pods without a proxy are taken
    as the webhook will make them, and templates of pods always are: they have what they inherit from their namespace.
    """
    objects: dict[Ref, Any] = {}
    pods: list[tuple[str, Json]] = []
    for raw in raws:
        named = _named(raw, namespace)
        if find_template(named) is not None:
            pods.append((str(named["kind"]), named))
        elif (ref := ref_of(named)) is not None and ref not in objects:
            objects[ref] = parse_object(named)
    compiler = Compiler(config)
    compiler.update(objects)
    places: dict[Key, Place] = {}
    by_address: dict[str, Place] = {}
    pods.sort(key=lambda found: found[0] != "Pod")
    found = [_read_pod(word, raw, objects, config, is_live=is_live) for word, raw in pods]
    found += [
        Place(
            word="ExternalWorkload",
            workload=value,
            declared=_sort_ports((each.name, each.port) for each in value.ports),
        )
        for value in objects.values()
        if isinstance(value, ExternalWorkload)
    ]
    for place in found:
        workload = place.workload
        places.setdefault((workload.ref.namespace, workload.ref.name), place)
        for address in workload.addresses if isinstance(workload, Pod) else workload.ips:
            by_address.setdefault(address, place)
    return World(config=config, objects=objects, servers=dict(compiler.servers), places=places, by_address=by_address)


def _named(raw: Json, namespace: Namespace) -> Json:
    metadata = raw.get("metadata")
    if raw.get("kind") == "Namespace" or not isinstance(metadata, dict) or metadata.get("namespace"):
        return raw
    return raw | {"metadata": metadata | {"namespace": str(namespace)}}


def _read_pod(word: str, raw: Json, objects: Snapshot, config: Config, *, is_live: bool) -> Place:
    template = _part(raw, *(find_template(raw) or ()))
    metadata = _part(template, "metadata") | {key: _part(raw, "metadata").get(key) for key in ("name", "namespace")}
    spec = _part(template, "spec")
    declared = _sort_ports(_declare(spec))
    if (is_live and word == "Pod") or _has_proxy(spec):
        pod = parse_pod(template | {"metadata": metadata})
        return Place(word=word, workload=pod, is_expected=word != "Pod", declared=declared)
    own = objects.get(Ref(Kind.NAMESPACE, Namespace(""), Namespace(str(metadata["namespace"]))))
    inherited = dict(own.annotations) if isinstance(own, NamespaceObject) else {}
    injection = parse_injection(template, inherited, {}, follows_namespace=config.policy.follows_namespace)
    annotations = _part(metadata, "annotations") | dict(injection.carried)
    made = parse_pod(template | {"metadata": metadata | {"annotations": annotations}})
    return Place(word=word, workload=made, is_expected=True, declared=declared)


def _declare(spec: Json) -> Iterator[tuple[str, Port]]:
    for each in (*_list(spec.get("containers")), *_list(spec.get("initContainers"))):
        if not isinstance(each, dict) or each.get("name") == PROXY_CONTAINER:
            continue
        for port in _list(each.get("ports")):
            match port:
                case {"containerPort": int(number)} if port.get("protocol", "TCP") == "TCP":
                    yield str(port.get("name") or ""), Port(number)


def _sort_ports(ports: Iterable[tuple[str, Port]]) -> tuple[tuple[str, Port], ...]:
    return tuple(sorted(ports, key=lambda each: (each[1], each[0])))


def _has_proxy(spec: Json) -> bool:
    containers = [*_list(spec.get("containers")), *_list(spec.get("initContainers"))]
    return any(isinstance(each, dict) and each.get("name") == PROXY_CONTAINER for each in containers)


def _part(raw: Any, *path: str) -> Json:
    for key in path:
        raw = raw.get(key) if isinstance(raw, dict) else None
    return raw if isinstance(raw, dict) else {}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []
