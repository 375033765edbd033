"""The operator's flags that are about identity."""

import argparse
import re

from meshwright.edge.flags import Add
from meshwright.model.config import Config, IssuerKind
from meshwright.model.units import Millis, Namespace
from meshwright.parse.bundle_source import BundleSource, parse_bundle_source
from meshwright.parse.duration import parse_gateway_duration

MIN_DURATION = Millis(3_600_000)
MIN_RENEW_BEFORE = Millis(5 * 60_000)
"""cert-manager refuses less of both: its ``pkg/apis/certmanager/v1/const.go``."""

_DOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?(\.[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)*", re.ASCII)
_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?", re.ASCII)
_MAX_COMMON_NAME = 64


def add_identity_arguments(add: Add) -> None:
    """Add the flags; `read_identity_arguments` reads them."""
    add("--trust-domain", "cluster.local", "the root of all identities: spiffe://<trust domain>/ns/.../sa/...")
    add(
        "--issuer-kind",
        "none",
        "who signs the issuer of identities: anchor-secret (cert-manager, with the key of an anchor's Secret), an "
        "Issuer or ClusterIssuer of cert-manager, or none: certificates come from elsewhere",
        choices=tuple(kind.value for kind in IssuerKind),
    )
    add("--issuer-name", "", "the anchor's Secret, or the Issuer or ClusterIssuer")
    add("--issuer-secret", "meshwright-identity-issuer", "the Secret that holds the issuer of identities")
    add("--issuer-duration", "48h", "how long cert-manager's issuer of identities is valid")
    add("--issuer-renew-before", "25h", "how long before its end cert-manager renews it")
    add(
        "--trust-bundle",
        "",
        "where the trust anchors are: configmap/NAME[/KEY] or secret/NAME[/KEY]; else ca.crt of the issuer's Secret",
    )
    add(
        "--webhook-certificate",
        "none",
        "who makes the webhook's certificate: cert-manager, this operator, or none of them",
        choices=("cert-manager", "operator", "none"),
    )


def read_identity_arguments(args: argparse.Namespace) -> tuple[Config, BundleSource | None]:
    """Return the settings and where the trust bundle is, ``None`` for the issuer's own Secret.

    Raises:
        ValueError: a flag is wrong. The message names it, what was found and what to write.
    """
    kind = IssuerKind(_one_of("--issuer-kind", args.issuer_kind, tuple(kind.value for kind in IssuerKind)))
    if (kind is IssuerKind.NONE) != (not args.issuer_name):
        raise ValueError(
            f"--issuer-kind {kind.value} with --issuer-name {args.issuer_name!r}: a name goes with every kind but none"
        )
    duration = _read_duration("--issuer-duration", args.issuer_duration, MIN_DURATION)
    renew_before = _read_duration("--issuer-renew-before", args.issuer_renew_before, MIN_RENEW_BEFORE)
    if renew_before >= duration:
        raise ValueError(
            f"--issuer-renew-before {args.issuer_renew_before}: write less than --issuer-duration, which is "
            f"{args.issuer_duration}; half of it and a little is usual"
        )
    try:
        bundle = parse_bundle_source(args.trust_bundle)
    except ValueError as error:
        raise ValueError(f"--trust-bundle {args.trust_bundle}: write {error}") from None
    maker = _one_of("--webhook-certificate", args.webhook_certificate, ("cert-manager", "operator", "none"))
    config = Config(
        namespace=Namespace(args.namespace),
        trust_domain=_matching("--trust-domain", args.trust_domain, _DOMAIN, "a domain name in lower case"),
        issuer_kind=kind,
        issuer_name=args.issuer_name and _matching("--issuer-name", args.issuer_name, _NAME, "an object's name"),
        issuer_secret=_matching("--issuer-secret", args.issuer_secret, _NAME, "a Secret's name"),
        issuer_duration=duration,
        issuer_renew_before=renew_before,
        asks_webhook_certificate=maker == "cert-manager",
    )
    name = config.trust.issuer_name
    if kind is not IssuerKind.NONE and len(name) > _MAX_COMMON_NAME:
        # RFC 5280 appendix A.1, ub-common-name.
        raise ValueError(
            f"the issuer's common name {name} has {len(name)} letters, and {_MAX_COMMON_NAME} are allowed; choose a "
            "shorter --trust-domain or --namespace"
        )
    return config, bundle


def _one_of(flag: str, text: str, choices: tuple[str, ...]) -> str:
    # argparse does not look at a default, and so not at what the environment says.
    if text not in choices:
        raise ValueError(f"{flag} {text}: write one of {', '.join(choices)}")
    return text


def _matching(flag: str, text: str, pattern: re.Pattern[str], wanted: str) -> str:
    if not pattern.fullmatch(text):
        raise ValueError(f"{flag} {text}: write {wanted}")
    return text


def _read_duration(flag: str, text: str, least: Millis) -> Millis:
    try:
        duration = parse_gateway_duration(text)
    except ValueError as error:
        raise ValueError(f"{flag} {text}: write {error}") from None
    if duration < least or duration % 1000:
        raise ValueError(
            f"{flag} {text}: write at least {least // 60_000}m, in whole seconds: cert-manager takes no less"
        )
    return duration
