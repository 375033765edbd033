"""The flags that say what holds for callers where no Server does."""

import argparse
from ipaddress import IPv6Network, ip_network

from meshwright.edge.flags import add_switch, make_add
from meshwright.model.inbound import PolicyDefaults
from meshwright.model.policy import AccessPolicy
from meshwright.parse.access import WORDS, parse_access_policy

_USUAL = PolicyDefaults()


def add_policy_arguments(parser: argparse._ActionsContainer) -> None:
    """Add the operator's flags about inbound policy; `read_policy_arguments` reads them."""
    add = make_add(parser)
    add(
        "--default-inbound-policy",
        _USUAL.access.value,
        f"who may call pods that no Server selects and that say nothing themselves: {WORDS}",
        type=_access,
        metavar="POLICY",
    )
    add(
        "--cluster-networks",
        ",".join(_USUAL.cluster_networks),
        "from where a caller counts as one of the cluster, with commas",
        type=_cluster_networks,
        metavar="CIDRS",
    )
    add(
        "--probe-networks",
        ",".join(_USUAL.probe_networks),
        "from where the kubelet's HTTP probes are let in, with commas; empty: nowhere",
        type=_networks,
        metavar="CIDRS",
    )
    add_follows_namespace(parser)


def add_follows_namespace(parser: argparse._ActionsContainer) -> None:
    """Add the flag that operator and webhook must agree about."""
    add_switch(
        parser,
        "--default-inbound-follows-namespace",
        "pods that do not say themselves go by config.linkerd.io/default-inbound-policy of their namespace as it is "
        "now, not as it was when they were made; operator and webhook must agree",
    )


def read_policy_arguments(args: argparse.Namespace) -> PolicyDefaults:
    """Return what the flags say."""
    return PolicyDefaults(
        access=args.default_inbound_policy,
        cluster_networks=args.cluster_networks,
        probe_networks=args.probe_networks,
        follows_namespace=args.default_inbound_follows_namespace,
    )


def _access(text: str) -> AccessPolicy:
    if (access := parse_access_policy(text)) is None:
        raise argparse.ArgumentTypeError(f"found {text!r}; write one of {WORDS}")
    return access


def _cluster_networks(text: str) -> tuple[str, ...]:
    found = _networks(text)
    if not found:
        raise argparse.ArgumentTypeError("found none; write the ranges of pods and nodes, such as 10.0.0.0/8,fd00::/8")
    return found


def _networks(text: str) -> tuple[str, ...]:
    found: dict[str, None] = {}
    for element in filter(None, map(str.strip, text.split(","))):
        try:
            network = ip_network(element)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{error}; write ranges like 10.0.0.0/8,fd00::/8") from error
        if isinstance(network, IPv6Network) and network.network_address.ipv4_mapped is not None:
            raise argparse.ArgumentTypeError(f"found {element}, an IPv4 range within IPv6; write it as IPv4")
        found[str(network)] = None
    return tuple(found)
