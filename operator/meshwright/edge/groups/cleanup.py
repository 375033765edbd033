"""``meshwright group cleanup``: take away what machines have left in a cluster, once nobody keeps it any more."""

import argparse
import asyncio
import sys
from collections import Counter
from collections.abc import Iterable

from meshwright.edge.api_resource import Resource
from meshwright.edge.check.inquiry import CONFIG_MAPS, DEPLOYMENTS, SECRETS, Inquiry
from meshwright.edge.check.installed import deployment_name
from meshwright.edge.client import ApiError, Json
from meshwright.edge.groups.machine import OURS, read_machine
from meshwright.edge.resources import RESOURCES
from meshwright.emit.checkpoint import LABEL_CHECKPOINT
from meshwright.model.config import FIELD_MANAGER, LABEL_MANAGED_BY
from meshwright.model.group import LABEL_TOKEN
from meshwright.model.ref import Kind

DONE, NOT_DONE, USAGE = 0, 1, 2
_GONE, _CHANGED = 404, 409


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of ``meshwright group cleanup``."""
    parser.add_argument(
        "-n", "--namespace", default="", metavar="NS", help="only there (default: all namespaces, and the tokens)"
    )
    parser.add_argument("--yes", action="store_true", help="do not ask")


async def run(args: argparse.Namespace, inquiry: Inquiry) -> int:
    """Delete the ExternalWorkloads of machines that have joined, and, without an operator, what it wrote for them;
    return 0, 1 when somebody says no, 2 when there is nobody to ask.

    Raises:
        ConnectionError, Unreachable, NotAllowed, ApiError: the cluster does not say, or lets us delete nothing.
    """
    home = inquiry.options.control_plane
    has_operator = await inquiry.read(DEPLOYMENTS, home, deployment_name("operator")) is not None
    found = await _find(inquiry, args.namespace, has_operator=has_operator)
    if not found:
        print("there is nothing to take away", file=sys.stderr)
        return DONE
    _tell(found)
    if has_operator:
        print(
            f"‼ meshwright is still installed in namespace {home}: machines that beat come back at once. Stop their "
            "agents (`meshwright agent leave`), or uninstall it first; then what it wrote for them goes with them",
            file=sys.stderr,
        )
    if not args.yes:
        if not sys.stdin.isatty():
            print("meshwright group: nobody is here to ask; write --yes to have it done", file=sys.stderr)
            return USAGE
        if (await asyncio.to_thread(input, "Delete all this? [y/N] ")).strip().lower() not in ("y", "yes"):
            return NOT_DONE
    client = await inquiry.client()
    done: Counter[str] = Counter()
    for resource, raw in found:
        meta = raw["metadata"]
        try:
            await client.delete(resource, meta["namespace"], meta["name"], uid=meta.get("uid") or "")
        except ApiError as error:
            # Somebody was faster, or has made another one since, which is not ours to delete.
            if error.status not in (_GONE, _CHANGED):
                raise
            continue
        done[resource.kind] += 1
    print("deleted: " + (", ".join(_count(count, kind) for kind, count in done.items()) or "nothing"))
    return DONE


async def _find(inquiry: Inquiry, namespace: str, *, has_operator: bool) -> list[tuple[Resource, Json]]:
    """Return what is to be deleted, in this order. While an operator runs it keeps the slices, the checkpoints and the
    tokens itself."""
    asked = [(RESOURCES[Kind.EXTERNAL_WORKLOAD], namespace, OURS)]
    if not has_operator:
        asked.append((RESOURCES[Kind.ENDPOINT_SLICE], namespace, f"{LABEL_MANAGED_BY}={FIELD_MANAGER}"))
        if not namespace:
            home = inquiry.options.control_plane
            asked.append((CONFIG_MAPS, home, f"{LABEL_CHECKPOINT}=true"))
            asked.append((SECRETS, home, f"{LABEL_TOKEN}=true"))
    return [
        (resource, raw)
        for resource, where, labels in asked
        for raw in await inquiry.list_all(resource, where, labels)
        if not raw["metadata"].get("deletionTimestamp")
    ]


def _tell(found: Iterable[tuple[Resource, Json]]) -> None:
    counts: Counter[tuple[str, str, str]] = Counter()
    for resource, raw in found:
        group = read_machine(raw).group if resource == RESOURCES[Kind.EXTERNAL_WORKLOAD] else ""
        counts[raw["metadata"]["namespace"], resource.kind, group] += 1
    for (namespace, kind, group), count in sorted(counts.items()):
        print(f"{_count(count, kind)}{f' of ExternalGroup {group}' if group else ''} in namespace {namespace}")


def _count(count: int, kind: str) -> str:
    return f"{count} {kind}{'' if count == 1 else 's'}"
