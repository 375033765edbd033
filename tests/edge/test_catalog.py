"""Sorting manifests by what they are for."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from meshwright.edge.catalog import COMPILED, Catalog, Library, say_unread, sort_manifests
from meshwright.edge.manifests import Place, Reading, read_text
from meshwright.model.problem import Problem, Reason
from meshwright.model.ref import Kind, Ref
from meshwright.model.units import Namespace
from meshwright.parse.kinds import KINDS

SHOP = Namespace("shop")


def test_every_kind_that_parse_reads_is_compiled() -> None:
    assert set(COMPILED) == set(KINDS)


def test_objects_go_where_they_belong_and_the_rest_is_counted() -> None:
    text = """
{apiVersion: v1, kind: Namespace, metadata: {name: shop, namespace: nonsense}}
---
{apiVersion: v1, kind: Service, metadata: {name: web}}
---
{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: web, namespace: other}}
---
{apiVersion: apps/v1, kind: Deployment, metadata: {name: web}}
---
{apiVersion: v1, kind: Pod, metadata: {name: web-0}}
---
{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: web-x}, addressType: IPv4}
---
{apiVersion: kustomize.config.k8s.io/v1beta1, kind: Kustomization}
---
{apiVersion: policy.linkerd.io/v1beta3, kind: HTTPRoute, metadata: {name: web}}
---
{apiVersion: policy.linkerd.io/v1beta3, kind: EgressNetwork, metadata: {name: web}}
"""

    catalog = sort_manifests(read_text(text, "f").manifests, SHOP)

    assert set(catalog.compiled) == {
        Ref(Kind.NAMESPACE, Namespace(""), "shop"),
        Ref(Kind.SERVICE, SHOP, "web"),
        Ref(Kind.HTTP_ROUTE, Namespace("other"), "web"),
        Ref(Kind.POLICY_HTTP_ROUTE, SHOP, "web"),
    }
    assert catalog.compiled[Ref(Kind.SERVICE, SHOP, "web")].raw["metadata"] == {"name": "web", "namespace": "shop"}
    assert list(catalog.workloads) == [("Deployment.apps", SHOP, "web")]
    assert list(catalog.pods) == [Ref(Kind.POD, SHOP, "web-0")]
    assert list(catalog.slices) == [Ref(Kind.ENDPOINT_SLICE, SHOP, "web-x")]
    assert catalog.unread == {"EgressNetwork.policy.linkerd.io": 1, "Kustomization.kustomize.config.k8s.io": 1}
    assert (catalog.problems, catalog.unreadable) == ((), ())


def test_the_first_of_two_manifests_for_one_object_counts() -> None:
    text = "{apiVersion: v1, kind: Service, metadata: {name: a}, n: %d}\n"
    manifests = read_text(f"{text % 1}---\n{text % 2}", "f").manifests

    catalog = sort_manifests(manifests, SHOP)

    [kept] = catalog.compiled.values()
    assert kept.raw["n"] == 1
    [(second, problem)] = catalog.problems
    assert (second.place, problem.reason) == (Place("f", 3), Reason.INVALID_OBJECT)
    assert "f:1" in problem.message


def test_the_same_object_written_twice_is_one_object() -> None:
    text = "{apiVersion: v1, kind: Namespace, metadata: {name: a}}\n"

    catalog = sort_manifests(read_text(f"{text}---\n{text}", "f").manifests, SHOP)

    assert (len(catalog.compiled), catalog.problems) == (1, ())


def test_a_kind_in_the_wrong_case_is_a_problem() -> None:
    text = "{apiVersion: gateway.networking.k8s.io/v1, kind: HttpRoute, metadata: {name: a}}"

    catalog = sort_manifests(read_text(text, "f").manifests, SHOP)

    assert [problem for _, problem in catalog.problems] == [
        Problem("kind", Reason.INVALID_KIND, "HttpRoute is not a kind; write HTTPRoute")
    ]


def test_an_object_without_a_usable_name_is_unreadable() -> None:
    text = "{apiVersion: v1, kind: Service}\n---\n{apiVersion: v1, kind: Service, metadata: {name: 3}}\n"
    text += "---\n{apiVersion: v1, kind: Service, metadata: {name: a, namespace: [b]}}\n"

    catalog = sort_manifests(read_text(text, "f").manifests, SHOP)

    assert [str(error.place) for error in catalog.unreadable] == ["f:1", "f:3", "f:5"]
    assert catalog.compiled == {}


def test_what_was_not_read_is_said_in_one_sentence() -> None:
    places = [Place("values.yaml", line) for line in range(1, 6)]

    assert say_unread({}, []) == ""
    assert say_unread({"Secret": 2, "Gateway.a": 1, "Gateway.b": 3, "Server.a": 1}, places) == (
        "not compiled, meshwright has no use for them: 1 Gateway.a, 3 Gateway.b, 2 Secret, "
        "1 Server, 5 that are no Kubernetes object (values.yaml:1, values.yaml:2, values.yaml:3 and 2 more)"
    )


TEXTS = (
    "{apiVersion: v1, kind: Service, metadata: {name: web}}",
    "{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {type: ExternalName}}",
    "{apiVersion: v1, kind: Service, metadata: {name: web, namespace: mobile}}",
    "{apiVersion: apps/v1, kind: Deployment, metadata: {name: web}, spec: {replicas: 2}}",
    "{apiVersion: apps/v1, kind: Deployment, metadata: {name: web}}",
    "{apiVersion: v1, kind: Pod, metadata: {name: web}}",
    "{apiVersion: v1, kind: service, metadata: {name: web}}",
    "{apiVersion: v1, kind: Service, metadata: {namespace: shop}}",
    "{apiVersion: v1, kind: Secret, metadata: {name: web}}",
    "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: web}, addressType: IPv4}",
    "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: web}}",
    "{kind: List, apiVersion: v1, items: [{apiVersion: v1, kind: Service, metadata: {name: web}},"
    " {apiVersion: v1, kind: Service, metadata: {name: blue}}]}",
)
saves = st.lists(
    st.tuples(st.sampled_from("abc"), st.lists(st.sampled_from(TEXTS), max_size=4)), min_size=1, max_size=8
)


@given(saves)
def test_a_library_says_what_its_files_hold_and_names_all_that_is_different(saved: list[tuple[str, list[str]]]) -> None:
    library, before, known = Library(SHOP), sort_manifests((), SHOP), dict[str, Reading]()
    for file, texts in saved:
        earlier = known[file].pieces if file in known else {}
        known[file] = read_text("".join(f"---\n{text}\n" for text in texts), file, earlier)
        library.put(file, (0, (file,)), known[file].manifests)
        catalog, changed = library.catalog(), library.take()
        fresh = sort_manifests((each for name in sorted(known) for each in known[name].manifests), SHOP)

        assert to_compare(catalog) == to_compare(fresh)
        assert changed >= {key for key in before.keys() | fresh.keys() if before.find(key) != fresh.find(key)}
        before = catalog


def to_compare(catalog: Catalog) -> object:
    return replace(catalog, unreadable=()), list(map(str, catalog.unreadable))
