"""Compiled policy as delivery reads it: what a ConfigMap holds, and which outbound unit a client goes by."""

from collections.abc import Mapping
from typing import Any

from meshwright.emit.inbound_unit import DEFAULTS_NAME, make_inbound_unit_name
from meshwright.emit.manifest import make_unit_name
from meshwright.model.config import LABEL_UNIT
from meshwright.model.desired import UnitName
from meshwright.model.inbound import PolicyDefaults, ServerPolicy
from meshwright.model.problem import Problem, Reason
from meshwright.model.proxy import OutboundUnit
from meshwright.model.ref import Ref, ServiceName
from meshwright.model.units import Namespace
from meshwright.parse.delivered import parse_unit
from meshwright.parse.inbound_unit import parse_defaults_unit, parse_inbound_unit

UNIT_SELECTOR = f"{LABEL_UNIT} in (outbound,inbound,defaults)"
"""The label selector of the policy ConfigMaps that delivery reads."""

Unit = OutboundUnit | ServerPolicy | PolicyDefaults


def read_unit(ref: Ref, raw: Mapping[str, Any], control_plane: Namespace) -> Unit | Problem:
    """Return what the policy ConfigMap ``ref`` holds, or what makes it unreadable. Never raises.

    Policy counts only where it belongs, in the ConfigMap of that name: who may write another ConfigMap, of another
    namespace even, does not decide for this one.
    """
    name = UnitName(ref.namespace, ref.name)
    labels = raw["metadata"].get("labels") or {}
    match labels.get(LABEL_UNIT):
        case "inbound":
            policy = parse_inbound_unit(raw)
            if isinstance(policy, ServerPolicy) and make_inbound_unit_name(policy.server) != name:
                return _misplaced(str(policy.server))
            return policy
        case "defaults":
            is_there = name == UnitName(control_plane, DEFAULTS_NAME)
            return parse_defaults_unit(raw) if is_there else _misplaced("the installation")
        case _:
            unit = parse_unit(raw)
            if isinstance(unit, OutboundUnit) and make_unit_name(unit.service, name.namespace) != name:
                return _misplaced(str(unit.service))
            return unit


def is_inbound(raw: Mapping[str, Any]) -> bool:
    """Return whether a policy ConfigMap is about a Server, whether or not it can be read. Never raises."""
    return (raw["metadata"].get("labels") or {}).get(LABEL_UNIT) == "inbound"


class OutboundUnits:
    """Outbound units as they are now, by whom they are for."""

    def __init__(self) -> None:
        self._units: dict[UnitName, OutboundUnit] = {}
        self._consumers: dict[tuple[ServiceName, Namespace], OutboundUnit] = {}
        self._producers: dict[ServiceName, OutboundUnit] = {}

    def __len__(self) -> int:
        return len(self._units)

    def get(self, name: UnitName) -> OutboundUnit | None:
        return self._units.get(name)

    def producer(self, service: ServiceName) -> OutboundUnit | None:
        """Return the unit of a Service for all clients, ``None`` when it has none."""
        return self._producers.get(service)

    def consumer(self, service: ServiceName, namespace: Namespace) -> OutboundUnit | None:
        """Return the unit of a Service for clients in ``namespace`` only, ``None`` when there is none."""
        return self._consumers.get((service, namespace))

    def put(self, name: UnitName, unit: OutboundUnit | None) -> None:
        """Take a unit, ``None`` when it is gone."""
        for each in (self._units.pop(name, None), unit):
            if each is not None:
                self._index(each, is_there=each is unit)
        if unit is not None:
            self._units[name] = unit

    def _index(self, unit: OutboundUnit, *, is_there: bool) -> None:
        if unit.is_consumer:
            key = (unit.service, unit.name.namespace)
            if is_there:
                self._consumers[key] = unit
            else:
                self._consumers.pop(key, None)
        elif is_there:
            self._producers[unit.service] = unit
        else:
            self._producers.pop(unit.service, None)


def _misplaced(whose: str) -> Problem:
    return Problem("", Reason.INVALID_OBJECT, f"this is not where the policy of {whose} is stored")
