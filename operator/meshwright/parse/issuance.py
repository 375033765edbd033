"""What cert-manager says of a Certificate."""

import re
from collections.abc import Mapping
from typing import Any

from meshwright.model.identity import Issuance

_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", re.ASCII)


def parse_issuance(raw: Mapping[str, Any]) -> Issuance:
    """Return how far cert-manager is with a Certificate; what is not there or not as it should be counts as unsaid.

    Never raises.

    Source: cert-manager/cert-manager ``pkg/apis/certmanager/v1/types_certificate.go`` CertificateStatus.
    """
    status = _map(raw.get("status"))
    listed = status.get("conditions")
    conditions = {
        str(condition.get("type")): condition
        for condition in (listed if isinstance(listed, list) else ())
        if isinstance(condition, Mapping)
    }
    ready, issuing = conditions.get("Ready", {}), conditions.get("Issuing", {})
    is_good = ready.get("status") == "True"
    # A failed attempt is told by Issuing=False with its reason, also while the old certificate is still good.
    failures = status.get("failedIssuanceAttempts")
    failures = failures if isinstance(failures, int) and failures > 0 else 0
    why = issuing if failures and issuing.get("status") == "False" else {} if is_good else ready
    renewal = status.get("renewalTime")
    return Issuance(
        name=str(_map(raw.get("metadata")).get("name") or ""),
        ready=str(ready.get("status") or ""),
        issuing=str(issuing.get("status") or ""),
        reason=str(why.get("reason") or ""),
        message=str(why.get("message") or ""),
        renewal_time=renewal if isinstance(renewal, str) and _TIME.fullmatch(renewal) else "",
        failures=failures,
        is_adopted=is_good and not status.get("revision"),
    )


def _map(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
