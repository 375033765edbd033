"""Whether an issuer of identities can be used, and who vouches for it.

A peer's proxy judges a chain with BoringSSL, so what it would refuse is refused here, before anything is signed.

Source of the rules: RFC 5280 section 6.1 (path validation), 4.2.1 (extensions); of the supported keys: linkerd2
``pkg/issuercerts/issuercerts.go`` CheckIssuerCertAlgoRequirements, CheckTrustAnchorAlgoRequirements.

A message holds no time of now: it is the same from one look to the next, as long as the case is.
"""

import re
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from itertools import pairwise

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

from meshwright.model.identity import Certificate, IssuerSecret, TrustDomain
from meshwright.model.problem import Problem, Reason

ANCHORS_FIELD = "anchors"
"""The field of problems that are about the trust bundle, wherever it is kept."""

ISSUER_KEY = "ECDSA P-256"
ANCHOR_KEYS = frozenset({"ECDSA P-256", "RSA 2048", "RSA 4096"})
_ANCHOR_SIGNATURES = frozenset({"ecdsa-with-SHA256", "sha256WithRSAEncryption"})
_SIGNATURES = _ANCHOR_SIGNATURES | {
    "ecdsa-with-SHA384",
    "ecdsa-with-SHA512",
    "sha384WithRSAEncryption",
    "sha512WithRSAEncryption",
}

MIN_LIFE_RATIO = 1 / 3
"""Less than this left of a certificate's life, and whoever renews it is late."""
MAX_CHAIN = 8
"""Certificates of a chain that are looked at."""

_COMMON_NAME = re.compile(r"(?:^|[,+])CN=((?:\\.|[^,+\\])*)")


def judge_issuer(
    issuer: IssuerSecret, anchors: Sequence[Certificate], trust: TrustDomain, now: datetime
) -> tuple[Problem, ...]:
    """Return all that is wrong with an issuer and the anchors it must hang from: what `may_sign` returns, then doubts.

    ``now`` is aware. Never raises.
    """
    fatal = may_sign(issuer, anchors, trust, now)
    doubts = (*issuer.problems, *_doubt_issuer(issuer, anchors, trust, now), *_doubt_anchors(anchors, now))
    return tuple(dict.fromkeys((*fatal, *doubts)))


def may_sign(
    issuer: IssuerSecret, anchors: Sequence[Certificate], trust: TrustDomain, now: datetime
) -> tuple[Problem, ...]:
    """Return why nothing that this issuer signs would be believed; nothing when it may be used. Never raises."""
    del trust  # a name decides nothing: peers look at the leaf's
    return tuple(_find_fatal(issuer, anchors, now))


def chain_to_anchor(chain: Sequence[Certificate], anchors: Sequence[Certificate], now: datetime) -> Certificate | None:
    """Return the anchor that vouches for the first certificate of ``chain``; ``None`` when none does.

    The others of ``chain`` may stand between, in any order. Every certificate on the way must be valid at ``now``, and
    all but the first must be a CA's, with no shorter a path allowed than there is. Never raises.
    """
    if not chain or not _is_valid(chain[0], now):
        return None
    path = _find_path(chain, anchors, now)
    return path[-1] if path else None


def find_end(chain: Sequence[Certificate], anchors: Sequence[Certificate], now: datetime) -> datetime | None:
    """Return until when the first certificate of ``chain`` is believed: the end of the first to end on its way up to
    the anchor that serves it longest; ``None`` when it is not believed now. Never raises.

    One key may have several anchors: an anchor that was renewed and kept its key.
    """
    if not chain or not _is_valid(chain[0], now):
        return None
    paths = (_find_path(chain, (anchor,), now) for anchor in anchors)
    return max((min(each.not_after for each in path) for path in paths if path), default=None)


def choose_anchors(anchors: Sequence[Certificate], now: datetime) -> tuple[Certificate, ...]:
    """Return the anchors that peers should be given, in their order: all, but for those that are not valid at ``now``
    while another one of the same name and key is.

    BoringSSL looks for an anchor by its name, takes any one whose key fits, and gives up if that one has ended: an
    anchor that was renewed and kept its key must not stand beside its elder. Never raises.

    Source: BoringSSL ``crypto/x509/x509_lu.c`` ``X509_STORE_CTX_get1_issuer``.
    """
    good = {(anchor.subject, anchor.key_id) for anchor in anchors if _is_valid(anchor, now)}
    return tuple(anchor for anchor in anchors if _is_valid(anchor, now) or (anchor.subject, anchor.key_id) not in good)


