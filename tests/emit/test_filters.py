"""Filters as Envoy reads them."""

from typing import Any

import pytest

from meshwright.emit.filters import (
    combine_filters,
    emit_header_changes,
    emit_redirect,
    emit_redirect_route,
    emit_rewrite,
)
from meshwright.model.desired import Json
from meshwright.model.route import Filters, FullPath, Header, HeaderModifier, PrefixPath, Redirect, Rewrite
from meshwright.model.units import Port


def header(key: str, value: str, action: str) -> Json:
    return {"header": {"key": key, "value": value}, "append_action": action}


def test_headers_are_set_added_and_removed_on_both_sides() -> None:
    modifier = HeaderModifier(
        set=(Header(name="X-Set", value="1"),), add=(Header(name="x-add", value="2"),), remove=("x-gone",)
    )
    changes = [header("X-Set", "1", "OVERWRITE_IF_EXISTS_OR_ADD"), header("x-add", "2", "APPEND_IF_EXISTS_OR_ADD")]
    assert emit_header_changes(modifier, modifier) == {
        "request_headers_to_add": changes,
        "request_headers_to_remove": ["x-gone"],
        "response_headers_to_add": changes,
        "response_headers_to_remove": ["x-gone"],
    }
    assert emit_header_changes(None, None) == {}


def test_a_percent_sign_in_a_header_stays_one() -> None:
    emitted = emit_header_changes(HeaderModifier(set=(Header(name="a", value="100% %REQ(b)%"),)), None)
    assert emitted["request_headers_to_add"][0]["header"]["value"] == "100%% %%REQ(b)%%"


def headers(*names: str) -> tuple[Header, ...]:
    return tuple(Header(name=name, value=value) for name, _, value in (text.partition("=") for text in names))


@pytest.mark.parametrize(
    ("rule", "backend", "both"),
    [
        (None, None, None),
        (HeaderModifier(remove=("a",)), None, HeaderModifier(remove=("a",))),
        (None, HeaderModifier(remove=("a",)), HeaderModifier(remove=("a",))),
        (
            HeaderModifier(set=headers("A=1", "b=1")),
            HeaderModifier(set=headers("a=2")),
            HeaderModifier(set=headers("b=1", "a=2")),
        ),
        (
            HeaderModifier(set=headers("A=1"), add=headers("b=1")),
            HeaderModifier(remove=("a", "B")),
            HeaderModifier(remove=("a", "B")),
        ),
        (
            HeaderModifier(set=headers("a=1"), add=headers("b=1"), remove=("c",)),
            HeaderModifier(add=headers("a=2", "b=2", "c=2")),
            HeaderModifier(set=headers("a=1"), add=headers("b=1", "a=2", "b=2", "c=2"), remove=("c",)),
        ),
        (
            HeaderModifier(remove=("A",)),
            HeaderModifier(set=headers("a=2")),
            HeaderModifier(set=headers("a=2")),
        ),
    ],
)
def test_a_backends_header_changes_come_after_the_rules(
    rule: HeaderModifier | None, backend: HeaderModifier | None, both: HeaderModifier | None
) -> None:
    first, then = Filters(request_headers=rule), Filters(request_headers=backend)
    assert combine_filters(first, then) == Filters(request_headers=both, rewrite=Rewrite())
    first, then = Filters(response_headers=rule), Filters(response_headers=backend)
    assert combine_filters(first, then) == Filters(response_headers=both, rewrite=Rewrite())


@pytest.mark.parametrize(
    ("rule", "backend", "hostname"),
    [(None, None, None), ("a", None, "a"), (None, "b", "b"), ("a", "b", "b")],
)
def test_a_backends_host_beats_the_rules(rule: str | None, backend: str | None, hostname: str | None) -> None:
    first, then = (Filters(rewrite=Rewrite(hostname=name) if name else None) for name in (rule, backend))
    assert combine_filters(first, then).rewrite == Rewrite(hostname=hostname)


@pytest.mark.parametrize(
    ("path", "emitted"),
    [
        (PrefixPath(matched="/foo", value="/xyz"), {"prefix_rewrite": "/xyz"}),
        (PrefixPath(matched="/foo", value="/xyz/"), {"prefix_rewrite": "/xyz"}),
        (
            PrefixPath(matched="/fo.o", value="/"),
            {"regex_rewrite": {"pattern": {"regex": r"^/fo\.o/*"}, "substitution": "/"}},
        ),
        (
            PrefixPath(matched="/foo", value=""),
            {"regex_rewrite": {"pattern": {"regex": "^/foo/*"}, "substitution": "/"}},
        ),
        (PrefixPath(matched="/", value="/xyz"), {"prefix_rewrite": "/xyz/"}),
        (PrefixPath(matched="/", value="/"), {}),
        (FullPath(value="/a"), {"regex_rewrite": {"pattern": {"regex": "^[^?#]*"}, "substitution": "/a"}}),
        (FullPath(value=""), {"regex_rewrite": {"pattern": {"regex": "^[^?#]*"}, "substitution": "/"}}),
        (FullPath(value="/\\1"), {"regex_rewrite": {"pattern": {"regex": "^[^?#]*"}, "substitution": "/\\\\1"}}),
    ],
)
def test_a_path_is_rewritten(path: FullPath | PrefixPath, emitted: Json) -> None:
    assert emit_rewrite(Rewrite(path=path)) == emitted
    assert emit_rewrite(Rewrite(path=path, hostname="a.b")) == {**emitted, "host_rewrite_literal": "a.b"}


