"""Identity as the operator sees it: what was read is judged again and again, and what follows is told.

Keeps what is public of the issuer's Secret and of the trust bundle, never a raw Secret: `put_issuer` and `put_bundle`
read it and let it go. Writes nothing.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from meshwright.edge.client import Json
from meshwright.edge.clock import utc_now
from meshwright.emit.advice import advise
from meshwright.emit.issuer import (
    ANCHORS_NAME,
    MESH_NAME,
    WITHOUT_ANCHORS,
    emit_anchors,
    emit_issuers,
    emit_mesh,
    emit_report,
)
from meshwright.link.trust import ANCHORS_FIELD, chain_to_anchor, choose_anchors, judge_issuer, may_sign
from meshwright.model.config import Config
from meshwright.model.identity import Certificate, Issuance, IssuerSecret, TrustBundle
from meshwright.model.problem import Problem, Reason
from meshwright.model.ref import Kind, Ref
from meshwright.model.units import MAX_UNIT_BYTES, Namespace
from meshwright.parse.bundle_source import BundleSource
from meshwright.parse.certificate import encode_pem, parse_bundle, parse_issuer_secret
from meshwright.parse.issuance import parse_issuance

log = logging.getLogger(__name__)

LOOK_SECONDS = 30.0
"""A certificate ends without any event."""
ADOPTED_RATIO = 0.1
"""How far, as a share of what was asked for, a certificate's life may be off; issuers date back by some minutes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What follows from what is known. ``kept``: outputs that are to stay as they are stored.

    ``fatal``: why nothing can be issued; ``doubts``: what is wrong besides.
    """

    outputs: Mapping[Ref, Json] = field(default_factory=dict)
    kept: frozenset[Ref] = frozenset()
    issuer: Certificate | None = None
    anchors: tuple[Certificate, ...] = ()
    fatal: tuple[Problem, ...] = ()
    doubts: tuple[Problem, ...] = ()

    @property
    def problems(self) -> tuple[Problem, ...]:
        return (*self.fatal, *self.doubts)


class MeshIdentity:
    """All that is known of the mesh's identity. Belongs to the event loop.

    ``bundle`` ``None``: the anchors are those in the issuer's Secret. ``may_judge``: whether everything that is read
    was told at least once. ``publish`` gets each verdict. ``has_cert_manager``: whether its kinds are served.
    ``unread``: what may not be read, and why.
    """

    def __init__(
        self,
        config: Config,
        bundle: BundleSource | None,
        *,
        may_judge: Callable[[], bool],
        has_cert_manager: Callable[[], bool],
        unread: Callable[[], list[str]],
        publish: Callable[[Verdict], None],
        now: Callable[[], datetime] = utc_now,
        look_seconds: float = LOOK_SECONDS,
    ) -> None:
        self._config = config
        self._source = bundle
        self._may_judge = may_judge
        self._has_cert_manager = has_cert_manager
        self._unread = unread
        self._publish = publish
        self._now = now
        self._look_seconds = look_seconds
        self._stirred = asyncio.Event()
        self._issuer: IssuerSecret | None = None
        self._bundle: TrustBundle | None = None
        self._is_cut = False
        self._issuances: dict[str, Issuance] = {}
        self._namespaces: set[Namespace] = set()
        self._ending: set[Namespace] = set()
        self.verdict = Verdict()
        self.is_judged = False

    def put_issuer(self, raw: Json | None) -> None:
        self._issuer = None if raw is None else parse_issuer_secret(raw)
        if self._source is None:
            self._take_bundle(None if raw is None or self._issuer is None else _read_own_bundle(raw, self._issuer))
            if self._bundle is not None and self._issuer is not None:
                told = self._issuer.problems  # what it tells, the bundle does not tell again
                self._bundle = replace(
                    self._bundle, problems=tuple(each for each in self._bundle.problems if each not in told)
                )
        self.stir()

    def put_bundle(self, raw: Json | None) -> None:
        """Take the object that the settings name; never called without such a setting."""
        assert self._source is not None
        self._take_bundle(None if raw is None else parse_bundle(raw, self._source.key))
        self.stir()

    def _take_bundle(self, bundle: TrustBundle | None) -> None:
        """Take what a bundle says. One with a part that cannot be read may have lost the anchor that is in use."""
        self._bundle = bundle
        self._is_cut = bundle is not None and any(each.reason is Reason.INVALID_CERTIFICATE for each in bundle.problems)

    def put_certificate(self, ref: Ref, raw: Json | None) -> None:
        """Take a Certificate of ours as cert-manager has it."""
        found = None if raw is None else parse_issuance(raw)
        if found != self._issuances.get(ref.name):
            self._issuances.pop(ref.name, None)
            if found is not None:
                self._issuances[ref.name] = found
            self.stir()

    def put_namespace(self, ref: Ref, raw: Json | None) -> None:
        name = Namespace(ref.name)
        before = name in self._namespaces, name in self._ending
        self._namespaces.discard(name)
        self._ending.discard(name)
        if raw is not None:
            (self._ending if raw["metadata"].get("deletionTimestamp") else self._namespaces).add(name)
        if before != (name in self._namespaces, name in self._ending):
            self.stir()

    def stir(self) -> None:
        """Something has changed: judge soon."""
        self._stirred.set()

    async def run(self) -> None:
        """Judge at each change and every now and then, for ever."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._look_seconds):
                    await self._stirred.wait()
            self._stirred.clear()
            self.look()

    def look(self) -> None:
        """Judge now, if all was read."""
        if not self._may_judge():
            return
        before, self.verdict = self.verdict.problems, self.judge(self._now())
        self.is_judged = True
        found = self.verdict.problems
        for problem in found:
            if problem not in before:
                log.warning("identity: %s", problem)
        for problem in before:
            if problem not in found:
                log.info("identity: no longer so: %s", problem)
        self._publish(self.verdict)

    def judge(self, now: datetime) -> Verdict:
        """Return what follows from all that is known."""
        config, trust = self._config, self._config.trust
        issuer = self._issuer or _no_issuer(config)
        bundle = self._find_bundle()
        fatal = may_sign(issuer, bundle.anchors, trust, now)
        told = (
            *judge_issuer(issuer, bundle.anchors, trust, now),
            *(Problem(ANCHORS_FIELD, problem.reason, problem.message) for problem in bundle.problems),
            *self._judge_issuances(),
            *(Problem("", Reason.MISSING, f"{what}; the chart's Role allows it") for what in self._unread()),
        )
        pem = encode_pem(choose_anchors(bundle.anchors, now))
        if len(pem) > MAX_UNIT_BYTES:
            message = f"found {len(pem)} bytes, and a ConfigMap may hold {MAX_UNIT_BYTES}; drop anchors nobody needs"
            told = (*told, Problem(ANCHORS_FIELD, Reason.TOO_LARGE, message))
            pem = ""
        doubts = tuple(problem for problem in dict.fromkeys(told) if problem not in fatal)
        report = emit_report(
            config,
            issuer=issuer.chain[0] if issuer.chain else None,
            anchor=chain_to_anchor(issuer.chain, bundle.anchors, now),
            anchors=bundle.anchors,
            issuances=[self._issuances[name] for name in sorted(self._issuances)],
            fatal=fatal,
            doubts=doubts,
        )
        if self._is_cut:
            pem = ""
        manifests = [*emit_issuers(config), emit_mesh(config, report)]
        places = sorted(self._namespaces - WITHOUT_ANCHORS)
        if pem:
            manifests += [emit_anchors(namespace, pem) for namespace in places]
        # What was published stays while nothing better is known: without anchors no proxy believes any other.
        kept = self._ending if pem else {*places, *self._ending}
        return Verdict(
            outputs={_ref_of(manifest): manifest for manifest in manifests},
            kept=frozenset(Ref(Kind.CONFIG_MAP, namespace, ANCHORS_NAME) for namespace in kept),
            issuer=issuer.chain[0] if issuer.chain else None,
            anchors=bundle.anchors,
            fatal=fatal,
            doubts=doubts,
        )

    def _find_bundle(self) -> TrustBundle:
        if self._bundle is not None:
            return self._bundle
        if self._source is None:
            return TrustBundle(anchors=())
        word, name = self._source.kind.word, self._source.name
        message = f"{word} {name} is not there; write it into namespace {self._config.namespace}"
        return TrustBundle(anchors=(), problems=(Problem(ANCHORS_FIELD, Reason.MISSING, message),))

    def _judge_issuances(self) -> tuple[Problem, ...]:
        wanted = sorted({manifest["metadata"]["name"] for manifest in emit_issuers(self._config)})
        if wanted and not self._has_cert_manager():
            message = (
                f"cert-manager is to make {', '.join(wanted)}, and its kinds are not there; install it, or bring "
                "certificates yourself (--issuer-kind none, --webhook-certificate operator)"
            )
            return (Problem("", Reason.NOT_ISSUED, message),)
        return (
            tuple(
                Problem(
                    f"Certificate {found.name}",
                    Reason.NOT_ISSUED,
                    f"{found.reason or 'nothing said'}: {found.message or 'no message'}; {advise(found)}",
                )
                for name, found in sorted(self._issuances.items())
                if name in wanted and advise(found)
            )
            + self._judge_adopted()
        )

    def _judge_adopted(self) -> tuple[Problem, ...]:
        """Return a problem if the issuer was in the Secret before cert-manager was asked, and is not as asked for."""
        name, asked = self._config.issuer_secret, timedelta(milliseconds=self._config.issuer_duration)
        found = self._issuances.get(name)
        if found is None or not found.is_adopted or self._issuer is None or not self._issuer.chain:
            return ()
        lives = self._issuer.chain[0].not_after - self._issuer.chain[0].not_before
        if abs(lives - asked) < asked * ADOPTED_RATIO:
            return ()
        message = (
            f"cert-manager found a certificate that lives {lives} and let it be; {asked} were asked for: delete Secret "
            f"{name} and the issuer that is configured makes another"
        )
        return (Problem(f"Certificate {name}", Reason.NOT_ISSUED, message),)


def is_mesh_output(ref: Ref) -> bool:
    """Return whether an output is identity's, so that nothing else may say that it is not wanted."""
    if ref.kind is Kind.CONFIG_MAP:
        return ref.name in (ANCHORS_NAME, MESH_NAME)
    return ref.kind in (Kind.ISSUER, Kind.CERTIFICATE)


def _no_issuer(config: Config) -> IssuerSecret:
    message = (
        f"Secret {config.issuer_secret} is not there; wait for cert-manager, or write it: meshwright identity --help"
    )
    problem = Problem("", Reason.MISSING, message)
    return IssuerSecret(chain=(), anchors=(), has_fitting_key=False, problems=(problem,))


def _read_own_bundle(raw: Json, issuer: IssuerSecret) -> TrustBundle:
    """Return the anchors of an issuer's own Secret."""
    return parse_bundle(raw, "ca.pem" if issuer.field == "data[crt.pem]" else "ca.crt")


def _ref_of(manifest: Json) -> Ref:
    group = str(manifest["apiVersion"]).rpartition("/")[0]
    kind = Kind(f"{manifest['kind']}.{group}".rstrip("."))
    return Ref(kind, Namespace(manifest["metadata"]["namespace"]), manifest["metadata"]["name"])
