"""What a proxy writes down of the requests that it takes for its application, one line each, on standard output."""

from meshwright.emit.names import RULE, of_route
from meshwright.emit.typed import extension
from meshwright.model.desired import Json
from meshwright.model.pod import AccessLog

_STDOUT = "envoy.access_loggers.stdout"
_STDOUT_TYPE = "envoy.extensions.access_loggers.stream.v3.StdoutAccessLog"
_CALLER = "%DOWNSTREAM_PEER_DNS_SAN%"

_FIELDS: Json = {
    "client.addr": "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS%",
    "client.id": _CALLER,
    "timestamp": "%START_TIME%",
    "method": "%REQ(:METHOD)%",
    "uri": "%REQ(:PATH)%",
    "version": "%PROTOCOL%",
    "host": "%REQ(:AUTHORITY)%",
    "user_agent": "%REQ(USER-AGENT)%",
    "route": of_route(RULE),
    "status": "%RESPONSE_CODE%",
    "flags": "%RESPONSE_FLAGS%",
    "request_bytes": "%BYTES_RECEIVED%",
    "response_bytes": "%BYTES_SENT%",
    "total_ns": "%COMMON_DURATION(DS_RX_BEG:DS_TX_END:ns)%",
}
"""By Linkerd's names; ``route`` and ``flags`` (why Envoy itself answered) are ours."""

_COMBINED = (
    f"%DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT% {_CALLER} - [%START_TIME(%d/%b/%Y:%H:%M:%S %z)%] "
    '"%REQ(:METHOD)% %REQ(:PATH)% %PROTOCOL%" %RESPONSE_CODE% %BYTES_SENT% "%REQ(REFERER)%" "%REQ(USER-AGENT)%"\n'
)


def emit_access_log(style: AccessLog) -> list[Json]:
    """Return the access logs of an HTTP filter: one, or none at all.

    ``JSON``: an object with Linkerd's fields. ``APACHE``: the combined format, with the caller's identity where the
    client's own account of itself stands. Who has no identity is ``null``, resp. ``-``.

    Source: linkerd2-proxy ``linkerd/http/access-log/src/lib.rs``; httpd ``docs/manual/mod/mod_log_config``; Envoy
    ``docs/root/configuration/observability/access_log/usage.rst``.
    """
    match style:
        case AccessLog.NONE:
            return []
        case AccessLog.JSON:
            written: Json = {"json_format": _FIELDS}
        case AccessLog.APACHE:
            written = {"text_format_source": {"inline_string": _COMBINED}}
    return [extension(_STDOUT, _STDOUT_TYPE, log_format=written)]
