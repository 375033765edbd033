"""Agents on machines: installed by the command that the cluster prints, run as their systemd unit says."""

import json
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from e2e.kube import Json, Kube, eventually
from e2e.machines import MESHWRIGHT, Machine
from e2e.mesh import NAMESPACE, Mesh
from meshwright.model.pod import PROXY_UID

SHOP = "shop"
"""The namespace of the groups."""
SETTINGS, STATE, RUN = "/etc/meshwright/agent.json", "/var/lib/meshwright/agent", "/run/meshwright"
UNIT = "/etc/systemd/system/meshwright-agent.service"
GROUP = """
apiVersion: workload.buoyant.io/v1alpha1
kind: ExternalGroup
metadata: {{name: {name}, namespace: shop}}
spec:
  template:
    metadata: {{labels: {{app: {name}, tier: mixed}}}}
    ports: [{{name: http, port: 8080}}, {{name: grpc, port: 9090}}, {{name: echo, port: 7000}}]
  probes: [{{httpGet: {{port: 8080, path: /ready}}, periodSeconds: 1, failureThreshold: 1}}]
---
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: shop, annotations: {{config.linkerd.io/opaque-ports: "7000"}}}}
spec:
  ipFamilyPolicy: PreferDualStack
  selector: {{app: {name}}}
  ports:
  - {{name: http, port: 80, targetPort: http}}
  - {{name: grpc, port: 9090, targetPort: grpc}}
  - {{name: echo, port: 7000, targetPort: echo}}
"""
POLICY = """
apiVersion: meshwright.dev/v1alpha1
kind: RegistrationPolicy
metadata: {{name: {name}, namespace: shop}}
spec:
  targetRef: {{group: workload.buoyant.io, kind: ExternalGroup, name: {name}}}
  allowedCIDRs: [198.51.100.0/24, "fd6d:7765:3265:51::/64"]
  timers: {{beatSeconds: 1, leaseSeconds: 3, goneAfterSeconds: {gone}, lastEndpointHoldSeconds: 1}}
  {more}
"""


def apply_group(kube: Kube, name: str, *, gone: int = 60, more: str = "") -> None:
    """Apply a group, a Service that nothing but its machines is behind, and a policy with short times."""
    kube.apply(f"{GROUP.format(name=name)}---{POLICY.format(name=name, gone=gone, more=more)}")


def remove_group(kube: Kube, name: str) -> None:
    """Remove a group and its machines' ExternalWorkloads; those would stay, and be told of by `meshwright check`."""
    left = [f"externalworkload/{each['metadata']['name']}" for each in workloads(kube, name)]
    kinds = ("externalgroup", "registrationpolicy", "service")
    kube.delete(*(f"{kind}/{name}" for kind in kinds), *left, "-n", SHOP, "--wait=false")


def make_token(mesh: Mesh, group: str, *flags: str) -> Json:
    """Return what ``meshwright group token create -o json`` says."""
    done = mesh.command("group", "token", "create", group, "-n", SHOP, "-o", "json", *flags)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert isinstance(found, dict)
    return found