def test_no_rewrite_writes_nothing() -> None:
    assert emit_rewrite(None) == {}
    assert emit_rewrite(Rewrite()) == {}


@pytest.mark.parametrize(
    ("service_port", "redirect", "emitted"),
    [
        (80, {}, {}),
        (8080, {}, {"port_redirect": 8080}),
        (80, {"port": Port(80)}, {}),
        (80, {"port": Port(8443)}, {"port_redirect": 8443}),
        (8080, {"port": Port(80)}, {"port_redirect": 80}),
        (80, {"scheme": "https"}, {"scheme_redirect": "https"}),
        (8080, {"scheme": "https"}, {"scheme_redirect": "https", "port_redirect": 443}),
        (80, {"scheme": "https", "port": Port(443)}, {"scheme_redirect": "https"}),
        (80, {"scheme": "https", "port": Port(80)}, {"scheme_redirect": "https", "port_redirect": 80}),
        (8080, {"scheme": "http"}, {"scheme_redirect": "http", "port_redirect": 80}),
        (8080, {"hostname": "a.b"}, {"host_redirect": "a.b", "port_redirect": 8080}),
        (80, {"hostname": "a.b"}, {"host_redirect": "a.b"}),
        (8080, {"hostname": "a.b", "scheme": "https"}, {"host_redirect": "a.b", "scheme_redirect": "https"}),
        (80, {"status": 301}, {"response_code": "MOVED_PERMANENTLY"}),
        (80, {"status": 303}, {"response_code": "SEE_OTHER"}),
        (80, {"status": 307}, {"response_code": "TEMPORARY_REDIRECT"}),
        (80, {"status": 308}, {"response_code": "PERMANENT_REDIRECT"}),
        (80, {"path": FullPath(value="/a")}, {"path_redirect": "/a"}),
        (80, {"path": FullPath(value="")}, {"path_redirect": "/"}),
        (80, {"path": PrefixPath(matched="/a", value="/b")}, {"prefix_rewrite": "/b"}),
        (
            80,
            {"path": PrefixPath(matched="/a", value="/")},
            {"regex_rewrite": {"pattern": {"regex": "^/a/*"}, "substitution": "/"}},
        ),
    ],
)
def test_a_redirect_says_the_port_the_client_will_need(
    service_port: int, redirect: dict[str, Any], emitted: Json
) -> None:
    assert emit_redirect(Redirect(**redirect), Port(service_port)) == {"response_code": "FOUND", **emitted}


@pytest.mark.parametrize(
    ("service_port", "redirect", "taken_out"),
    [
        (8080, {"scheme": "https"}, "https://[^/]*):443"),
        (443, {"scheme": "https"}, "https://[^/]*):443"),
        (8080, {"scheme": "http"}, "http://[^/]*):80"),
        (8080, {"port": Port(80)}, "http://[^/]*):80"),
        (8080, {"scheme": "https", "port": Port(80)}, None),
        (8080, {"scheme": "https", "hostname": "a.b"}, None),
        (8080, {}, None),
        (443, {}, None),
        (80, {"scheme": "https"}, None),
        (80, {}, None),
    ],
)
def test_a_well_known_port_that_envoy_must_be_told_is_taken_out_of_location_again(
    service_port: int, redirect: dict[str, Any], taken_out: str | None
) -> None:
    own = HeaderModifier(set=(Header(name="a", value="b"),))
    made = Redirect(**redirect)
    route = emit_redirect_route(Filters(redirect=made, response_headers=own), made, Port(service_port))
    regex = f"^({taken_out}(/.*)$|^(.*)$"
    value = f"%CEL(re.extract(response.headers['location'], '{regex}', r'\\1\\2\\3'))%"
    changes = [header("location", value, "OVERWRITE_IF_EXISTS")] if taken_out else []
    assert route == {
        "redirect": emit_redirect(made, Port(service_port)),
        "response_headers_to_add": [*changes, header("a", "b", "OVERWRITE_IF_EXISTS_OR_ADD")],
    }
