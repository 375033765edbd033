"""Manifests that let in those who were seen calling: the smallest for one caller, and a whole namespace's.

A caller is let in by ServiceAccount: an address is nobody's for long, and an unmeshed caller shows nothing else.
"""

import re
from collections import defaultdict
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import count
from types import MappingProxyType

from meshwright.model.desired import Json
from meshwright.model.identity import ServiceAccount, TrustDomain
from meshwright.model.observed import Called, Client
from meshwright.model.pod import Pod
from meshwright.model.policy import AccessPolicy, AuthorizationPolicy, MeshTlsAuthentication, ProxyProtocol, Server
from meshwright.model.ref import Kind, Ref
from meshwright.model.snapshot import Parsed
from meshwright.model.units import Namespace, Port

GROUP = "policy.linkerd.io"
_NAMES = ("app.kubernetes.io/name", "app", "k8s-app")
"""The labels people tell workloads apart by, the best known first."""

_PASSING = re.compile(
    r"pod-template-hash|controller-revision-hash|pod-template-generation|job-name|controller-uid"
    r"|(?:statefulset\.kubernetes\.io|apps\.kubernetes\.io|batch\.kubernetes\.io|linkerd\.io|meshwright\.dev)/.*"
)
"""Labels that controllers write: another pod of the same workload has others."""

_MAX_LABEL = 63
_MAX_NUMBER = 4
_ROUTES = (Kind.HTTP_ROUTE, Kind.POLICY_HTTP_ROUTE, Kind.GRPC_ROUTE)
NOTHING_STORED: Mapping[Ref, Parsed] = MappingProxyType({})
_Labels = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """Those who were seen calling one thing. ``selector``: the labels of the workload called, sorted pairs; not needed
    where a Server governs the port already."""

    called: Called
    selector: tuple[tuple[str, str], ...] = ()
    accounts: tuple[ServiceAccount, ...] = ()
    identities: tuple[str, ...] = ()


def choose_selector(pod: Pod) -> tuple[tuple[str, str], ...]:
    """Return the labels that select a pod and its like, sorted pairs: its name's, else all that are its own."""
    labels = {key: value for key, value in pod.labels if not _PASSING.fullmatch(key)}
    for name in _NAMES:
        if labels.get(name):
            instance = "app.kubernetes.io/instance"
            also = ((instance, labels[instance]),) if name == _NAMES[0] and labels.get(instance) else ()
            return tuple(sorted(((name, labels[name]), *also)))
    return tuple(sorted(labels.items()))


def make_grants(seen: Iterable[tuple[Called, Pod | None, Client]]) -> tuple[Grant, ...]:
    """Return who is to be let in where, sorted: each Server and route once, each port of workloads without a Server.

    Callers without identity are left out: they show nothing to let them in by.
    """
    found: defaultdict[tuple[Called, _Labels], set[Client]] = defaultdict(set)
    for called, pod, client in seen:
        selector = () if called.server or pod is None else choose_selector(pod)
        if (called.server or selector) and (client.account is not None or client.identity):
            # One name may stand for several ports: to a Server they are one.
            place = replace(called, port=Port(0), default="") if called.server else replace(called, default="")
            found[place, selector].add(client)
    return tuple(
        Grant(
            called=place,
            selector=selector,
            accounts=tuple(sorted(each.account for each in clients if each.account is not None)),
            identities=tuple(sorted(each.identity for each in clients if each.account is None)),
        )
        for (place, selector), clients in sorted(found.items(), key=lambda item: item[0])
    )


