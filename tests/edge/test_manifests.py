"""Reading files of manifests, with the place of everything in them."""

from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshwright.edge.documents import Piece
from meshwright.edge.manifests import STDIN, Place, UnreadableError, list_files, read_files, read_text

ROUTE = """\
# the route
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata:
  name: web
  annotations:
    retry.linkerd.io/limit: "3"
spec:
  rules:
    - matches:
        - path: {type: Exact, value: /a}
      timeouts:
        request: 1s
    - {}
"""


@pytest.mark.parametrize(
    ("field", "line"),
    [
        ("", 2),
        ("metadata.annotations[retry.linkerd.io/limit]", 7),
        ("spec.rules[0].matches[0].path.value", 11),
        ("spec.rules[0].timeouts", 12),
        ("spec.rules[1]", 14),
        ("spec.rules[1].backendRefs[0].port", 14),
        ("spec.rules[7].name", 9),
        ("status.parents", 2),
    ],
)
def test_a_field_is_found_at_its_line_and_a_missing_one_at_the_nearest(field: str, line: int) -> None:
    [manifest] = read_text(ROUTE, "web.yaml").manifests

    assert manifest.locate(field) == Place("web.yaml", line)


def test_a_text_with_several_documents_and_a_list_gives_every_object_with_its_line() -> None:
    text = "kind: A\napiVersion: v1\n---\n---\napiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: B}\n"

    reading = read_text(text, "f")

    assert [(m.raw["kind"], m.place.line) for m in reading.manifests] == [("A", 1), ("B", 8)]


def test_items_of_a_typed_list_take_their_kind_from_the_list() -> None:
    text = '{"apiVersion": "v1", "kind": "ServiceList",\n\t"items": [\n\t{"metadata": {"name": "a"}}]}'

    [manifest] = read_text(text, "f.json").manifests

    assert (manifest.raw, manifest.locate("metadata.name")) == (
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}},
        Place("f.json", 3),
    )


def test_values_are_what_json_has() -> None:
    text = "{apiVersion: v1, kind: A, a: 2024-01-01, b: 12:30, c: 0644, d: yes, e: null, f: 1.5, 80: x, g: 'no'}"

    [manifest] = read_text(text, "f").manifests

    assert manifest.raw == {
        "apiVersion": "v1",
        "kind": "A",
        "a": "2024-01-01",
        "b": "12:30",
        "c": 420,
        "d": True,
        "e": None,
        "f": 1.5,
        "80": "x",
        "g": "no",
    }


def test_anchors_and_merges_are_written_out() -> None:
    text = "apiVersion: v1\nkind: A\nbase: &base {a: 1, b: 2}\nmade: {<<: *base, b: 3}\nsame: *base\n"

    [manifest] = read_text(text, "f").manifests

    assert manifest.raw["made"] == {"a": 1, "b": 3}
    assert manifest.raw["same"] == {"a": 1, "b": 2}


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ("kind: A\nspec: b: c", "f:2:8", "quotes"),
        ("kind: A\nspec:\n\ta: 1", "f:3:1", "tab"),
        ("kind: A\nspec:\n   - a: 1\n  - b: 2", "f:4:3", "indented"),
        ("kind: {{ .Values.kind }}\n", "f:1:", "helm template"),
        ("kind: A\nkind: B", "f:2:1", "on line 1"),
        ("a: &x [*x]", "f:1:4", "alias"),
        ("a: .nan", "f:1:4", "JSON number"),
        ("kind: A\nspec: - x", "f:2:7", "on a line of its own"),
        ("a: [1]\n  b: 2\nc", "f:2:", "is not YAML"),
        ("just words", "f:1", 'the text "just words"'),
        ("apiVersion: v1\nmetadata: {}", "f:1", "kind"),
        ("kind: A\napiVersion: 1", "f:1", "apiVersion"),
        ("apiVersion: v1\nkind: List\nitems:\n- 3", "f:4", "a mapping"),
    ],
)
def test_what_is_no_manifest_is_refused_with_place_and_remedy(text: str, place: str, words: str) -> None:
    with pytest.raises(UnreadableError) as caught:
        read_text(text, "f")

    assert str(caught.value).startswith(place)
    assert words in caught.value.message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"kind": "A",\n }', "f.json:2:2: this is not JSON"),
        ('{"kind": NaN}', "f.json:1: NaN is not a JSON number"),
        ('{"kind": "A", "kind": "B"}', 'f.json:1: the key "kind" stands twice'),
    ],
)
def test_broken_json_is_refused_where_it_breaks(text: str, expected: str) -> None:
    with pytest.raises(UnreadableError) as caught:
        read_text(text, "f.json")

    assert str(caught.value).startswith(expected)


