"""``meshwright explain access``: may this caller do that, who says so, and why nobody else does."""

import argparse
import asyncio
import json
import sys
from dataclasses import replace
from pathlib import Path

from meshwright.edge.access.answer import LET_IN, Answer, answer, make_report, say_answer
from meshwright.edge.access.asked import METHODS, Question, find_asker, make_request, read_header
from meshwright.edge.access.live import list_all, read_defaults
from meshwright.edge.access.targets import AskedError, find_target
from meshwright.edge.access.world import World, make_world
from meshwright.edge.client import ApiError, Unreachable, connect
from meshwright.edge.compile_command import report_unreadable
from meshwright.edge.flags import add_connection, add_control_plane, make_add
from meshwright.edge.manifests import UnreadableError, list_files, read_files
from meshwright.edge.policy_flags import add_policy_arguments, read_policy_arguments
from meshwright.edge.terminal import Terminal, open_terminal
from meshwright.model.config import Config
from meshwright.model.units import Namespace

LET, NOT_LET, UNANSWERED = 0, 1, 2

_TEACH = """\
who calls (--from):
  shop/client                 a pod, what makes pods (Deployment …), or an ExternalWorkload
  sa/shop/client              a ServiceAccount
  client.shop.serviceaccount.identity.meshwright.cluster.local
  spiffe://cluster.local/ns/shop/sa/client
  192.0.2.7                   somebody without an identity
  sa/shop/client@192.0.2.7    an identity, and where it calls from

what is called (--to): shop/web:8080, or shop/web:http by the name of its port; the port is the workload's own, not its
Service's. Where no workload is called so, a Service may be, with a port of its own.

what it says: GET / if nothing is said; else --method, --path (a query counts), --host and --header, or --grpc, or --tcp
for anything that is not HTTP.

what is asked: with -f these manifests and nothing else, as they would be after injection; without, the cluster. Rate
limits are not looked at, and what filters do to a request neither.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the one topic and its flags."""
    topics = parser.add_subparsers(dest="topic", metavar="access", required=True)
    access = topics.add_parser(
        "access",
        help="may this caller do that, who says so, and why nobody else does",
        description="Say whether a caller is let in, by which authorization, and for every other one why it does not.",
        epilog=_TEACH,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    access.add_argument("--from", dest="asker", required=True, metavar="WHO", help="who calls, see below")
    access.add_argument("--to", required=True, metavar="NS/NAME:PORT", help="which port of which workload is called")
    access.add_argument("--method", choices=METHODS, metavar="VERB", help="of the request (default: GET)")
    access.add_argument("--path", help="of the request (default: /)")
    access.add_argument("--host", help="the host that the request is for (default: none)")
    access.add_argument(
        "--header", action="append", default=[], type=_header, metavar="'NAME: VALUE'", help="may be repeated"
    )
    access.add_argument("--grpc", metavar="SERVICE/METHOD", help="a gRPC call, such as shop.Cart/Get")
    access.add_argument("--tcp", action="store_true", help="a connection that is not HTTP")
    access.add_argument("-o", "--output", choices=("text", "json"), default="text", help="(default: text)")
    access.add_argument(
        "-f",
        "--filename",
        action="append",
        type=Path,
        metavar="PATH",
        help="a folder or file of manifests, - is stdin; may be repeated (default: ask the cluster)",
    )
    access.add_argument(
        "-n", "--namespace", default="default", help="for manifests that name no namespace (default: default)"
    )
    add_connection(access)
    add_config_arguments(access)
    access.add_argument_group(
        "exit status",
        "0: allowed, or let in by audit. 1: denied, not found or refused. 2: bad usage, or something cannot be read.",
    )


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags about the installation; `read_config` reads them."""
    installed = parser.add_argument_group(
        "the installation", "What it was told; a cluster that says itself goes before the flags about policy."
    )
    add = make_add(installed)
    add("--trust-domain", "cluster.local", "the root that identities hang from", metavar="NAME")
    add_control_plane(installed)
    add_policy_arguments(installed)


def read_config(args: argparse.Namespace) -> Config:
    """Return what the flags say."""
    return Config(
        namespace=Namespace(args.control_plane_namespace),
        trust_domain=args.trust_domain,
        policy=read_policy_arguments(args),
    )


def run(args: argparse.Namespace) -> int:
    """Return 0 when the caller is let in, 1 when not, 2 when that cannot be said."""
    errors = open_terminal(sys.stderr)
    try:
        if args.filename:
            world = read_world(args.filename, read_config(args), Namespace(args.namespace), errors)
            found = _ask(args, world) if world is not None else None
        else:
            found = asyncio.run(_ask_cluster(args))
    except AskedError as error:
        errors.say(f"meshwright explain access: {error}")
        return UNANSWERED
    except (ApiError, Unreachable, ConnectionError) as error:
        errors.say(f"the cluster does not say: {error}")
        return UNANSWERED
    if found is None:
        return UNANSWERED
    if args.output == "json":
        json.dump(make_report(found), sys.stdout, indent=2, ensure_ascii=False)
        sys.stdout.write("\n")
        sys.stdout.flush()
    else:
        say_answer(found, open_terminal(sys.stdout))
    return LET if found.decision.outcome in LET_IN else NOT_LET


def read_world(paths: list[Path], config: Config, namespace: Namespace, errors: Terminal) -> World | None:
    """Return the world of manifests; ``None`` when some cannot be read, which ``errors`` says: the rest of a policy
    may be what lets somebody in, or does not."""
    try:
        reading = read_files(list_files(paths), sys.stdin)
    except UnreadableError as error:
        report_unreadable((error,), errors)
        return None
    report_unreadable(reading.unreadable, errors)
    if reading.unreadable:
        return None
    return make_world((manifest.raw for manifest in reading.manifests), config, namespace)


def _ask(args: argparse.Namespace, world: World) -> Answer:
    target = find_target(args.to, world)
    request = make_request(
        method=args.method, path=args.path, host=args.host, headers=args.header, grpc=args.grpc, tcp=args.tcp
    )
    asker = find_asker(args.asker, world)
    question = Question(asker=asker, place=target.place, port=target.port, request=request, notes=target.notes)
    return answer(question, world)


async def _ask_cluster(args: argparse.Namespace) -> Answer:
    config, notes = read_config(args), []
    namespaces = {
        text.removeprefix("sa/").partition("/")[0]
        for text in (args.to, args.asker)
        if "/" in text and "://" not in text
    }
    async with await connect(args.kubeconfig, args.context) as client:
        installed = await read_defaults(client, config)
        raws = await list_all(client, namespaces)
    if installed is None:
        notes.append("the installation does not say what holds where no Server does; taken is what the flags say")
    found = _ask(args, make_world(raws, installed or config, Namespace(args.namespace), is_live=True))
    return replace(found, notes=(*found.notes, *notes))


def _header(text: str) -> tuple[str, str]:
    try:
        return read_header(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
