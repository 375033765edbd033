"""``meshwright redirect``: turn the connections of this pod to its proxy. Run as often as you like."""

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path

from meshwright.emit.redirect import (
    Redirect,
    emit_removal,
    emit_restore,
    emit_rules,
    has_rules,
    is_as_wished,
    select_own,
)
from meshwright.model.pod import PROXY_UID, PortRanges
from meshwright.model.proxy import ProxySettings
from meshwright.model.units import Port
from meshwright.parse.ports import find_port_faults, merge_ports, parse_port_list

MODES = ("nft", "legacy")
_SECONDS = 30
_NET_ADMIN = 12
"""Source: Linux ``include/uapi/linux/capability.h`` CAP_NET_ADMIN."""
_LINK_LOCAL, _LOOPBACK = "fe80", "0" * 31 + "1"
_DEFAULTS = ProxySettings()


class RedirectError(Exception):
    """The rules are not in place. The text says why, and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tables:
    """The table ``nat`` of one IP ``version``, through one back end (``nft`` or ``legacy``)."""

    mode: str
    version: int

    @property
    def name(self) -> str:
        """Return what the back end's programs begin with."""
        return f"ip{'6' if self.version == 6 else ''}tables-{self.mode}"

    def is_there(self) -> bool:
        """Whether its programs are on PATH."""
        return all(shutil.which(f"{self.name}-{verb}") for verb in ("save", "restore"))

    def is_untouched(self) -> bool:
        """Whether nobody has used it in this network, so that there is nothing to read.

        Reading a legacy table makes it.

        Source: Linux ``net/netfilter/x_tables.c`` (``/proc/net/ip_tables_names``).
        """
        if self.mode == "nft":
            return False
        try:
            return "nat" not in Path(f"/proc/net/ip{'6' if self.version == 6 else ''}_tables_names").read_text().split()
        except OSError:
            return True

    def save(self) -> str:
        """Return what ``iptables-save -t nat`` prints.

        Raises:
            RedirectError: the back end does not work here.
        """
        return "" if self.is_untouched() else self._run("save", ("-t", "nat"))

    def restore(self, text: str) -> None:
        """Do what ``text`` says, or nothing.

        Raises:
            RedirectError: it was nothing.
        """
        self._run("restore", ("-w", str(_SECONDS), "--noflush"), text)

    def _run(self, verb: str, words: Sequence[str], text: str = "") -> str:
        program = f"{self.name}-{verb}"
        try:
            done = subprocess.run(
                [program, *words],
                input=text,
                capture_output=True,
                text=True,
                timeout=2 * _SECONDS,
                check=False,
                env={**os.environ, **_lock_file()},
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise RedirectError(f"{program} does not run: {error}") from None
        if done.returncode:
            said = " ".join(done.stderr.split()) or f"status {done.returncode}"
            raise RedirectError(f"{program}: {said}")
        return done.stdout


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``meshwright redirect``."""
    for flag, number, text in (
        ("--inbound-port", _DEFAULTS.inbound_port, "the proxy's, for connections from outside"),
        ("--outbound-port", _DEFAULTS.outbound_port, "the proxy's, for connections of the pod"),
    ):
        parser.add_argument(flag, type=_port, metavar="PORT", default=number, help=f"{text} (default: {number})")
    parser.add_argument(
        "--proxy-uid",
        type=int,
        default=PROXY_UID,
        metavar="UID",
        help="the user the proxy runs as (default: %(default)s)",
    )
    for flag, text in (
        ("--skip-inbound-ports", "ports of the pod that stay as they are: 4567,9000-9010"),
        ("--skip-outbound-ports", "ports elsewhere that the pod calls without its proxy"),
    ):
        parser.add_argument(flag, type=_ports, metavar="LIST", default=PortRanges(), help=text)
    parser.add_argument(
        "--skip-subnets",
        type=_subnets,
        metavar="CIDRS",
        default=(),
        help="ranges that connections come from and go to without the proxy: 10.1.0.0/16,fd00::/8",
    )
    parser.add_argument(
        "--mode",
        choices=("auto", *MODES),
        default="auto",
        help="iptables' back end (default: auto: the one that has rules already, else the one that works)",
    )
    parser.add_argument("--dry-run", action="store_true", help="print what would be given to iptables-restore")
    parser.epilog = f"""\
{parser.epilog or ""}

All TCP connections are redirected but those of the proxy's user, over loopback, from and to the subnets and ports
that are skipped, and to port {_DEFAULTS.admin_port}, where the proxy answers probes; IPv6 too, where the pod has it.

exit status: 0 the rules are in place; 1 they are not; 2 bad usage"""


def run(args: argparse.Namespace) -> int:
    """Put the rules in place, look whether they are, and say so; return 0, or 1 when they are not."""
    redirect = Redirect(
        inbound_port=args.inbound_port,
        outbound_port=args.outbound_port,
        proxy_uid=args.proxy_uid,
        skip_inbound=merge_ports((*args.skip_inbound_ports.ranges, (_DEFAULTS.admin_port, _DEFAULTS.admin_port))),
        skip_outbound=args.skip_outbound_ports,
        skip_subnets=args.skip_subnets,
    )
    if args.dry_run:
        for version in (4, 6):
            print(f"# IPv{version}", emit_restore(emit_rules(redirect, version), ""), sep="\n", end="")
        return 0
    modes = MODES if args.mode == "auto" else (args.mode,)
    try:
        _require_capability()
        said = [redirect_version(redirect, version, modes) for version in (4, 6)]
    except RedirectError as error:
        print(f"meshwright redirect: {error}", file=sys.stderr)
        return 1
    print(f"meshwright redirect: {'; '.join(said)}", file=sys.stderr)
    return 0


def redirect_version(redirect: Redirect, version: int, modes: Sequence[str]) -> str:
    """Put the rules for one IP version in place by the first of ``modes`` that can, and return words about it.

    A back end that has rules already goes first, one with ours before all. What is left of ours in another one goes.

    Raises:
        RedirectError: none can; for IPv6 only when the pod has an address others could reach it at.
    """
    if version == 6 and not _has_ipv6():
        return "no IPv6 here"
    rules = emit_rules(redirect, version)
    faults: list[str] = []
    saved: dict[Tables, str] = {}
    for mode in MODES:
        tables = Tables(mode=mode, version=version)
        if not tables.is_there():
            faults.append(f"{tables.name} is not installed")
            continue
        try:
            saved[tables] = tables.save()
        except RedirectError as error:
            faults.append(str(error))
    for tables in sorted(
        (each for each in saved if each.mode in modes),
        key=lambda each: (not select_own(saved[each]), not has_rules(saved[each])),
    ):
        try:
            word = _put(tables, rules, saved[tables])
        except RedirectError as error:
            faults.append(str(error))
            continue
        _remove_elsewhere(tables, saved)
        return f"IPv{version} {word} ({tables.mode})"
    if version == 6 and not _reachable_ipv6():
        return f"IPv6 is not used here, and not redirected ({'; '.join(faults)})"
    raise RedirectError(f"IPv{version} is not redirected: {'; '.join(faults)}")


def remove_redirect() -> tuple[str, ...]:
    """Take all rules of ours away, and return words about each table that had some.

    Raises:
        RedirectError: a table cannot be read or written.
    """
    said = []
    for version in (4, 6):
        for tables in (Tables(mode=mode, version=version) for mode in MODES):
            if tables.is_there() and (removal := emit_removal(tables.save())):
                tables.restore(removal)
                said.append(f"IPv{version} is not redirected any more ({tables.mode})")
    return tuple(said)


def _put(tables: Tables, rules: Sequence[str], saved: str) -> str:
    if is_as_wished(rules, saved):
        return "is redirected already"
    tables.restore(emit_restore(rules, saved))
    now = tables.save()
    if not is_as_wished(rules, now):
        missing = [rule for rule in rules if rule not in select_own(now)]
        raise RedirectError(f"{tables.name} said it had put the rules in place, and has not: {missing or now}")
    return "is redirected"


def _remove_elsewhere(used: Tables, saved: Mapping[Tables, str]) -> None:
    """Two back ends would both redirect, and the first to be asked wins, be it the older one."""
    for tables, text in saved.items():
        if tables != used and (removal := emit_removal(text)):
            tables.restore(removal)


def _require_capability() -> None:
    """Raises RedirectError: this process may not change the network."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:") and not int(line.split()[1], 16) >> _NET_ADMIN & 1:
            raise RedirectError(
                "the capability NET_ADMIN is missing; give it to this container (securityContext.capabilities.add: "
                "NET_ADMIN, NET_RAW; runAsUser: 0), and see that the namespace's pod security admits it"
            )


