"""The node's own network namespace and the cable to it. No packet of the cluster leaves the machine.

The namespace has no default route: it knows the node's, the pods' and the Services' ranges and nothing else. IPv6 ends
at the cable: the machine itself has neither an address nor a route of the cluster's.
"""

import ipaddress
import json
from pathlib import Path
from typing import Any

from e2e.cluster.places import (
    HOST_ADDRESS,
    HOST_LINK,
    NETNS,
    NODE_ADDRESS,
    NODE_ADDRESS_6,
    NODE_LINK,
    NODE_RANGE,
    POD_RANGE,
    SERVICE_RANGE,
    SERVICE_RANGE_6,
)
from e2e.cluster.say import ClusterError
from e2e.cluster.shell import run

ENTER = ("nsenter", f"--net=/run/netns/{NETNS}", "--")
"""Before a command: runs it in the node's namespace.

Not ``ip netns exec``: that mounts a fresh /sys, and the control groups are gone.
"""


def find_ipv6_obstacle(settings: Path = Path("/proc/sys/net/ipv6/conf")) -> str:
    """Return why the cluster cannot have IPv6 here, in words; ``""``: it can, and has.

    A new namespace would have IPv6 whatever the machine's switch says, but who turns it off wants none.
    """
    for name in ("all", "default"):
        try:
            said = (settings / name / "disable_ipv6").read_text().strip()
        except OSError:
            return "this machine's kernel has no IPv6"
        if said != "0":
            return f"IPv6 is turned off on this machine: net.ipv6.conf.{name}.disable_ipv6 is {said}"
    return ""


def find_conflicts(routes: list[dict[str, Any]]) -> list[str]:
    """Return the destinations in ``ip -json route`` that overlap our ranges and do not go through our cable."""
    ours = [ipaddress.ip_network(text) for text in (NODE_RANGE, POD_RANGE, SERVICE_RANGE)]
    found = []
    for route in routes:
        if route.get("dst", "default") == "default" or route.get("dev") == HOST_LINK:
            continue
        there = ipaddress.ip_network(route["dst"], strict=False)
        if any(there.version == 4 and there.overlaps(range_) for range_ in ours):
            found.append(f"{route['dst']} dev {route.get('dev', '?')}")
    return found


def connect(*, has_ipv6: bool) -> None:
    """Make the namespace, the cable, the addresses and the routes. Raises ClusterError: the ranges are in use here."""
    if conflicts := find_conflicts(json.loads(run(["ip", "-4", "-json", "route"]) or "[]")):
        raise ClusterError(
            f"this machine routes addresses that the test cluster uses: {', '.join(conflicts)} "
            f"(ours: {NODE_RANGE}, {POD_RANGE}, {SERVICE_RANGE})"
        )
    run(["ip", "netns", "add", NETNS])
    run(["ip", "link", "add", HOST_LINK, "type", "veth", "peer", "name", NODE_LINK, "netns", NETNS])
    run(["ip", "addr", "add", f"{HOST_ADDRESS}/24", "dev", HOST_LINK])
    run(["ip", "link", "set", HOST_LINK, "up"])
    inside = (
        f"ip addr add {NODE_ADDRESS}/24 dev {NODE_LINK} && ip link set {NODE_LINK} up && ip link set lo up"
        # kube-proxy rewrites Service addresses on the way out, but a packet needs some route to get that far
        f" && ip route add {SERVICE_RANGE} dev {NODE_LINK} && echo 1 > /proc/sys/net/ipv4/ip_forward"
        # and to anywhere else nothing goes: programs on the node get an error, pods a time-out
        " && ip route add prohibit default"
    )
    if has_ipv6:
        inside += (
            # nobody else can have one of these addresses: that is not asked, which takes a second or two
            " && echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad"
            f" && ip addr add {NODE_ADDRESS_6}/64 dev {NODE_LINK} nodad"
            f" && ip -6 route add {SERVICE_RANGE_6} dev {NODE_LINK} && ip -6 route add prohibit default"
            " && echo 1 > /proc/sys/net/ipv6/conf/all/forwarding"
        )
    run([*ENTER, "sh", "-c", inside])
    for range_ in (SERVICE_RANGE, POD_RANGE):
        run(["ip", "route", "add", range_, "via", NODE_ADDRESS, "dev", HOST_LINK])
    require_cable()


def has_cable() -> bool:
    """Tell if the node's address is reached through our cable. Never raises.

    Without it packets to the node would take the machine's default route: ask before the first one.
    """
    if not Path(f"/sys/class/net/{HOST_LINK}").exists() or not Path(f"/run/netns/{NETNS}").exists():
        return False
    if Path(f"/sys/class/net/{HOST_LINK}/operstate").read_text().strip() != "up":
        return False
    said = run(["ip", "-json", "route", "get", NODE_ADDRESS], accept_failure=True)
    return bool(said) and all(route.get("dev") == HOST_LINK for route in json.loads(said))


def require_cable() -> None:
    """Raise ClusterError unless the node's address is reached through our cable."""
    if not has_cable():
        raise ClusterError(f"{NODE_ADDRESS} is not reached through {HOST_LINK}: nothing is sent there")


def disconnect() -> None:
    """Remove the cable (its routes go with it) and the namespace. Never raises when they are gone."""
    if Path(f"/sys/class/net/{HOST_LINK}").exists():
        run(["ip", "link", "del", HOST_LINK], accept_failure=True)
    if Path(f"/run/netns/{NETNS}").exists():
        run(["ip", "netns", "del", NETNS], accept_failure=True)
