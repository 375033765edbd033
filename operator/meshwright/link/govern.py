"""Which Server holds which port of one workload, and what holds at its other ports."""

from collections.abc import Iterable, Iterator, Mapping

from meshwright.model.identity import MACHINE_MARK
from meshwright.model.inbound import GovernedPort, Inbound, PolicyDefaults, ServerPolicy
from meshwright.model.pod import AccessLog, Pod, PortRanges
from meshwright.model.policy import AccessPolicy, ProxyProtocol
from meshwright.model.proxy import DEFAULT_OPAQUE_PORTS
from meshwright.model.units import Port
from meshwright.model.workload import ExternalWorkload

MAX_ASKING_PORTS = 100
"""So many ports may differ from the others by asking for an identity: each is a filter chain and a virtual host."""

_LAST_PORT = 65535
_PROBED = (ProxyProtocol.UNKNOWN, ProxyProtocol.HTTP1, ProxyProtocol.HTTP2)


def govern(
    workload: Pod | ExternalWorkload,
    policies: Iterable[ServerPolicy],
    defaults: PolicyDefaults,
    inherited: AccessPolicy | None = None,
    opaque: PortRanges | None = None,
    *,
    usual: Iterable[Port] = DEFAULT_OPAQUE_PORTS,
) -> Inbound:
    """Return what holds at the ports of ``workload``. The order of ``policies`` does not matter. Never raises.

    ``inherited`` and ``opaque``: what its namespace says of inbound policy and of opaque ports, ``None`` for nothing;
    the workload's own word goes first, and the first of the two counts only where ``defaults`` follow the namespace.
    ``usual``: ports that are opaque where neither says.

    The oldest Server wins a port, of several as old the first by name; one that has no time is the youngest. A port
    that differs from the rest in nothing is not listed, so that equal answers mean equal configurations.

    Where more than ``MAX_ASKING_PORTS`` ports ask for an identity, all others do so instead when these are as few as
    that, and else every port does: rather too much is asked than too little.

    Source: linkerd2 ``policy-controller/k8s/index/src/inbound/index.rs`` (``Pod::reindex_servers``,
    ``PolicyIndex::pod_server_by_port``: the oldest; default servers; probe routes) and ``defaults.rs``.
    """
    follows = inherited if defaults.follows_namespace else None
    own = workload.opaque if workload.opaque is not None else opaque
    bytes_only = PortRanges(tuple((port, port) for port in sorted(usual))) if own is None else own
    asked = follows or defaults.access if workload.access is None else workload.access
    access, differing = _ask(asked, workload.asks_identity)
    probes = _probes(workload) if defaults.probe_networks else {}
    ports: dict[Port, GovernedPort] = {}
    for policy in sorted(filter_policies(policies, workload), key=_age):
        is_probed = policy.protocol in _PROBED and not policy.is_routed
        for port in find_ports(policy.port, workload):
            governed = GovernedPort(
                port=port,
                policy=policy,
                is_opaque=not policy.protocol.is_http,
                probes=probes.get(port, ()) if is_probed else (),
            )
            ports.setdefault(port, governed)
    for port in (*differing, *probes):
        here = differing.get(port, access)
        is_opaque = port in bytes_only
        needs = probes.get(port, ()) if not is_opaque and here is not AccessPolicy.ALL_UNAUTHENTICATED else ()
        if here is not access or needs:
            ports.setdefault(port, GovernedPort(port=port, access=here, is_opaque=is_opaque, probes=needs))
    return Inbound(
        access=access,
        ports=tuple(ports[port] for port in sorted(ports)),
        opaque=own,
        access_log=workload.access_log if isinstance(workload, Pod) else AccessLog.NONE,
        defaults=defaults,
        server_name=name_by_tls(workload),
    )


def filter_policies(policies: Iterable[ServerPolicy], workload: Pod | ExternalWorkload) -> Iterator[ServerPolicy]:
    """Yield the policies of the Servers that select ``workload``, whatever its ports.

    Source: linkerd2 ``policy-controller/k8s/index/src/inbound/index.rs`` (podSelector selects pods only,
    externalWorkloadSelector ExternalWorkloads only).
    """
    labels = dict(workload.labels)
    is_external = isinstance(workload, ExternalWorkload)
    for policy in policies:
        is_kin = policy.selects_external is is_external and policy.server.namespace == workload.ref.namespace
        if is_kin and policy.selector.selects(labels):
            yield policy


def find_ports(port: Port | str, workload: Pod | ExternalWorkload) -> tuple[Port, ...]:
    """Return the numbers that a Server's port means at ``workload``, sorted: one for a number, whether or not the
    workload declares it; every TCP port of that name, which may be none or several, for a name."""
    if not isinstance(port, str):
        return (port,)
    if isinstance(workload, ExternalWorkload):
        named = {each.port for each in workload.ports if each.name == port and each.transport == "TCP"}
    else:
        named = {number for name, number in workload.ports if name == port}
    return tuple(sorted(named))


def _ask(access: AccessPolicy, asking: PortRanges) -> tuple[AccessPolicy, Mapping[Port, AccessPolicy]]:
    """Return the policy of the ports in general, and those ports that have another one."""
    if (strict := access.authenticated) is access or not asking:
        return access, {}
    if _count(asking) <= MAX_ASKING_PORTS:
        return access, dict.fromkeys(_list(asking), strict)
    others = PortRanges(tuple(_between(asking)))
    return strict, dict.fromkeys(_list(others), access) if _count(others) <= MAX_ASKING_PORTS else {}


def _between(ports: PortRanges) -> Iterator[tuple[Port, Port]]:
    """Yield the ranges of all ports that are not among ``ports``."""
    start = 1
    for low, high in ports.ranges:
        if start < low:
            yield Port(start), Port(low - 1)
        start = high + 1
    if start <= _LAST_PORT:
        yield Port(start), Port(_LAST_PORT)


def _count(ports: PortRanges) -> int:
    return sum(high - low + 1 for low, high in ports.ranges)


def _list(ports: PortRanges) -> Iterator[Port]:
    return (Port(port) for low, high in ports.ranges for port in range(low, high + 1))


def name_by_tls(workload: Pod | ExternalWorkload) -> str:
    """Return what callers' TLS calls the workload. Machines whose names we make share one answer."""
    if isinstance(workload, Pod):
        return ""
    _, mark, mesh = workload.server_name.partition(MACHINE_MARK)
    return f"*{mark}{mesh}" if mesh else workload.server_name


def _probes(workload: Pod | ExternalWorkload) -> Mapping[Port, tuple[str, ...]]:
    """Return the paths that the kubelet GETs, sorted, by port. It asks no machine outside the cluster."""
    found: dict[Port, tuple[str, ...]] = {}
    for port, path in workload.probes if isinstance(workload, Pod) else ():
        found[port] = (*found.get(port, ()), path)
    return found


def _age(policy: ServerPolicy) -> tuple[bool, int, str]:
    return policy.created is None, policy.created or 0, policy.server.name
