"""Identities that policies name: DNS names, also with ``*`` in front, and SPIFFE URIs."""

from typing import Annotated

from pydantic import Field

from meshwright.model.problem import Problem, Reason
from meshwright.parse.shape import make_text_reader, quote, read_items

_LABEL = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_SEGMENT = r"([A-Za-z0-9_-]|\.[A-Za-z0-9_-]|\.\.[A-Za-z0-9._-])[A-Za-z0-9._-]*"
SPIFFE = "spiffe://"

_DnsIdentity = Annotated[
    str,
    Field(
        strict=True,
        max_length=512,
        pattern=rf"^(\*|{_LABEL})(\.{_LABEL})*$",
        description="a name in lower case, such as web.shop.serviceaccount.identity.meshwright.cluster.local; "
        "only its first label may be *",
    ),
]
_SpiffeIdentity = Annotated[
    str,
    Field(
        strict=True,
        max_length=2048,
        pattern=rf"^{SPIFFE}[a-z0-9._-]+(/{_SEGMENT})*$",
        description="a URI such as spiffe://example.org/vm-1, without *, query and trailing /",
    ),
]

_read_dns = make_text_reader(_DnsIdentity, Reason.INVALID_OBJECT)
_read_spiffe = make_text_reader(_SpiffeIdentity, Reason.INVALID_OBJECT)


def read_identities(raw: object, field: str, faults: list[Problem], *, may_be_spiffe: bool) -> tuple[str, ...]:
    """Return the identities that a list holds, as written, in order, each once. What is none is left out, and the
    others must not be used without it: ``faults`` says so. Never raises.

    Source: linkerd2 ``policy-controller/src/validation.rs`` ``validate_identity``; SPIFFE-ID specification, 2.
    """
    identities = []
    for index, item in enumerate(read_items(raw, field, faults, Reason.INVALID_OBJECT)):
        where = f"{field}[{index}]"
        is_spiffe = isinstance(item, str) and item.startswith(SPIFFE)
        if is_spiffe and not may_be_spiffe:
            message = (
                f"found {quote(item)}; name SPIFFE identities in a MeshTLSAuthentication and an AuthorizationPolicy"
            )
            faults.append(Problem(where, Reason.INVALID_OBJECT, message))
            continue
        identity = (_read_spiffe if is_spiffe else _read_dns)(item, where, faults)
        if identity is not None:
            identities.append(identity)
    return tuple(dict.fromkeys(identities))
