"""Which proxy a stream belongs to, and whether it may: what its certificate proves against what its node says."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

import grpc
from cryptography import x509
from cryptography.x509.oid import NameOID

from meshwright.edge.clock import utc_now
from meshwright.edge.gate import Caller, Guest, Refused, read_node
from meshwright.edge.identity_metrics import IdentityMetrics
from meshwright.edge.roster import Roster
from meshwright.model.identity import ServiceAccount, TrustDomain
from meshwright.model.pod import Pod
from meshwright.model.ref import Kind, Ref

_PATIENCE_SECONDS = 5.0
_SPREAD_SECONDS = 60.0
_DENIED, _UNAVAILABLE = grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAVAILABLE


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shown:
    """What a certificate says: whose it is, which pod's, and until when."""

    account: ServiceAccount
    uid: str
    not_after: datetime


class PodGate:
    """A `Gate` for the proxies of pods: each proves by its certificate that it is the one it says.

    Its ServiceAccount must be the pod's, and its subject name the pod's uid: the certificate of another pod lets
    nobody in, even one with the same ServiceAccount. TLS has shown by then that the certificate hangs from a trust
    anchor; a session that was resumed has not shown that it is still valid, so that is looked at, too.

    ``patience``: seconds that a proxy waits for its pod to become known. ``spread``: within how many seconds after its
    certificate's end a stream is ended; proxies that began together are not sent away together.
    """

    def __init__(
        self,
        trust: TrustDomain,
        roster: Roster,
        metrics: IdentityMetrics,
        *,
        patience: float = _PATIENCE_SECONDS,
        spread: float = _SPREAD_SECONDS,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self._trust = trust
        self._roster = roster
        self._metrics = metrics
        self._patience = patience
        self._spread = spread
        self._clock = clock

    async def admit(self, node_id: str, caller: Caller) -> Guest:
        try:
            return await self._admit(node_id, caller)
        except Refused as refused:
            self._metrics.stream_refusals.labels(refused.reason).inc()
            raise

    def may_stay(self, guest: Guest) -> bool:
        pod = self._roster.pods.get(guest.pod)
        return pod is not None and pod.uid == guest.uid and self._clock() < guest.until

    def listen(self, look: Callable[[Ref], None]) -> None:
        self._roster.listen(look)

    async def _admit(self, node_id: str, caller: Caller) -> Guest:
        shown = self._read_certificate(caller)
        if shown.not_after <= self._clock():
            raise Refused(_DENIED, "CertificateExpired", f"its certificate has expired at {shown.not_after}")
        proxy = read_node(node_id)
        if proxy.namespace != shown.account.namespace:
            raise Refused(_DENIED, "ForgedNode", f"its certificate is for {shown.account}, in another namespace")

        def fits(pod: Pod) -> bool:
            return pod.uid == shown.uid

        ref = Ref(Kind.POD, proxy.namespace, proxy.name)
        pod = await self._roster.wait_for(ref, fits, self._patience)
        if pod is None:
            raise Refused(_UNAVAILABLE, "PodUnknown", "its pod is not known yet")
        if pod.account != shown.account:
            raise Refused(_DENIED, "ForgedNode", f"its certificate is for {shown.account}, the pod runs as another")
        if pod.uid != shown.uid:
            raise Refused(_DENIED, "ForgedNode", "its certificate is for another pod with this ServiceAccount")
        wait = timedelta(seconds=random.uniform(0, self._spread))
        return Guest(proxy=proxy, uid=pod.uid, until=shown.not_after + wait)

    def _read_certificate(self, caller: Caller) -> _Shown:
        pem = next(iter(caller.auth_context().get("x509_pem_cert", ())), None)
        if pem is None:
            raise Refused(_DENIED, "NoCertificate", "it has shown no certificate")
        try:
            certificate = x509.load_pem_x509_certificate(pem)
            names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except (ValueError, x509.ExtensionNotFound, x509.DuplicateExtension, x509.UnsupportedGeneralNameType):
            raise Refused(_DENIED, "NoIdentity", "its certificate names no identity") from None
        uids = [str(each.value) for each in certificate.subject.get_attributes_for_oid(NameOID.SERIAL_NUMBER)]
        match names.get_values_for_type(x509.UniformResourceIdentifier), uids:
            case [uri], [uid] if uid:
                pass
            case _:
                raise Refused(_DENIED, "NoIdentity", "its certificate names no pod's identity")
        account = self._trust.read_uri(uri)
        if account is None:
            raise Refused(_DENIED, "WrongTrustDomain", f"its identity {uri} is not of {self._trust.name}")
        return _Shown(account=account, uid=uid, not_after=certificate.not_valid_after_utc)
