"""The operator's flags that are about machines outside the cluster."""

import argparse
from dataclasses import dataclass
from ipaddress import ip_address, ip_network

from meshwright.edge.flags import add_switch, make_add
from meshwright.model.units import Port

REGISTRAR_PORT = 15013
DELIVERY_PORT = 15010
DELIVERY_SERVICE = "meshwright-xds"


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistrarOptions:
    """What the flags say. ``host``: where to listen, ``""`` for every address. ``pod_ip``: where machines find this
    replica, ``""``: nobody is told; ``node_name``: on which node that is, ``""`` not known. ``delivery``: where their
    proxies find delivery, host:port; unless ``is_delivery_fixed``, by the address of its Service instead, as soon as
    that is known. ``ranges``: CIDRs of pods and Services.

    The rest is seconds: how often what only memory knows is stored (``checkpoint``), what others write is looked at
    (``look``), machines are reached (``reach``), one group's status is written at most (``status``), and it is looked
    at what time has brought about (``tick``); how long the loop stood still shows in that."""

    delivery: str
    is_delivery_fixed: bool = False
    host: str = ""
    port: Port = Port(REGISTRAR_PORT)
    pod_ip: str = ""
    node_name: str = ""
    ranges: tuple[str, ...] = ()
    checkpoint: float = 60.0
    look: float = 10.0
    reach: float = 30.0
    status: float = 1.0
    tick: float = 1.0


def add_registrar_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags; `read_registrar_arguments` reads them."""
    add_switch(parser, "--registrar", "let machines outside the cluster join ExternalGroups")
    add = make_add(parser)
    add("--registrar-port", str(REGISTRAR_PORT), "the registrar's port", type=int)
    add("--pod-ip", "", "this pod's own address: machines are sent there while it leads")
    add(
        "--delivery-address",
        "",
        f"where machines' proxies find delivery; else Service {DELIVERY_SERVICE}, port {DELIVERY_PORT}",
    )
    add("--node-name", "", "the node it runs on, for load balancers that keep machines' own addresses")
    add("--pod-cidr", "", "ranges of pods, with commas, that no machine may claim an address of; Nodes name some")
    add("--service-cidr", "", "the same for Services; ServiceCIDR objects name some")


def read_registrar_arguments(args: argparse.Namespace) -> RegistrarOptions | None:
    """Return the settings, ``None`` when no machine may join.

    Raises:
        ValueError: a flag is wrong. The message names it, what was found and what to write.
    """
    if not args.registrar:
        return None
    if not 0 <= args.registrar_port < 2**16:
        raise ValueError(f"--registrar-port {args.registrar_port}: write a port, such as {REGISTRAR_PORT}")
    try:
        pod_ip = str(ip_address(args.pod_ip)) if args.pod_ip else ""
    except ValueError:
        raise ValueError(f"--pod-ip {args.pod_ip}: write an address") from None
    delivery = args.delivery_address or f"{DELIVERY_SERVICE}.{args.namespace}.svc:{DELIVERY_PORT}"
    host, _, port = delivery.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise ValueError(f"--delivery-address {delivery}: write host:port, an IPv6 address in brackets")
    return RegistrarOptions(
        delivery=delivery,
        is_delivery_fixed=bool(args.delivery_address),
        node_name=args.node_name,
        port=Port(args.registrar_port),
        pod_ip=pod_ip,
        ranges=(*_read_ranges("--pod-cidr", args.pod_cidr), *_read_ranges("--service-cidr", args.service_cidr)),
    )


def _read_ranges(flag: str, text: str) -> tuple[str, ...]:
    try:
        return tuple(str(ip_network(each.strip())) for each in text.split(",") if each.strip())
    except ValueError as error:
        raise ValueError(f"{flag} {text}: {error}; write CIDRs such as 10.244.0.0/16,fd00:1::/56") from None
