"""What to do about what cert-manager says of a Certificate. One row a reason."""

from collections.abc import Mapping
from types import MappingProxyType

from meshwright.model.identity import Issuance

ADVICE: Mapping[str, str] = MappingProxyType(
    {
        "DoesNotExist": "the Secret is not there yet; wait, and if it stays so look at the CertificateRequests",
        "MissingData": "the Secret lacks a key or a certificate; delete the Secret, and it is made anew",
        "InvalidKeyPair": "the Secret's key does not fit its certificate; delete the Secret, and both are made anew",
        "InvalidCertificate": "the Secret's certificate cannot be read; delete the Secret, and it is made anew",
        "InvalidCertificateRequest": "the last CertificateRequest cannot be read; delete it",
        "ManagedFieldsParseError": "the Secret's managedFields cannot be read; delete the Secret, and it is made anew",
        "SecretOwnerRefMismatch": "the Secret's owner was edited; it will be set right",
        "AdditionalOutputFormatsMismatch": "the Secret's additional formats were edited; they will be set right",
        "SecretMismatch": "the Secret has another key or other names than asked for; wait for the next one",
        "IncorrectIssuer": "the Secret is another issuer's; wait for the next, and look whether its issuer is Ready",
        "IncorrectCertificate": "two Certificates write to this Secret; delete one, or give it another Secret",
        "RequestChanged": "the Certificate was changed; wait for the next one",
        "Renewing": "it is being renewed; if that lasts, look at the CertificateRequests and at the issuer",
        "Expired": "it was not renewed in time; look whether cert-manager runs, and whether the issuer is Ready",
        "ManuallyTriggered": "a renewal was asked for by hand; wait for it",
        "WindowError": "no renewal window comes before it ends; correct spec.renewal.windows",
        "ARIError": "the ACME server says nothing of when to renew; a mesh's issuer needs another kind of issuer",
        "SecretTemplateMismatch": "the Secret's labels or annotations were edited; they will be set right",
        "SecretManagedMetadataMismatch": "the Secret's labels or annotations were edited; they will be set right",
        "Disabled": "its renewal is switched off; set spec.renewal.policy to RenewBefore",
        "Denied": "an approver refused the request; allow it in its CertificateRequestPolicy",
        "Pending": "the issuer has not answered; look whether it is Ready, and whether an approver must allow requests",
        "Failed": "the issuer refused the request; its CertificateRequest says why",
        "Ready": "",
    }
)
"""What to do, by the condition's reason.

Source: cert-manager/cert-manager ``internal/controller/certificates/policies/constants.go``, and
``pkg/apis/certmanager/v1/types_certificaterequest.go`` for the reasons that an attempt ends with.
"""

_ELSE = "look at it with kubectl describe certificate, and at cert-manager's log"
_WAITS = "cert-manager waits an hour after a failure, and twice as long each time; `cmctl renew` tries at once"


def advise(issuance: Issuance) -> str:
    """Return what to do; ``""`` when nothing is to be done."""
    if not issuance.reason and issuance.ready == "True":
        return ""
    if not issuance.ready and not issuance.reason:
        return "cert-manager has not looked at it yet; if that lasts, look whether it runs"
    advice = ADVICE.get(issuance.reason, _ELSE)
    return f"{advice}; {_WAITS}" if issuance.failures else advice
