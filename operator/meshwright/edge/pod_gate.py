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
from meshwright.model.proxy import Proxy
from meshwright.model.ref import Kind, Ref
from meshwright.model.workload import ExternalWorkload

_PATIENCE_SECONDS = 5.0
_SPREAD_SECONDS = 60.0
_DENIED, _UNAVAILABLE = grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAVAILABLE


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shown:
    """What a certificate says: its one URI, the ServiceAccount that this is, ``None`` for none, the serial numbers in
    its subject, and until when it holds."""

    uri: str
    account: ServiceAccount | None
    serials: tuple[str, ...]
    not_after: datetime


class PodGate:
    """A `Gate` for the proxies of pods and of machines: each proves by its certificate that it is the one it says.

    A pod's ServiceAccount must be the certificate's, and its subject name the pod's uid: the certificate of another pod
    lets nobody in, even one with the same ServiceAccount. A machine's must bear the very identity that its
    ExternalWorkload says, and none that is a ServiceAccount's: no pod is a machine, and no machine a pod. TLS has shown
    by then that the certificate hangs from a trust anchor; a session that was resumed has not shown that it is still
    valid, so that is looked at, too.

    ``machines``: ``None`` where there are none. ``patience``: seconds that a proxy waits for its workload to become
    known. ``spread``: within how many seconds after its certificate's end a stream is ended; proxies that began
    together are not sent away together.
    """

    def __init__(
        self,
        trust: TrustDomain,
        roster: Roster[Pod],
        metrics: IdentityMetrics,
        *,
        machines: Roster[ExternalWorkload] | None = None,
        patience: float = _PATIENCE_SECONDS,
        spread: float = _SPREAD_SECONDS,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self._trust = trust
        self._roster = roster
        self._machines = machines or Roster[ExternalWorkload]({})
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
        ref = guest.proxy.ref
        if ref.kind is Kind.EXTERNAL_WORKLOAD:
            machine = self._machines.known.get(ref)
            is_same = machine is not None and (machine.uid, machine.identity) == (guest.uid, guest.identity)
        else:
            pod = self._roster.known.get(ref)
            is_same = pod is not None and pod.uid == guest.uid
        return is_same and self._clock() < guest.until

    def listen(self, look: Callable[[Ref], None]) -> None:
        self._roster.listen(look)
        self._machines.listen(look)

    async def _admit(self, node_id: str, caller: Caller) -> Guest:
        shown = self._read_certificate(caller)
        if shown.not_after <= self._clock():
            raise Refused(_DENIED, "CertificateExpired", f"its certificate has expired at {shown.not_after}")
        proxy = read_node(node_id)
        is_machine = proxy.kind is Kind.EXTERNAL_WORKLOAD
        uid = await (self._find_machine(proxy, shown) if is_machine else self._find_pod(proxy, shown))
        wait = timedelta(seconds=random.uniform(0, self._spread))
        return Guest(proxy=proxy, uid=uid, identity=shown.uri, until=shown.not_after + wait)

    async def _find_pod(self, proxy: Proxy, shown: _Shown) -> str:
        """Return the uid of the pod that a certificate lets its proxy speak for."""
        if (account := shown.account) is None:
            raise Refused(_DENIED, "NotAPod", f"its identity {shown.uri} is no pod's")
        match shown.serials:
            case [uid] if uid:
                pass
            case _:
                raise Refused(_DENIED, "NoIdentity", "its certificate names no pod's identity")
        if proxy.namespace != account.namespace:
            raise Refused(_DENIED, "ForgedNode", f"its certificate is for {account}, in another namespace")

        def fits(pod: Pod) -> bool:
            return pod.uid == uid

        pod = await self._roster.wait_for(proxy.ref, fits, self._patience)
        if pod is None:
            raise Refused(_UNAVAILABLE, "PodUnknown", "its pod is not known yet")
        if pod.account != account:
            raise Refused(_DENIED, "ForgedNode", f"its certificate is for {account}, the pod runs as another")
        if pod.uid != uid:
            raise Refused(_DENIED, "ForgedNode", "its certificate is for another pod with this ServiceAccount")
        return pod.uid

    async def _find_machine(self, proxy: Proxy, shown: _Shown) -> str:
        """Return the uid of the ExternalWorkload that a certificate lets its proxy speak for."""
        if shown.account is not None:
            raise Refused(_DENIED, "NotAMachine", f"its certificate is for {shown.account}, which pods run as")

        def fits(machine: ExternalWorkload) -> bool:
            return machine.identity == shown.uri

        machine = await self._machines.wait_for(proxy.ref, fits, self._patience)
        if machine is None:
            raise Refused(_UNAVAILABLE, "MachineUnknown", "its ExternalWorkload is not known yet")
        if machine.identity != shown.uri:
            message = f"its certificate is for {shown.uri}, the ExternalWorkload has another identity"
            raise Refused(_DENIED, "ForgedMachine", message)
        return machine.uid

    def _read_certificate(self, caller: Caller) -> _Shown:
        pem = next(iter(caller.auth_context().get("x509_pem_cert", ())), None)
        if pem is None:
            raise Refused(_DENIED, "NoCertificate", "it has shown no certificate")
        try:
            certificate = x509.load_pem_x509_certificate(pem)
            names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except (ValueError, x509.ExtensionNotFound, x509.DuplicateExtension, x509.UnsupportedGeneralNameType):
            raise Refused(_DENIED, "NoIdentity", "its certificate names no identity") from None
        serials = certificate.subject.get_attributes_for_oid(NameOID.SERIAL_NUMBER)
        match names.get_values_for_type(x509.UniformResourceIdentifier):
            case [uri]:
                pass
            case _:
                raise Refused(_DENIED, "NoIdentity", "its certificate does not name one identity")
        if not uri.startswith(self._trust.uri_prefix):
            raise Refused(_DENIED, "WrongTrustDomain", f"its identity {uri} is not of {self._trust.name}")
        return _Shown(
            uri=uri,
            account=self._trust.read_uri(uri),
            serials=tuple(str(each.value) for each in serials),
            not_after=certificate.not_valid_after_utc,
        )
