"""How log lines look: text for people, or one JSON object a line."""

import logging
from datetime import UTC, datetime
from typing import Literal, TextIO

import orjson

from meshwright.model.ref import Ref

LogFormat = Literal["json", "text"]


class JsonFormatter(logging.Formatter):
    """One JSON object a line. The object that a line is about (a `Ref` among its arguments) is in ``kind``,
    ``namespace`` and ``name``."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        arguments = record.args if isinstance(record.args, tuple) else ()
        for ref in [argument for argument in arguments if isinstance(argument, Ref)][:1]:
            line |= {"kind": ref.kind.word, "namespace": ref.namespace, "name": ref.name}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return orjson.dumps(line, default=str).decode()


def set_up_logs(*, style: LogFormat, level: str, stream: TextIO | None = None) -> None:
    """Send all logs to ``stream``, standard error if ``None``, and keep kopf's to what matters: it has a line for each
    event."""
    handler = logging.StreamHandler(stream)
    if style == "json":
        handler.setFormatter(JsonFormatter())
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s"))
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
    for name in ("kopf", "kopf.objects", "aiohttp"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("kopf._core.reactor.running").setLevel(logging.ERROR)  # it warns that signals are left to us
