"""``meshwright proxy``: what runs in the proxy's container of a meshed pod.

This program writes Envoy's bootstrap, waits for the pod's first certificate, and becomes a shell: from then on only
Envoy and that shell, asleep, are in the container.
"""

import argparse
import os
import shlex
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from math import ceil
from typing import NoReturn

from meshwright.edge.certify_command import add_identity_arguments, find_usable, read_settings, try_once
from meshwright.edge.envoy_program import EnvoyError, envoy_flags, find_envoy
from meshwright.edge.host_port import split_address
from meshwright.edge.leaf_files import LeafFolder
from meshwright.emit.admin import admin_pipe
from meshwright.emit.bootstrap import emit_bootstrap
from meshwright.model.proxy import Proxy, ProxySettings
from meshwright.model.units import Millis, Namespace
from meshwright.parse.duration import parse_millis

BOOTSTRAP_FILE = "envoy.json"
ANSWER_FILE = "renewal"
LOG_LEVELS = ("trace", "debug", "info", "warning", "error", "critical", "off")
_SHELL = "/bin/sh"

RENEWAL_LOOP = r"""
# $1: seconds until the first renewal; $2: the command that renews, and prints the seconds until the next one;
# $3: where it prints them; $4: the command that ends once nobody needs Envoy any more, or nothing; after that: Envoy.
#
# This shell is the container's first process, so the container cannot outlive it, and nor can Envoy: there is no way to
# go on without a renewal. It ends with Envoy and says how Envoy ended. Asked to stop, it has Envoy ended once $4 is
# done; asked twice, at once.
set -u
trap 'exit 0' TERM INT
due=$(($(date +%s) + $1)) renew=$2 answer=$3 drain=$4
shift 4

"$@" &
envoy=$! task='' attempt=0 is_asked=''

stop() {
    trap 'kill -s TERM "$envoy"' TERM INT
    [ -n "$drain" ] || kill -s TERM "$envoy"
    is_asked=1
    [ -z "$task" ] || kill -s KILL "$task" 2>/dev/null
}
trap stop TERM INT

# A child that ends wakes us: whatever else we wait for is ended then, and looked at again. One that was forked just now
# still has our traps, and would take no notice of TERM.
trap '[ -z "$task" ] || kill -s KILL "$task" 2>/dev/null' CHLD

is_alive() {
    jobs -p >/dev/null # or those that ended unseen would seem to live
    kill -0 "$1" 2>/dev/null
}

# Wait until the child $1 has ended. If Envoy ends before, that is the end.
await() {
    task=$1
    if [ -n "$is_asked" ] && [ -n "$drain" ]; then
        { eval "$drain"; kill -s TERM "$envoy" 2>/dev/null; } &
        drain=''
    fi
    while is_alive "$envoy" && is_alive "$task"; do wait "$task" 2>/dev/null; done
    task=''
    is_alive "$envoy" && return
    kill -s KILL "$1" 2>/dev/null # seen before the trap could: it would stay behind
    wait "$envoy"
    exit $?
}

while :; do
    # By the clock, and not in one go: clocks are set, and machines sleep.
    while pause=$((due - $(date +%s))) && [ "$pause" -gt 0 ]; do
        [ "$pause" -le 300 ] || pause=300
        sleep "$pause" &
        await $!
    done
    attempt=$((attempt + 1))
    eval "exec $renew --attempt $attempt" >"$answer" &
    renewal=$!
    await "$renewal"
    wait "$renewal" && attempt=0
    pause=
    read -r pause <"$answer" || :
    case ${pause%%.*} in
        '' | *[!0-9]*) echo "meshwright proxy: renewal gave no answer; next attempt in 60 s" >&2 && pause=60 ;;
    esac
    due=$(($(date +%s) + ${pause%%.*} + 1))
done
"""
"""What stays in the container beside Envoy, for a POSIX shell; Debian's is dash."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``meshwright proxy``."""
    parser.add_argument("--xds", required=True, metavar="HOST:PORT", help="where `meshwright xds` listens for proxies")
    add_identity_arguments(parser)
    parser.add_argument(
        "--log-level", choices=LOG_LEVELS, default="warning", help="what Envoy logs (default: %(default)s)"
    )
    parser.add_argument(
        "--concurrency", type=int, default=1, metavar="N", help="Envoy's worker threads (default: %(default)s)"
    )
    parser.add_argument(
        "--shutdown-grace-period",
        type=_duration,
        default=Millis(0),
        metavar="DURATION",
        help="how long, asked to stop, it goes on while there are connections, such as 120s (default: 0, not at all)",
    )
    parser.epilog = f"""\
{parser.epilog or ""}

environment:
  POD_NAME, POD_NAMESPACE   the pod this runs in

It waits for the first certificate as long as it takes, and says why on standard error; a certificate that is there
and still good is used, so that a restart of the container needs nobody. Then Envoy runs beside a shell that sleeps
until the next renewal and runs `meshwright certify`. On SIGTERM it asks callers to leave, and ends with the last
connection, or when the grace period is over; on a second SIGTERM at once."""


