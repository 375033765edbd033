"""The node's programs: their command lines and configuration files, and when each counts as ready. Starts nothing."""

import json
from dataclasses import dataclass
from pathlib import Path

import yaml

from e2e.cluster.places import (
    API_PORT,
    CLUSTER_DOMAIN,
    DNS_SERVICE,
    ETCD_PORT,
    NETNS,
    NODE_ADDRESS,
    NODE_ADDRESS_6,
    NODE_NAME,
    NODE_POD_RANGE,
    NODE_POD_RANGE_6,
    PAUSE_IMAGE,
    POD_RANGE,
    POD_RANGE_6,
    SERVICE_RANGE,
    SERVICE_RANGE_6,
    WEBHOOK_HEALTH_PORT,
    WEBHOOK_PORT,
    Places,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """One program: what to run, and the TCP port it listens on once it is up (0: none to look for)."""

    name: str
    argv: tuple[str, ...]
    port: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranges:
    """Addresses as flags have them: of one family, or of both with a comma between, IPv4 first."""

    node: str = NODE_ADDRESS
    pods: str = POD_RANGE
    services: str = SERVICE_RANGE


BOTH_FAMILIES = Ranges(
    node=f"{NODE_ADDRESS},{NODE_ADDRESS_6}",
    pods=f"{POD_RANGE},{POD_RANGE_6}",
    services=f"{SERVICE_RANGE},{SERVICE_RANGE_6}",
)


def make_specs(places: Places, builds: dict[str, Path], *, has_ipv6: bool) -> dict[str, Spec]:
    """Return every program by name, in the order of starting. ``builds`` has each tool's folder."""
    kubernetes = builds["kubernetes"]
    pki, state = places.pki, places.state
    ranges = BOTH_FAMILIES if has_ipv6 else Ranges()
    specs = (
        Spec(name="etcd", argv=(f"{builds['etcd']}/etcd", *etcd_flags(state)), port=ETCD_PORT),
        Spec(
            name="kube-apiserver", argv=(f"{kubernetes}/kube-apiserver", *apiserver_flags(pki, ranges)), port=API_PORT
        ),
        Spec(name="containerd", argv=("containerd", "--config", f"{state}/containerd.toml")),
        Spec(
            name="kube-controller-manager",
            argv=(f"{kubernetes}/kube-controller-manager", *controller_manager_flags(pki, ranges)),
            port=10257,
        ),
        Spec(
            name="kube-scheduler",
            argv=(
                f"{kubernetes}/kube-scheduler",
                f"--kubeconfig={pki}/scheduler.kubeconfig",
                "--leader-elect=false",
                "--bind-address=127.0.0.1",
            ),
            port=10259,
        ),
        Spec(
            name="kubelet",
            argv=(
                f"{kubernetes}/kubelet",
                f"--config={state}/kubelet.yaml",
                f"--kubeconfig={pki}/kubelet.kubeconfig",
                f"--hostname-override={NODE_NAME}",
                f"--node-ip={ranges.node}",
                f"--root-dir={state}/kubelet",
                f"--cert-dir={pki}/kubelet-made",
            ),
            port=10250,
        ),
        Spec(
            name="kube-proxy",
            argv=(
                f"{kubernetes}/kube-proxy",
                f"--kubeconfig={pki}/proxy.kubeconfig",
                f"--cluster-cidr={ranges.pods}",
                f"--hostname-override={NODE_NAME}",
                "--proxy-mode=nftables",
                "--conntrack-max-per-core=0",  # else it sets the whole machine's table size
                "--conntrack-tcp-timeout-established=0s",
                "--conntrack-tcp-timeout-close-wait=0s",
            ),
            port=10256,
        ),
        Spec(name="coredns", argv=(f"{builds['coredns']}/coredns", "-conf", f"{state}/Corefile"), port=53),
        Spec(
            name="cert-manager",
            argv=(
                f"{builds['cert-manager']}/cert-manager",
                f"--kubeconfig={pki}/cert-manager.kubeconfig",
                f"--webhook-port={WEBHOOK_PORT}",
                f"--health-port={WEBHOOK_HEALTH_PORT}",
                f"--webhook-cert={pki}/webhook.crt",
                f"--webhook-key={pki}/webhook.key",
            ),
            port=WEBHOOK_PORT,
        ),
    )
    return {spec.name: spec for spec in specs}


def etcd_flags(state: Path) -> tuple[str, ...]:
    """Nothing is synced to disk: the data lives as long as the cluster."""
    here = f"http://127.0.0.1:{ETCD_PORT}"
    return (
        f"--data-dir={state}/etcd",
        f"--listen-client-urls={here}",
        f"--advertise-client-urls={here}",
        "--listen-peer-urls=http://127.0.0.1:2380",
        "--unsafe-no-fsync",
    )


def apiserver_flags(pki: Path, ranges: Ranges) -> tuple[str, ...]:
    return (
        f"--etcd-servers=http://127.0.0.1:{ETCD_PORT}",
        "--bind-address=0.0.0.0",
        f"--secure-port={API_PORT}",
        f"--advertise-address={NODE_ADDRESS}",
        f"--service-cluster-ip-range={ranges.services}",
        f"--cert-dir={pki}/apiserver-made",
        f"--tls-cert-file={pki}/apiserver.crt",
        f"--tls-private-key-file={pki}/apiserver.key",
        f"--client-ca-file={pki}/ca.crt",
        f"--service-account-key-file={pki}/service-accounts.pub",
        f"--service-account-signing-key-file={pki}/service-accounts.key",
        f"--service-account-issuer=https://kubernetes.default.svc.{CLUSTER_DOMAIN}",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--allow-privileged=true",
        f"--kubelet-client-certificate={pki}/admin.crt",
        f"--kubelet-client-key={pki}/admin.key",
        f"--kubelet-certificate-authority={pki}/ca.crt",
        "--kubelet-preferred-address-types=InternalIP",  # else logs and exec ask DNS for the node's name
        f"--requestheader-client-ca-file={pki}/ca.crt",
        "--requestheader-allowed-names=front-proxy",
        "--requestheader-extra-headers-prefix=X-Remote-Extra-",
        "--requestheader-group-headers=X-Remote-Group",
        "--requestheader-username-headers=X-Remote-User",
        f"--proxy-client-cert-file={pki}/front-proxy.crt",
        f"--proxy-client-key-file={pki}/front-proxy.key",
    )


def controller_manager_flags(pki: Path, ranges: Ranges) -> tuple[str, ...]:
    return (
        f"--kubeconfig={pki}/controller-manager.kubeconfig",
        f"--service-account-private-key-file={pki}/service-accounts.key",
        f"--root-ca-file={pki}/ca.crt",
        "--use-service-account-credentials=true",
        f"--cluster-cidr={ranges.pods}",
        "--allocate-node-cidrs=true",
        f"--service-cluster-ip-range={ranges.services}",
        f"--cluster-signing-cert-file={pki}/ca.crt",
        f"--cluster-signing-key-file={pki}/ca.key",
        "--leader-elect=false",
        "--bind-address=127.0.0.1",
        "--kube-api-qps=300",  # with the default of 20 EndpointSlices come late when much is created at once
        "--kube-api-burst=500",
    )


def render_containerd(places: Places) -> str:
    """Return containerd's configuration; every folder it writes is in the state folder, as far as it lets us."""
    state = places.state
    return f"""\
version = 2
root = "{state}/containerd"
state = "{state}/containerd-state"
disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs"]

[grpc]
address = "{places.containerd_socket}"

[plugins."io.containerd.internal.v1.opt"]
path = "{state}/containerd-opt"

[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{PAUSE_IMAGE}"
netns_mounts_under_state_dir = true
disable_apparmor = true
# lowering oom_score_adj needs CAP_SYS_RESOURCE, which machines that are containers themselves often lack;
# runc then dies with "can't get final child's PID from pipe: EOF"
restrict_oom_score_adj = true

[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{state}/cni-plugins"
conf_dir = "{state}/cni"

[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "overlayfs"
default_runtime_name = "runc"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
SystemdCgroup = false
"""


def render_pod_network(state: Path, *, has_ipv6: bool) -> str:
    """Return the CNI configuration. Point-to-point, not a bridge.

    On a bridge an answer from a pod to its neighbour does not pass the node's address translation, unless the kernel
    has br_netfilter: a Service would then not answer pods.
    """
    addresses = {
        "type": "host-local",
        "ranges": [[{"subnet": subnet}] for subnet in (NODE_POD_RANGE, NODE_POD_RANGE_6)[: 1 + has_ipv6]],
        "routes": [{"dst": dst} for dst in ("0.0.0.0/0", "::/0")[: 1 + has_ipv6]],
        "dataDir": f"{state}/cni-addresses",
    }
    plugins = [
        {"type": "ptp", "ipMasq": False, "ipam": addresses},
        {"type": "portmap", "capabilities": {"portMappings": True}},
    ]
    return json.dumps({"cniVersion": "0.4.0", "name": NETNS, "plugins": plugins}, indent=1)


def write_pod_plugins(folder: Path, plugins: Path = Path("/usr/lib/cni")) -> None:
    """Make the folder of CNI plugins: Debian's, but in a new pod no address is asked for before it is used.

    Duplicate address detection (RFC 4862, 5.4) takes one to two seconds for each pod, for which the plugin waits; and
    here nobody else hands out addresses. A pod's namespace has nothing of the node's setting.
    """
    folder.mkdir(exist_ok=True)
    for plugin in plugins.iterdir():
        if plugin.name != "ptp":
            (folder / plugin.name).symlink_to(plugin)
    (folder / "ptp").write_text(
        f"""#!/bin/sh
if [ "$CNI_COMMAND" = ADD ]; then
  nsenter --net="$CNI_NETNS" sh -c 'echo 0 2>/dev/null > /proc/sys/net/ipv6/conf/default/accept_dad' || :
fi
exec {plugins}/ptp
"""
    )
    (folder / "ptp").chmod(0o755)


def render_kubelet(places: Places) -> str:
    """Return kubelet's configuration: its own folders below the state, its own control group, cgroup v1 accepted."""
    whole = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "failCgroupV1": False,
        "failSwapOn": False,
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{NETNS}",
        "containerRuntimeEndpoint": f"unix://{places.containerd_socket}",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": f"{places.pki}/ca.crt"},
        },
        "authorization": {"mode": "Webhook"},
        "clusterDNS": [DNS_SERVICE],
        "clusterDomain": CLUSTER_DOMAIN,
        "resolvConf": "",
        "tlsCertFile": f"{places.pki}/kubelet.crt",
        "tlsPrivateKeyFile": f"{places.pki}/kubelet.key",
        "podLogsDir": f"{places.logs}/pods",
        "volumePluginDir": f"{places.state}/volume-plugins",
        "enforceNodeAllocatable": [],
        "imageGCHighThresholdPercent": 100,
        "evictionHard": {"nodefs.available": "1%", "imagefs.available": "1%", "memory.available": "100Mi"},
        "makeIPTablesUtilChains": False,
        "nodeStatusUpdateFrequency": "10s",
        # tests want to see a changed ConfigMap or Secret soon
        "syncFrequency": "3s",
        "serializeImagePulls": False,
        "maxPods": 110,
    }
    return yaml.safe_dump(whole, sort_keys=False)


def render_corefile(places: Places) -> str:
    """Return CoreDNS's configuration: the cluster's names; every other name does not exist. Nothing is forwarded.

    Two blocks, for within one CoreDNS asks ``template`` before ``kubernetes``, whatever the order here.
    """
    return f"""\
{CLUSTER_DOMAIN} in-addr.arpa ip6.arpa {{
    bind {NODE_ADDRESS}
    errors
    kubernetes {{
        kubeconfig {places.pki}/coredns.kubeconfig
        pods insecure
        ttl 5
    }}
}}
. {{
    bind {NODE_ADDRESS}
    errors
    template ANY ANY {{
        rcode NXDOMAIN
    }}
}}
"""


def write_configuration(places: Places, *, has_ipv6: bool) -> None:
    """Write every configuration file to the state folder."""
    state = places.state
    (state / "cni").mkdir(parents=True, exist_ok=True)
    write_pod_plugins(state / "cni-plugins")
    (state / "cni" / "10-e2e.conflist").write_text(render_pod_network(state, has_ipv6=has_ipv6))
    (state / "containerd.toml").write_text(render_containerd(places))
    (state / "kubelet.yaml").write_text(render_kubelet(places))
    (state / "Corefile").write_text(render_corefile(places))
