"""Envoy fields for Gateway API filters: headers, redirects and rewrites."""

from meshwright.emit.matches import quote
from meshwright.model.desired import Json
from meshwright.model.route import Filters, FullPath, Header, HeaderModifier, PrefixPath, Redirect, Rewrite
from meshwright.model.units import Port

_WELL_KNOWN = {"http": 80, "https": 443}
_REDIRECT_CODES = {
    301: "MOVED_PERMANENTLY",
    302: "FOUND",
    303: "SEE_OTHER",
    307: "TEMPORARY_REDIRECT",
    308: "PERMANENT_REDIRECT",
}


def emit_header_changes(request: HeaderModifier | None, response: HeaderModifier | None) -> Json:
    """Return the fields that change headers: the same names on a Route and on a weighted cluster; ``{}`` for none."""
    emitted: Json = {}
    for side, modifier in (("request", request), ("response", response)):
        if modifier is None:
            continue
        add = [_emit_header(header, "OVERWRITE_IF_EXISTS_OR_ADD") for header in modifier.set]
        add += [_emit_header(header, "APPEND_IF_EXISTS_OR_ADD") for header in modifier.add]
        if add:
            emitted[f"{side}_headers_to_add"] = add
        if modifier.remove:
            emitted[f"{side}_headers_to_remove"] = list(modifier.remove)
    return emitted


def combine_filters(rule: Filters, backend: Filters) -> Filters:
    """Return the filters that do to headers and host what those of ``rule`` and then those of ``backend`` do.

    Envoy runs what stands on a weighted cluster before what stands on its route, so a backend's filters are on the
    cluster only together with the rule's. Of one header Envoy removes, then sets, then adds.

    Source: Gateway API ``apis/v1/httproute_types.go`` HTTPBackendRef.Filters; Envoy ``source/common/router/
    header_parser.cc`` evaluateHeaders.
    """
    hostnames = (part.rewrite.hostname for part in (backend, rule) if part.rewrite is not None)
    return Filters(
        request_headers=_combine_modifiers(rule.request_headers, backend.request_headers),
        response_headers=_combine_modifiers(rule.response_headers, backend.response_headers),
        rewrite=Rewrite(hostname=next((name for name in hostnames if name is not None), None)),
    )


def _combine_modifiers(first: HeaderModifier | None, then: HeaderModifier | None) -> HeaderModifier | None:
    if first is None or then is None:
        return first or then
    replaced = {header.name.lower() for header in then.set} | {name.lower() for name in then.remove}
    return HeaderModifier(
        set=(*(header for header in first.set if header.name.lower() not in replaced), *then.set),
        add=(*(header for header in first.add if header.name.lower() not in replaced), *then.add),
        remove=(*(name for name in first.remove if name.lower() not in replaced), *then.remove),
    )


def emit_rewrite(rewrite: Rewrite | None) -> Json:
    """Return the fields of a RouteAction that rewrite host and path; ``{}`` for none. The query string stays."""
    if rewrite is None:
        return {}
    emitted: Json = {}
    if rewrite.hostname is not None:
        emitted["host_rewrite_literal"] = rewrite.hostname
    match rewrite.path:
        case FullPath(value=value):
            emitted["regex_rewrite"] = _emit_regex_rewrite("^[^?#]*", value or "/")
        case PrefixPath() as path:
            emitted |= _emit_prefix_change(path)
        case None:
            pass
    return emitted


def emit_redirect_route(filters: Filters, redirect: Redirect, service_port: Port) -> Json:
    """Return the fields of a Route that answers with ``redirect``, one of ``filters``. ``service_port`` is the port
    that the client called.

    The port in Location: the one given; else the well-known one of the given scheme; else ``service_port``. None is
    written where it is well known for the scheme. Envoy itself leaves it out only with a host of our own, and where
    the client's Host has none either: it keeps the port in the client's Host unless another is said. What must be said
    is taken out of Location before it is sent.

    Source: Gateway API ``apis/v1/httproute_types.go`` HTTPRequestRedirectFilter.Port; Envoy
    ``source/common/http/utility.cc`` newUri, ``source/common/router/router.cc`` decodeHeaders (headers are changed
    after Location is there).
    """
    changes = emit_header_changes(filters.request_headers, filters.response_headers)
    action = emit_redirect(redirect, service_port)
    scheme = redirect.scheme or "http"
    if action.get("port_redirect") == _WELL_KNOWN[scheme]:
        changes["response_headers_to_add"] = [_without_port(scheme), *changes.get("response_headers_to_add", ())]
    return {**changes, "redirect": action}


def emit_redirect(redirect: Redirect, service_port: Port) -> Json:
    """Return an ``envoy.config.route.v3.RedirectAction``; its Location may say a port that is well known."""
    emitted: Json = {"response_code": _REDIRECT_CODES[redirect.status]}
    if redirect.scheme is not None:
        emitted["scheme_redirect"] = redirect.scheme
    if redirect.hostname is not None:
        emitted["host_redirect"] = redirect.hostname
    port: int = redirect.port or (_WELL_KNOWN[redirect.scheme] if redirect.scheme else service_port)
    is_default = port == _WELL_KNOWN[redirect.scheme or "http"]
    if not (is_default and (redirect.hostname is not None or service_port == _WELL_KNOWN["http"])):
        emitted["port_redirect"] = port
    match redirect.path:
        case FullPath(value=value):
            emitted["path_redirect"] = value or "/"
        case PrefixPath() as path:
            emitted |= _emit_prefix_change(path)
        case None:
            pass
    return emitted


def _without_port(scheme: str) -> Json:
    """Return the change of a response header that takes the port well known for ``scheme`` out of Location.

    A Location with another scheme or port stays: a request that came with TLS redirects to its own scheme.

    Source: Envoy ``source/extensions/filters/common/expr/evaluator.cc`` (regular expressions in CEL),
    ``api/envoy/extensions/formatter/cel/v3/cel.proto``.
    """
    regex = f"^({scheme}://[^/]*):{_WELL_KNOWN[scheme]}(/.*)$|^(.*)$"
    value = f"%CEL(re.extract(response.headers['location'], '{regex}', r'\\1\\2\\3'))%"
    return {"header": {"key": "location", "value": value}, "append_action": "OVERWRITE_IF_EXISTS"}


def _emit_header(header: Header, append_action: str) -> Json:
    # Envoy reads a value as a format string: a percent sign begins a command, two are one.
    value = header.value.replace("%", "%%")
    return {"header": {"key": header.name, "value": value}, "append_action": append_action}


def _emit_prefix_change(path: PrefixPath) -> Json:
    """Return the field that replaces a matched prefix, the same name on a RouteAction and on a RedirectAction.

    What follows the prefix is empty or begins with a slash, and is put after the replacement without its own trailing
    slash; an empty result is ``/``. ``prefix_rewrite`` joins texts without looking at slashes, so ``/foo`` replaced
    by ``/`` would give ``//bar``.

    Source: Gateway API ``apis/v1/httproute_types.go`` HTTPPathModifier.ReplacePrefixMatch, with its table.
    """
    matched = path.matched.rstrip("/")
    value = path.value.rstrip("/")
    if not matched:
        return {"prefix_rewrite": f"{value}/"} if value else {}
    if not value:
        return {"regex_rewrite": _emit_regex_rewrite(f"^{quote(matched)}/*", "/")}
    return {"prefix_rewrite": value}


def _emit_regex_rewrite(regex: str, literal: str) -> Json:
    return {"pattern": {"regex": regex}, "substitution": literal.replace("\\", "\\\\")}
