"""Whether Services stand in front of a group of machines, and reach the ports that it declares."""

from collections.abc import Collection, Iterable

from meshwright.link.members import may_have_members, resolve_port
from meshwright.model.desired import Condition
from meshwright.model.group import Group
from meshwright.model.workload import Service, ServicePort

SELECTED = "SelectedByService"

_MOST_NAMED = 5


def find_selection(group: Group, services: Iterable[Service], *, allowed_labels: Collection[str] = ()) -> Condition:
    """Return the condition ``SelectedByService`` of ``group``. Never raises.

    False with the reason ``NoService`` when no Service of its namespace selects what its template makes; with
    ``PortNotDeclared`` when a port of one that does leads to no port of the template, as then nobody reaches it there.
    ``allowed_labels``: keys of labels that a machine may have besides, with any value. ``services``: in any order; of
    other namespaces, too.
    """
    found = sorted(
        (each for each in services if _selects(each, group, frozenset(allowed_labels))), key=lambda each: each.ref
    )
    if not found:
        labels = ",".join(f"{key}={value}" for key, value in group.labels) or "none"
        message = (
            f"No Service of namespace {group.ref.namespace} selects the template's labels ({labels}), so nobody calls "
            "these machines by name; write one whose selector is among them."
        )
        return Condition(type=SELECTED, status="False", reason="NoService", message=message)
    astray = [
        _tell_astray(service, port, group)
        for service in found
        for port in service.ports
        if resolve_port(port, group.ports) is None
    ]
    if astray:
        return Condition(type=SELECTED, status="False", reason="PortNotDeclared", message=_join(astray, " "))
    names = _join([service.ref.name for service in found], ", ")
    return Condition(type=SELECTED, status="True", reason="Selected", message=f"Selected by Service {names}.")


def _selects(service: Service, group: Group, allowed: frozenset[str]) -> bool:
    return (
        may_have_members(service)
        and service.ref.namespace == group.ref.namespace
        and all(pair in group.labels or pair[0] in allowed for pair in service.selector or ())
    )


def _tell_astray(service: Service, port: ServicePort, group: Group) -> str:
    target = f'"{port.target}"' if isinstance(port.target, str) else str(port.target)
    declared = _join(
        [f"{each.transport} {each.port}" + (f" ({each.name})" if each.name else "") for each in group.ports], ", "
    )
    return (
        f"Port {port.port} of Service {service.ref.name} leads to {port.transport} {target}, which the template does "
        f"not declare, it has {declared or 'no port'}; write it at spec.template.ports, or correct the targetPort."
    )


def _join(texts: list[str], between: str) -> str:
    """Return the texts in one line; of many, how many more there are."""
    more = len(texts) - _MOST_NAMED
    return between.join(texts[:_MOST_NAMED]) + (f"{between}and {more} more" if more > 0 else "")