def _find_fatal(issuer: IssuerSecret, anchors: Sequence[Certificate], now: datetime) -> Iterator[Problem]:
    field = issuer.field
    if not issuer.chain or not issuer.has_fitting_key:
        unreadable = issuer.problems
        yield from unreadable
        if not unreadable:
            missing = "its private key" if issuer.chain else "a certificate"
            yield Problem(field, Reason.MISSING, f"found an issuer without {missing}; write both into the Secret")
    if not issuer.chain:
        return
    first = issuer.chain[0]
    if not first.is_ca:
        message = f"found {_name(first)}, which is no CA's; ask for a certificate with isCA"
        yield Problem(field, Reason.NOT_A_CA, message)
    if first.key_usages is not None and "keyCertSign" not in first.key_usages:
        message = f"found the key usages {_list(first.key_usages)}; ask for `cert sign`, too"
        yield Problem(field, Reason.WRONG_USAGE, message)
    if lacking := _lacking_usages(first):
        message = (
            f"found the extended key usages {_list(first.extended_usages or ())}, so that no certificate below it may "
            f"be used for {_list(lacking)}; ask for these, too, or for none"
        )
        yield Problem(field, Reason.WRONG_USAGE, message)
    if first.key != ISSUER_KEY:
        message = f"found a key {first.key}; write one that is {ISSUER_KEY}"
        yield Problem(field, Reason.UNSUPPORTED_KEY, message)
    if first.signature not in _SIGNATURES:
        message = f"found the signature {first.signature}; have it signed with SHA-256"
        yield Problem(field, Reason.UNSUPPORTED_KEY, message)
    if (problem := _judge_times(first, field, now)) is not None:
        yield problem
    yield from _judge_chain(issuer, anchors, now)


def _judge_chain(issuer: IssuerSecret, anchors: Sequence[Certificate], now: datetime) -> Iterator[Problem]:
    """Yield why an issuer hangs from no anchor."""
    if not anchors:
        message = "found no trust anchor; write them into the trust bundle, or into ca.crt of the issuer's Secret"
        yield Problem(ANCHORS_FIELD, Reason.UNTRUSTED, message)
        return
    path = _find_path(issuer.chain, anchors, now)
    if path:
        anchor = path[-1]
        if anchor.key not in ANCHOR_KEYS:
            message = f"{_name(anchor)} has a key {anchor.key}; write one that is ECDSA P-256, RSA 2048 or RSA 4096"
            yield Problem(ANCHORS_FIELD, Reason.UNSUPPORTED_KEY, message)
        return
    signed = _find_path(issuer.chain, anchors, None)
    if not signed:
        yield _explain_untrusted(issuer, anchors)
        return
    found = list(_judge_path(issuer.field, signed, now))
    if not found:
        message = f"{_name(issuer.chain[0])} hangs from {_name(signed[-1])} in a way that peers refuse; issue it anew"
        found.append(Problem(issuer.field, Reason.UNTRUSTED, message))
    yield from found


def _judge_path(field: str, path: Sequence[Certificate], now: datetime) -> Iterator[Problem]:
    """Yield why the signatures from an issuer up to an anchor are not enough."""
    for depth, (below, above) in enumerate(pairwise(path)):
        place = ANCHORS_FIELD if above is path[-1] else field
        if not above.is_ca:
            message = f"{_name(above)} signed {_name(below)}, and is no CA's; issue it from one"
            yield Problem(place, Reason.NOT_A_CA, message)
        if above.key_usages is not None and "keyCertSign" not in above.key_usages:
            message = f"{_name(above)} has the key usages {_list(above.key_usages)}; it needs `cert sign`, too"
            yield Problem(place, Reason.WRONG_USAGE, message)
        if above is not path[-1]:
            if lacking := _lacking_usages(above):
                message = f"{_name(above)} has extended key usages without {_list(lacking)}; it needs these, or none"
                yield Problem(place, Reason.WRONG_USAGE, message)
            if above.signature not in _SIGNATURES:
                message = f"{_name(above)} has the signature {above.signature}; have it signed with SHA-256"
                yield Problem(place, Reason.UNSUPPORTED_KEY, message)
        if above.path_length is not None and above.path_length < depth + 1:
            message = (
                f"{_name(above)} has the path length {above.path_length}, and {depth + 1} CAs hang from it; "
                f"write at least {depth + 1}, or none"
            )
            yield Problem(place, Reason.PATH_TOO_LONG, message)
        if not _fit_key_ids(below, above):
            message = (
                f"{_name(below)} says that the key {_short(below.issuer_key_id)} signed it, and the key of "
                f"{_name(above)} is called {_short(above.key_id)}; issue it anew"
            )
            yield Problem(field, Reason.KEY_ID_MISMATCH, message)
        if (problem := _judge_times(above, place, now)) is not None:
            yield problem


