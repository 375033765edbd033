"""Laws of injection: it is undone exactly, said alike by patch and by file, and stands whatever it is given."""

import copy
from typing import Any

import jsonpatch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meshwright.edge.admission import Request, decide
from meshwright.edge.injection import inject_object
from meshwright.emit.inject import uninject
from meshwright.model.injection import TEMPLATES, Mode, Skip
from meshwright.model.units import Namespace
from meshwright.parse.injection import INJECT, SETTINGS, parse_injection
from tests.emit.made_pods import SETTINGS as INSTALLATION
from tests.emit.made_pods import wrap

SHOP = Namespace("shop")
TEXTS = st.sampled_from(
    ("enabled", "ingress", "disabled", "", "false", "true", "5", "80,http", "1", "2m", "debug", "é")
)
KEYS = st.sampled_from(
    (
        *INJECT,
        *(key for row in SETTINGS.values() for key in row.keys),
        "meshwright.dev/injected",
        "meshwright.dev/proxy-version",
        "kubectl.kubernetes.io/default-container",
        "config.linkerd.io/nope",
        "example.com/a",
    )
)
ANNOTATIONS = st.none() | st.dictionaries(KEYS, TEXTS, max_size=6)
LABELS = st.none() | st.dictionaries(st.sampled_from(("app", "meshwright.dev/control-plane-ns")), TEXTS)
NAMES = st.integers(0, 40).map(
    lambda draw: {1: "meshwright-init", 2: "meshwright-proxy", 3: "linkerd-proxy"}.get(draw, f"app-{draw % 3}")
)
PORTS = st.none() | st.lists(
    st.fixed_dictionaries({"containerPort": st.sampled_from((80, 81, 82, 83, 84, 4191)), "name": NAMES})
)
CONTAINERS = st.lists(st.fixed_dictionaries({"name": NAMES}, optional={"ports": PORTS}), min_size=1, max_size=3)
JUNK = st.recursive(
    st.none() | st.booleans() | st.integers(0, 5000) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS | NAMES, inner, max_size=3),
    max_leaves=8,
)


def mostly(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.integers(0, 30).flatmap(lambda draw: strategy if draw else JUNK)


VOLUMES = st.lists(st.fixed_dictionaries({"name": NAMES}), max_size=2)
CONTEXT = st.fixed_dictionaries({"runAsUser": st.sampled_from((1, 2, 3, 4, 2102))})
SPEC = st.fixed_dictionaries(
    {"containers": mostly(CONTAINERS)},
    optional={
        "initContainers": mostly(st.none() | CONTAINERS),
        "volumes": mostly(st.none() | VOLUMES),
        "hostNetwork": st.sampled_from((False, False, False, True)),
        "securityContext": mostly(st.none() | CONTEXT),
    },
)
METADATA = st.fixed_dictionaries({}, optional={"annotations": mostly(ANNOTATIONS), "labels": mostly(LABELS)})
TEMPLATE = st.fixed_dictionaries({"spec": mostly(SPEC)}, optional={"metadata": mostly(st.none() | METADATA)})
KINDS = st.sampled_from(sorted(TEMPLATES))


def make(kind: tuple[str, str], template: dict[str, Any]) -> dict[str, Any]:
    if not TEMPLATES[kind]:
        return {"apiVersion": "v1", "kind": "Pod", **template}
    return wrap(*kind, template)


@settings(max_examples=120, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(KINDS, TEMPLATE, ANNOTATIONS, st.sampled_from((None, *Mode)))
def test_what_is_injected_is_undone_exactly(
    kind: tuple[str, str], template: dict[str, Any], above: dict[str, str] | None, asked: Mode | None
) -> None:
    manifest = make(kind, template)
    before = copy.deepcopy(manifest)
    result = inject_object(manifest, above or {}, INSTALLATION, namespace=SHOP, asked=asked)
    assert manifest == before
    if result.skip is None:
        assert uninject(result.manifest) == before
        again = inject_object(result.manifest, above or {}, INSTALLATION, namespace=SHOP, asked=asked)
        assert again.skip is Skip.ALREADY_INJECTED
    else:
        assert result.manifest is manifest


@settings(max_examples=80, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(TEMPLATE, ANNOTATIONS)
def test_the_patch_makes_what_the_command_writes(template: dict[str, Any], above: dict[str, str] | None) -> None:
    pod = make(("", "Pod"), template)
    verdict = decide(Request(uid="u", namespace=SHOP, pod=pod), above or {}, INSTALLATION)
    written = inject_object(pod, above or {}, INSTALLATION, namespace=SHOP).manifest
    assert jsonpatch.apply_patch(pod, list(verdict.operations)) == written


@given(JUNK, JUNK)
def test_no_annotation_breaks_the_reader(template: object, above: object) -> None:
    parse_injection(template, above, {})


def test_the_laws_see_injected_pods() -> None:
    pod = make(("", "Pod"), {"spec": {"containers": [{"name": "app"}]}})
    assert decide(Request(uid="u", namespace=SHOP, pod=pod), {"linkerd.io/inject": "enabled"}, INSTALLATION).operations
