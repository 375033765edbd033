"""A line says which object it is about."""

import io
import logging

import orjson

from meshwright.edge.logs import LogFormat, set_up_logs
from meshwright.model.ref import Kind, Ref
from meshwright.model.units import Namespace

ROUTE = Ref(Kind.HTTP_ROUTE, Namespace("shop"), "r")


def written(style: LogFormat, *line: object) -> str:
    stream = io.StringIO()
    set_up_logs(style=style, level="info", stream=stream)
    logging.getLogger("meshwright.test").warning(*line)
    return stream.getvalue()


def test_a_json_line_has_the_object_in_three_fields() -> None:
    line = orjson.loads(written("json", "%s: %s", ROUTE, "not written"))
    assert line.pop("time").endswith("+00:00")
    assert line == {
        "level": "warning",
        "logger": "meshwright.test",
        "message": "HTTPRoute shop/r: not written",
        "kind": "HTTPRoute",
        "namespace": "shop",
        "name": "r",
    }


def test_a_text_line_names_it_too() -> None:
    assert written("text", "%s: not written", ROUTE).endswith("meshwright.test: HTTPRoute shop/r: not written\n")


def test_kopfs_line_for_each_event_is_not_logged() -> None:
    stream = io.StringIO()
    set_up_logs(style="text", level="debug", stream=stream)
    logging.getLogger("kopf.objects").info("succeeded")
    assert stream.getvalue() == ""
