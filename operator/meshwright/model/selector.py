"""Label selectors."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Operator(StrEnum):
    """How an expression compares."""

    IN = "In"
    NOT_IN = "NotIn"
    EXISTS = "Exists"
    DOES_NOT_EXIST = "DoesNotExist"


@dataclass(frozen=True, slots=True, kw_only=True)
class Expression:
    """One condition on one label. ``values`` sorted."""

    key: str
    operator: Operator
    values: tuple[str, ...] = ()

    def holds(self, labels: Mapping[str, str]) -> bool:
        """Return whether ``labels`` meet it. One without the values it needs, or with some it must not have, is never
        met.

        Source: linkerd2 ``policy-controller/k8s/api/src/labels.rs`` ``Expression::matches``.
        """
        match self.operator:
            case Operator.IN:
                return self.key in labels and labels[self.key] in self.values
            case Operator.NOT_IN:
                return bool(self.values) and labels.get(self.key) not in self.values
            case Operator.EXISTS:
                return not self.values and self.key in labels
            case Operator.DOES_NOT_EXIST:
                return not self.values and self.key not in labels


@dataclass(frozen=True, slots=True, kw_only=True)
class Selector:
    """A label selector: all of it must hold. Empty, it selects everything. ``labels``: sorted pairs."""

    labels: tuple[tuple[str, str], ...] = ()
    expressions: tuple[Expression, ...] = ()

    def selects(self, labels: Mapping[str, str]) -> bool:
        """Return whether an object with ``labels`` is selected."""
        return all(labels.get(key) == value for key, value in self.labels) and all(
            expression.holds(labels) for expression in self.expressions
        )
