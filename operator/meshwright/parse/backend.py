"""What a rule sends to.

Source: kubernetes-sigs/gateway-api v1.7.0 ``apis/v1/shared_types.go`` BackendRef, ``object_reference_types.go``
BackendObjectReference.
"""

from typing import Any

from pydantic.dataclasses import dataclass

from meshwright.model.problem import Problem, Reason
from meshwright.model.route import Backend
from meshwright.model.units import Namespace, Port
from meshwright.parse.filters import Place, read_filters
from meshwright.parse.leaf import GroupText, KindText, NamespaceText, NameText, PortNumber, WeightNumber
from meshwright.parse.shape import SHAPE, make_reader, read_few

_UNSUPPORTED = Reason.UNSUPPORTED_VALUE
_MAX_BACKENDS = 16


@dataclass(frozen=True, slots=True, kw_only=True, config=SHAPE)
class _BackendShape:
    group: GroupText = ""
    kind: KindText = "Service"
    namespace: NamespaceText | None = None
    name: NameText = ""
    port: PortNumber | None = None
    weight: WeightNumber = 1
    filters: Any = None


_read_backend = make_reader(_BackendShape, _UNSUPPORTED, required=("name",))


def read_backends(
    raw: object,
    field: str,
    problems: list[Problem],
    namespace: Namespace,
    place: Place,
    prefix: str | None,
) -> tuple[Backend, ...]:
    """Return the backends of a rule, in order. ``problems`` gets only what is wrong with the list itself.

    One that cannot be read stays, with its problems: its share of requests must not go to the others. ``namespace``:
    the route's. ``prefix``: see ``read_filters``.
    """
    return tuple(
        _make_backend(item, f"{field}[{index}]", namespace, place, prefix)
        for index, item in enumerate(read_few(raw, field, problems, _UNSUPPORTED, _MAX_BACKENDS))
    )


def _make_backend(raw: object, field: str, namespace: Namespace, place: Place, prefix: str | None) -> Backend:
    problems: list[Problem] = []
    shape = _read_backend(raw, field, problems) or _BackendShape()
    group = "" if shape.group == "core" else shape.group
    is_service = group == "" and shape.kind == "Service"
    if not is_service:
        written = f"{shape.kind}.{group}" if group else shape.kind
        message = f'found {written}, which cannot be a backend; name a Service (group: "", kind: Service)'
        problems.append(Problem(f"{field}.kind", Reason.INVALID_KIND, message))
    elif isinstance(raw, dict) and raw.get("port") is None:
        message = "it is missing; name the port of the Service to send to"
        problems.append(Problem(f"{field}.port", Reason.BACKEND_NOT_FOUND, message))
    filters = read_filters(shape.filters, f"{field}.filters", problems, place, prefix)
    return Backend(
        field=field,
        group=group,
        kind=shape.kind,
        namespace=namespace if shape.namespace is None else Namespace(shape.namespace),
        name=shape.name,
        port=None if shape.port is None else Port(shape.port),
        weight=shape.weight,
        filters=filters,
        problems=tuple(problems),
    )
