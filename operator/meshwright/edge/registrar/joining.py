"""Certificates for machines: the first one, by token or by a machine's own certificate, and those that follow."""

import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from meshwright.edge.issuer import NoIssuer, Signer
from meshwright.edge.leaves import BadCsr, SignedLeaf, read_csr
from meshwright.edge.registrar.registry import Registry
from meshwright.edge.registrar.tls import MAX_IDENTITY, Caller
from meshwright.edge.registrar.tokens import Redeemer
from meshwright.link.enroll import make_workload_name, read_machine
from meshwright.model.enrollment import InstanceKey, Join, Peer, Refusal, Turned
from meshwright.model.group import JoinMode
from meshwright.model.ref import Ref

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Certified:
    """A machine's new leaf. ``workload``: what its ExternalWorkload is called."""

    key: InstanceKey
    identity: str
    workload: str
    leaf: SignedLeaf


class Joining:
    """Gives machines their certificates."""

    def __init__(self, signer: Signer, registry: Registry, redeemer: Redeemer) -> None:
        self._signer = signer
        self._registry = registry
        self._redeemer = redeemer

    async def join(
        self,
        request: Join,
        caller: Caller | None,
        address: str,
        now: float,
        wall: int,
        *,
        admit: Callable[[], Refusal | None] = lambda: None,
    ) -> Certified | Refusal:
        """Return the first certificate of a machine. ``admit`` is asked of those that may have one: when to come again,
        ``None`` for now."""
        if request.token:
            return await self._join_by_token(request, address, now, wall, admit)
        if caller is None:
            message = "send a token, or show a certificate that the group's policy trusts and call us by its name"
            return Refusal(reason=Turned.NO_CERTIFICATE, message=message)
        return self._join_by_certificate(request, caller, address, wall, admit)

    async def _join_by_token(
        self, request: Join, address: str, now: float, wall: int, admit: Callable[[], Refusal | None]
    ) -> Certified | Refusal:
        token = self._redeemer.identify(request.token, address, now)
        if isinstance(token, Refusal):
            meant = self._redeemer.group_of(request.token)
            return token if meant is None else self._note(token, meant, address, wall)
        key = InstanceKey(token.namespace, token.group, request.uid)
        asked = InstanceKey(request.namespace or key.namespace, request.group or key.group, request.uid)
        if asked != key:
            message = f"the token is for {key.group_ref}, and not for {asked.group_ref}"
            return self._note(Refusal(reason=Turned.NOT_ALLOWED, message=message), asked.group_ref, address, wall)
        public = _read_key(request.csr)
        if isinstance(public, Refusal):
            return public
        redeeming = token, _hash_key(public), request.uid, address, wall
        refusal = await self._redeemer.refuse(*redeeming)
        if refusal is not None:
            return self._note(refusal, key.group_ref, address, wall)
        refusal = self._registry.may_join(key, JoinMode.TOKEN, (), address, wall) or self._judge_names(key) or admit()
        if refusal is not None:
            return refusal
        refusal = await self._redeemer.redeem(*redeeming)
        if refusal is not None:
            return self._note(refusal, key.group_ref, address, wall)
        return self._sign(key, public)

    def _join_by_certificate(
        self, request: Join, caller: Caller, address: str, wall: int, admit: Callable[[], Refusal | None]
    ) -> Certified | Refusal:
        key = InstanceKey(request.namespace, request.group, request.uid)
        if caller.group is None:
            message = "a certificate of the mesh registers as it is; it does not join"
            return Refusal(reason=Turned.NOT_ALLOWED, message=message)
        if caller.group != key.group_ref:
            message = f"the connection is for {caller.group}, and another one was asked for"
            return self._note(
                Refusal(reason=Turned.NOT_ALLOWED, message=message), key.group_ref, address, wall, *caller.names[:1]
            )
        public = _read_key(request.csr)
        if isinstance(public, Refusal):
            return public
        refusal = self._registry.may_join(key, JoinMode.CERTIFICATE, caller.names, address, wall)
        return refusal or self._judge_names(key) or admit() or self._sign(key, public)

    def renew(self, csr: str, caller: Caller, address: str, now: float) -> Certified | Refusal:
        """Return the next certificate of a machine that has one of ours."""
        machine = read_machine(self._signer.trust, caller.identity)
        if machine is None:
            message = f"{caller.identity} was not given here; renew it where it comes from"
            return Refusal(reason=Turned.NOT_ALLOWED, message=message)
        public = _read_key(csr)
        if isinstance(public, Refusal):
            return public
        peer = Peer(identity=caller.identity, address=address, not_after=caller.not_after)
        refusal = self._registry.may_renew(peer, now)
        return refusal or self._sign(machine, public)

    def _judge_names(self, key: InstanceKey) -> Refusal | None:
        """Return why nobody of this group can have a certificate, before a token is used up for it."""
        if not self._signer.may_sign:
            return _no_issuer()
        uri, dns = self._names_of(key)
        if max(len(uri), len(dns)) > MAX_IDENTITY:
            message = f"{uri} or {dns} is longer than the {MAX_IDENTITY} characters of a name; name the group shorter"
            return Refusal(reason=Turned.BAD_IDENTITY, message=message)
        return None

    def _names_of(self, key: InstanceKey) -> tuple[str, str]:
        trust, place = self._signer.trust, (key.namespace, key.group)
        return trust.machine_uri(*place, key.uid), trust.machine_dns(*place, make_workload_name(*place, key.uid))

    def _sign(self, key: InstanceKey, public: ec.EllipticCurvePublicKey) -> Certified | Refusal:
        uri, dns = self._names_of(key)
        try:
            leaf = self._signer.sign_machine(public, uri=uri, dns=dns, uid=key.uid)
        except NoIssuer:
            return _no_issuer()
        workload = make_workload_name(key.namespace, key.group, key.uid)
        return Certified(key=key, identity=uri, workload=workload, leaf=leaf)

    def _note(self, refusal: Refusal, group: Ref, address: str, wall: int, identity: str = "") -> Refusal:
        self._registry.note_refusal(group, refusal.reason, identity, address, wall)
        return refusal


def _read_key(csr: str) -> ec.EllipticCurvePublicKey | Refusal:
    try:
        return read_csr(csr)
    except BadCsr as error:
        return Refusal(reason=Turned.BAD_REQUEST, message=f"csr: {error}")


def _hash_key(public: ec.EllipticCurvePublicKey) -> str:
    der = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).hexdigest()


def _no_issuer() -> Refusal:
    return Refusal(reason=Turned.NO_ISSUER, message="no issuer may sign now; its Secret says why", retry_after=15)
