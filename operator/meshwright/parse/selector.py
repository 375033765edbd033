"""Label selectors, as Servers and ServerAuthorizations write them.

Source: linkerd2 ``policy-controller/k8s/api/src/labels.rs`` Selector.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from meshwright.model.problem import Problem, Reason
from meshwright.model.selector import Expression, Operator, Selector
from meshwright.parse.leaf import Word
from meshwright.parse.shape import SHAPE, is_text, make_reader, quote, read_items, read_pairs

_INVALID = Reason.INVALID_OBJECT
_LISTS = (Operator.IN, Operator.NOT_IN)

_OperatorWord = Annotated[
    Literal["In", "NotIn", "Exists", "DoesNotExist"],
    Field(description="In, NotIn, Exists or DoesNotExist"),
]


@dataclass(frozen=True, slots=True, kw_only=True, config=SHAPE)
class _SelectorShape:
    match_labels: Any = None
    match_expressions: Any = None


@dataclass(frozen=True, slots=True, kw_only=True, config=SHAPE)
class _ExpressionShape:
    key: Word = ""
    operator: _OperatorWord = "In"
    values: Any = None


_read_selector = make_reader(_SelectorShape, _INVALID)
_read_expression = make_reader(_ExpressionShape, _INVALID, required=("key", "operator"))


def read_selector(raw: object, field: str, faults: list[Problem], problems: list[Problem]) -> Selector | None:
    """Return the selector ``raw``; ``None``, with something in ``faults``, when a part of it cannot be read: the rest
    of it would select more. Never raises.

    ``problems`` gets what can be read but never holds: it selects nothing.
    """
    before = len(faults)
    shape = _read_selector(raw, field, faults) or _SelectorShape()
    labels = read_pairs(shape.match_labels, f"{field}.matchLabels", faults, _INVALID)
    at_expressions = f"{field}.matchExpressions"
    expressions = []
    for index, item in enumerate(read_items(shape.match_expressions, at_expressions, faults, _INVALID)):
        expression = _make_expression(item, f"{at_expressions}[{index}]", faults, problems)
        if expression is not None:
            expressions.append(expression)
    if len(faults) > before:
        return None
    selector = Selector(labels=labels, expressions=tuple(expressions))
    problems += [
        Problem(field, Reason.SELECTS_NOTHING, f"found conditions on {quote(key)} that never hold together; drop one")
        for key in _find_conflicts(selector)
    ]
    return selector


def _make_expression(
    raw: object,
    field: str,
    faults: list[Problem],
    problems: list[Problem],
) -> Expression | None:
    shape = _read_expression(raw, field, faults)
    if shape is None:
        return None
    values = []
    for index, item in enumerate(read_items(shape.values, f"{field}.values", faults, _INVALID)):
        if is_text(item):
            values.append(item)
        else:
            message = f"found {quote(item)}; write a text, in quotes if need be"
            faults.append(Problem(f"{field}.values[{index}]", _INVALID, message))
    operator = Operator(shape.operator)
    if operator in _LISTS and not values:
        message = f"it is missing, and so {operator.value} never holds; write the values to compare with"
        problems.append(Problem(f"{field}.values", Reason.SELECTS_NOTHING, message))
    elif operator not in _LISTS and values:
        message = f"found values beside {operator.value}, which then never holds; leave them out"
        problems.append(Problem(f"{field}.values", Reason.SELECTS_NOTHING, message))
    return Expression(key=shape.key, operator=operator, values=tuple(sorted(set(values))))


def _find_conflicts(selector: Selector) -> list[str]:
    """Return the labels, sorted, of which no value at all, nor none, meets every condition."""
    return sorted(
        key
        for key, expressions in _group_by_key(selector).items()
        if len(expressions) > 1
        and all(each.operator in _LISTS or not each.values for each in expressions)
        and not any(all(each.holds(labels) for each in expressions) for labels in _make_candidates(key, expressions))
    )


def _group_by_key(selector: Selector) -> Mapping[str, list[Expression]]:
    grouped: dict[str, list[Expression]] = {}
    for key, value in selector.labels:
        grouped.setdefault(key, []).append(Expression(key=key, operator=Operator.IN, values=(value,)))
    for expression in selector.expressions:
        # What never holds by itself has its Problem already.
        if expression.values or expression.operator not in _LISTS:
            grouped.setdefault(expression.key, []).append(expression)
    return grouped


def _make_candidates(key: str, expressions: list[Expression]) -> list[dict[str, str]]:
    """Return labels of which one meets ``expressions`` if any do: without the label, and with what the shortest list
    of values has, or, where there is no list, with a value that nobody names."""
    lists = [each.values for each in expressions if each.operator is Operator.IN]
    nameless = "\0"
    return [{}, *({key: value} for value in (min(lists, key=len) if lists else (nameless,)))]
