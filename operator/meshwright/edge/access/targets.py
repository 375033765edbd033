"""What people call: a workload and its port, by name, or by the Service before it."""

from dataclasses import dataclass
from difflib import get_close_matches

from meshwright.edge.access.world import Place, World
from meshwright.link.govern import find_ports
from meshwright.model.ref import Kind, Ref
from meshwright.model.units import Namespace, Port
from meshwright.model.workload import Service, ServicePort

_SHORT = frozenset(
    (
        *("po", "pod", "pods", "deploy", "deployment", "deployments", "sts", "statefulset", "ds", "daemonset"),
        *("rs", "replicaset", "svc", "service", "services", "serviceaccount", "externalworkload"),
    )
)
"""What people write before a name for kubectl, which here is a namespace's place."""

_FEW = 3


class AskedError(Exception):
    """A question that cannot be answered. The text says what to write instead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What is called. ``notes``: how it was found, where that was not by its name."""

    place: Place
    port: Port
    notes: tuple[str, ...] = ()


def find_place(text: str, world: World) -> Place:
    """Return the workload ``NS/NAME``.

    Raises:
        AskedError: there is none.
    """
    namespace, name = _split(text)
    if (place := world.places.get((namespace, name))) is not None:
        return place
    service = world.objects.get(Ref(Kind.SERVICE, namespace, name))
    if isinstance(service, Service):
        behind = [f"{place.workload.ref.namespace}/{place.workload.ref.name}" for place in _find_behind(service, world)]
        hint = f"; behind it is {', '.join(behind[:_FEW])}" if behind else ""
        raise AskedError(f"{service.ref} is no workload, and calls nobody{hint}")
    raise AskedError(f"there is no Pod, Deployment or the like, or ExternalWorkload {text}; {_suggest(text, world)}")


def find_target(text: str, world: World) -> Target:
    """Return the workload and port ``NS/NAME:PORT``; the port may be one's name. Where no workload is called so, a
    Service may be: then it is the first workload behind it, and the port that the Service's goes to.

    Raises:
        AskedError: there is none, or several of that name.
    """
    called, colon, port = text.rpartition(":")
    if not (colon and called and port):
        raise AskedError(f"found {text!r}; write NAMESPACE/NAME:PORT, such as shop/web:8080")
    if port.isascii() and port.isdecimal() and not (len(port) <= 5 and 0 < int(port) < 65536):
        raise AskedError(f"found port {port}; write one from 1 to 65535")
    key = _split(called)
    service = world.objects.get(Ref(Kind.SERVICE, *key))
    if key not in world.places and isinstance(service, Service):
        return _find_by_service(service, port, world)
    place = find_place(called, world)
    if port.isdecimal():
        return Target(place=place, port=Port(int(port)), notes=_doubt(place, Port(int(port)), service))
    return Target(place=place, port=_find_port(port, place))


def _split(text: str) -> tuple[Namespace, str]:
    namespace, slash, name = text.partition("/")
    if not (namespace and slash and name) or "/" in name:
        raise AskedError(f"found {text!r}; write NAMESPACE/NAME of a pod, what makes pods, or an ExternalWorkload")
    return Namespace(namespace), name


def _find_port(name: str, place: Place) -> Port:
    found = find_ports(name, place.workload)
    if not found:
        declared = _say_ports(place)
        raise AskedError(
            f"{place} declares no TCP port named {name!r}; "
            + (f"it declares {declared}; write one of these, or a number" if declared else "write its number")
        )
    if len(found) > 1:
        raise AskedError(f"{name!r} names several ports of {place}; write one of {', '.join(map(str, found))}")
    return found[0]


def _find_by_service(service: Service, text: str, world: World) -> Target:
    port = _find_service_port(service, text)
    behind = _find_behind(service, world)
    if not behind:
        raise AskedError(f"{service.ref} is no workload, and none that is known is behind it; name the workload itself")
    place, *others = behind
    target = Port(port.target) if isinstance(port.target, int) else _find_port(port.target, place)
    notes = [f"{service.ref}, port {port.port}, goes to port {target} of {place}"]
    if others:
        rest = ", ".join(map(str, others[:_FEW])) + (", …" if len(others) > _FEW else "")
        notes.append(f"{service.ref} sends to {rest}, too, where something else may hold: ask for each")
    return Target(place=place, port=target, notes=tuple(notes))


def _find_service_port(service: Service, text: str) -> ServicePort:
    ports = [each for each in service.ports if each.transport == "TCP"]
    for each in ports:
        if text in (str(int(each.port)), each.name):
            return each
    known = ", ".join(f"{each.port} ({each.name})" if each.name else str(each.port) for each in ports)
    raise AskedError(f"{service.ref} has no TCP port {text}; it has {known or 'none'}")


def _find_behind(service: Service, world: World) -> list[Place]:
    """Return the workloads that a Service selects, pods last, sorted."""
    if not service.selector:
        return []
    found = [
        place
        for (namespace, _), place in world.places.items()
        if namespace == service.ref.namespace and set(service.selector) <= set(place.workload.labels)
    ]
    return sorted(found, key=lambda place: (place.word == "Pod", place.workload.ref.name))


def _doubt(place: Place, port: Port, service: object) -> tuple[str, ...]:
    """Return what makes a port look like a mistake: that the workload declares others, and not this one."""
    if not place.declared or port in {number for _, number in place.declared}:
        return ()
    said = f"{place} declares no port {port}, but {_say_ports(place)}"
    for each in service.ports if isinstance(service, Service) else ():
        if each.port == port and each.transport == "TCP" and isinstance(service, Service):
            return (f"{said}; port {port} of {service.ref} goes to {each.target}: did you mean that one?",)
    return (said,)


def _say_ports(place: Place) -> str:
    return ", ".join(f"{number} ({name})" if name else str(number) for name, number in place.declared)


def _suggest(text: str, world: World) -> str:
    namespace, _, name = text.partition("/")
    here = sorted(other for each, other in world.places if each == namespace)
    if near := get_close_matches(name, here, n=1):
        return f"did you mean {namespace}/{near[0]}?"
    if here:
        names = ", ".join(f"{namespace}/{other}" for other in here[:_FEW])
        return f"in that namespace there is {names}{', …' if len(here) > _FEW else ''}"
    known = [f"{each}/{other}" for each, other in world.places]
    named = sorted(each for each in known if each.endswith(f"/{name}"))
    if namespace in _SHORT:
        return f"write NAMESPACE/NAME, without its kind{f': {named[0]}?' if named else ''}"
    if near := get_close_matches(text, known, n=1) or named:
        return f"did you mean {near[0]}?"
    return "there is no workload in that namespace"
