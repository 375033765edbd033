"""Who may call one workload of a folder of manifests, as delivery would tell its proxy."""

from collections.abc import Iterable, Mapping
from dataclasses import replace

from meshwright.edge.catalog import Catalog
from meshwright.link.govern import govern
from meshwright.model.desired import Json
from meshwright.model.inbound import Inbound, PolicyDefaults, ServerPolicy
from meshwright.model.injection import find_template, read_path
from meshwright.model.pod import Pod
from meshwright.model.proxy import Proxy
from meshwright.model.ref import Kind, Ref
from meshwright.model.snapshot import Parsed
from meshwright.model.units import Namespace
from meshwright.model.workload import ExternalWorkload, NamespaceObject
from meshwright.parse.injection import parse_injection
from meshwright.parse.pod import parse_pod


def find_inbound(
    proxy: Proxy,
    catalog: Catalog,
    parsed: Mapping[Ref, Parsed],
    policies: Iterable[ServerPolicy],
    defaults: PolicyDefaults,
) -> Inbound:
    """Return what holds at the ports of ``proxy``'s workload; of one that is not there, what its namespace and the
    installation have."""
    space = parsed.get(Ref(Kind.NAMESPACE, Namespace(""), proxy.namespace))
    above = space if isinstance(space, NamespaceObject) else None
    workload = find_workload(proxy, catalog, parsed) or _make_pod(proxy, {}, above)
    inherited, opaque = (above.access, above.opaque) if above is not None else (None, None)
    return govern(workload, policies, defaults, inherited, opaque)


def find_workload(proxy: Proxy, catalog: Catalog, parsed: Mapping[Ref, Parsed]) -> Pod | ExternalWorkload | None:
    """Return the pod, the ExternalWorkload, or a pod of the workload that ``proxy`` is called after: ``web`` or
    ``web-7d9f-x2`` for the Deployment ``web``. A pod is as it would be made now: with what its namespace says of the
    proxy."""
    space = parsed.get(Ref(Kind.NAMESPACE, Namespace(""), proxy.namespace))
    above = space if isinstance(space, NamespaceObject) else None
    is_machine = proxy.kind is Kind.EXTERNAL_WORKLOAD
    single = None if is_machine else catalog.pods.get(proxy.ref)
    if single is not None:
        return _make_pod(proxy, single.raw, above)
    machine = parsed.get(Ref(Kind.EXTERNAL_WORKLOAD, proxy.namespace, proxy.name))
    if isinstance(machine, ExternalWorkload) or is_machine:
        return machine if isinstance(machine, ExternalWorkload) else None
    named = [
        (name, word)
        for word, namespace, name in catalog.workloads
        if namespace == proxy.namespace and f"{proxy.name}-".startswith(f"{name}-")
    ]
    if not named:
        return None
    name, word = max(named, key=lambda found: (len(found[0]), found[1]))
    raw = catalog.workloads[word, proxy.namespace, name].raw
    template = read_path(raw, find_template(raw) or ())
    return _make_pod(proxy, template if isinstance(template, dict) else {}, above)


def _make_pod(proxy: Proxy, template: Json, above: NamespaceObject | None) -> Pod:
    metadata = template.get("metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    carried = parse_injection(template, dict(above.annotations) if above is not None else {}, {}).carried
    own = metadata.get("annotations")
    annotations = (own if isinstance(own, dict) else {}) | dict(carried)
    pod = parse_pod({**template, "metadata": {**metadata, "annotations": annotations}})
    return replace(pod, ref=Ref(Kind.POD, proxy.namespace, proxy.name))
