"""MeshTLSAuthentications and NetworkAuthentications: how a caller proves who it is, and from where it may call.

Source: linkerd2 ``policy-controller/k8s/api/src/policy/meshtls_authentication.rs``, ``network_authentication.rs``;
``policy-controller/src/admission.rs``.
"""

from typing import Any

from pydantic.dataclasses import dataclass

from meshwright.model.identity import ServiceAccount
from meshwright.model.policy import MeshTlsAuthentication, NetworkAuthentication
from meshwright.model.problem import Problem, Reason
from meshwright.model.ref import Kind
from meshwright.model.snapshot import Broken
from meshwright.model.units import Namespace
from meshwright.parse.identity import read_identities
from meshwright.parse.leaf import NamespaceText
from meshwright.parse.metadata import Metadata
from meshwright.parse.network import read_networks
from meshwright.parse.reference import SERVICE_ACCOUNT, make_account, read_reference
from meshwright.parse.shape import SHAPE, make_reader, make_text_reader, quote, read_items

_INVALID = Reason.INVALID_OBJECT


@dataclass(frozen=True, slots=True, kw_only=True, config=SHAPE)
class _MeshTlsShape:
    identities: Any = None
    identity_refs: Any = None


@dataclass(frozen=True, slots=True, kw_only=True, config=SHAPE)
class _NetworkShape:
    networks: Any = None


_read_mesh_tls = make_reader(_MeshTlsShape, _INVALID)
_read_network = make_reader(_NetworkShape, _INVALID)
_read_namespace = make_text_reader(NamespaceText, _INVALID)


def parse_mesh_tls_authentication(metadata: Metadata, raw: dict[str, Any]) -> MeshTlsAuthentication | Broken:
    """Return the MeshTLSAuthentication in ``raw``; ``Broken`` when it has no spec. Never raises.

    It is void as soon as a part of it is wrong, and then names nobody.
    """
    faults: list[Problem] = []
    problems = metadata.problems
    spec = _read_mesh_tls(raw.get("spec"), "spec", faults)
    if spec is None:
        return Broken(ref=metadata.ref, generation=metadata.generation, problems=(*faults, *problems))
    if spec.identities is not None and spec.identity_refs is not None:
        message = "found identities beside identityRefs; write one of the two, and a second object for the other"
        faults.append(Problem("spec", _INVALID, message))
    identities = read_identities(spec.identities, "spec.identities", faults, may_be_spiffe=True)
    accounts, namespaces = _read_refs(spec.identity_refs, metadata.ref.namespace, faults)
    if not faults and not identities and not accounts and not namespaces:
        message = 'it names nobody; write identities or identityRefs with at least one entry, "*" for anybody'
        faults.append(Problem("spec", _INVALID, message))
    return MeshTlsAuthentication(
        ref=metadata.ref,
        identities=() if faults else identities,
        accounts=() if faults else accounts,
        namespaces=() if faults else namespaces,
        is_void=bool(faults),
        problems=(*faults, *problems),
    )


def parse_network_authentication(metadata: Metadata, raw: dict[str, Any]) -> NetworkAuthentication | Broken:
    """Return the NetworkAuthentication in ``raw``; ``Broken`` when it has no spec. Never raises.

    It is void as soon as a part of it is wrong, and then names no network.
    """
    faults: list[Problem] = []
    problems = [*metadata.problems]
    spec = _read_network(raw.get("spec"), "spec", faults)
    if spec is None:
        return Broken(ref=metadata.ref, generation=metadata.generation, problems=(*faults, *problems))
    networks = read_networks(spec.networks, "spec.networks", faults, problems)
    if not faults and not networks:
        message = "it names no network; write at least one, cidr: 0.0.0.0/0 and ::/0 for everywhere"
        faults.append(Problem("spec.networks", _INVALID, message))
    return NetworkAuthentication(
        ref=metadata.ref,
        networks=() if faults else networks,
        is_void=bool(faults),
        problems=(*faults, *problems),
    )


def _read_refs(
    raw: object,
    own: Namespace,
    faults: list[Problem],
) -> tuple[tuple[ServiceAccount, ...], tuple[Namespace, ...]]:
    """Return the accounts and the namespaces that ``identityRefs`` name, in order, each once."""
    accounts: dict[ServiceAccount, None] = {}
    namespaces: dict[Namespace, None] = {}
    for index, item in enumerate(read_items(raw, "spec.identityRefs", faults, _INVALID)):
        field = f"spec.identityRefs[{index}]"
        reference = read_reference(item, field, faults)
        if reference is None:
            continue
        if reference.is_account:
            accounts[make_account(reference, own)] = None
        elif reference.find((Kind.NAMESPACE,)) is None:
            message = f"found {quote(reference.words)}, which has no identity; write {SERVICE_ACCOUNT} or Namespace"
            faults.append(Problem(f"{field}.kind", Reason.INVALID_KIND, message))
        elif reference.namespace is not None:
            message = f"found {quote(reference.namespace)} on a Namespace, which is in none; leave it out"
            faults.append(Problem(f"{field}.namespace", _INVALID, message))
        elif (name := _read_namespace(reference.name, f"{field}.name", faults)) is not None:
            namespaces[Namespace(name)] = None
    return tuple(accounts), tuple(namespaces)
