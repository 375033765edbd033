"""Labels and annotations that we put on objects: what Kubernetes takes, and what is not for others to set.

Source: kubernetes/apimachinery ``pkg/util/validation/validation.go`` IsQualifiedName, IsValidLabelValue;
``pkg/api/validation/objectmeta.go`` ValidateAnnotations, TotalAnnotationSizeLimitB.
"""

import re
from collections.abc import Callable

from meshwright.model.config import LABEL_MANAGED_BY
from meshwright.model.group import Pairs
from meshwright.model.problem import Problem, Reason
from meshwright.parse.shape import quote, read_pairs, shorten

OWN_PREFIX = "meshwright.dev"
"""Keys under it, and under what ends in it, are ours."""

KEY_WANTED = "a key such as tier or example.com/tier, the name in it at most 63 letters, digits, -, _ and ."
VALUE_WANTED = "at most 63 letters, digits, -, _ and ., a letter or digit at both ends"

_INVALID = Reason.INVALID_OBJECT
_NAME = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?", re.ASCII)
_DOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*", re.ASCII)
_LONGEST_DOMAIN = 253
_KUBERNETES = ("kubernetes.io", "k8s.io")
_MOST_BYTES = 248 * 1024
"""Of annotations: the API server takes 256 KiB, and some more are ours."""


def is_label_key(key: str) -> bool:
    """Return whether ``key`` can be a label's: a name, or a domain, ``/`` and a name."""
    domain, slash, name = key.rpartition("/")
    if slash and (len(domain) > _LONGEST_DOMAIN or not _DOMAIN.fullmatch(domain)):
        return False
    return _NAME.fullmatch(name) is not None


def is_label_value(value: str) -> bool:
    """Return whether ``value`` can be a label's; ``""`` can."""
    return value == "" or _NAME.fullmatch(value) is not None


def is_own_label(key: str) -> bool:
    """Return whether meshwright sets the label ``key`` itself: under its own prefix, or who looks after an object."""
    return key == LABEL_MANAGED_BY or _is_under(key, OWN_PREFIX)


def is_kubernetes_key(key: str) -> bool:
    """Return whether ``key`` is under a domain that Kubernetes keeps for itself.

    Source: https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#syntax-and-character-set.
    """
    return any(_is_under(key, domain) for domain in _KUBERNETES)


def read_labels(raw: object, field: str, faults: list[Problem]) -> Pairs:
    """Return the labels of a map, sorted; what is none, or is not for others to set, is left out, and ``faults`` says
    so. Never raises."""
    return tuple(
        (key, value)
        for key, value in read_pairs(raw, field, faults, _INVALID)
        if _may_be_set(key, field, faults, is_own=is_own_label(key))
        and _holds(is_label_value, value, VALUE_WANTED, f"{field}[{shorten(key)}]", faults)
    )


def read_annotations(raw: object, field: str, faults: list[Problem]) -> Pairs:
    """Return the annotations of a map, as `read_labels` does. Settings (``config.meshwright.dev``) are for others."""
    pairs = tuple(
        (key, value)
        for key, value in read_pairs(raw, field, faults, _INVALID)
        if _may_be_set(key, field, faults, is_own=key.lower().startswith(f"{OWN_PREFIX}/"))
    )
    if sum(len(key.encode()) + len(value.encode()) for key, value in pairs) > _MOST_BYTES:
        faults.append(Problem(field, _INVALID, f"found more than {_MOST_BYTES // 1024} KiB; write less"))
        return ()
    return pairs


def _may_be_set(key: str, field: str, faults: list[Problem], *, is_own: bool) -> bool:
    where = f"{field}[{shorten(key)}]"
    if is_own:
        faults.append(Problem(where, _INVALID, "found a key that meshwright sets by itself; leave it out"))
        return False
    return _holds(is_label_key, key, KEY_WANTED, where, faults)


def _holds(test: Callable[[str], bool], text: str, wanted: str, field: str, faults: list[Problem]) -> bool:
    if test(text):
        return True
    faults.append(Problem(field, _INVALID, f"found {quote(text)}; write {wanted}"))
    return False


def _is_under(key: str, domain: str) -> bool:
    said, slash, _ = key.rpartition("/")
    return bool(slash) and (said == domain or said.endswith(f".{domain}"))
