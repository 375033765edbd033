"""What an installation can choose."""

from dataclasses import dataclass

from meshwright.model.units import Namespace

FIELD_MANAGER = "meshwright"
STATUS_MANAGER = "meshwright-status"
CONTROLLER_NAME = "meshwright.dev/policy-controller"

LABEL_MANAGED_BY = "app.kubernetes.io/managed-by"
LABEL_UNIT = "meshwright.dev/unit"
ANNOTATION_HASH = "meshwright.dev/hash"


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Settings that change what is compiled. ``namespace`` is the control plane's own."""

    namespace: Namespace = Namespace("meshwright")