@dataclass(slots=True, kw_only=True)
class Agent:
    """The agent of one machine."""

    kube: Kube
    machine: Machine
    group: str
    runs: int = field(default=0)

    # ---- its life ---------------------------------------------------------------------------------------------------

    def install(self, words: Sequence[str], token: str = "", *flags: str) -> None:
        """Run the command that ``group token create`` prints, as root; nothing is started yet."""
        command = [MESHWRIGHT, *words[1:], "--drain-seconds", "3", "--no-start", *flags]
        self.machine.run(*command, stdin=token)

    def start(self) -> None:
        """Start it as systemd would."""
        machine = self.machine
        unit = machine.path(UNIT).read_text().splitlines()
        said = dict(line.split("=", 1) for line in unit if "=" in line)
        machine.run("sh", "-c", f"mkdir -p {RUN}; chown {PROXY_UID}:{PROXY_UID} {RUN}")
        assert said["ExecStartPre"].startswith("+")
        environ = dict(pair.split("=", 1) for pair in shlex.split(said["Environment"]))
        machine.run(*shlex.split(said["ExecStartPre"].removeprefix("+")))
        machine.start("agent", *shlex.split(said["ExecStart"]), uid=PROXY_UID, environ=environ)
        self.runs += 1

    def stop(self, *, seconds: float = 30) -> int:
        """Ask it to stop, as ``systemctl stop`` does; return its exit status."""
        return self.machine.end("agent", seconds=seconds)

    def kill(self) -> None:
        """Have it die at once. Its Envoy lives on."""
        assert self.machine.end("agent", "KILL") == -9

    def state(self) -> Json:
        """Return what it keeps of who it is."""
        found = json.loads(self.machine.path(f"{STATE}/state.json").read_text())
        assert isinstance(found, dict)
        return found

    def status(self, *flags: str) -> str:
        return self.machine.ask(MESHWRIGHT, "agent", "status", *flags)

    # ---- what the cluster knows of it -------------------------------------------------------------------------------

    def workload(self) -> Json:
        """Return its ExternalWorkload. Raises KeyError: there is none."""
        for each in workloads(self.kube, self.group):
            if {"ip": self.machine.ip} in each["spec"]["workloadIPs"]:
                return each
        raise KeyError(f"no ExternalWorkload has {self.machine.ip}")

    def condition(self, type_: str = "Ready") -> tuple[str, str]:
        """Return status and reason of a condition. Raises KeyError: it has not got it yet."""
        found = {each["type"]: each for each in self.workload().get("status", {}).get("conditions", ())}
        return found[type_]["status"], found[type_].get("reason", "")

    def wait_ready(self, seconds: float = 60) -> None:
        """Return once the cluster sends it requests. Raises AssertionError, with what its agent said last."""
        try:
            eventually(self.condition, until=("True", "Ready").__eq__, seconds=seconds)
            eventually(lambda: ready_addresses(self.kube, self.group), until=lambda seen: self.machine.ip in seen)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.machine.log('agent')[-3000:]}") from None


def workloads(kube: Kube, group: str) -> list[Json]:
    found = kube.items("externalworkloads", "-n", SHOP, "-l", "meshwright.dev/external=true")
    return [each for each in found if each["metadata"]["annotations"]["meshwright.dev/group"] == group]


def slices(kube: Kube, service: str) -> list[Json]:
    return kube.items("endpointslices", "-n", SHOP, "-l", f"kubernetes.io/service-name={service}")


def ready_addresses(kube: Kube, service: str) -> set[str]:
    """Return the addresses of a Service's ready endpoints."""
    return {
        address
        for piece in slices(kube, service)
        for endpoint in piece.get("endpoints") or ()
        if endpoint["conditions"]["ready"]
        for address in endpoint["addresses"]
    }


def contents(kube: Kube, service: str) -> dict[str, tuple[object, object]]:
    """Return a Service's EndpointSlices by name: what changes with every write, and what they say."""
    return {
        piece["metadata"]["name"]: (piece["metadata"]["resourceVersion"], piece.get("endpoints"))
        for piece in slices(kube, service)
    }


def registrar_address(kube: Kube) -> str:
    """Return where the Service of the registrar leads, ``""``: nowhere."""
    found = kube.items("endpointslices", "-n", NAMESPACE, "-l", "kubernetes.io/service-name=meshwright-registrar")
    return next((str(address) for each in found for end in each["endpoints"] or () for address in end["addresses"]), "")


def status_condition(kube: Kube, group: str, type_: str) -> str:
    """Return the status of a condition of an ExternalGroup. Raises KeyError: it has not got it yet."""
    found = kube.get("externalgroup", group, "-n", SHOP).get("status", {}).get("conditions", ())
    return str({each["type"]: each["status"] for each in found}[type_])


@contextmanager
def unchanged_slices(kube: Kube, service: str) -> Iterator[None]:
    """Fail when a Service's EndpointSlices are written to during the block."""
    before = contents(kube, service)
    assert before
    yield
    after = contents(kube, service)
    assert after == before, f"{after}\n    was {before}"
