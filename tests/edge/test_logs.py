"""A line says which object it is about."""

import io
import logging
from collections.abc import Iterator

import orjson
import pytest

from meshwright.edge.logs import LogFormat, set_up_logs
from meshwright.model.ref import Kind, Ref
from meshwright.model.units import Namespace

ROUTE = Ref(Kind.HTTP_ROUTE, Namespace("shop"), "r")


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    """Give the root logger and put its handlers back afterwards."""
    logger = logging.getLogger()
    handlers, level = logger.handlers.copy(), logger.level
    yield logger
    logger.handlers[:] = handlers
    logger.setLevel(level)


def written(style: LogFormat, *line: object) -> str:
    stream = io.StringIO()
    set_up_logs(style=style, level="info", stream=stream)
    logging.getLogger("meshwright.test").warning(*line)
    return stream.getvalue()


def test_a_json_line_has_the_object_in_three_fields(root: logging.Logger) -> None:
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


def test_a_text_line_names_it_too(root: logging.Logger) -> None:
    assert written("text", "%s: not written", ROUTE).endswith("meshwright.test: HTTPRoute shop/r: not written\n")


def test_kopfs_line_for_each_event_is_not_logged(root: logging.Logger) -> None:
    stream = io.StringIO()
    set_up_logs(style="text", level="debug", stream=stream)
    logging.getLogger("kopf.objects").info("succeeded")
    assert stream.getvalue() == ""
