"""Who may call: authorizations and the authentications they ask for, as one list of who is let in."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from meshwright.model.identity import ServiceAccount, TrustDomain
from meshwright.model.inbound import EVERYWHERE, Authorization, PolicyDefaults, Source
from meshwright.model.linked_server import Authorized
from meshwright.model.policy import (
    AuthorizationPolicy,
    MeshTlsAuthentication,
    Network,
    NetworkAuthentication,
    Proof,
    Server,
    ServerAuthorization,
)
from meshwright.model.ref import Ref
from meshwright.model.request import Missed
from meshwright.model.snapshot import Parsed

_ANY = "*"
_SPIFFE = "spiffe://"


def applies(authorization: ServerAuthorization, server: Server) -> bool:
    """Return whether ``authorization`` names ``server``, or selects it by its labels."""
    if authorization.ref.namespace != server.ref.namespace:
        return False
    if authorization.server is not None:
        return authorization.server == server.ref.name
    return authorization.selector is not None and authorization.selector.selects(dict(server.labels))


def authorize_by_servers(
    authorizations: Iterable[ServerAuthorization], trust: TrustDomain, defaults: PolicyDefaults
) -> Authorized:
    """Return what ServerAuthorizations grant. Without networks they mean the cluster's.

    Source: linkerd2 ``policy-controller/k8s/index/src/inbound/server_authorization.rs`` (``client_authz``,
    ``convert_network_match``: the cluster's networks where none are listed).
    """
    granted, missed = [], []
    for each in authorizations:
        source = source_of(each.ref)
        if each.is_void:
            missed.append(Missed(source=source, why=_why_void(each)))
            continue
        networks = tuple(map(Network, defaults.cluster_networks)) if each.networks is None else each.networks
        names = _sort_names(each.identities, each.accounts, (), trust) if each.proof is Proof.IDENTITY else _Names()
        granted.append(_make(source, networks, each.proof, names))
    return _make_authorized(granted, missed)


def authorize_by_policies(
    policies: Iterable[AuthorizationPolicy], authentications: Mapping[Ref, Parsed], trust: TrustDomain
) -> Authorized:
    """Return what AuthorizationPolicies grant. ``authentications``: those that exist among what they require.

    One that requires an authentication that is missing, or proves nothing, grants nothing: what it says cannot be met.

    Source: linkerd2 ``policy-controller/k8s/index/src/inbound/authorization_policy.rs`` and ``index.rs``
    (``policy_client_authz``: an error for any reference that is not found).
    """
    granted, missed = [], []
    for each in policies:
        source = source_of(each.ref)
        found = _authorize_by_policy(each, authentications, trust)
        if isinstance(found, str):
            missed.append(Missed(source=source, why=found))
        else:
            granted.append(found)
    return _make_authorized(granted, missed)


def combine(*parts: Authorized) -> Authorized:
    """Return all of ``parts`` as one."""
    return _make_authorized(
        [each for part in parts for each in part.authorizations], [each for part in parts for each in part.missed]
    )


def source_of(ref: Ref) -> Source:
    """Return how metrics and logs call an authorization."""
    return Source(ref.kind.group, ref.kind.word.lower(), ref.namespace, ref.name)


def why_unproven(required: Ref, found: Parsed | None) -> str | None:
    """Return why what ``required`` names cannot be proven by anybody, as a sentence; ``None`` when it can.

    ``found``: what that object is, ``None`` when there is none.
    """
    match found:
        case None:
            return f"{required} does not exist"
        case MeshTlsAuthentication(is_void=False) | NetworkAuthentication(is_void=False):
            return None
        case MeshTlsAuthentication() | NetworkAuthentication():
            return f"{required} proves nothing{_write_first(found)}"
        case _:
            return f"{required} cannot be read{_write_first(found)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Names:
    """Identities by how they are compared; sorted, each once."""

    exact: tuple[str, ...] = ()
    suffixes: tuple[str, ...] = ()
    is_any: bool = False


def _authorize_by_policy(
    policy: AuthorizationPolicy, authentications: Mapping[Ref, Parsed], trust: TrustDomain
) -> Authorization | str:
    """Return what ``policy`` grants, or why it grants nothing."""
    if policy.is_void:
        return _why_void(policy)
    required = dict.fromkeys(policy.required)
    for ref in required:
        if why := why_unproven(ref, authentications.get(ref)):
            return why
    found = [authentications[ref] for ref in required]
    by_network = [each for each in found if isinstance(each, NetworkAuthentication)]
    by_name = [each for each in found if isinstance(each, MeshTlsAuthentication)]
    accounts = tuple(dict.fromkeys(policy.accounts))
    # A caller has one address and one identity: two demands on one of them cannot be told as one list.
    if len(by_network) > 1:
        return "it requires several NetworkAuthentications at once; list the networks in one"
    if len(by_name) + len(accounts) > 1:
        return "it requires several identities at once, and a caller has one; list them in one MeshTLSAuthentication"
    networks = by_network[0].networks if by_network else EVERYWHERE
    if not by_name and not accounts:
        return _make(source_of(policy.ref), networks, Proof.NOTHING, _Names())
    names = _sort_names((), accounts, (), trust)
    if by_name:
        names = _sort_names(by_name[0].identities, by_name[0].accounts, by_name[0].namespaces, trust)
    return _make(source_of(policy.ref), networks, Proof.IDENTITY, names)


def _sort_names(
    identities: Iterable[str], accounts: Iterable[ServiceAccount], namespaces: Iterable[str], trust: TrustDomain
) -> _Names:
    """Return the names of certificates that ``identities`` and the others mean.

    Source: linkerd2 ``policy-controller/core/src/identity_match.rs`` (``*``, ``*.suffix``, exact names and SPIFFE
    URIs), ``policy-controller/k8s/index/src/cluster_info.rs`` (the names of accounts and namespaces).
    """
    exact = {trust.dns(account) for account in accounts}
    suffixes = {f".{namespace}.{trust.suffix}" for namespace in namespaces}
    is_any = False
    for identity in identities:
        if identity == _ANY:
            is_any = True
        elif identity.startswith(f"{_ANY}.") and not identity.startswith(_SPIFFE):
            suffixes.add(identity.removeprefix(_ANY))
        else:
            exact.add(identity)
    return _Names(exact=tuple(sorted(exact)), suffixes=tuple(sorted(suffixes)), is_any=is_any)


def _make(source: Source, networks: Iterable[Network], proof: Proof, names: _Names) -> Authorization:
    return Authorization(
        source=source,
        networks=tuple(sorted(set(networks))),
        proof=proof,
        exact=names.exact,
        suffixes=names.suffixes,
        is_any=names.is_any,
    )


def _make_authorized(granted: Iterable[Authorization], missed: Iterable[Missed]) -> Authorized:
    return Authorized(
        authorizations=tuple(sorted(set(granted), key=lambda each: each.source)),
        missed=tuple(sorted(set(missed), key=lambda each: each.source)),
    )


def _why_void(found: ServerAuthorization | AuthorizationPolicy) -> str:
    return f"it grants nothing{_write_first(found)}"


def _write_first(found: Parsed) -> str:
    return f", because of {found.problems[0]}" if found.problems else ""
