"""Which of several routes takes a request, and what a proxy makes of its path: the other half of the reference.

Source: Gateway API ``apis/v1/httproute_types.go``, ``grpcroute_types.go`` (matching and precedence); RFC 3986.
"""

import re
from typing import Any

import re2

Raw = dict[str, Any]


def age(raw: Raw) -> tuple[str, str]:
    return raw["metadata"].get("creationTimestamp", "9999"), raw["metadata"]["name"]


def choose(attached: list[Raw], request: Raw, path: str, query: str) -> Raw | None:
    """Return the route whose match is the best of all that take the request."""
    found: list[tuple[Any, ...]] = []
    for number, route in enumerate(attached):
        hosts = route["spec"].get("hostnames", [])
        host = max((rank_host(each, request.get("host", "")) for each in hosts), default=(0, 0))
        if hosts and host == (0, 0):
            continue
        rules = route["spec"].get("rules", [{}] if route["kind"] == "HTTPRoute" else [])
        for index, rule in enumerate(rules):
            matches = rule.get("matches") or [{}]
            if not all(is_expressible(each) for each in matches):
                continue
            for place, match in enumerate(matches):
                rank = (
                    rank_call(match, request, path)
                    if route["kind"] == "GRPCRoute"
                    else rank_match(match, request, path, query)
                )
                if rank is not None:
                    lowest = tuple(-part for part in (*host, *rank))
                    found.append((*lowest, *age(route), index, place, number))
    return attached[min(found)[-1]] if found else None


def rank_host(wanted: str, host: str) -> tuple[int, int]:
    name = re.sub(r":\d+$", "", host).lower().rstrip(".")
    if wanted.startswith("*."):
        return (1, len(wanted)) if name.endswith(wanted[1:]) and name != wanted[1:] else (0, 0)
    return (2, len(wanted)) if name == wanted else (0, 0)


def is_expressible(match: Raw) -> bool:
    texts = [match.get("path", {}), match.get("method", {}), *match.get("headers", []), *match.get("queryParams", [])]
    for each in texts:
        if isinstance(each, dict) and each.get("type") == "RegularExpression":
            try:
                for key in ("value", "service", "method"):
                    re2.compile(each.get(key, "x"), QUIET)
            except re2.error:
                return False
    path = match.get("path", {})
    return bool(path.get("type", "PathPrefix") == "RegularExpression" or path.get("value", "/").startswith("/"))


QUIET = re2.Options()
QUIET.log_errors = False


def same(wanted: Raw, text: str) -> bool:
    if wanted.get("type") == "RegularExpression":
        return re2.fullmatch(wanted["value"], text) is not None
    return bool(wanted["value"] == text)


def headers_hold(match: Raw, request: Raw) -> bool:
    pairs = [*request.get("headers", []), ["host", request.get("host", "")]]
    return all(
        any(name.lower() == each["name"].lower() and same(each, value) for name, value in pairs)
        for each in match.get("headers", [])
    )


def rank_match(match: Raw, request: Raw, path: str, query: str) -> tuple[int, ...] | None:
    how, value = match.get("path", {}).get("type", "PathPrefix"), match.get("path", {}).get("value", "/")
    if how == "PathPrefix":
        stem = value.rstrip("/")
        good, rank = (path + "/").startswith(stem + "/"), (0, len(stem))
    elif how == "Exact":
        good, rank = path == value, (2, len(value))
    else:
        good, rank = re2.fullmatch(value, path) is not None, (1, len(value))
    parameters: dict[str, str] = {}
    for part in filter(None, query.split("&")):
        name, _, text = part.partition("=")
        parameters.setdefault(name, text)
    wanted = match.get("queryParams", [])
    good &= all(each["name"] in parameters and same(each, parameters[each["name"]]) for each in wanted)
    good &= match.get("method", request["method"]) == request["method"] and headers_hold(match, request)
    return (*rank, "method" in match, len(match.get("headers", [])), len(wanted)) if good else None


def rank_call(match: Raw, request: Raw, path: str) -> tuple[int, ...] | None:
    kinds = [value for name, value in request.get("headers", []) if name.lower() == "content-type"]
    if not kinds or not re.fullmatch(r"application/grpc(\+.*)?", kinds[0]):
        return None
    named = match.get("method", {})
    is_regex = named.get("type") == "RegularExpression"
    if named and len(path.split("/")) != 3:
        return None
    for wanted, text in zip((named.get("service"), named.get("method")), path.split("/")[1:], strict=False):
        if wanted is not None and not (re2.fullmatch(wanted, text) if is_regex else wanted == text):
            return None
    if not headers_hold(match, request):
        return None
    lengths = len(named.get("service", "")), len(named.get("method", ""))
    return (*lengths, -sum(bool(each) for each in lengths) * is_regex, len(match.get("headers", [])))


def tidy(path: str) -> str | None:
    """RFC 3986, 5.2.4 and 6.2.2, as Envoy does it."""
    if not re.fullmatch(r"/[!-~]*", path) or "%00" in path or "#" in path:
        return None
    rest = re.sub(r"/(\.\.?);[^/]*", r"/\1", path)
    rest = rest.replace("\\", "/")
    rest = re.sub("%(2[dDeE]|3[0-9]|4[1-9a-fA-F]|5[0-9aAfF]|6[1-9a-fA-F]|7[0-9aAeE])", unescape, rest)
    rest = re.sub('["<>^`{|}]', lambda char: f"%{ord(char[0]):02X}", rest)
    out = ""
    while rest:
        if rest.startswith("/./") or rest == "/.":
            rest = "/" + rest[3:]
        elif rest.startswith("/../") or rest == "/..":
            rest, out = "/" + rest[4:], out.rpartition("/")[0]
        else:
            first = re.match("/[^/]*", rest)
            assert first is not None
            out, rest = out + first[0], rest[first.end() :]
    return out


def unescape(found: re.Match[str]) -> str:
    return chr(int(found[1], 16))
