"""A machine and its group, as the cluster stores them: what people want to see of an ExternalWorkload's status.

Read leniently: what is missing, or is of another form, is as if nobody had said it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from meshwright.edge.check.clocks import read_time
from meshwright.edge.client import Json
from meshwright.model.config import FIELD_MANAGER, LABEL_MANAGED_BY
from meshwright.model.instance import (
    ANNOTATION_AGENT,
    ANNOTATION_GROUP,
    ANNOTATION_TEMPLATE,
    ANNOTATION_UID,
    LABEL_EXTERNAL,
    READY,
)

OURS = f"{LABEL_MANAGED_BY}={FIELD_MANAGER},{LABEL_EXTERNAL}=true"
"""Selects the ExternalWorkloads of machines that have joined by themselves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """A condition as it is stored. ``status`` ``""``: there is none. ``since``: its last transition."""

    status: str = ""
    reason: str = ""
    message: str = ""
    since: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """An ExternalWorkload. ``group``, ``uid``, ``template`` and ``agent`` are ``""`` when it does not say.

    ``is_ours``: the registrar has made it, and keeps it.
    """

    namespace: str
    name: str
    group: str
    uid: str
    addresses: tuple[str, ...]
    template: str
    agent: str
    is_ours: bool
    is_leaving: bool
    conditions: Mapping[str, Told]

    @property
    def ready(self) -> Told:
        return self.told(READY)

    @property
    def is_well(self) -> bool:
        """Whether it is ready, and not only because silence is suffered for a while."""
        return self.ready.status == "True" and self.ready.reason in ("", READY)

    def told(self, type_: str) -> Told:
        """Return one of its conditions."""
        return self.conditions.get(type_, Told())


def read_machine(raw: Json) -> Machine:
    """Return what an ExternalWorkload says. Never raises."""
    meta, spec = _mapping(raw, "metadata"), _mapping(raw, "spec")
    labels, notes = _mapping(meta, "labels"), _mapping(meta, "annotations")
    addresses = tuple(str(each["ip"]) for each in _items(spec, "workloadIPs") if "ip" in each)
    return Machine(
        namespace=str(meta.get("namespace") or ""),
        name=str(meta.get("name") or ""),
        group=str(notes.get(ANNOTATION_GROUP) or ""),
        uid=str(notes.get(ANNOTATION_UID) or ""),
        addresses=addresses,
        template=str(notes.get(ANNOTATION_TEMPLATE) or ""),
        agent=str(notes.get(ANNOTATION_AGENT) or ""),
        is_ours=labels.get(LABEL_MANAGED_BY) == FIELD_MANAGER and labels.get(LABEL_EXTERNAL) == "true",
        is_leaving=bool(meta.get("deletionTimestamp")),
        conditions=read_conditions(raw),
    )


def read_conditions(raw: Json) -> dict[str, Told]:
    """Return an object's conditions by their type. Never raises."""
    return {
        str(each.get("type")): Told(
            status=str(each.get("status") or ""),
            reason=str(each.get("reason") or ""),
            message=str(each.get("message") or ""),
            since=read_time(each.get("lastTransitionTime")),
        )
        for each in _items(_mapping(raw, "status"), "conditions")
    }


def read_rejections(group: Json) -> list[Mapping[str, Any]]:
    """Return what an ExternalGroup's status says of machines that were turned away, the newest first."""
    return _items(_mapping(group, "status"), "lastRejections")


def read_template(group: Json) -> str:
    """Return the hash of the template that is in force, ``""`` when the status does not say."""
    return str(_mapping(group, "status").get("templateHash") or "")


def _mapping(raw: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = raw.get(key)
    return found if isinstance(found, dict) else {}


def _items(raw: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    found = raw.get(key)
    return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []
