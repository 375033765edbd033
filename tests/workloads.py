"""A Service called db, workloads behind it, and what is found of them."""

from meshwright.model.linked_members import Family, Member, MemberGroup, MemberPort
from meshwright.model.ref import Kind, Ref
from meshwright.model.units import Namespace, Port
from meshwright.model.workload import ExternalWorkload, Protocol, Service, ServicePort, WorkloadPort

NAMESPACE = Namespace("shop")


def make_port(name: str, target: int | str, port: int = 80, transport: str = "TCP") -> ServicePort:
    """Return a Service's port that leads to a number or to a port's name."""
    where = target if isinstance(target, str) else Port(target)
    return ServicePort(name=name, port=Port(port), target=where, protocol=Protocol.DETECT, transport=transport)


DB = Service(
    ref=Ref(Kind.SERVICE, NAMESPACE, "db"),
    uid="service-uid",
    type="ClusterIP",
    addresses=("10.96.0.1",),
    is_headless=False,
    ports=(make_port("sql", "sql", port=5432),),
    selector=(("app", "db"),),
    families=("IPv4",),
)


def make_workload(
    name: str,
    *,
    ips: tuple[str, ...] = ("10.0.0.1",),
    ports: tuple[WorkloadPort, ...] = (WorkloadPort(name="sql", port=Port(15432)),),
    is_ready: bool = True,
    labels: tuple[tuple[str, str], ...] = (("app", "db"), ("zone", "a")),
    namespace: Namespace = NAMESPACE,
    zone: str | None = None,
) -> ExternalWorkload:
    """Return a workload that `DB` selects."""
    return ExternalWorkload(
        ref=Ref(Kind.EXTERNAL_WORKLOAD, namespace, name),
        uid=f"uid-{name}",
        ips=ips,
        ports=ports,
        is_ready=is_ready,
        labels=labels,
        zone=zone,
    )


def make_member(name: str, *addresses: str, is_ready: bool = True, uid: str = "") -> Member:
    """Return what is found of the workload called ``name``."""
    ref = Ref(Kind.EXTERNAL_WORKLOAD, NAMESPACE, name)
    return Member(workload=ref, uid=uid or f"uid-{name}", addresses=addresses or ("10.0.0.1",), is_ready=is_ready)


def make_group(
    *members: Member,
    ports: tuple[MemberPort, ...] = (MemberPort("sql", Port(15432), "TCP"),),
    family: Family = Family.IPV4,
) -> MemberGroup:
    return MemberGroup(family=family, ports=ports, members=members)
