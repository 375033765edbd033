"""``meshwright group``: have machines outside the cluster join, see how they are, and take away what they left."""

import argparse
import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from functools import partial

from meshwright.edge.check.inquiry import Inquiry, NotAllowed, Options
from meshwright.edge.client import ApiError, Unreachable, connect
from meshwright.edge.flags import add_connection, add_control_plane
from meshwright.edge.groups import cleanup, status, tokens

FAILED = 2

Verb = Callable[[argparse.Namespace, Inquiry], Awaitable[int]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verbs and their flags."""
    verbs = parser.add_subparsers(dest="verb", metavar="token|status|cleanup", required=True)
    token = verbs.add_parser(
        "token", help="what machines join with", description="Make, list and revoke tokens to join with."
    )
    kinds = token.add_subparsers(dest="what", metavar="create|list|revoke", required=True)
    create = kinds.add_parser(
        "create",
        help="make a token, and show the command to run on the machine",
        description="Make a token that machines join a group with, and show the one command to run on each. The "
        "token is shown this once.",
    )
    tokens.add_create_arguments(create)
    _add_cluster(create, tokens.create)
    listing = kinds.add_parser("list", help="which there are, and who has joined", description="List the tokens.")
    tokens.add_list_arguments(listing)
    _add_cluster(listing, tokens.show_list)
    revoke = kinds.add_parser(
        "revoke",
        help="let nobody join with a token any more",
        description="Let nobody join with a token any more. Machines that have joined stay.",
    )
    tokens.add_revoke_arguments(revoke)
    _add_cluster(revoke, tokens.revoke)
    shown = verbs.add_parser(
        "status",
        help="the machines of a group, and why one is not ready",
        description="Show groups and their machines: which are ready, since when, and what to do about the others.",
    )
    status.add_arguments(shown)
    _add_cluster(shown, status.run)
    clean = verbs.add_parser(
        "cleanup",
        help="take away what machines left behind, after an uninstallation",
        description="Delete the ExternalWorkloads of machines that have joined, and, once the operator is "
        "uninstalled, the EndpointSlices, tokens and checkpoints that it wrote for them. Hand-made ExternalWorkloads "
        "stay.",
    )
    cleanup.add_arguments(clean)
    _add_cluster(clean, cleanup.run)


def _add_cluster(parser: argparse.ArgumentParser, run_verb: Verb) -> None:
    add_connection(parser)
    add_control_plane(parser)
    parser.add_argument(
        "--trust-domain",
        default=os.environ.get("MESHWRIGHT_TRUST_DOMAIN", ""),
        metavar="NAME",
        help="the root that identities hang from ($MESHWRIGHT_TRUST_DOMAIN, default: the one installed)",
    )
    parser.set_defaults(run_verb=run_verb)


def run(args: argparse.Namespace) -> int:
    """Return the exit status of the verb, 2 when the cluster cannot be asked."""
    return asyncio.run(ask(args, clock=lambda: datetime.now(UTC)))


async def ask(args: argparse.Namespace, *, clock: Callable[[], datetime]) -> int:
    """Do what the flags say. ``clock`` gives this machine's time, in UTC."""
    options = Options(control_plane=args.control_plane_namespace, trust_domain=args.trust_domain)
    verb: Verb = args.run_verb
    try:
        async with Inquiry(partial(connect, args.kubeconfig, args.context), options, clock=clock) as inquiry:
            return await verb(args, inquiry)
    except NotAllowed as refusal:
        where = f" -n {refusal.namespace}" if refusal.namespace else " -A"
        print(
            f"meshwright group: you {refusal}; ask: kubectl auth can-i {refusal.verb} {refusal.resource}{where}",
            file=sys.stderr,
        )
    except (ApiError, Unreachable, ConnectionError) as error:
        print(f"meshwright group: the cluster cannot be asked: {error}", file=sys.stderr)
    return FAILED
