"""``meshwright policy generate``: the policy that lets in exactly those who were seen calling."""

import argparse
import asyncio
import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace

import yaml

from meshwright.edge.audit_command import add_observing, look, name_client, trust_of
from meshwright.edge.observe import Observations
from meshwright.emit.grants import choose_selector, emit_grants, make_grants
from meshwright.link.govern import find_ports
from meshwright.model.desired import Json
from meshwright.model.observed import Called, Client
from meshwright.model.pod import Pod
from meshwright.model.policy import AccessPolicy, Server

WRITTEN, NOTHING, FAILED = 0, 1, 2
_ACCESS = ("audit", "deny")
_OWN_PORTS = (4143, 4191)
"""The proxy's."""


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
    parser.add_argument(
        "--refused",
        action="store_true",
        help="let in those, too, who were refused; without it they are listed in the comment, and stay out",
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
    found = await look(args, with_policy=True)
    if found is None:
        return FAILED
    calls = find_calls(found)
    grants = make_grants((call.called, call.pod, call.client) for call in calls if args.refused or not call.is_refused)
    access, trust = AccessPolicy(args.access_policy), trust_of(args)
    manifests = emit_grants(grants, access, trust, found.stored)
    text = write_policy(args.namespace, found, calls, manifests, access, has_new=bool(grants))
    print(text, end="", file=sys.stdout if manifests else sys.stderr)
    return WRITTEN if manifests else NOTHING


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """Who called what. ``is_refused``: never was it let in."""

    called: Called
    pod: Pod | None
    client: Client
    is_refused: bool = False


def find_calls(found: Observations) -> tuple[Call, ...]:
    """Return who called what, whoever let them in: by the log, and by counters, which miss nobody with an identity.

    What a Server's own authorizations let in needs no other; whom a default policy lets in does. Where a Server has the
    port by now, it is the Server that was called.
    """
    pods = {pod.ref: pod for pod in found.pods}
    servers = [each for each in found.stored.values() if isinstance(each, Server)]
    calls: dict[tuple[Called, Pod | None, Client], bool] = {}

    def note(called: Called, pod: Pod | None, client: Client, *, is_refused: bool) -> None:
        key = (_settle(called, pod, servers), pod, client)
        calls[key] = is_refused and calls.get(key, True)

    for line in found.seen:
        note(line.called, pods.get(line.pod), line.client, is_refused=line.is_denied)
    for counted in found.counted:
        is_granted = counted.by not in ("", "audit") and not counted.by.startswith("default/")
        is_own = counted.by in ("default/localhost", "default/probe")
        if not is_granted and not is_own:
            note(counted.called, pods.get(counted.pod), counted.client, is_refused=not counted.by)
    return tuple(
        Call(called=called, pod=pod, client=client, is_refused=is_refused)
        for (called, pod, client), is_refused in calls.items()
    )


def _settle(called: Called, pod: Pod | None, servers: Iterable[Server]) -> Called:
    """Return what was called as it is now: by the oldest Server that has the port, where none had it then."""
    if called.server or pod is None:
        return called
    labels = dict(pod.labels)
    having = [
        each
        for each in servers
        if each.ref.namespace == pod.ref.namespace
        and not each.selects_external
        and each.selector.selects(labels)
        and called.port in find_ports(each.port, pod)
    ]
    if not having:
        return called
    oldest = min(having, key=lambda each: (each.created is None, each.created or 0, each.ref.name))
    return replace(called, server=oldest.ref.name, default="")


def write_policy(
    namespace: str,
    found: Observations,
    calls: Iterable[Call],
    manifests: Iterable[Json],
    access: AccessPolicy,
    *,
    has_new: bool,
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
        *(() if has_new else ("Nobody new was seen who needs leave.",)),
        "",
        *_say_unseen(found, tuple(calls), meshed),
    ]
    comment = "".join(f"# {line}".rstrip() + "\n" for line in lines)
    return comment + "".join(f"---\n{yaml.safe_dump(manifest, sort_keys=False)}" for manifest in manifests)


def _say_unseen(found: Observations, calls: tuple[Call, ...], meshed: list[Pod]) -> Iterable[str]:
    """Yield what the manifests do not cover, line by line."""
    called = {(_group(call.pod), call.called.port) for call in calls if call.pod is not None}
    quiet = sorted(
        {
            f"{_group(pod)}, port {port} ({name})"
            for pod in meshed
            for name, port in pod.ports
            if port not in _OWN_PORTS and (_group(pod), port) not in called
        }
    )
    nameless = sorted(
        {name_client(call.client, found.pods) for call in calls if not call.client.account and not call.client.identity}
    )
    refused = sorted(
        {
            f"{call.client}, refused at {_group(call.pod)}, port {call.called.port}"
            for call in calls
            if call.pod is not None and call.is_refused and (call.client.account or call.client.identity)
        }
    )
    plain = sorted({_group(pod) for pod in found.pods if not pod.is_meshed})
    yield "Not seen, and so not let in:"
    yield "- whoever calls less often than you looked (jobs, backups, alarms), or not since the proxies began"
    yield from (f"- nobody called {each}" for each in quiet)
    yield from (f"- {each}: mesh it, or let in its network by a NetworkAuthentication" for each in nameless)
    yield from (f"- {each}: only --refused lets it in" for each in refused)
    yield from (f"- {each}: no proxy, and nothing holds there" for each in plain)
    yield from (f"- {pod.ref} could not be asked: {why}" for pod, why in found.silent)
    yield "The kubelet's probes need no authorization, unless routes are attached to a Server."


def _group(pod: Pod) -> str:
    """Return a pod and its like in words: by the labels that select them, or its name when it has none."""
    labels = choose_selector(pod)
    return f"pods {','.join(f'{key}={value}' for key, value in labels)}" if labels else str(pod.ref)
