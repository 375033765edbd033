"""ServerAuthorizations and AuthorizationPolicies: who may call.

A part that is wrong takes the whole object along: what is left of it could let in more than its author meant.

Source: linkerd2 ``policy-controller/k8s/api/src/policy/server_authorization.rs``, ``authorization_policy.rs``;
``policy-controller/src/admission.rs``; ``policy-controller/k8s/index/src/inbound/server_authorization.rs``
``client_authz``.
"""

from dataclasses import dataclass as plain_dataclass
from typing import Annotated, Any

from pydantic import Field
from pydantic.dataclasses import dataclass

from meshwright.model.identity import ServiceAccount
from meshwright.model.policy import AuthorizationPolicy, Network, Proof, ServerAuthorization
from meshwright.model.problem import Problem, Reason
from meshwright.model.ref import Kind, Ref
from meshwright.model.selector import Selector
from meshwright.model.snapshot import Broken
from meshwright.model.units import Namespace
from meshwright.parse.identity import read_identities
from meshwright.parse.leaf import NamespaceText, NameText
from meshwright.parse.metadata import Metadata
from meshwright.parse.network import read_networks
from meshwright.parse.reference import SERVICE_ACCOUNT, make_account, read_reference
from meshwright.parse.selector import read_selector
from meshwright.parse.shape import SHAPE, make_reader, make_text_reader, quote, read_items

_INVALID = Reason.INVALID_OBJECT
_TARGETS = (Kind.SERVER, Kind.POLICY_HTTP_ROUTE, Kind.HTTP_ROUTE, Kind.GRPC_ROUTE, Kind.NAMESPACE)
_AUTHENTICATIONS = (Kind.MESH_TLS_AUTHENTICATION, Kind.NETWORK_AUTHENTICATION)

_Switch = Annotated[bool, Field(strict=True, description="true or false")]


@dataclass(frozen=True, slots=True, kw_only=True, config=SHAPE)
class _ServerAuthorizationShape:
    server: Annotated[Any, Field(description="a Server's name, or a selector of Servers by their labels")] = None
    client: Annotated[Any, Field(description="who may call: meshTLS, or unauthenticated: true")] = None


@dataclass(frozen=True, slots=True, kw_only=True, config=SHAPE)
class _ServerShape:
    name: Any = None
    selector: Any = None


@dataclass(frozen=True, slots=True, kw_only=True, config=SHAPE)
class _ClientShape:
    networks: Any = None
    unauthenticated: _Switch = False
    mesh_tls: Annotated[Any, Field(alias="meshTLS")] = None


@dataclass(frozen=True, slots=True, kw_only=True, config=SHAPE)
class _MeshTlsShape:
    unauthenticated_tls: Annotated[_Switch, Field(alias="unauthenticatedTLS")] = False
    identities: Any = None
    service_accounts: Any = None


@dataclass(frozen=True, slots=True, kw_only=True, config=SHAPE)
class _AccountShape:
    name: NameText = ""
    namespace: NamespaceText | None = None


@dataclass(frozen=True, slots=True, kw_only=True, config=SHAPE)
class _PolicyShape:
    target_ref: Annotated[Any, Field(description="what may be called: group, kind and name")] = None
    required_authentication_refs: Annotated[
        Any,
        Field(description="what is required of callers, or [] to let in everybody"),
    ] = None


_read_server_authorization = make_reader(_ServerAuthorizationShape, _INVALID, required=("server", "client"))
_read_server = make_reader(_ServerShape, _INVALID)
_read_name = make_text_reader(NameText, _INVALID)
_read_client = make_reader(_ClientShape, _INVALID)
_read_mesh_tls = make_reader(_MeshTlsShape, _INVALID)
_read_account = make_reader(_AccountShape, _INVALID, required=("name",))
_read_policy = make_reader(_PolicyShape, _INVALID, required=("targetRef", "requiredAuthenticationRefs"))


@plain_dataclass(frozen=True, slots=True, kw_only=True)
class _Clients:
    """Who a ServerAuthorization says may call."""

    networks: tuple[Network, ...] | None = None
    proof: Proof = Proof.IDENTITY
    identities: tuple[str, ...] = ()
    accounts: tuple[ServiceAccount, ...] = ()