def _explain_untrusted(issuer: IssuerSecret, anchors: Sequence[Certificate]) -> Problem:
    last = issuer.chain[-1]
    namesake = next((anchor for anchor in anchors if anchor.subject == last.issuer), None)
    if namesake is not None:
        found = (
            f"found {_name(last)}, signed by {last.issuer}, but not with the key of the anchor of that name "
            f"(key {_short(namesake.key_id)}, the signer's {_short(last.issuer_key_id)})"
        )
        message = f"{found}; write the anchor it was signed with into the trust bundle, or issue it anew"
    else:
        names = ", ".join(sorted({anchor.subject for anchor in anchors})[:3])
        message = (
            f"found {_name(last)}, signed by {last.issuer or 'a nameless issuer'}, and the trust bundle has {names}; "
            "write the anchor it was signed with into the bundle, or issue it from one that is there"
        )
    return Problem(issuer.field, Reason.UNTRUSTED, message)


def _doubt_issuer(
    issuer: IssuerSecret, anchors: Sequence[Certificate], trust: TrustDomain, now: datetime
) -> Iterator[Problem]:
    if not issuer.chain:
        return
    first, field = issuer.chain[0], issuer.field
    names = [re.sub(r"\\(.)", r"\1", name) for name in _COMMON_NAME.findall(first.subject)]
    if trust.issuer_name not in names:
        found = f"the common name {names[0]}" if names else "no common name"
        message = f"found {found}; ask for {trust.issuer_name}, or correct the trust domain"
        yield Problem(field, Reason.WRONG_NAME, message)
    if (late := _judge_rest(first, field, now)) is not None:
        yield late
    path = _find_path(issuer.chain, anchors, now)
    if not path:
        return
    for above in path[1:]:
        if first.not_after > above.not_after:
            message = (
                f"found {_name(first)}, valid until {_date(first.not_after)}, and {_name(above)}, which signed it, "
                f"ends {_date(above.not_after)}: what is signed after that is refused; renew {_name(above)} first"
            )
            yield Problem(field, Reason.OUTLIVES_ANCHOR, message)
    if path[-1].fingerprint != first.fingerprint and (late := _judge_rest(path[-1], ANCHORS_FIELD, now)) is not None:
        yield late


def _doubt_anchors(anchors: Sequence[Certificate], now: datetime) -> Iterator[Problem]:
    seen: dict[str, Certificate] = {}
    for anchor in anchors:
        if anchor.fingerprint in seen:
            message = f"found {_name(anchor)} more than once; once is enough"
            yield Problem(ANCHORS_FIELD, Reason.DUPLICATE, message)
            continue
        seen[anchor.fingerprint] = anchor
        if (problem := _judge_times(anchor, ANCHORS_FIELD, now)) is not None:
            yield problem
        if anchor.key not in ANCHOR_KEYS:
            message = f"{_name(anchor)} has a key {anchor.key}; write one that is ECDSA P-256, RSA 2048 or RSA 4096"
            yield Problem(ANCHORS_FIELD, Reason.UNSUPPORTED_KEY, message)
        elif anchor.signature not in _ANCHOR_SIGNATURES:
            message = f"{_name(anchor)} has the signature {anchor.signature}; make the next one with SHA-256"
            yield Problem(ANCHORS_FIELD, Reason.UNSUPPORTED_KEY, message)


def _find_path(
    chain: Sequence[Certificate], anchors: Sequence[Certificate], now: datetime | None
) -> tuple[Certificate, ...]:
    """Return the shortest way from the first certificate of ``chain`` up to an anchor, both with it; ``()`` for none.

    With ``now`` every certificate above the first must be fit to stand there; without, signatures alone decide.
    """
    paths: list[tuple[Certificate, ...]] = [(chain[0],)]
    seen = {chain[0].fingerprint}
    for path in paths:
        below = path[-1]
        same = next((anchor for anchor in anchors if anchor.fingerprint == below.fingerprint), None)
        if same is not None:
            return (*path[:-1], same)
        for is_anchor, above in (
            *((True, anchor) for anchor in anchors),
            *((False, other) for other in chain[:MAX_CHAIN]),
        ):
            if above.fingerprint in seen or (now is not None and not _may_stand_above(path, above, is_anchor, now)):
                continue
            if not _is_signed_by(below, above):
                continue
            if is_anchor:
                return (*path, above)
            seen.add(above.fingerprint)
            paths.append((*path, above))
    return ()


