"""The leaves of objects: names, ports, header names, paths; what each may be and how a message asks for it.

Source of the limits and patterns: kubernetes-sigs/gateway-api v1.7.0 ``apis/v1/shared_types.go`` and
``httproute_types.go``. They are enforced here because objects can be older than the schema that would refuse them.
"""

from typing import Annotated

from pydantic import Field

_LABEL = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
PATH = "/(?:[-A-Za-z0-9/._~!$&'()*+,;=:@]|%[0-9a-fA-F]{2})*"
"""The characters of an absolute path, as an expression without anchors."""

Word = Annotated[str, Field(strict=True, max_length=1024, description="a text")]

GroupText = Annotated[
    str,
    Field(
        strict=True,
        max_length=253,
        pattern=rf"^$|^{_LABEL}(\.{_LABEL})*$",
        description='an API group, such as "" or gateway.networking.k8s.io',
    ),
]
KindText = Annotated[
    str,
    Field(strict=True, max_length=63, pattern="^[a-zA-Z]([-a-zA-Z0-9]*[a-zA-Z0-9])?$", description="a kind: Service"),
]
NameText = Annotated[
    str,
    Field(
        strict=True,
        max_length=253,
        pattern=rf"^{_LABEL}(\.{_LABEL})*$",
        description="a name of lower-case letters, digits, - and .",
    ),
]
NamespaceText = Annotated[
    str,
    Field(
        strict=True,
        max_length=63,
        pattern=f"^{_LABEL}$",
        description="a name of lower-case letters, digits and -, at most 63",
    ),
]
PortNumber = Annotated[int, Field(strict=True, ge=1, le=65535, description="a port number from 1 to 65535")]
WeightNumber = Annotated[int, Field(strict=True, ge=0, le=1_000_000, description="a whole number from 0 to 1000000")]
CountNumber = Annotated[int, Field(strict=True, ge=0, le=2**31 - 1, description="a whole number, 0 or more")]
PreciseHostname = Annotated[
    str,
    Field(
        strict=True,
        max_length=253,
        pattern=rf"^{_LABEL}(\.{_LABEL})*$",
        description="a host name in lower case, without port and without *",
    ),
]
HeaderName = Annotated[
    str,
    Field(
        strict=True,
        max_length=256,
        pattern=r"^[A-Za-z0-9!#$%&'*+\-.^_`|~]+$",
        description="a name of at most 256 letters, digits and !#$%&'*+-.^_`|~",
    ),
]
HeaderValue = Annotated[
    str,
    Field(
        strict=True,
        max_length=4096,
        pattern=r"^[^\x00-\x08\x0a-\x1f\x7f]+$",
        description="a text of 1 to 4096 characters in one line",
    ),
]
QueryValue = Annotated[
    str,
    Field(strict=True, min_length=1, max_length=1024, description="a text of 1 to 1024 characters"),
]
AbsolutePath = Annotated[
    str,
    Field(
        strict=True,
        max_length=1024,
        pattern=f"^{PATH}$",
        description="a path that begins with / and has no query, other characters percent-encoded",
    ),
]
PrefixReplacement = Annotated[
    str,
    Field(
        strict=True,
        max_length=1024,
        pattern=f"^({PATH})?$",
        description='"" or a path that begins with / and has no query, other characters percent-encoded',
    ),
]
