"""A registry with a group called ledger, a cluster that takes what it writes, and machines that call."""

from collections.abc import Iterable

from meshwright.edge.registrar.registry import Registry
from meshwright.model.desired import Condition, Json
from meshwright.model.enrollment import (
    Beat,
    Beaten,
    Claim,
    Done,
    Drain,
    Health,
    InstanceKey,
    Leave,
    Loaded,
    Peer,
    Refusal,
    Register,
    Registered,
    Trouble,
    Turned,
)
from meshwright.model.group import Group, Probe, RegistrationPolicy, Rules
from meshwright.model.identity import TrustDomain
from meshwright.model.instance import READY
from meshwright.model.ref import Kind, Ref
from meshwright.model.units import Millis, Namespace, Port
from meshwright.model.workload import Protocol, Service, ServicePort, WorkloadPort
from meshwright.parse.instance import parse_instance

SHOP = Namespace("shop")
TRUST = TrustDomain()
LEDGER = Ref(Kind.EXTERNAL_GROUP, SHOP, "ledger")
BATCH = Ref(Kind.EXTERNAL_GROUP, SHOP, "batch")
POLICY = Ref(Kind.REGISTRATION_POLICY, SHOP, "ledger")
WALL = 1_800_000_000
UID = "uid-aaaaaaaa"


def make_group(
    ref: Ref = LEDGER, *, labels: tuple[tuple[str, str], ...] = (("app", "ledger"),), port: int = 8080
) -> Group:
    return Group(
        ref=ref,
        uid="group-uid",
        generation=1,
        labels=labels,
        annotations=(("note", "kept"),),
        ports=(WorkloadPort(name="http", port=Port(port)),),
        probe=Probe(port=Port(port)),
        template_hash=f"sha256:{port}-{len(labels)}",
    )


def make_policy(
    rules: Rules, group: str = "ledger", name: str = "ledger", created: int | None = None
) -> RegistrationPolicy:
    ref = Ref(Kind.REGISTRATION_POLICY, SHOP, name)
    return RegistrationPolicy(ref=ref, uid="policy-uid", generation=1, group=group, rules=rules, created=created)


def make_service(name: str = "ledger", selector: tuple[tuple[str, str], ...] = (("app", "ledger"),)) -> Service:
    return Service(
        ref=Ref(Kind.SERVICE, SHOP, name),
        uid="service-uid",
        type="ClusterIP",
        addresses=("10.96.0.1",),
        is_headless=False,
        ports=(ServicePort(name="http", port=Port(80), target=Port(8080), protocol=Protocol.DETECT),),
        selector=selector,
    )


def make_raw(name: str, ip: str, *, port: int = 8080, namespace: str = SHOP) -> Json:
    """Return an ExternalWorkload that somebody has made by hand."""
    return {
        "apiVersion": "workload.linkerd.io/v1beta1",
        "kind": "ExternalWorkload",
        "metadata": {"name": name, "namespace": namespace, "uid": f"by-hand-{name}"},
        "spec": {
            "meshTLS": {"identity": "spiffe://root/x", "serverName": "x"},
            "workloadIPs": [{"ip": ip}],
            "ports": [{"port": port}],
        },
        "status": {"conditions": [{"type": "Ready", "status": "True"}]},
    }