def emit_grants(
    grants: Iterable[Grant], access: AccessPolicy, trust: TrustDomain, stored: Mapping[Ref, Parsed] = NOTHING_STORED
) -> tuple[Json, ...]:
    """Return the manifests: a Server with ``access`` where there is none, who may, and that they may; in the order they
    are best applied in.

    ``stored``: the policy objects that the namespace has. None of them is changed but what was written here before,
    which is written again whole: who is let in stays, and a Server's ``deny`` is never made ``audit``.
    """
    servers: list[Json] = []
    rest: list[Json] = []
    names = _Names(stored)
    given = tuple(grants)
    for grant in (*given, *_find_written(stored, {_target_ref(each.called, each.called.server) for each in given})):
        called = grant.called
        server = called.server or names.find_server(called.namespace, _name_of(grant))
        if not called.server:
            servers.append(emit_server(called.namespace, server, grant.selector, called.port, access))
        elif not called.route:
            servers += _emit_again(stored.get(Ref(Kind.SERVER, called.namespace, server)), access)
        target = _target_ref(called, server)
        clients, known = names.find_clients(called.namespace, _name_clients(target), target)
        rest.append(_object("MeshTLSAuthentication", called.namespace, clients, _list_clients(grant, known, trust)))
        required = {"group": GROUP, "kind": "MeshTLSAuthentication", "name": clients}
        spec = {"targetRef": _target(called, server), "requiredAuthenticationRefs": [required]}
        rest.append(_object("AuthorizationPolicy", called.namespace, clients, spec))
    return (*servers, *rest)


def _name_clients(target: Ref) -> str:
    name = target.name if target.kind is Kind.SERVER else f"{target.name}-route"
    return f"{_clip(name, _MAX_LABEL - 8 - _MAX_NUMBER)}-clients"


def _find_written(stored: Mapping[Ref, Parsed], done: Container[Ref]) -> Iterator[Grant]:
    """Yield what was written here before, for targets that are not ``done``, with nobody new."""
    for ref, policy in sorted(stored.items()):
        if not isinstance(policy, AuthorizationPolicy) or policy.is_void or policy.accounts or policy.target in done:
            continue
        target = policy.target
        is_named = re.fullmatch(rf"{re.escape(_name_clients(target))}(-\d+)?", ref.name) is not None
        known = stored.get(Ref(Kind.MESH_TLS_AUTHENTICATION, ref.namespace, ref.name))
        if not (is_named and isinstance(known, MeshTlsAuthentication) and policy.required == (known.ref,)):
            continue
        if known.is_void:
            continue
        if target.kind is Kind.SERVER:
            yield Grant(called=Called(namespace=ref.namespace, port=Port(0), server=target.name))
        elif target.kind in _ROUTES:
            # Of which Server the route is does not matter: it is the route that is named.
            route = {"route_group": target.kind.group, "route_kind": target.kind.word.lower(), "route": target.name}
            yield Grant(called=Called(namespace=ref.namespace, port=Port(0), server=target.name, **route))


def _emit_again(server: Parsed | None, access: AccessPolicy) -> Iterator[Json]:
    """Yield a Server that stands, when it is as they are written here; only audit may become deny."""
    if not isinstance(server, Server) or isinstance(server.port, str) or server.problems:
        return
    has_labels_only = server.selector.labels and not server.selector.expressions
    is_plain = has_labels_only and not server.selects_external and server.protocol is ProxyProtocol.UNKNOWN
    if is_plain and re.fullmatch(rf".+-{server.port}(-\d+)?", server.ref.name):
        kept = access if server.access is AccessPolicy.AUDIT else server.access
        yield emit_server(server.ref.namespace, server.ref.name, server.selector.labels, server.port, kept)


class _Names:
    """Names for what is written: those that nobody has, or that what was written here before has."""

    def __init__(self, stored: Mapping[Ref, Parsed]) -> None:
        self._stored = stored
        self._taken: set[Ref] = set()

    def find_server(self, namespace: Namespace, name: str) -> str:
        """Return a name that no Server has."""
        return next(each for each in _number(name) if self._take(Ref(Kind.SERVER, namespace, each)))

    def find_clients(self, namespace: Namespace, name: str, target: Ref) -> tuple[str, MeshTlsAuthentication | None]:
        """Return a name for who may call ``target``, and who is known under it: of a policy that asks for nothing else,
        and the authentication that nothing else asks for; ``None`` when neither is there yet."""
        for each in _number(name):
            policy, authentication = (
                Ref(kind, namespace, each) for kind in (Kind.AUTHORIZATION_POLICY, Kind.MESH_TLS_AUTHENTICATION)
            )
            known = self._stored.get(authentication)
            is_ours = self._list_policies(authentication) == [(policy, target, (authentication,), ())]
            if is_ours and isinstance(known, MeshTlsAuthentication) and not known.is_void and policy not in self._taken:
                self._taken.add(policy)
                return each, known
            if authentication not in self._stored and self._take(policy):
                return each, None
        raise AssertionError("numbers do not end")

    def _list_policies(self, authentication: Ref) -> list[tuple[Ref, Ref, tuple[Ref, ...], tuple[ServiceAccount, ...]]]:
        return [
            (each.ref, each.target, each.required, each.accounts)
            for each in self._stored.values()
            if isinstance(each, AuthorizationPolicy) and authentication in each.required
        ]

    def _take(self, ref: Ref) -> bool:
        if ref in self._stored or ref in self._taken:
            return False
        self._taken.add(ref)
        return True


