"""The issuer that signs leaves here, kept as its Secret and the trust bundle change. Its key is nowhere else.

What comes is judged before it is used. What may not be used is refused, and what was in use before stays, for as long
as it may: a mistake in a Secret stops no pod from being renewed while there is time to mend it.
"""

import base64
import binascii
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from meshwright.edge.clock import utc_now
from meshwright.edge.identity_metrics import IdentityMetrics
from meshwright.edge.leaves import Issuer, SignedLeaf, make_issuer, make_named_leaf
from meshwright.link.trust import choose_anchors, find_end, may_sign
from meshwright.model.desired import Json
from meshwright.model.identity import Certificate, IssuerSecret, ServiceAccount, TrustBundle, TrustDomain
from meshwright.model.problem import Problem, Reason
from meshwright.parse.certificate import encode_pem, parse_bundle, parse_issuer_secret

log = logging.getLogger(__name__)

_KEYS = ("tls.key", "key.pem")
_UNKNOWN = Problem("", Reason.MISSING, "no issuer, or no trust bundle, is known yet")
_GONE = Problem("", Reason.MISSING, "it was deleted; put it back")
_NO_KEY = Problem("", Reason.KEY_MISMATCH, "there is no key that fits its certificate; write both anew, together")


class NoIssuer(Exception):
    """There is no issuer that may sign now. The text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Offer:
    """An issuer as its Secret has it."""

    secret: IssuerSecret
    key: ec.EllipticCurvePrivateKey | None


class Signer:
    """Signs with the newest issuer that may.

    ``bundle_key``: the key of the trust bundle's object (``""``: the usual one), ``None`` when the anchors are those
    of the issuer's own Secret. ``changed`` is called when the issuer or the anchors in use have changed.
    """

    def __init__(
        self,
        trust: TrustDomain,
        *,
        lifetime: timedelta,
        metrics: IdentityMetrics,
        bundle_key: str | None = None,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self.trust = trust
        self.anchors: tuple[Certificate, ...] = ()
        """The trust anchors in use."""
        self.problems: tuple[Problem, ...] = (_UNKNOWN,)
        """What keeps the newest issuer, or the newest bundle, from being used."""
        self.changed: Callable[[], None] = lambda: None
        self._shown: tuple[Certificate, ...] = ()
        self._shown_pem = b""
        self._lifetime = lifetime
        self._metrics = metrics
        self._bundle_key = bundle_key
        self._clock = clock
        self._offer: _Offer | Problem | None = None
        self._bundle: TrustBundle | None = None
        self._bundle_problems: tuple[Problem, ...] = ()
        self._secret: IssuerSecret | None = None
        self._issuer: Issuer | None = None
        self._is_usable = False
        self._said: tuple[Problem, ...] = ()

    @property
    def may_sign(self) -> bool:
        """Whether there was an issuer that may sign, when it was last looked at."""
        return self._is_usable

    @property
    def anchors_pem(self) -> bytes:
        """The anchors that proxies are measured by."""
        return self._shown_pem

    def put_issuer(self, raw: Json | None) -> None:
        """Take the issuer's Secret, ``None`` when it is gone. Never raises."""
        if raw is None:
            self._offer = _GONE
        else:
            secret = parse_issuer_secret(raw)
            self._offer = _Offer(secret=secret, key=_load_key(raw, secret))
        self.look()

    def put_bundle(self, raw: Json | None) -> None:
        """Take the trust bundle's object, ``None`` when it is gone. Never raises.

        One with nothing that is an anchor, or with a part that cannot be read, is not taken: it was cut off.
        """
        if raw is None:
            self._bundle_problems = (Problem("trust bundle", _GONE.reason, _GONE.message),)
        else:
            bundle = parse_bundle(raw, self._bundle_key or "")
            cut = tuple(each for each in bundle.problems if each.reason in (Reason.INVALID_CERTIFICATE, Reason.MISSING))
            if cut or not bundle.anchors:
                self._bundle_problems = cut or bundle.problems
            else:
                self._bundle, self._bundle_problems = bundle, ()
        self.look()

    def look(self) -> None:
        """Judge again: because something has changed, or because time has."""
        if self._offer is None or (self._bundle_key is not None and self._bundle is None and not self._bundle_problems):
            return
        now = self._clock()
        before = (self._issuer, self.anchors, self._shown)
        problems = self._bundle_problems + self._adopt(self._offer, now)
        self._reconsider(now)
        self._shown = choose_anchors(self.anchors, now)
        self._tell(problems)
        if before != (self._issuer, self.anchors, self._shown):
            self._shown_pem = encode_pem(self._shown).encode()
            self.changed()

    def sign(self, key: ec.EllipticCurvePublicKey, account: ServiceAccount, uid: str) -> SignedLeaf:
        """Return a leaf for a pod's key.

        Raises:
            NoIssuer: none may sign now.
        """
        return self.sign_machine(key, uri=self.trust.uri(account), dns=self.trust.dns(account), uid=uid)

    def sign_machine(self, key: ec.EllipticCurvePublicKey, *, uri: str, dns: str, uid: str) -> SignedLeaf:
        """Return a leaf for the key of a machine outside the cluster.

        Raises:
            NoIssuer: none may sign now.
        """
        now = self._clock()
        issuer = self._issuer
        if issuer is None or not self._is_usable or issuer.not_after <= now:
            raise NoIssuer("; ".join(map(str, self.problems)) or "the issuer has expired")
        return make_named_leaf(issuer, key, uri=uri, dns=dns, uid=uid, lifetime=self._lifetime, now=now)

    def _adopt(self, offer: _Offer | Problem, now: datetime) -> tuple[Problem, ...]:
        """Use what is offered from now on, unless it is in use already; or return why it may not be."""
        if isinstance(offer, Problem):
            return (offer,)
        secret, anchors = offer.secret, offer.secret.anchors
        if self._bundle_key is not None:
            anchors = self._bundle.anchors if self._bundle is not None else ()
        if problems := self._judge(secret, anchors, now):
            return problems
        if offer.key is None:
            return (_NO_KEY,)
        if secret != self._secret or anchors != self.anchors:
            self._issuer, self._secret, self.anchors = (
                make_issuer(secret.chain, anchors, offer.key, now),
                secret,
                anchors,
            )
            log.info("leaves are signed by %s until %s", secret.chain[0].subject, self._issuer.not_after)
        return ()

    def _judge(self, secret: IssuerSecret, anchors: tuple[Certificate, ...], now: datetime) -> tuple[Problem, ...]:
        cut = secret.problems if self._bundle_key is None else ()  # these may be anchors that are lost
        return tuple(dict.fromkeys((*may_sign(secret, anchors, self.trust, now), *cut)))

    def _reconsider(self, now: datetime) -> None:
        """Find out whether the issuer in use may still sign, under the anchors that proxies have now."""
        if self._secret is None:
            return
        if self._bundle_key is not None and self._bundle is not None:
            self.anchors = self._bundle.anchors
        self._is_usable = not self._judge(self._secret, self.anchors, now)
        end = find_end(self._secret.chain, self.anchors, now)
        if self._issuer is not None and end is not None and end != self._issuer.not_after:
            # Another anchor of the same key has come, or its time has.
            self._issuer = replace(self._issuer, not_after=end)

    def _tell(self, problems: tuple[Problem, ...]) -> None:
        """Log and count what is new, and show how it is."""
        self.problems = problems
        if problems != self._said:
            state = "the one in use stays" if self._is_usable else "nothing can be signed"
            for problem in problems:
                log.error("issuer of identities: %s; %s", problem, state)
            for reason in {problem.reason for problem in problems}:
                self._metrics.issuer_refusals.labels(reason.value).inc()
            self._said = problems
        self._metrics.usable.set(self._is_usable)
        self._metrics.anchors.set(len(self.anchors))
        self._metrics.issuer_end.set(self._issuer.not_after.timestamp() if self._issuer else 0)


def _load_key(raw: Mapping[str, object], secret: IssuerSecret) -> ec.EllipticCurvePrivateKey | None:
    """Return the Secret's key that fits its certificate; ``None`` when there is none, which the parser has found."""
    if not secret.has_fitting_key or not secret.chain:
        return None
    data = raw.get("data")
    wanted = x509.load_der_x509_certificate(secret.chain[0].der).public_key()
    for pem in _decode(data.get(name) for name in _KEYS) if isinstance(data, dict) else ():
        try:
            key = load_pem_private_key(pem, None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            continue
        if isinstance(key, ec.EllipticCurvePrivateKey) and key.public_key() == wanted:
            return key
    return None


def _decode(values: Iterable[object]) -> Iterable[bytes]:
    for value in values:
        if isinstance(value, str):
            try:
                yield base64.b64decode(value)
            except (ValueError, binascii.Error):
                continue
