"""Numbers and texts that must not be swapped for one another."""

from typing import NewType

Millis = NewType("Millis", int)
"""A duration in whole milliseconds, 0 or more."""

Port = NewType("Port", int)
"""A TCP port, 1 to 65535."""

Namespace = NewType("Namespace", str)
"""The name of a Kubernetes namespace."""

UNIT_KEY = "unit.json"
"""The key of a policy ConfigMap's ``data`` that holds the policy."""

DEFAULTS_KEY = "defaults.json"
"""The same of the ConfigMap with what an installation decides."""

INBOUND_VERSION = 1
"""The version of the schema that inbound policy is stored in."""

MAX_UNIT_BYTES = 900 * 1024
"""A policy ConfigMap larger than this is refused; the API server's own limit is 1 MiB."""

MAX_REGEX_PROGRAM = 1000
"""The largest compiled RE2 expression, in RE2's instructions: a bigger one is refused.

Envoy refuses a whole configuration for one expression above its own limit. That would be 100, too small for ``.{0,20}``
or ``\\pN+``: every Envoy of ours is started with this number instead (runtime key ``re2.max_program_size.error_level``,
Envoy ``source/common/common/regex.cc``).
"""
