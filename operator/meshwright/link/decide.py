"""What becomes of one attempt to call a workload, and why: what its proxy will do, said without one."""

from collections.abc import Iterable

from meshwright.link.matching import is_taken
from meshwright.link.paths import normalize_path
from meshwright.link.proofs import find_fault, is_local
from meshwright.model.access import LOCALHOST, authorize_access, authorize_probes
from meshwright.model.inbound import Authorization, GovernedPort, Inbound, InboundRule, PolicyDefaults
from meshwright.model.pod import PortRanges
from meshwright.model.policy import AccessPolicy, ProxyProtocol
from meshwright.model.proxy import DEFAULT_OPAQUE_PORTS
from meshwright.model.request import Caller, Decision, Missed, Outcome, Request
from meshwright.model.units import Port

_USUALLY_OPAQUE = PortRanges(tuple((port, port) for port in DEFAULT_OPAQUE_PORTS))
_PROBED = (ProxyProtocol.UNKNOWN, ProxyProtocol.HTTP1, ProxyProtocol.HTTP2)


def decide(inbound: Inbound, caller: Caller, port: Port, request: Request | None) -> Decision:
    """Return what becomes of ``caller``'s attempt at ``port``. ``request`` ``None``: a connection that is not HTTP.

    A request is first given to a route, then it must be authorized; what filters and rate limits do to it then is not
    looked at. Where HTTP is not taken as such, a request is bytes like any other. In ``by`` and ``missed``, sources
    are in the order of their texts, as proxies go through them.

    Raises:
        ValueError: the caller's address is none.

    Source: linkerd2-proxy ``linkerd/app/inbound/src/policy/{http,tcp}.rs``; linkerd2
    ``policy-controller/k8s/index/src/inbound/index.rs`` (routes hide default and probe routes; localhost).
    """
    governed = find_governed(inbound, port)
    policy = governed.policy
    if request is None or not is_http(governed):
        if policy is not None and not policy.protocol.is_tcp:
            return _refuse(governed)
        return _judge(governed, inbound.defaults, caller)
    if normalize_path(request.path) is None:
        return _refuse(governed)
    if policy is None or not policy.is_routed:
        return _judge(governed, inbound.defaults, caller, probes=_find_probe(governed, inbound.defaults, request))
    rule = next((rule for rule in policy.rules if is_taken(request, rule)), None)
    if rule is None:
        return Decision(outcome=Outcome.NOT_FOUND, server=policy.server)
    return _judge(governed, inbound.defaults, caller, rule=rule)


def find_governed(inbound: Inbound, port: Port) -> GovernedPort:
    """Return what holds at ``port``, also where it is one of the many that nothing is said of."""
    opaque = _USUALLY_OPAQUE if inbound.opaque is None else inbound.opaque
    rest = GovernedPort(port=port, access=inbound.access, is_opaque=port in opaque)
    return next((each for each in inbound.ports if each.port == port), rest)


def is_http(governed: GovernedPort) -> bool:
    """Return whether HTTP is taken as such there: a Server says so, else what is said of the port."""
    return not governed.is_opaque if governed.policy is None else governed.policy.protocol.is_http


def _find_probe(governed: GovernedPort, defaults: PolicyDefaults, request: Request) -> tuple[Authorization, ...]:
    """Return what lets the kubelet in, if this is one of its probes."""
    is_probed = governed.policy is None or governed.policy.protocol in _PROBED
    is_probe = request.method == "GET" and normalize_path(request.path) in governed.probes
    probe = authorize_probes(defaults) if is_probed and is_probe else None
    return () if probe is None else (probe,)


def _judge(
    governed: GovernedPort,
    defaults: PolicyDefaults,
    caller: Caller,
    *,
    rule: InboundRule | None = None,
    probes: Iterable[Authorization] = (),
) -> Decision:
    policy = governed.policy
    if policy is None:
        access = authorize_access(governed.access, defaults)
        held: tuple[Authorization, ...] = () if access is None else (access,)
        is_audit = governed.access is AccessPolicy.AUDIT
    else:
        held, is_audit = policy.authorizations, policy.is_audit
    local = (LOCALHOST,) if is_local(caller) else ()
    tried = sorted((*held, *(rule.authorizations if rule else ()), *probes, *local), key=lambda each: str(each.source))
    faults = [(each.source, find_fault(each, caller)) for each in tried]
    by = next((source for source, fault in faults if fault is None), None)
    return Decision(
        outcome=Outcome.ALLOWED if by else Outcome.AUDITED if is_audit else Outcome.DENIED,
        server=policy.server if policy else None,
        default="" if policy else governed.access.value,
        route=rule.route if rule else None,
        by=by,
        missed=tuple(Missed(source=source, why=fault) for source, fault in faults if fault is not None),
    )


def _refuse(governed: GovernedPort) -> Decision:
    return Decision(
        outcome=Outcome.REFUSED,
        server=governed.policy.server if governed.policy else None,
        default="" if governed.policy else governed.access.value,
    )
