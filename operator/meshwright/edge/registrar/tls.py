"""TLS of the registrar: who may shake hands with it, and who that was.

A certificate is asked for and not demanded: who joins has none yet. One of the mesh must hang from the mesh's anchors.
Who signs the machines' own certificates is for each group's policy to say, so such a machine calls the registrar by the
name of its group (SNI) and meets a context that trusts these authorities and nobody else: one namespace's cannot make a
name in another's, nor get in the way of the mesh's anchors by having their names.

No tickets: each connection shows its certificate anew.
"""

import ssl
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from meshwright.edge.issuer import Signer
from meshwright.edge.serving_leaf import ServingLeaf
from meshwright.model.enrollment import Refusal, Turned
from meshwright.model.group import JoinMode, Rules
from meshwright.model.ref import Kind, Ref
from meshwright.parse.certificate import parse_certificates

MAX_IDENTITY = 253
"""What ``spec.meshTLS.identity`` of an ExternalWorkload may hold; SPIFFE allows more.

Source: linkerd2 ``policy-crds`` ``workload.linkerd.io`` ExternalWorkload ``meshTLS.identity`` maxLength.
"""

_MAX_GROUPS = 256
"""Groups whose contexts are kept; those of more are made again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who TLS has proved a client to be. ``names``: all URIs and DNS names of its certificate; ``not_after``: its end,
    seconds since 1970. ``group``: whose policy's authorities have signed it; ``None``: the mesh's. Then the one name
    is a SPIFFE ID, fit for an ExternalWorkload."""

    names: tuple[str, ...]
    not_after: int
    group: Ref | None = None

    @property
    def identity(self) -> str:
        return self.names[0]


class Contexts:
    """The TLS contexts for connections to come. Only once ``leaf`` is there."""

    def __init__(self, leaf: ServingLeaf, signer: Signer, rules_of: Callable[[Ref], Rules]) -> None:
        self._leaf = leaf
        self._signer = signer
        self._rules_of = rules_of
        self._made_of: tuple[bytes, bytes] | None = None
        self._mesh: ssl.SSLContext | None = None
        self._by_group: OrderedDict[Ref, tuple[str, ssl.SSLContext]] = OrderedDict()
        self._authorities: WeakKeyDictionary[ssl.SSLContext, tuple[Ref, str]] = WeakKeyDictionary()

    def newest(self) -> ssl.SSLContext:
        """Return the context for the next connection: it has the newest certificate, and the newest anchors."""
        made_of = self._leaf.chain, self._signer.anchors_pem
        if self._mesh is None or made_of != self._made_of:
            self._by_group.clear()
            self._mesh = self._make(made_of[1].decode())
            self._mesh.sni_callback = self._choose
            self._made_of = made_of
        return self._mesh

    def identify(self, connection: ssl.SSLObject) -> Caller | Refusal | None:
        """Return who is at the other end, ``None`` for who shows no certificate; a refusal for one that says nothing
        that can be used. Never raises."""
        der = connection.getpeercert(binary_form=True)
        if der is None:
            return None
        found, _ = parse_certificates(ssl.DER_cert_to_PEM_cert(der), "certificate")
        if not found:
            return _bad("the certificate cannot be read; show another")
        leaf, authority = found[0], self._authorities.get(connection.context)
        not_after = int(leaf.not_after.timestamp())
        if authority is not None:
            group, bundle = authority
            if self._bundle_of(group) != bundle:
                return Refusal(
                    reason=Turned.NO_CERTIFICATE, message="who may sign here has changed; connect again", retry_after=1
                )
            return Caller(names=(*leaf.uris, *leaf.dns_names), not_after=not_after, group=group)
        if len(leaf.uris) != 1:
            return _bad(f"found {len(leaf.uris)} URIs in the certificate; show one that has exactly one")
        if len(leaf.uris[0]) > MAX_IDENTITY:
            return _bad(f"the URI in the certificate has {len(leaf.uris[0])} characters; at most {MAX_IDENTITY} fit")
        if not leaf.uris[0].startswith("spiffe://") or not leaf.uris[0].isascii() or not leaf.uris[0].isprintable():
            return _bad("the URI in the certificate is no SPIFFE ID; show one such as spiffe://cluster.local/…")
        return Caller(names=leaf.uris, not_after=not_after)

    def name_of(self, connection: ssl.SSLObject) -> str:
        """Return by which name of the mesh a client shook hands, ``""`` for who has none. A machine's own certificate
        makes none: whoever may write a policy can sign any number of these. Never raises."""
        if connection.context in self._authorities:
            return ""
        shown: Any = connection.getpeercert()
        return " ".join(str(name) for kind, name in shown.get("subjectAltName", ()) if kind == "URI") if shown else ""

    def _choose(self, connection: object, name: str | None, _: ssl.SSLContext) -> None:
        """Have a connection looked at by the authorities of the group that it calls us by."""
        found = None if name is None else self._signer.trust.read_group_dns(name.lower())
        if found is None or not isinstance(connection, ssl.SSLObject):
            return
        context = self._find(Ref(Kind.EXTERNAL_GROUP, *found))
        if context is not None:
            connection.context = context

    def _find(self, group: Ref) -> ssl.SSLContext | None:
        bundle = self._bundle_of(group)
        if not bundle:
            return None
        kept = self._by_group.get(group)
        if kept is not None and kept[0] == bundle:
            self._by_group.move_to_end(group)
            return kept[1]
        try:
            context = self._make(bundle)
        except (ssl.SSLError, ValueError):
            return None
        self._by_group[group] = bundle, context
        self._authorities[context] = group, bundle
        if len(self._by_group) > _MAX_GROUPS:
            self._by_group.popitem(last=False)
        return context

    def _bundle_of(self, group: Ref) -> str:
        rules = self._rules_of(group)
        return rules.ca_bundle if JoinMode.CERTIFICATE in rules.modes else ""

    def _make(self, authorities: str) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.num_tickets = 0
        context.set_alpn_protocols(["http/1.1"])
        context.verify_mode = ssl.CERT_OPTIONAL
        context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN  # an anchor need not be its own issuer
        if authorities:
            context.load_verify_locations(cadata=authorities)
        self._leaf.load_into(context)
        return context


def _bad(message: str) -> Refusal:
    return Refusal(reason=Turned.BAD_IDENTITY, message=message)