_NOBODY = _Clients()


def parse_server_authorization(metadata: Metadata, raw: dict[str, Any]) -> ServerAuthorization | Broken:
    """Return the ServerAuthorization in ``raw``; ``Broken`` when it has no spec. Never raises.

    It is void as soon as a part of it is wrong, and then names no clients at all.
    """
    faults: list[Problem] = []
    problems = [*metadata.problems]
    spec = _read_server_authorization(raw.get("spec"), "spec", faults)
    if spec is None:
        return Broken(ref=metadata.ref, generation=metadata.generation, problems=(*faults, *problems))
    server, selector = _read_servers(spec.server, faults, problems)
    clients = _read_clients(spec.client, metadata.ref.namespace, faults, problems)
    if faults:
        clients = _NOBODY
    return ServerAuthorization(
        ref=metadata.ref,
        server=server,
        selector=selector,
        networks=clients.networks,
        proof=clients.proof,
        identities=clients.identities,
        accounts=clients.accounts,
        is_void=bool(faults),
        problems=(*faults, *problems),
    )


def _read_servers(raw: object, faults: list[Problem], problems: list[Problem]) -> tuple[str | None, Selector | None]:
    field = "spec.server"
    shape = None if raw is None else _read_server(raw, field, faults)
    if shape is None:
        return None, None
    if (shape.name is None) == (shape.selector is None):
        found = "neither name nor selector" if shape.name is None else "name beside selector"
        faults.append(Problem(field, _INVALID, f"found {found}; write one of the two"))
        return None, None
    if shape.selector is None:
        return _read_name(shape.name, f"{field}.name", faults), None
    return None, read_selector(shape.selector, f"{field}.selector", faults, problems)


def _read_clients(raw: object, own: Namespace, faults: list[Problem], problems: list[Problem]) -> _Clients:
    field = "spec.client"
    before = len(faults)
    shape = None if raw is None else _read_client(raw, field, faults)
    if shape is None:
        return _NOBODY
    networks = read_networks(shape.networks, f"{field}.networks", faults, problems) or None
    if shape.mesh_tls is None:
        if not shape.unauthenticated and len(faults) == before:
            message = "it says of no way to be a client, and so lets in nobody; write meshTLS or unauthenticated: true"
            faults.append(Problem(field, Reason.SELECTS_NOTHING, message))
        return _Clients(networks=networks, proof=Proof.NOTHING)
    if shape.unauthenticated:
        message = "found true beside meshTLS; write one of the two"
        faults.append(Problem(f"{field}.unauthenticated", _INVALID, message))
    at_tls = f"{field}.meshTLS"
    tls = _read_mesh_tls(shape.mesh_tls, at_tls, faults) or _MeshTlsShape()
    identities = read_identities(tls.identities, f"{at_tls}.identities", faults, may_be_spiffe=False)
    accounts = _read_accounts(tls.service_accounts, f"{at_tls}.serviceAccounts", own, faults)
    if tls.unauthenticated_tls and (tls.identities or tls.service_accounts):
        message = "found true beside identities or serviceAccounts; write one or the other"
        faults.append(Problem(f"{at_tls}.unauthenticatedTLS", _INVALID, message))
    if not tls.unauthenticated_tls and not identities and not accounts and len(faults) == before:
        message = "it names no client, and so lets in nobody; write identities, serviceAccounts or unauthenticatedTLS"
        faults.append(Problem(at_tls, Reason.SELECTS_NOTHING, message))
    return _Clients(
        networks=networks,
        proof=Proof.ANY_TLS if tls.unauthenticated_tls else Proof.IDENTITY,
        identities=identities,
        accounts=accounts,
    )


def _read_accounts(raw: object, field: str, own: Namespace, faults: list[Problem]) -> tuple[ServiceAccount, ...]:
    accounts = []
    for index, item in enumerate(read_items(raw, field, faults, _INVALID)):
        shape = _read_account(item, f"{field}[{index}]", faults)
        if shape is not None:
            namespace = own if shape.namespace is None else Namespace(shape.namespace)
            accounts.append(ServiceAccount(namespace, shape.name))
    return tuple(dict.fromkeys(accounts))