def run(args: argparse.Namespace) -> int:
    """Become a shell that runs Envoy and renews its certificate; return 2 when an argument cannot be used."""
    # The first process of a container gets no signal that it does not ask for.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    pod, namespace = os.environ.get("POD_NAME", ""), os.environ.get("POD_NAMESPACE", "")
    if not pod or not namespace:
        return _refuse("POD_NAME and POD_NAMESPACE must be set in the environment; the pod's fields have them")
    if args.concurrency < 1:
        return _refuse(f"--concurrency: found {args.concurrency}; write 1 or more")
    settings = read_settings(args)
    try:
        signing = split_address(args.signing)
        bootstrap = emit_bootstrap(Proxy(Namespace(namespace), pod), args.xds, settings)
        envoy = find_envoy()
    except ValueError as error:
        return _refuse(f"an address is wrong: {error}")
    except EnvoyError as error:
        return _refuse(str(error))
    try:
        folder = LeafFolder(settings)
        with folder.locked():
            folder.write_anchors()
            path = folder.write_document(BOOTSTRAP_FILE, bootstrap)
    except OSError as error:
        return _refuse(f"cannot write into --identity-folder {settings.identity_folder}: {error.strerror}")
    seconds = _await_certificate(settings, signing)
    command = make_shell(
        seconds,
        renew=(sys.executable, "-P", "-m", "meshwright.cli", "certify", *_identity_flags(args)),
        answer=f"{settings.identity_folder}/{ANSWER_FILE}",
        drain=make_drain(settings, args.shutdown_grace_period),
        envoy=(str(envoy), *envoy_flags(str(path), args.log_level, args.concurrency)),
    )
    return _become(command)


def _become(command: tuple[str, ...]) -> NoReturn:
    sys.stdout.flush()
    os.execv(command[0], command)


def make_shell(
    seconds: float, *, renew: Sequence[str], answer: str, envoy: Sequence[str], drain: Sequence[str] = ()
) -> tuple[str, ...]:
    """Return the words of the shell that runs ``envoy`` and, first after ``seconds``, ``renew``, which prints into the
    file ``answer`` when to run it again. Asked to stop, it runs ``drain``, if any, before it ends Envoy."""
    words = (str(ceil(seconds)), shlex.join(renew), answer, shlex.join(drain))
    return (_SHELL, "-c", RENEWAL_LOOP, "meshwright-proxy", *words, *envoy)


def make_drain(settings: ProxySettings, grace_ms: Millis) -> tuple[str, ...]:
    """Return the words that wait, at most so long, until nobody uses the proxy; none when there is no time for that."""
    if not grace_ms:
        return ()
    pipe, ports = admin_pipe(settings)["pipe"]["path"], f"{settings.inbound_port},{settings.outbound_port}"
    return (sys.executable, "-P", "-m", "meshwright.edge.drain", pipe, ports, f"{grace_ms / 1000:g}")


def _duration(text: str) -> Millis:
    try:
        return parse_millis(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"found {text!r}; write {error}") from error


def _await_certificate(settings: ProxySettings, signing: tuple[str, int]) -> float:
    """Return the seconds until the renewal of a certificate that is there, once it is there."""
    leaf, seconds = find_usable(settings)
    attempt = 0
    while leaf is None:
        attempt += 1
        leaf, seconds = try_once(settings, signing, attempt=attempt, program="meshwright proxy")
        if leaf is None:
            time.sleep(seconds)
    return seconds


def _identity_flags(args: argparse.Namespace) -> tuple[str, ...]:
    flags: Mapping[str, str] = {
        "--signing": args.signing,
        "--trust-domain": args.trust_domain,
        "--control-plane-namespace": args.control_plane_namespace,
        "--identity-folder": args.identity_folder,
        "--secrets-folder": args.secrets_folder,
    }
    return tuple(f"{flag}={value}" for flag, value in flags.items())


def _refuse(message: str) -> int:
    print(f"meshwright proxy: {message}", file=sys.stderr)
    return 2
