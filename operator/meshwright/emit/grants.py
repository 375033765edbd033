"""Manifests that let in those who were seen calling: the smallest for one caller, and a whole namespace's.

A caller is let in by ServiceAccount: an address is nobody's for long, and an unmeshed caller shows nothing else.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from meshwright.model.desired import Json
from meshwright.model.identity import ServiceAccount, TrustDomain
from meshwright.model.observed import Called, Client
from meshwright.model.pod import Pod
from meshwright.model.policy import AccessPolicy
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


def emit_grants(grants: Iterable[Grant], access: AccessPolicy, trust: TrustDomain) -> tuple[Json, ...]:
    """Return the manifests: a Server with ``access`` where there is none, who may, and that they may; in the order they
    are best applied in."""
    servers: list[Json] = []
    rest: list[Json] = []
    for grant in grants:
        called = grant.called
        server = called.server or _name_of(grant)
        if not called.server:
            servers.append(emit_server(called.namespace, server, grant.selector, called.port, access))
        clients = f"{_clip(f'{called.route}-route' if called.route else server, _MAX_LABEL - 8)}-clients"
        rest.append(_object("MeshTLSAuthentication", called.namespace, clients, _list_clients(grant, trust)))
        required = {"group": GROUP, "kind": "MeshTLSAuthentication", "name": clients}
        spec = {"targetRef": _target(called, server), "requiredAuthenticationRefs": [required]}
        rest.append(_object("AuthorizationPolicy", called.namespace, clients, spec))
    return (*servers, *rest)


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


def _list_clients(grant: Grant, trust: TrustDomain) -> Json:
    """Return the spec of a MeshTLSAuthentication: accounts, or names when one is no account; it takes only either."""
    if grant.identities:
        return {"identities": sorted((*(trust.dns(each) for each in grant.accounts), *grant.identities))}
    refs = [{"kind": "ServiceAccount", "name": each.name, "namespace": str(each.namespace)} for each in grant.accounts]
    return {"identityRefs": refs}


def _target(called: Called, server: str) -> Mapping[str, str]:
    if not called.route:
        return {"group": GROUP, "kind": "Server", "name": server}
    kinds = {"httproute": "HTTPRoute", "grpcroute": "GRPCRoute"}
    return {"group": called.route_group, "kind": kinds.get(called.route_kind, called.route_kind), "name": called.route}


def _name_of(grant: Grant) -> str:
    labels = dict(grant.selector)
    name = next((labels[key] for key in _NAMES if key in labels), next(iter(labels.values()), "workload"))
    plain = re.sub(r"[^a-z0-9-]+", "-", name.lower()).strip("-") or "workload"
    return f"{_clip(plain, _MAX_LABEL - 6)}-{grant.called.port}"


def _clip(text: str, most: int) -> str:
    return text[:most].rstrip("-.")


def _object(kind: str, namespace: Namespace, name: str, spec: Json, version: str = "v1alpha1") -> Json:
    return {
        "apiVersion": f"{GROUP}/{version}",
        "kind": kind,
        "metadata": {"name": name, "namespace": str(namespace)},
        "spec": spec,
    }
