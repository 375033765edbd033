"""What is wrong with an object."""

from dataclasses import dataclass
from enum import StrEnum


class Reason(StrEnum):
    """The CamelCase word of a problem; it becomes a condition's reason where the kind has conditions.

    Source: kubernetes-sigs/gateway-api v1.7.0 ``apis/v1/shared_types.go`` RouteConditionReason; the last ones are
    ours, for objects that have no status.
    """

    UNSUPPORTED_VALUE = "UnsupportedValue"
    INCOMPATIBLE_FILTERS = "IncompatibleFilters"
    NO_MATCHING_PARENT = "NoMatchingParent"
    CONFLICTED = "Conflicted"
    BACKEND_NOT_FOUND = "BackendNotFound"
    INVALID_KIND = "InvalidKind"
    UNSUPPORTED_PROTOCOL = "UnsupportedProtocol"
    REF_NOT_PERMITTED = "RefNotPermitted"
    INVALID_ANNOTATION = "InvalidAnnotation"
    INVALID_OBJECT = "InvalidObject"
    TOO_LARGE = "TooLarge"
    INVALID_CERTIFICATE = "InvalidCertificate"
    EXPIRED = "Expired"
    UNTRUSTED = "Untrusted"
    MISSING = "Missing"
    NOT_YET_VALID = "NotYetValid"
    EXPIRES_SOON = "ExpiresSoon"
    OUTLIVES_ANCHOR = "OutlivesAnchor"
    KEY_MISMATCH = "KeyMismatch"
    KEY_ID_MISMATCH = "KeyIdMismatch"
    UNSUPPORTED_KEY = "UnsupportedKey"
    NOT_A_CA = "NotACA"
    WRONG_USAGE = "WrongUsage"
    PATH_TOO_LONG = "PathTooLong"
    WRONG_NAME = "WrongName"
    DUPLICATE = "Duplicate"
    NOT_ISSUED = "NotIssued"
    NO_MATCHING_TARGET = "NoMatchingTarget"
    AUTHENTICATION_NOT_FOUND = "AuthenticationNotFound"
    SELECTS_NOTHING = "SelectsNothing"
    OVERLAPPED = "Overlapped"
    RATE_LIMIT_EXISTS = "RateLimitReasonAlreadyExists"
    UNKNOWN_FIELD = "UnknownField"
    TOKEN_LOCKED = "TokenLocked"
    QUOTA_EXCEEDED = "QuotaExceeded"
    EXPIRY_SUSPENDED = "ExpirySuspended"
    ADDRESS_CONFLICT = "AddressConflict"
    NAME_TAKEN = "NameTaken"
    ENDPOINT_WRITER_CONFLICT = "EndpointWriterConflict"


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One thing that is wrong.

    ``field`` is the path from the object's root as kubectl writes it (``spec.rules[0].matches[1].path.value``,
    ``metadata.annotations[retry.linkerd.io/limit]``), ``""`` for the whole object. ``message`` names what was
    found and what to write instead; it is a sentence without the field's path.
    """

    field: str
    reason: Reason
    message: str

    def __str__(self) -> str:
        return f"{self.field}: {self.message}" if self.field else self.message
