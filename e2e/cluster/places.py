"""Where things are: names, addresses, folders. Starts nothing and writes nothing."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

NETNS = "mw-e2e"
"""The network namespace that the whole node lives in, and the name of its control groups and pod network."""
HOST_LINK, NODE_LINK = "mw-host", "mw-node"
"""The two ends of the only cable into the namespace: ours, the node's."""
HOST_ADDRESS, NODE_ADDRESS = "10.98.0.1", "10.98.0.2"
NODE_RANGE, SERVICE_RANGE, POD_RANGE, NODE_POD_RANGE = "10.98.0.0/24", "10.96.0.0/16", "10.244.0.0/16", "10.244.0.0/24"
NODE_ADDRESS_6 = "fd6d:7765:3265:98::2"
SERVICE_RANGE_6, POD_RANGE_6 = "fd6d:7765:3265:96::/108", "fd6d:7765:3265:f400::/56"
NODE_POD_RANGE_6 = "fd6d:7765:3265:f400::/64"
"""IPv6 where the machine has it: unique local addresses (RFC 4193), known in the namespace alone."""
API_SERVICE, DNS_SERVICE = "10.96.0.1", "10.96.0.10"
API_PORT, ETCD_PORT, WEBHOOK_PORT, WEBHOOK_HEALTH_PORT = 6443, 2379, 10350, 10351
NODE_NAME = "node1"
CLUSTER_DOMAIN = "cluster.local"

IMAGE = "localhost/meshwright:dev"
PAUSE_IMAGE = "localhost/pause:1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Three roots, and what lies below them. The cache outlives clusters, the state is one cluster's."""

    repo: Path
    cache: Path

    @property
    def gomod(self) -> Path:
        return self.repo / "e2e" / "cluster" / "gomod"

    @property
    def tools_lock(self) -> Path:
        return self.repo / "e2e" / "cluster" / "tools.lock"

    @property
    def bin(self) -> Path:
        """Built programs, one folder for each tool and hash."""
        return self.cache / "bin"

    @property
    def images(self) -> Path:
        return self.cache / "images"

    @property
    def state(self) -> Path:
        return self.cache / "cluster"

    @property
    def lock(self) -> Path:
        """Beside the state, for the state is deleted while the lock is held."""
        return self.cache / "cluster.lock"

    @property
    def record(self) -> Path:
        return self.state / "record.json"

    @property
    def kubeconfig(self) -> Path:
        return self.state / "kubeconfig"

    @property
    def pki(self) -> Path:
        return self.state / "pki"

    @property
    def logs(self) -> Path:
        return self.state / "log"

    @property
    def containerd_socket(self) -> Path:
        return self.state / "containerd.sock"

    @property
    def netns(self) -> Path:
        return Path("/run/netns") / NETNS


def find_places(environ: Mapping[str, str] = os.environ) -> Places:
    """Return the places for this checkout: the cache is ``MESHWRIGHT_CACHE``, else ``meshwright`` in the XDG cache."""
    if chosen := environ.get("MESHWRIGHT_CACHE"):
        cache = Path(chosen)
    elif xdg := environ.get("XDG_CACHE_HOME"):
        cache = Path(xdg) / "meshwright"
    else:
        cache = Path(environ.get("HOME", "/root")) / ".cache" / "meshwright"
    return Places(repo=Path(__file__).resolve().parents[2], cache=cache.absolute())