class Cluster:
    """A registry that leads, the objects that its writer would have written, and the time.

    ``writes`` counts requests as a writer would make them: none where nothing would change. Time passes with `wait`
    only, looked at as often as the registry asks for.
    """

    def __init__(
        self, *, rules: Rules | None = None, groups: Iterable[Group] | None = None, is_leading: bool = True
    ) -> None:
        self.now, self.wall = 1000.0, WALL
        self.objects: dict[Ref, Json] = {}
        self.writes = 0
        self.told = 0
        self.is_writing = True
        self._uids = 0
        self.groups = {group.ref: group for group in ((make_group(),) if groups is None else groups)}
        self.policies = {POLICY: make_policy(rules)} if rules is not None else {}
        self.services: dict[Ref, Service] = {}
        self.registry = self.make_registry()
        if is_leading:
            self.registry.lead(self.now, self.wall)
            self.write()

    def make_registry(self, *, registrations_per_second: float = 10_000.0) -> Registry:
        """Return a new one, told of all that is there."""
        registry = Registry(
            TRUST,
            forbidden=("10.244.0.0/16", "10.96.0.0/12"),
            changed=self._changed,
            registrations_per_second=registrations_per_second,
        )
        for ref, group in self.groups.items():
            registry.put_group(ref, group)
        for ref, policy in self.policies.items():
            registry.put_policy(ref, policy)
        for ref, service in self.services.items():
            registry.put_service(ref, service)
        for ref, raw in self.objects.items():
            registry.put_workload(ref, parse_instance(raw), self.now)
        return registry

    def _changed(self) -> None:
        self.told += 1

    def fail_over(self) -> None:
        """Let another replica lead, which knows what the cluster shows, and the checkpoint."""
        seen, tombstones = self.registry.checkpoint()
        self.registry.follow()
        self.registry = self.make_registry()
        self.registry.restore(seen, tombstones)
        self.registry.lead(self.now, self.wall)
        self.write()

    def write(self) -> None:
        """Write what should be, and tell the registry of it, as watches do."""
        while self.is_writing and (changes := self.registry.take_changes()):
            for ref in sorted(changes):
                if ref.kind is Kind.EXTERNAL_WORKLOAD:
                    self._write(ref)

    def _write(self, ref: Ref) -> None:
        wanted, stored = self.registry.manifest(ref), self.objects.get(ref)
        if wanted is None:
            if stored is not None and "app.kubernetes.io/managed-by" in stored["metadata"].get("labels", {}):
                self.writes += 1
                self.put(ref, None)
            return
        if stored is None or wanted["spec"] != stored["spec"] or _meta(stored) != _meta(wanted):
            self.writes += 1
            uid = stored["metadata"]["uid"] if stored is not None else self._make_uid()
            metadata = {**wanted["metadata"], "uid": uid}
            self.put(ref, {**wanted, "metadata": metadata, "status": (stored or {}).get("status", {})})
        conditions = [
            {"type": each.type, "status": each.status, "reason": each.reason, "message": each.message}
            for each in self.registry.conditions(ref)
        ]
        stored = self.objects[ref]
        if conditions != stored["status"].get("conditions"):
            self.writes += 1
            self.put(ref, {**stored, "status": {"conditions": conditions}})

    def _make_uid(self) -> str:
        self._uids += 1
        return f"object-{self._uids}"

    def put(self, ref: Ref, raw: Json | None) -> None:
        """Change an object, as anybody may."""
        if raw is None:
            self.objects.pop(ref, None)
        else:
            self.objects[ref] = raw
        self.registry.put_workload(ref, None if raw is None else parse_instance(raw), self.now)

    def put_group(self, ref: Ref, group: Group | None) -> None:
        if group is None:
            self.groups.pop(ref, None)
        else:
            self.groups[ref] = group
        self.registry.put_group(ref, group)
        self.write()

    def put_service(self, service: Service) -> None:
        self.services[service.ref] = service
        self.registry.put_service(service.ref, service)
        self.write()

    def put_rules(self, rules: Rules) -> None:
        self.policies[POLICY] = make_policy(rules)
        self.registry.put_policy(POLICY, self.policies[POLICY])
        self.write()

    def look(self, *, stalled: float = 0.0, holds: bool = False) -> float:
        wait = self.registry.look(self.now, self.wall, stalled=stalled, holds=holds)
        self.write()
        return wait

    def wait(self, seconds: float, *machines: "Machine", holds: bool = False) -> None:
        """Let time pass, while these machines beat when they should."""
        until = self.now + seconds
        due = dict.fromkeys(machines, self.now + 10.0)
        while self.now < until:
            step = min(self.look(holds=holds), until - self.now, *(at - self.now for at in due.values()), 10.0)
            before = int(self.now)
            self.now += max(step, 0.001)
            self.wall += int(self.now) - before
            for machine, at in due.items():
                if at <= self.now:
                    machine.beat()
                    due[machine] = self.now + 10.0
        self.look(holds=holds)

    def ready(self, machine: "Machine") -> bool:
        """Return whether the cluster shows the machine as ready."""
        return self.condition(machine, READY).status == "True"

    def condition(self, machine: "Machine", type_: str = READY) -> Condition:
        seen = parse_instance(self.objects.get(machine.ref))
        found = [each for each in (seen.conditions if seen else ()) if each.type == type_]
        return found[0] if found else Condition(type=type_, status="Unknown", reason="Absent", message="")

    def reason(self, machine: "Machine", type_: str = READY) -> str:
        return self.condition(machine, type_).reason


