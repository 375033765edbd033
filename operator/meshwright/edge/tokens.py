"""Whose token a text is, by the API server's word. Tokens are in no log, no exception and no answer.

Source: kubernetes ``staging/src/k8s.io/api/authentication/v1/types.go`` TokenReview; ``pkg/serviceaccount/claims.go``
(the claims of a bound token), ``staging/src/k8s.io/apiserver/pkg/authentication/serviceaccount/util.go``
(PodNameKey, PodUIDKey, and the name of a ServiceAccount's user).
"""

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

import orjson

from meshwright.edge.api_resource import Resource
from meshwright.edge.client import ApiError, Client, Json, Unreachable
from meshwright.model.config import FIELD_MANAGER
from meshwright.model.identity import ServiceAccount
from meshwright.model.ref import Kind, Ref
from meshwright.model.units import Namespace

AUDIENCE = "meshwright"
"""Whom a token must be made for: one made for the API server, or for anybody else, proves nothing here."""

TOKEN_REVIEWS = Resource(
    group="authentication.k8s.io", version="v1", plural="tokenreviews", kind="TokenReview", is_namespaced=False
)
_POD_NAME, _POD_UID = "authentication.kubernetes.io/pod-name", "authentication.kubernetes.io/pod-uid"
_REVIEW_SECONDS = 10.0


class TokenFault(StrEnum):
    """Why a token is refused."""

    MISSING = "NoToken"
    EXPIRED = "TokenExpired"
    WRONG_AUDIENCE = "WrongAudience"
    NOT_BOUND = "TokenNotBound"
    UNKNOWN = "TokenUnknown"


_MESSAGES = {
    TokenFault.MISSING: "send the pod's token in the header Authorization: Bearer …",
    TokenFault.EXPIRED: "the token has expired; read it anew, the kubelet renews its file",
    TokenFault.WRONG_AUDIENCE: f"the token is for somebody else; project one with the audience {AUDIENCE}",
    TokenFault.NOT_BOUND: "the token is not bound to a pod; use a projected token, not a Secret's",
    TokenFault.UNKNOWN: "the API server does not accept the token; its pod or ServiceAccount may be gone",
}


class TokenRefused(Exception):
    """A token that proves nothing. The text says why, and what to do."""

    def __init__(self, fault: TokenFault) -> None:
        super().__init__(_MESSAGES[fault])
        self.fault = fault


class ReviewFailed(Exception):
    """The API server could not be asked: nothing is known of the token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bearer:
    """Whose a token is: a pod, and the ServiceAccount it runs as."""

    pod: Ref
    uid: str
    account: ServiceAccount


async def review_token(client: Client, token: str, now: datetime) -> Bearer:
    """Return whose token it is.

    Raises:
        TokenRefused: nobody's whom it concerns.
        ReviewFailed: the API server is away, or does not let us ask.
    """
    manifest = {
        "apiVersion": TOKEN_REVIEWS.api_version,
        "kind": TOKEN_REVIEWS.kind,
        "spec": {"token": token, "audiences": [AUDIENCE]},
    }
    try:
        answer = await client.create(TOKEN_REVIEWS, manifest, manager=FIELD_MANAGER, seconds=_REVIEW_SECONDS)
    except Unreachable:
        raise ReviewFailed("the API server is away") from None
    except ApiError as error:
        raise ReviewFailed(f"the API server does not review tokens: {error.status} {error.reason}") from None
    status = answer.get("status") or {}
    if status.get("authenticated") is not True:
        raise TokenRefused(_guess_fault(token, now))
    if AUDIENCE not in (status.get("audiences") or ()):
        # A server that does not know audiences accepts tokens made for others.
        raise TokenRefused(TokenFault.WRONG_AUDIENCE)
    return _read_user(status.get("user") or {})


def _read_user(user: Json) -> Bearer:
    extra = user.get("extra") or {}
    match (str(user.get("username") or "").split(":"), extra.get(_POD_NAME), extra.get(_POD_UID)):
        case (["system", "serviceaccount", namespace, name], [str(pod)], [str(uid)]) if namespace and name and uid:
            owner = Namespace(namespace)
            return Bearer(pod=Ref(Kind.POD, owner, pod), uid=uid, account=ServiceAccount(owner, name))
        case _:
            raise TokenRefused(TokenFault.NOT_BOUND)


def _guess_fault(token: str, now: datetime) -> TokenFault:
    """Return why a token was probably refused, by what it says of itself. Only for the message: nothing is believed."""
    claims = _read_claims(token)
    audiences = claims.get("aud")
    ends = claims.get("exp")
    if isinstance(ends, int | float) and ends <= now.timestamp():
        return TokenFault.EXPIRED
    if audiences is not None and AUDIENCE not in (audiences if isinstance(audiences, list) else [audiences]):
        return TokenFault.WRONG_AUDIENCE
    return TokenFault.UNKNOWN


def _read_claims(token: str) -> Mapping[str, Any]:
    parts = token.split(".")
    if len(parts) != 3:
        return {}
    try:
        claims = orjson.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (ValueError, binascii.Error):
        return {}
    return claims if isinstance(claims, dict) else {}
