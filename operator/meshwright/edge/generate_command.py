"""``meshwright policy generate``: the policy that lets in exactly those who were seen calling."""

import argparse
import asyncio
import sys
from collections.abc import Iterable

import yaml

from meshwright.edge.audit_command import add_observing, look, name_client, trust_of
from meshwright.edge.observe import Observations
from meshwright.emit.grants import Grant, emit_grants, make_grants
from meshwright.model.identity import TrustDomain
from meshwright.model.observed import Called, Client
from meshwright.model.pod import Pod
from meshwright.model.policy import AccessPolicy

WRITTEN, NOTHING, FAILED = 0, 1, 2
_ACCESS = ("audit", "deny")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``meshwright policy generate``."""
    parser.add_argument("-n", "--namespace", required=True, metavar="NS", help="whose pods are to be guarded")
    add_observing(parser)
    parser.add_argument(
        "--access-policy",
        choices=_ACCESS,
        default="audit",
        help="what becomes of others: told of, or refused; first audit, then look at `meshwright audit`, then deny "
        "(default: %(default)s)",
    )
    parser.add_argument_group(
        "exit status",
        "0: manifests are on stdout. 1: nobody was seen, nothing is written. 2: bad usage, or no cluster to ask.",
    )


def run(args: argparse.Namespace) -> int:
    """Return 0 when there are manifests, 1 when nobody was seen calling, 2 when nobody can say."""
    return asyncio.run(generate(args))


async def generate(args: argparse.Namespace) -> int:
    """Ask the proxies, and write policy for whom they saw. Return the exit status."""
    found = await look(args)
    if found is None:
        return FAILED
    calls = find_calls(found)
    grants = make_grants(calls)
    text = write_policy(args.namespace, found, calls, grants, AccessPolicy(args.access_policy), trust_of(args))
    print(text, end="", file=sys.stdout if grants else sys.stderr)
    return WRITTEN if grants else NOTHING


Call = tuple[Called, Pod | None, Client]


def find_calls(found: Observations) -> tuple[Call, ...]:
    """Return who called what, whoever let them in: by the log, and by counters, which miss nobody with an identity.

    What a Server's own authorizations let in needs no other; whom a default policy lets in does.
    """
    pods = {pod.ref: pod for pod in found.pods}
    calls: dict[Call, None] = {}
    for line in found.seen:
        calls[line.called, pods.get(line.pod), line.client] = None
    for counted in found.counted:
        is_granted = counted.by not in ("", "audit") and not counted.by.startswith("default/")
        is_own = counted.by in ("default/localhost", "default/probe")
        if not is_granted and not is_own:
            calls[counted.called, pods.get(counted.pod), counted.client] = None
    return tuple(calls)


def write_policy(
    namespace: str,
    found: Observations,
    calls: Iterable[Call],
    grants: Iterable[Grant],
    access: AccessPolicy,
    trust: TrustDomain,
) -> str:
    """Return the manifests as YAML, and before them what was seen and what was not."""
    meshed = [pod for pod in found.pods if pod.is_meshed]
    lines = [
        f"Who may call the workloads of namespace {namespace}, by what {len(meshed)} proxies saw.",
        f"Access policy {access}: "
        + (
            "others are let in, and told of (`meshwright audit`)."
            if access is AccessPolicy.AUDIT
            else "others are refused."
        ),
        "",
        *_say_unseen(found, tuple(calls), meshed),
    ]
    comment = "".join(f"# {line}".rstrip() + "\n" for line in lines)
    return comment + "".join(
        f"---\n{yaml.safe_dump(manifest, sort_keys=False)}" for manifest in emit_grants(grants, access, trust)
    )


def _say_unseen(found: Observations, calls: tuple[Call, ...], meshed: list[Pod]) -> Iterable[str]:
    """Yield what the manifests do not cover, line by line."""
    called = {(pod.ref, place.port) for place, pod, _ in calls if pod is not None}
    quiet = sorted(
        {
            f"{pod.ref}, port {port} ({name})"
            for pod in meshed
            for name, port in pod.ports
            if (pod.ref, port) not in called
        }
    )
    nameless = sorted(
        {name_client(client, found.pods) for _, _, client in calls if not client.account and not client.identity}
    )
    plain = [str(pod.ref) for pod in found.pods if not pod.is_meshed]
    yield "Not seen, and so not let in:"
    yield "- whoever calls less often than you looked (jobs, backups, alarms), or not since the proxies began"
    yield from (f"- nobody called {each}" for each in quiet)
    yield from (f"- {each}: mesh it, or let in its network by a NetworkAuthentication" for each in nameless)
    yield from (f"- {each} has no proxy: nothing holds there" for each in plain)
    yield from (f"- {pod.ref} could not be asked: {why}" for pod, why in found.silent)
    yield "The kubelet's probes need no authorization, unless routes are attached to a Server."