class Machine:
    """A machine of a group, with the agent's part of the protocol."""

    def __init__(
        self, cluster: Cluster, uid: str = UID, *, ip: str = "192.0.2.10", group: str = "ledger", identity: str = ""
    ) -> None:
        self.cluster = cluster
        self.key = InstanceKey(SHOP, group, uid)
        self.epoch, self.nonce, self.seq = 1, f"nonce-{uid}", 0
        self.ips: tuple[str, ...] = (ip,)
        self.source = ip
        self.identity = identity or TRUST.machine_uri(SHOP, group, uid)
        self.health, self.trouble, self.message = Health.PASSING, Trouble.PROBE, ""
        self.labels: tuple[tuple[str, str], ...] = ()
        self.loaded = Loaded()
        self.ref = Ref(Kind.EXTERNAL_WORKLOAD, SHOP, "")

    def __hash__(self) -> int:
        return hash(self.key)

    @property
    def claims(self) -> tuple[Claim, ...]:
        return tuple(Claim(ip=ip, interface="ens5") for ip in self.ips)

    @property
    def peer(self) -> Peer:
        return Peer(identity=self.identity, address=self.source)

    def register(self, **more: str) -> Registered | Refusal:
        request = Register(
            key=self.key,
            epoch=self.epoch,
            nonce=self.nonce,
            addresses=self.claims,
            labels=self.labels,
            agent="0.3.1",
            loaded=self.loaded,
            **more,
        )
        answer = self.cluster.registry.register(request, self.peer, self.cluster.now, self.cluster.wall)
        if isinstance(answer, Registered):
            self.ref = Ref(Kind.EXTERNAL_WORKLOAD, SHOP, answer.workload)
        self.cluster.write()
        return answer

    def beat(self) -> Beaten | Refusal:
        self.seq += 1
        request = Beat(
            key=self.key,
            epoch=self.epoch,
            nonce=self.nonce,
            seq=self.seq,
            health=self.health,
            trouble=self.trouble,
            message=self.message,
            addresses=self.claims,
            loaded=self.loaded,
        )
        answer = self.cluster.registry.beat(request, self.peer, self.cluster.now, self.cluster.wall)
        self.cluster.write()
        return answer

    def start(self) -> "Machine":
        """Register and beat once; both must be let through."""
        assert isinstance(self.register(), Registered)
        assert isinstance(self.beat(), Beaten)
        return self

    def restart(self) -> Registered | Refusal:
        """Register as the next run of the agent does."""
        self.epoch += 1
        self.nonce, self.seq = f"{self.nonce}+", 0
        return self.register()

    def drain(self, seconds: float) -> Done | Refusal:
        request = Drain(key=self.key, epoch=self.epoch, drain_ms=make_millis(seconds))
        answer = self.cluster.registry.drain(request, self.peer, self.cluster.now)
        self.cluster.write()
        return answer

    def leave(self) -> Done | Refusal:
        answer = self.cluster.registry.leave(
            Leave(key=self.key, epoch=self.epoch), self.peer, self.cluster.now, self.cluster.wall
        )
        self.cluster.write()
        return answer


def make_millis(seconds: float) -> Millis:
    return Millis(round(seconds * 1000))


def turned(answer: object) -> Turned | None:
    """Return why an answer is a refusal, ``None`` when it is none."""
    return answer.reason if isinstance(answer, Refusal) else None


def start_machines(cluster: Cluster, count: int, *, group: str = "ledger") -> list[Machine]:
    """Return so many that are ready, each with an address of its own."""
    return [
        Machine(
            cluster, f"{group}-uid-{number:04}", ip=f"192.0.{2 + number // 200}.{number % 200 + 1}", group=group
        ).start()
        for number in range(count)
    ]


def _meta(raw: Json) -> tuple[object, object]:
    return raw["metadata"].get("labels"), raw["metadata"].get("annotations")
