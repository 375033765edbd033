"""What names look like that machines, tokens and groups are told apart by. For ``fullmatch``.

Source: RFC 1123 section 2.1 (labels and names); kubernetes/apimachinery ``pkg/util/validation/validation.go``
IsDNS1123Label (namespaces), IsDNS1123Subdomain (most other objects).
"""

import re

LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", re.ASCII)
"""A namespace's name."""

SUBDOMAIN = re.compile(r"(?=.{1,253}\Z)[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*", re.ASCII)
"""The name of an object, such as an ExternalGroup."""

UID = re.compile(r"[A-Za-z0-9-]{8,64}", re.ASCII)
"""What a machine calls itself in its group."""
