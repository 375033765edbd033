"""Labels and annotations that others set on objects of ours."""

import pytest

from meshwright.model.problem import Problem
from meshwright.parse.label import (
    is_kubernetes_key,
    is_label_key,
    is_label_value,
    is_own_label,
    read_annotations,
    read_labels,
)
from tests.parse.made import Raw, fields


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("a", True),
        ("A.b_c-D", True),
        ("x" * 63, True),
        ("example.com/a", True),
        (f"{'x' * 253}/a", True),
        ("", False),
        ("x" * 64, False),
        ("-a", False),
        ("a-", False),
        ("a b", False),
        ("é", False),
        ("a\n", False),
        ("/a", False),
        ("a/", False),
        ("a/b/c", False),
        ("Example.com/a", False),
        (f"{'x' * 254}/a", False),
    ],
)
def test_keys_are_those_that_kubernetes_takes(key: str, expected: bool) -> None:
    assert is_label_key(key) is expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [("", True), ("a", True), ("x" * 63, True), ("1.2_3-x", True), ("x" * 64, False), ("-", False), ("a b", False)],
)
def test_values_are_those_that_kubernetes_takes(value: str, expected: bool) -> None:
    assert is_label_value(value) is expected


@pytest.mark.parametrize(
    ("key", "is_own", "is_kubernetes"),
    [
        ("meshwright.dev/group", True, False),
        ("config.meshwright.dev/x", True, False),
        ("app.kubernetes.io/managed-by", True, True),
        ("app.kubernetes.io/name", False, True),
        ("kubernetes.io/os", False, True),
        ("x.k8s.io/y", False, True),
        ("notmeshwright.dev/x", False, False),
        ("mykubernetes.io/x", False, False),
        ("meshwright.dev", False, False),
        ("tier", False, False),
    ],
)
def test_it_is_known_whose_a_key_is(key: str, is_own: bool, is_kubernetes: bool) -> None:
    assert (is_own_label(key), is_kubernetes_key(key)) == (is_own, is_kubernetes)


def test_labels_that_cannot_be_set_are_left_out_and_told() -> None:
    faults: list[Problem] = []
    raw: Raw = {"b": "2", "a": "1", "meshwright.dev/x": "1", "c": "-", "-": "1", "d": 3}
    assert read_labels(raw, "labels", faults) == (("a", "1"), ("b", "2"))
    assert sorted(fields(tuple(faults))) == ["labels[-]", "labels[c]", "labels[d]", "labels[meshwright.dev/x]"]


def test_annotations_may_say_anything_but_what_is_ours() -> None:
    faults: list[Problem] = []
    raw: Raw = {"config.meshwright.dev/opaque-ports": "1", "a": "x\ny " * 40, "meshwright.dev/group": "x"}
    read = read_annotations(raw, "annotations", faults)
    assert [key for key, _ in read] == ["a", "config.meshwright.dev/opaque-ports"]
    assert fields(tuple(faults)) == ["annotations[meshwright.dev/group]"]


def test_annotations_have_an_end() -> None:
    faults: list[Problem] = []
    assert read_annotations({"a": "é" * 130_000}, "annotations", faults) == ()
    assert fields(tuple(faults)) == ["annotations"]