def test_a_document_that_is_no_kubernetes_object_at_all_is_skipped() -> None:
    reading = read_text("replicas: 3\n---\napiVersion: v1\nkind: A\n---\n[1, 2]\n", "values.yaml")

    assert (len(reading.manifests), reading.skipped) == (1, (Place("values.yaml", 1), Place("values.yaml", 6)))


def test_a_helm_chart_is_one_thing_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "shop/templates").mkdir(parents=True)
    (tmp_path / "shop/Chart.yaml").write_text("apiVersion: v2\nname: shop\nversion: %VERSION%\n")
    (tmp_path / "shop/templates/web.yaml").write_text("{{ define }}")

    files = list_files([tmp_path])
    [error] = read_files(files).unreadable

    assert files == (tmp_path / "shop/Chart.yaml",)
    assert error.message.endswith(f"helm template {tmp_path / 'shop'} | meshwright compile -")


def test_folders_give_their_visible_manifest_files_in_order(tmp_path: Path) -> None:
    for name in ("b/x.yml", "b/.hidden.yaml", "b/notes.md", ".git/y.yaml", "a.yaml", "b/c.json"):
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.touch()

    files = list_files([tmp_path, STDIN, tmp_path / "a.yaml"])

    assert files == (tmp_path / "a.yaml", tmp_path / "b/c.json", tmp_path / "b/x.yml", STDIN)


@pytest.mark.parametrize("name", ["missing", "empty"])
def test_a_path_without_manifests_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()

    with pytest.raises(UnreadableError) as caught:
        list_files([tmp_path / name])

    assert caught.value.place.file == str(tmp_path / name)


def test_one_unreadable_file_takes_no_other_down(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(b"kind: \xff")
    (tmp_path / "b.yaml").write_text("\ufeffapiVersion: v1\nkind: B\n")

    reading = read_files([*list_files([tmp_path]), tmp_path / "gone.yaml", STDIN], ["kind: C\n", "apiVersion: v1\n"])

    assert [manifest.raw["kind"] for manifest in reading.manifests] == ["B", "C"]
    assert [(Path(error.place.file).name, error.message.split(";")[0]) for error in reading.unreadable] == [
        ("a.yaml", "this is not UTF-8 text"),
        ("gone.yaml", "No such file or directory"),
    ]


PARTS = (
    "{apiVersion: v1, kind: A, metadata: {name: a}}\n",
    "apiVersion: v1\nkind: B\nspec: {b: [1, {c: 2}]}\n",
    "apiVersion: v1\nkind: C\ntext: |\n  a\n\n   --- b\n",
    'apiVersion: v1\nkind: C\ntext: "a\n',
    "apiVersion: v1\nkind: D\nkind: D\n",
    "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: E}\n- {apiVersion: v1, kind: F}\n",
    "# nothing\n",
    "...\n{apiVersion: v1, kind: G}\n",
    "...\n",
    "[1, 2]\n",
    "{apiVersion: v1, kind: H",
    "%YAML 1.1\n",
    "apiVersion: v1\nkind: I\ntext: a\u2028b\n",
    "a: &x {b: *x}\n",
    "{{ if }}\n",
    "text\n",
    "--- {apiVersion: v1, kind: J}\n",
    "---\n",
    "---\n",
)
texts = st.lists(st.sampled_from(PARTS), max_size=6).map("".join)


def read(text: str, known: Mapping[str, Piece]) -> tuple[object, Mapping[str, Piece]]:
    """Return all that a text holds, with the lines of some parts, or why it cannot be read; and its pieces."""
    try:
        reading = read_text(text, "all.yaml", known)
    except UnreadableError as error:
        return str(error), {}
    places = [[each.locate(field) for field in ("spec.b[1].c", "text", "kind", "x")] for each in reading.manifests]
    return (reading, places), reading.pieces


@given(texts, texts)
def test_a_text_of_which_parts_are_known_is_read_as_if_none_were(before: str, after: str) -> None:
    pieces = read(before, {})[1]

    assert read(after, pieces)[0] == read(after, {})[0]


@given(texts)
def test_a_text_is_read_in_pieces_as_it_is_read_at_once(text: str) -> None:
    # A directive is the one thing that keeps a text in one piece; here it is the one there would be anyway.
    at_once = read(f"%YAML 1.1\n---\n{text}", {})[0]
    found = read(f"---\n{text}", {})[0]

    assert isinstance(at_once, str) == isinstance(found, str)
    if isinstance(at_once, tuple) and isinstance(found, tuple):
        assert [(each.raw, each.place.line + 1) for each in found[0].manifests] == [
            (each.raw, each.place.line) for each in at_once[0].manifests
        ]