def _addresses() -> list[str]:
    """Return this network's IPv6 addresses, 32 hexadecimal digits each; none where the kernel has no IPv6.

    Source: Linux ``net/ipv6/addrconf.c`` if6_seq_show.
    """
    try:
        return [line.split()[0] for line in Path("/proc/net/if_inet6").read_text().splitlines()]
    except OSError:
        return []


def _has_ipv6() -> bool:
    return bool(_addresses())


def _reachable_ipv6() -> bool:
    return any(address != _LOOPBACK and not address.startswith(_LINK_LOCAL) for address in _addresses())


def _lock_file() -> Mapping[str, str]:
    """Return the environment that lets iptables-legacy lock where /run cannot be written to.

    A pod's network is its own, and so may be its lock.

    Source: iptables ``iptables/xshared.c`` xtables_lock (1.8.8).
    """
    if "XTABLES_LOCKFILE" in os.environ or os.access("/run", os.W_OK):
        return {}
    return {"XTABLES_LOCKFILE": "/dev/shm/meshwright-xtables.lock"}


def _port(text: str) -> Port:
    if not (text.isascii() and text.isdecimal() and 0 < int(text) < 65536):
        raise argparse.ArgumentTypeError(f"found {text!r}; write a port, 1 to 65535")
    return Port(int(text))


def _ports(text: str) -> PortRanges:
    if faults := find_port_faults(text):
        raise argparse.ArgumentTypeError(f"found {faults[0]!r}; write ports and ranges, 4567,9000-9010")
    return parse_port_list(text)


def _subnets(text: str) -> tuple[IPv4Network | IPv6Network, ...]:
    """Return the ranges, each once; an address alone is a range of one. Bits beyond a range's length do not count."""
    found: dict[IPv4Network | IPv6Network, None] = {}
    for piece in filter(None, (part.strip() for part in text.split(","))):
        try:
            found[ip_network(piece, strict=False)] = None
        except ValueError:
            raise argparse.ArgumentTypeError(f"found {piece!r}; write ranges like 10.1.0.0/16,fd00::/8") from None
    return tuple(found)