def _may_stand_above(path: Sequence[Certificate], above: Certificate, is_anchor: bool, now: datetime) -> bool:
    return (
        above.is_ca
        and (above.key_usages is None or "keyCertSign" in above.key_usages)
        and (is_anchor or (not _lacking_usages(above) and above.signature in _SIGNATURES))
        and (above.path_length is None or above.path_length >= sum(found.is_ca for found in path))
        and _fit_key_ids(path[-1], above)
        and _is_valid(above, now)
    )


def _is_signed_by(below: Certificate, above: Certificate) -> bool:
    if below.issuer != above.subject:
        return False
    try:
        _load(below).verify_directly_issued_by(_load(above))
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def _load(certificate: Certificate) -> x509.Certificate:
    return x509.load_der_x509_certificate(certificate.der)


def _fit_key_ids(below: Certificate, above: Certificate) -> bool:
    """Return whether both name the same key, where both name one."""
    return not below.issuer_key_id or not above.key_id or below.issuer_key_id == above.key_id


def _lacking_usages(certificate: Certificate) -> tuple[str, ...]:
    """Return which uses of a leaf the extended usages of a CA above it rule out."""
    found = certificate.extended_usages
    if found is None or "anyExtendedKeyUsage" in found:
        return ()
    return tuple(usage for usage in ("serverAuth", "clientAuth") if usage not in found)


def _is_valid(certificate: Certificate, now: datetime) -> bool:
    return certificate.not_before <= now <= certificate.not_after


def _judge_times(certificate: Certificate, field: str, now: datetime) -> Problem | None:
    if now < certificate.not_before:
        message = (
            f"{_name(certificate)} is valid from {_date(certificate.not_before)} on, "
            f"{_bound(certificate.not_before - now)} from now; "
            "set the clocks of this node and of who issued it right, or wait"
        )
        return Problem(field, Reason.NOT_YET_VALID, message)
    if now > certificate.not_after:
        message = (
            f"{_name(certificate)} ended {_date(certificate.not_after)}, {_bound(now - certificate.not_after)} ago; "
            "renew it, or set this node's clock right"
        )
        return Problem(field, Reason.EXPIRED, message)
    return None


def _judge_rest(certificate: Certificate, field: str, now: datetime) -> Problem | None:
    """Return a problem when little is left of a certificate that is valid."""
    life = certificate.not_after - certificate.not_before
    if not _is_valid(certificate, now) or certificate.not_after - now >= life * MIN_LIFE_RATIO:
        return None
    message = (
        f"{_name(certificate)} ends {_date(certificate.not_after)}, "
        f"and less than a third of its {_span(life)} is left; look why it was not renewed"
    )
    return Problem(field, Reason.EXPIRES_SOON, message)


def _name(certificate: Certificate) -> str:
    return certificate.subject or f"the certificate {_short(certificate.serial)}"


def _list(words: Sequence[str]) -> str:
    return ", ".join(words) or "(none)"


def _short(text: str) -> str:
    return text[:16] or "(none)"


def _date(when: datetime) -> str:
    return when.strftime("%Y-%m-%dT%H:%M:%SZ")


def _bound(span: timedelta) -> str:
    """Return a round length of time that ``span`` is under, in steps so wide that the text seldom changes."""
    steps = (
        (60, "1 min"),
        (300, "5 min"),
        (1200, "20 min"),
        (3600, "1 h"),
        (7200, "2 h"),
        (21600, "6 h"),
        (86400, "24 h"),
    )
    seconds = span.total_seconds()
    name = next((name for limit, name in steps if seconds < limit), "")
    return f"less than {name}" if name else f"less than {int(seconds // 86400) + 1} days"


def _span(span: timedelta) -> str:
    """Return how long that is, in its two largest units: ``2d 3h``, ``59m 12s``."""
    seconds = int(span.total_seconds())
    parts = []
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, seconds = divmod(seconds, size)
        if count:
            parts.append(f"{count}{unit}")
    return " ".join(parts[:2]) or "0s"