def parse_authorization_policy(metadata: Metadata, raw: dict[str, Any]) -> AuthorizationPolicy | Broken:
    """Return the AuthorizationPolicy in ``raw``; ``Broken`` when its target is nothing that can be called. Never
    raises.

    It is void as soon as another part of it is wrong, and then requires nothing: it grants nothing.
    """
    faults: list[Problem] = []
    problems = metadata.problems
    spec = _read_policy(raw.get("spec"), "spec", faults) or _PolicyShape()
    target = _read_target(spec.target_ref, metadata.ref.namespace, faults)
    required, accounts = _read_required(spec.required_authentication_refs, metadata.ref.namespace, faults)
    if target is None:
        return Broken(ref=metadata.ref, generation=metadata.generation, problems=(*faults, *problems))
    return AuthorizationPolicy(
        ref=metadata.ref,
        target=target,
        required=() if faults else required,
        accounts=() if faults else accounts,
        is_void=bool(faults),
        problems=(*faults, *problems),
    )


def _read_target(raw: object, own: Namespace, faults: list[Problem]) -> Ref | None:
    field = "spec.targetRef"
    reference = None if raw is None else read_reference(raw, field, faults)
    if reference is None:
        return None
    kind = reference.find(_TARGETS)
    if kind is None:
        legal = ", ".join(kind.value for kind in _TARGETS)
        message = f"found {quote(reference.words)}, which cannot be a target; write one of {legal}"
        fault = reference.find_group_fault(_TARGETS, field)
        faults.append(fault or Problem(f"{field}.kind", Reason.INVALID_KIND, message))
        return None
    if reference.namespace not in (None, own):
        message = f"found {quote(reference.namespace)}; leave it out, a target is in the policy's own namespace"
        faults.append(Problem(f"{field}.namespace", _INVALID, message))
    if kind is not Kind.NAMESPACE:
        return Ref(kind, own, reference.name)
    if reference.name != own:
        message = f"found {quote(reference.name)}; write {quote(own)}, a policy is about its own namespace only"
        faults.append(Problem(f"{field}.name", _INVALID, message))
    return Ref(Kind.NAMESPACE, Namespace(""), reference.name)


def _read_required(
    raw: object,
    own: Namespace,
    faults: list[Problem],
) -> tuple[tuple[Ref, ...], tuple[ServiceAccount, ...]]:
    """Return the authentications and the accounts that are required, in order. At most one says who the caller is, and
    at most one from where it calls."""
    field = "spec.requiredAuthenticationRefs"
    required: list[Ref] = []
    accounts: list[ServiceAccount] = []
    first: dict[bool, str] = {}
    for index, item in enumerate(read_items(raw, field, faults, _INVALID)):
        where = f"{field}[{index}]"
        reference = read_reference(item, where, faults)
        if reference is None:
            continue
        kind = reference.find(_AUTHENTICATIONS)
        if kind is not None:
            namespace = own if reference.namespace is None else Namespace(reference.namespace)
            required.append(Ref(kind, namespace, reference.name))
        elif reference.is_account:
            accounts.append(make_account(reference, own))
        else:
            legal = ", ".join((*(kind.value for kind in _AUTHENTICATIONS), SERVICE_ACCOUNT))
            message = f"found {quote(reference.words)}, which proves nothing; write one of {legal}"
            fault = reference.find_group_fault(_AUTHENTICATIONS, where)
            faults.append(fault or Problem(f"{where}.kind", Reason.INVALID_KIND, message))
            continue
        is_network = kind is Kind.NETWORK_AUTHENTICATION
        if is_network in first:
            legal = "one NetworkAuthentication" if is_network else f"one MeshTLSAuthentication or {SERVICE_ACCOUNT}"
            message = f"found a second one beside {first[is_network]}; write at most {legal}, it can list several"
            faults.append(Problem(where, _INVALID, message))
        first.setdefault(is_network, where)
    return tuple(required), tuple(accounts)
