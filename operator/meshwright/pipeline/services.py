"""Services as parents: which change of what object concerns which of them, and what one comes to."""

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import replace

from meshwright.emit.manifest import emit_unit, make_unit_name
from meshwright.emit.slices import emit_slices
from meshwright.link.attach import attach_routes
from meshwright.link.backends import backend_service
from meshwright.link.members import is_selected, select_members
from meshwright.link.ports import declare_opaque
from meshwright.model.config import Config
from meshwright.model.desired import Json, UnitName
from meshwright.model.pod import PortRanges
from meshwright.model.problem import Problem
from meshwright.model.ref import Kind, Ref, ServiceName
from meshwright.model.route import Route
from meshwright.model.snapshot import Parsed
from meshwright.model.units import Namespace
from meshwright.model.workload import ExternalWorkload, NamespaceObject, Service
from meshwright.pipeline.parents import Index, Label, ParentOutput, Touched, services_of


def compile_service(
    name: ServiceName,
    service: Service | None,
    routes: Iterable[Route],
    services: Mapping[ServiceName, Service],
) -> ParentOutput:
    """Return the units of Service ``name`` and a verdict for each parentRef of ``routes`` that names it.

    ``service``: ``None`` when it does not exist. ``services``: those that exist among the backends of ``routes``.
    """
    linked = attach_routes(name, service, routes, services)
    verdicts = dict(linked.verdicts)
    units: dict[UnitName, Json | None] = {}
    problems = []
    for group in linked.groups:
        unit = emit_unit(name, linked.uid, group)
        if not isinstance(unit, Problem):
            units[make_unit_name(name, group.namespace)] = unit
            continue
        units[make_unit_name(name, group.namespace)] = None
        problems.append(unit)
        for ref in group.routes:
            verdicts[ref] = tuple(replace(v, too_large=unit) if v.ports else v for v in verdicts[ref])
    return ParentOutput(units=units, verdicts=verdicts, problems=tuple(problems))


class Services:
    """Knows which of ``objects`` have to do with which Service. A Service comes with the routes that name it, the
    Services these send to, its namespace, and the workloads it selects."""

    def __init__(self, config: Config, objects: Mapping[Ref, Parsed]) -> None:
        self._config = config
        self._objects = objects
        self._routes_by_parent = Index[Ref]()
        self._routes_by_backend = Index[ServiceName]()
        self._services_by_label = Index[Label]()
        self._services_by_namespace = Index[Namespace]()
        self._workloads_by_label = Index[Label]()

    def touch(self, ref: Ref, old: Parsed | None, new: Parsed | None, touched: Touched) -> None:
        """Add to ``touched`` what has to be looked at again. The indices know ``old``; who is changed together with
        this object adds itself."""
        touched.parents.update(services_of(old), services_of(new))
        for workload in (old, new):
            if isinstance(workload, ExternalWorkload):
                touched.members.update(service.name for service in self._find_services(workload))
        if ref.kind is Kind.NAMESPACE and _opaque_of(old) != _opaque_of(new):
            touched.parents.update(self._services_by_namespace.get(Namespace(ref.name)))
        if ref.kind is Kind.SERVICE:
            name = ServiceName(ref.namespace, ref.name)
            touched.parents.add(ref)
            touched.members.add(name)
            if _as_backend(old) != _as_backend(new):
                for route in self._routes_by_backend.get(name):
                    touched.parents.update(services_of(self._objects[route]))

    def move(self, ref: Ref, old: Parsed | None, new: Parsed | None) -> None:
        """Know the object as ``new`` from now on."""
        self._routes_by_parent.move(ref, services_of(old), services_of(new))
        self._routes_by_backend.move(ref, _backends_of(old), _backends_of(new))
        self._services_by_label.move(ref, _selector_of(old), _selector_of(new))
        self._services_by_namespace.move(ref, _namespace_of(old), _namespace_of(new))
        self._workloads_by_label.move(ref, _labels_of(old), _labels_of(new))

    def compile(self, ref: Ref) -> ParentOutput:
        """Return what the Service ``ref`` comes to, be it there or not."""
        routes = [route for route in self._find(self._routes_by_parent.get(ref)) if isinstance(route, Route)]
        backends = {backend for route in routes for backend in _backends_of(route)}
        found = ((backend, self._objects.get(backend.ref)) for backend in backends)
        services = {backend: service for backend, service in found if isinstance(service, Service)}
        found_service = self._objects.get(ref)
        service = found_service if isinstance(found_service, Service) else None
        if service is not None:
            namespace = self._objects.get(Ref(Kind.NAMESPACE, Namespace(""), ref.namespace))
            service = declare_opaque(service, _opaque_of(namespace), self._config.opaque_ports)
        return compile_service(ServiceName(ref.namespace, ref.name), service, routes, services)

    def compile_slices(self, name: ServiceName, existing: Mapping[str, Json]) -> dict[str, Json]:
        """Return the EndpointSlices of Service ``name``. ``existing``: those to pack its members into."""
        service = self._objects.get(name.ref)
        if not isinstance(service, Service):
            return {}
        return emit_slices(service, select_members(service, self._find_workloads(service)), existing)

    def _find_services(self, workload: ExternalWorkload) -> list[Service]:
        refs = {ref for label in _labels_of(workload) for ref in self._services_by_label.get(label)}
        return [
            service for service in self._find(refs) if isinstance(service, Service) and is_selected(service, workload)
        ]

    def _find_workloads(self, service: Service) -> list[ExternalWorkload]:
        labels = [(service.ref.namespace, pair) for pair in service.selector or ()]
        refs = min((self._workloads_by_label.get(label) for label in labels), key=len, default=frozenset[Ref]())
        return [workload for workload in self._find(refs) if isinstance(workload, ExternalWorkload)]

    def _find(self, refs: Iterable[Ref]) -> Iterable[Parsed]:
        return (self._objects[ref] for ref in refs)


def _backends_of(value: Parsed | None) -> AbstractSet[ServiceName]:
    if not isinstance(value, Route):
        return frozenset()
    names = (backend_service(backend) for rule in value.rules for backend in rule.backends)
    return {name for name in names if name is not None}


def _labels_of(value: Parsed | None) -> AbstractSet[Label]:
    if not isinstance(value, ExternalWorkload):
        return frozenset()
    return {(value.ref.namespace, pair) for pair in value.labels}


def _selector_of(value: Parsed | None) -> AbstractSet[Label]:
    """Return one label that every workload behind a Service has."""
    if not isinstance(value, Service) or not value.selector:
        return frozenset()
    return {(value.ref.namespace, value.selector[0])}


def _namespace_of(value: Parsed | None) -> AbstractSet[Namespace]:
    return {value.ref.namespace} if isinstance(value, Service) else frozenset()


def _opaque_of(value: Parsed | None) -> PortRanges | None:
    """Return what a namespace's Services inherit."""
    return value.opaque if isinstance(value, NamespaceObject) else None


def _as_backend(value: Parsed | None) -> tuple[object, ...] | None:
    """Return all that a route's backend can notice of its Service, ``None`` when there is none."""
    return (value.type, value.ports) if isinstance(value, Service) else None
