"""Regular expressions, compiled as Envoy will do it: one that Envoy refuses takes a whole configuration along."""

import re2

from meshwright.model.units import MAX_REGEX_PROGRAM

_QUIET = re2.Options()
_QUIET.log_errors = False


def find_regex_fault(pattern: str) -> str | None:
    """Return why Envoy would not take ``pattern``, with what to write; ``None`` when it would. Never raises.

    ``pattern`` has no half surrogate pairs.

    Source: Envoy ``envoy/type/matcher/v3/regex.proto`` RegexMatcher, ``source/common/common/regex.cc`` (size).
    """
    if not pattern:
        return "found an empty expression; write one, such as .*"
    try:
        size: int = re2.compile(pattern, _QUIET).programsize
    except re2.error as error:
        why = error.args[0].decode(errors="replace") if isinstance(error.args[0], bytes) else str(error)
        return f"found an expression that RE2 does not take ({why}); write RE2 syntax"
    if size > MAX_REGEX_PROGRAM:
        return f"found an expression of size {size} once compiled; write a simpler one, of at most {MAX_REGEX_PROGRAM}"
    return None


def find_call_fault(service: str, method: str) -> str | None:
    """Return why Envoy would not take the path of gRPC calls that the two expressions make; ``None`` when it would.

    Each is sound on its own; an open ``\\Q`` or their joint size can still spoil the whole.
    """
    return find_regex_fault(f"/(?:{service})/(?:{method})")
