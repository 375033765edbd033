"""Paths as a proxy compares them: what it makes of a request's path before any rule sees it."""

import re

_UNRESERVED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_ESCAPED = frozenset('"<>^`{|}')
_SEQUENCE = re.compile(r"%([0-9A-Fa-f]{2})")
_PARAMETERS = re.compile(r"(?<=/)(\.\.?);[^/]*(?=/|\Z)")


def normalize_path(path: str) -> str | None:
    """Return ``path``, without its query, as Envoy compares it; ``None`` for one that it answers with 400.

    Dot segments are gone, also those with parameters (``..;x``) or written with escapes; a backslash is a slash;
    escapes of what needs none are undone, all others stay as they are, ``%2F`` among them; slashes are not merged.
    Never raises.

    Source: Envoy ``http_connection_manager.proto`` ``normalize_path``, ``source/common/http/path_utility.cc``
    (``PathUtil::canonicalPath``, which is Chromium's ``url_canon_path.cc``); RFC 3986, 5.2.4 and 6.2.2.
    """
    if not path.startswith("/") or "%00" in path or any(not "!" <= char <= "~" or char in "#?" for char in path):
        return None
    undotted = _PARAMETERS.sub(r"\1", path).replace("\\", "/")
    segments: list[str] = []
    parts = _SEQUENCE.sub(_unescape, undotted).split("/")[1:]
    for number, part in enumerate(parts):
        is_last = number == len(parts) - 1
        match part:
            case "." | "..":
                if part == ".." and segments:
                    segments.pop()
                if is_last:
                    segments.append("")
            case _:
                segments.append("".join(f"%{ord(char):02X}" if char in _ESCAPED else char for char in part))
    return "/" + "/".join(segments)


def _unescape(sequence: re.Match[str]) -> str:
    char = chr(int(sequence[1], 16))
    return char if char in _UNRESERVED else sequence[0]