def _number(name: str) -> Iterator[str]:
    yield name
    yield from (f"{name}-{number}" for number in count(2))


def emit_smallest(called: Called, client: Client) -> Json | None:
    """Return the one manifest that lets ``client`` in where a Server governs; ``None`` where there is nothing to let it
    in by, or nothing to name: no Server, or no account."""
    if client.account is None or not called.server:
        return None
    name = _clip(f"{called.route or called.server}-{client.account.name}", _MAX_LABEL)
    account = {"kind": "ServiceAccount", "name": client.account.name, "namespace": str(client.account.namespace)}
    spec = {"targetRef": _target(called, called.server), "requiredAuthenticationRefs": [account]}
    return _object("AuthorizationPolicy", called.namespace, name, spec)


def emit_server(
    namespace: Namespace, name: str, selector: Iterable[tuple[str, str]], port: Port, access: AccessPolicy
) -> Json:
    """Return a Server of the pods that ``selector``, labels, selects."""
    spec = {"podSelector": {"matchLabels": dict(selector)}, "port": int(port), "accessPolicy": access.value}
    return _object("Server", namespace, name, spec, version="v1beta3")


def _list_clients(grant: Grant, known: MeshTlsAuthentication | None, trust: TrustDomain) -> Json:
    """Return the spec of a MeshTLSAuthentication: accounts, or names when one is no account; it takes only either."""
    accounts = sorted({*grant.accounts, *(known.accounts if known else ())})
    identities = {*grant.identities, *(known.identities if known else ())}
    spaces = sorted(known.namespaces) if known else []
    if identities:
        names = {*(trust.dns(each) for each in accounts), *(f"*.{space}.{trust.suffix}" for space in spaces)}
        return {"identities": sorted(identities | names)}
    refs = [{"kind": "ServiceAccount", "name": each.name, "namespace": str(each.namespace)} for each in accounts]
    return {"identityRefs": [*refs, *({"kind": "Namespace", "name": str(space)} for space in spaces)]}


def _target_ref(called: Called, server: str) -> Ref:
    """Return what an AuthorizationPolicy for ``called`` targets, as a ref."""
    if not called.route:
        return Ref(Kind.SERVER, called.namespace, server)
    named = (each for each in _ROUTES if (each.group, each.word.lower()) == (called.route_group, called.route_kind))
    return Ref(next(named, Kind.HTTP_ROUTE), called.namespace, called.route)


def _target(called: Called, server: str) -> Mapping[str, str]:
    if not called.route:
        return {"group": GROUP, "kind": "Server", "name": server}
    kinds = {"httproute": "HTTPRoute", "grpcroute": "GRPCRoute"}
    return {"group": called.route_group, "kind": kinds.get(called.route_kind, called.route_kind), "name": called.route}


def _name_of(grant: Grant) -> str:
    labels = dict(grant.selector)
    name = next((labels[key] for key in _NAMES if key in labels), next(iter(labels.values()), "workload"))
    plain = re.sub(r"[^a-z0-9-]+", "-", name.lower()).strip("-") or "workload"
    return f"{_clip(plain, _MAX_LABEL - 6 - _MAX_NUMBER)}-{grant.called.port}"


def _clip(text: str, most: int) -> str:
    return text[:most].rstrip("-.")


def _object(kind: str, namespace: Namespace, name: str, spec: Json, version: str = "v1alpha1") -> Json:
    return {
        "apiVersion": f"{GROUP}/{version}",
        "kind": kind,
        "metadata": {"name": name, "namespace": str(namespace)},
        "spec": spec,
    }
