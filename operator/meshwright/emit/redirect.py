"""The rules that turn a pod's connections to its proxy, as texts for ``iptables-restore``.

Two chains of our own in the table ``nat``, each reached by one rule. A connection that a rule returns stays as it is:
rules that return come first, the one that redirects comes last.

Source: linkerd2-proxy-init ``pkg/iptables/iptables.go`` (which connections are left alone, and in which order).
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from itertools import pairwise

from meshwright.model.pod import PortRanges
from meshwright.model.units import Port

INBOUND_CHAIN = "MESHWRIGHT_INBOUND"
OUTBOUND_CHAIN = "MESHWRIGHT_OUTBOUND"
_HOOKS = {INBOUND_CHAIN: "PREROUTING", OUTBOUND_CHAIN: "OUTPUT"}
_MAX_PORTS = 15
"""What one multiport match takes; a range counts twice.

Source: Linux ``include/uapi/linux/netfilter/xt_multiport.h`` XT_MULTI_PORTS.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Redirect:
    """Where connections go, and which do not: those to ``skip_inbound`` from outside, those of the application to
    ``skip_outbound``, those from and to ``skip_subnets``, and those of the user ``proxy_uid``."""

    inbound_port: Port
    outbound_port: Port
    proxy_uid: int
    skip_inbound: PortRanges
    skip_outbound: PortRanges
    skip_subnets: tuple[IPv4Network | IPv6Network, ...] = ()


def emit_rules(redirect: Redirect, version: int) -> tuple[str, ...]:
    """Return the rules for an IP ``version`` (4 or 6), in order, as ``iptables-save`` of both back ends prints them.

    Connections over loopback are not redirected: they are from a container of the pod to another, or to itself. The
    proxy's own are not, or they would come back to it.
    """
    subnets = [subnet for subnet in redirect.skip_subnets if subnet.version == version]
    return (
        *(f"-A {hook} -p tcp -j {chain}" for chain, hook in _HOOKS.items()),
        *(f"-A {INBOUND_CHAIN}{_range('-s', subnet)} -j RETURN" for subnet in subnets),
        *_skip_ports(INBOUND_CHAIN, redirect.skip_inbound),
        f"-A {INBOUND_CHAIN} -p tcp -j REDIRECT --to-ports {redirect.inbound_port}",
        f"-A {OUTBOUND_CHAIN} -m owner --uid-owner {redirect.proxy_uid} -j RETURN",
        f"-A {OUTBOUND_CHAIN} -o lo -j RETURN",
        *(f"-A {OUTBOUND_CHAIN}{_range('-d', subnet)} -j RETURN" for subnet in subnets),
        *_skip_ports(OUTBOUND_CHAIN, redirect.skip_outbound),
        f"-A {OUTBOUND_CHAIN} -p tcp -j REDIRECT --to-ports {redirect.outbound_port}",
    )


def emit_restore(rules: Iterable[str], saved: str) -> str:
    """Return what makes ``rules`` the only ones of ours, for ``iptables-restore --noflush``: all of it, or nothing.

    ``saved`` is what ``iptables-save -t nat`` prints now: whatever leads to our chains there is taken away first, as
    often as it stands there. Naming a chain empties it. Rules of others are left alone.
    """
    return "\n".join((*_opening(saved), *rules, "COMMIT", ""))


def emit_removal(saved: str) -> str:
    """Return what removes all of ours, for ``iptables-restore --noflush``; ``""`` when there is nothing of ours."""
    if not select_own(saved) and not _own_chains(saved):
        return ""
    return "\n".join((*_opening(saved), *(f"-X {chain}" for chain in _HOOKS), "COMMIT", ""))


def select_own(saved: str) -> tuple[str, ...]:
    """Return the rules of ``iptables-save -t nat`` that are in our chains or lead there, in order.

    They are as `emit_rules` writes them: the legacy back end names the match ``tcp`` that ``-p tcp`` implies.
    """
    rules = (line.replace(" -p tcp -m tcp ", " -p tcp ") for line in saved.splitlines() if line.startswith("-A "))
    return tuple(rule for rule in rules if _is_own(rule))


def has_rules(saved: str) -> bool:
    """Whether ``iptables-save`` printed any rule, ours or others'."""
    return any(line.startswith("-A ") for line in saved.splitlines())


def is_as_wished(rules: Iterable[str], saved: str) -> bool:
    """Whether exactly ``rules`` are in place. The order counts within a chain, as it does for the kernel."""
    return _by_chain(rules) == _by_chain(select_own(saved))


def _by_chain(rules: Iterable[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for rule in rules:
        found.setdefault(rule.split()[1], []).append(rule)
    return found


def _opening(saved: str) -> Iterator[str]:
    yield "*nat"
    for chain in _HOOKS:
        yield f":{chain} - [0:0]"
    for line in saved.splitlines():
        if line.startswith("-A ") and line.split()[1] not in _HOOKS and _is_own(line):
            yield f"-D {line.removeprefix('-A ')}"


def _is_own(rule: str) -> bool:
    words = rule.split()
    return words[1] in _HOOKS or any(flag in ("-j", "-g") and target in _HOOKS for flag, target in pairwise(words))


def _own_chains(saved: str) -> tuple[str, ...]:
    return tuple(chain for chain in _HOOKS if any(line.startswith(f":{chain} ") for line in saved.splitlines()))


def _range(flag: str, subnet: IPv4Network | IPv6Network) -> str:
    return f" {flag} {subnet}" if subnet.prefixlen else ""


def _skip_ports(chain: str, ports: PortRanges) -> Iterator[str]:
    listed: list[str] = []
    count = 0
    for low, high in ports.ranges:
        size = 1 if low == high else 2
        if count + size > _MAX_PORTS:
            yield _skip(chain, listed)
            listed, count = [], 0
        listed.append(f"{low}" if low == high else f"{low}:{high}")
        count += size
    if listed:
        yield _skip(chain, listed)


def _skip(chain: str, listed: list[str]) -> str:
    return f"-A {chain} -p tcp -m multiport --dports {','.join(listed)} -j RETURN"
