"""Which machines outside the cluster stand behind which Service, and on which ports.

Source: linkerd/linkerd2 ``controller/api/destination/external-workload/endpoints_controller.go`` (which Services) and
``endpoints_reconciler.go`` (``getSupportedAddressTypes``, ``findEndpointPorts``, ``externalWorkloadToEndpoint``).

To make slices of the answer: ``emit_slices(service, select_members(service, workloads), existing)``.
"""

import re
from collections.abc import Iterable

from meshwright.model.linked_members import Family, Member, MemberGroup, MemberGroups, MemberPort
from meshwright.model.ref import Ref
from meshwright.model.units import Port
from meshwright.model.workload import ExternalWorkload, Service, ServicePort, WorkloadPort

_SYSTEM_NAMESPACE = "kube-system"
_DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


def may_have_members(service: Service) -> bool:
    """Return whether workloads are looked for at all.

    Not for ExternalName, not in ``kube-system``, not while the Service is being deleted, not without a selector. An
    empty selector is none: the API server does not keep one, and it must not select everything when read from a file.

    Source: ``endpoints_controller.go`` ``updateService``, ``syncService``; the meaning of an empty selector:
    kubernetes/api ``core/v1/types.go`` ``ServiceSpec.Selector``.
    """
    return (
        service.type != "ExternalName"
        and service.ref.namespace != _SYSTEM_NAMESPACE
        and not service.is_deleting
        and bool(service.selector)
    )


def is_selected(service: Service, workload: ExternalWorkload) -> bool:
    """Return whether ``workload`` stands behind ``service``: same namespace, every pair of the selector a label.

    A change of a workload concerns exactly the Services for which this is true of the old or of the new workload.

    Source: ``endpoints_controller.go`` ``getSvcMembership``.
    """
    return (
        may_have_members(service)
        and service.ref.namespace == workload.ref.namespace
        and set(service.selector or ()) <= set(workload.labels)
    )


def select_members(service: Service, workloads: Iterable[ExternalWorkload]) -> MemberGroups:
    """Return the members of ``service`` among ``workloads``, grouped by what can share a slice.

    A workload is in one group of each of the Service's families that it has addresses of; in none when it has no
    address. A port that the workload does not declare is left out for this workload; a workload that declares none of
    them is a member without ports. Workloads that are not ready are members too. The order of ``workloads`` does not
    matter. Never raises.
    """
    found: dict[tuple[Family, tuple[MemberPort, ...]], dict[Ref, Member]] = {}
    families = tuple(Family(family) for family in service.families) or tuple(Family)
    for workload in workloads:
        if not is_selected(service, workload):
            continue
        ports = _resolve_ports(service, workload)
        for family in families:
            addresses = tuple(ip for ip in workload.ips if _family_of(ip) is family)
            if addresses:
                found.setdefault((family, ports), {})[workload.ref] = Member(
                    workload=workload.ref,
                    uid=workload.uid,
                    addresses=addresses,
                    is_ready=workload.is_ready,
                    hostname=_resolve_hostname(service, workload),
                    zone=workload.zone,
                )
    return tuple(
        MemberGroup(family=family, ports=ports, members=tuple(members[ref] for ref in sorted(members)))
        for (family, ports), members in sorted(found.items(), key=lambda item: item[0])
    )


def _family_of(ip: str) -> Family:
    return Family.IPV6 if ":" in ip else Family.IPV4


def _resolve_ports(service: Service, workload: ExternalWorkload) -> tuple[MemberPort, ...]:
    """Return the Service's ports that ``workload`` serves, sorted: their order in the Service must not move members."""
    numbers = ((port, resolve_port(port, workload.ports)) for port in service.ports)
    return tuple(
        sorted(MemberPort(port.name, number, port.transport) for port, number in numbers if number is not None)
    )


def resolve_port(port: ServicePort, ports: Iterable[WorkloadPort]) -> Port | None:
    """Return the number that ``port`` targets, ``None`` when a workload's ``ports`` lack it with this transport.

    Unlike a Pod, a workload must declare its ports, the numbered ones too. Of two ports of one name the first counts.

    Source: ``endpoints_reconciler.go`` ``findWorkloadPort``.
    """
    for declared in ports:
        said = declared.name if isinstance(port.target, str) else declared.port
        if said == port.target and declared.transport == port.transport:
            return declared.port
    return None


def _resolve_hostname(service: Service, workload: ExternalWorkload) -> str | None:
    """Return the name that DNS gives the endpoint, ``None`` without.

    A workload's name may have dots and 253 characters; an endpoint's hostname is a DNS label. The API server refuses
    the whole slice for one that is not, so such a member goes without.

    Source: kubernetes ``pkg/apis/discovery/validation/validation.go`` ``validateEndpoints``.
    """
    if service.is_headless and _DNS_LABEL.fullmatch(workload.ref.name):
        return workload.ref.name
    return None
