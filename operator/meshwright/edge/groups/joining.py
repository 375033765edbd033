"""What a machine needs to know to join a group, read off the cluster: where, whom to believe, and whether it may."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import orjson

from meshwright.edge.check.inquiry import CONFIG_MAPS, Inquiry
from meshwright.edge.client import Json
from meshwright.edge.host_port import write_address
from meshwright.edge.resources import RESOURCES
from meshwright.emit.issuer import ANCHORS_NAME, MESH_KEY, MESH_NAME
from meshwright.model.group import Group, JoinMode, RegistrationPolicy
from meshwright.model.identity import TrustDomain
from meshwright.model.problem import Problem
from meshwright.model.ref import Kind, Ref
from meshwright.model.snapshot import Broken
from meshwright.model.units import Namespace
from meshwright.parse.certificate import parse_bundle
from meshwright.parse.kinds import parse_object

REGISTRAR_PORT = 15013


class Hindrance(Exception):
    """Nobody could join so. The message says what is wrong, and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """``registrar``: host:port. ``hashes``: ``sha256:`` and the fingerprint of each trust anchor, sorted.

    ``remarks``: what should be known beforehand, for people.
    """

    registrar: str
    hashes: tuple[str, ...]
    trust_domain: str
    remarks: tuple[str, ...] = ()


async def find_way(inquiry: Inquiry, namespace: str, group: str, *, registrar: str) -> Way:
    """Return how a machine joins ``group`` with a token. ``registrar``: where it is, ``""`` to ask the cluster.

    Raises:
        Hindrance: it could not.
        ConnectionError, Unreachable, NotAllowed, ApiError: the cluster does not say.
    """
    remarks = [*await _judge_group(inquiry, namespace, group)]
    await _judge_policy(inquiry, namespace, group)
    trust_domain, hashes = await _read_trust(inquiry)
    if not registrar:
        registrar, remark = await _find_registrar(inquiry)
        remarks += remark
    return Way(registrar=registrar, hashes=hashes, trust_domain=trust_domain, remarks=tuple(remarks))


async def _judge_group(inquiry: Inquiry, namespace: str, group: str) -> list[str]:
    """Return what hinders machines for now: the group may come, or be mended, after the token is made."""
    where = f"ExternalGroup {group} in namespace {namespace}"
    raw = await inquiry.read(RESOURCES[Kind.EXTERNAL_GROUP], namespace, group)
    if raw is None:
        return [f"there is no {where} yet: machines wait for it, and join within a minute of its coming"]
    match parse_object(raw):
        case Group(is_deleting=True):
            return [f"{where} is being deleted"]
        case Group(is_usable=False, problems=problems) | Broken(problems=problems):
            return [f"{where} takes no machines as it is: {_say(problems)}"]
        case _:
            return []


async def _judge_policy(inquiry: Inquiry, namespace: str, group: str) -> None:
    """Raise `Hindrance` when the group's RegistrationPolicy does not let tokens in."""
    found = [
        policy
        for raw in await inquiry.list_all(RESOURCES[Kind.REGISTRATION_POLICY], namespace)
        if isinstance(policy := parse_object(raw), RegistrationPolicy) and policy.group == group
    ]
    if not found:
        return
    policy = choose_policy(found)
    where = f"RegistrationPolicy {policy.ref.name} in namespace {namespace}"
    if policy.is_void:
        raise Hindrance(f"{where} is faulty, and so lets in nobody: {_say(policy.problems)}")
    if JoinMode.TOKEN not in policy.rules.modes:
        modes = ", ".join(sorted(policy.rules.modes)) or "nobody"
        raise Hindrance(f"{where} lets in {modes} alone; add {JoinMode.TOKEN} to spec.modes for a token to be of use")


def choose_policy(policies: Iterable[RegistrationPolicy]) -> RegistrationPolicy:
    """Return the one that holds of those for one group: the oldest, of those as old the first by name."""

    def age(policy: RegistrationPolicy) -> tuple[float, Ref]:
        return (float("inf") if policy.created is None else policy.created, policy.ref)

    return min(policies, key=age)


async def _read_trust(inquiry: Inquiry) -> tuple[str, tuple[str, ...]]:
    """Return the trust domain, and the anchors' fingerprints. Both are public, and read where proxies read them."""
    home = inquiry.options.control_plane
    bundle = await inquiry.read(CONFIG_MAPS, home, ANCHORS_NAME)
    anchors = parse_bundle(bundle).anchors if bundle is not None else ()
    if not anchors:
        raise Hindrance(
            f"ConfigMap {home}/{ANCHORS_NAME} has no trust anchors, so a machine could not know whom to believe: is "
            "meshwright installed there (--control-plane-namespace)? `meshwright check` says more"
        )
    domain = inquiry.options.trust_domain
    if not domain:
        domain = _read_domain(await inquiry.read(CONFIG_MAPS, home, MESH_NAME)) or TrustDomain().name
    return domain, tuple(sorted(f"sha256:{anchor.fingerprint}" for anchor in anchors))


def _read_domain(mesh: Json | None) -> str:
    try:
        return str(orjson.loads(mesh["data"][MESH_KEY])["trust_domain"]) if mesh else ""
    except (KeyError, TypeError, orjson.JSONDecodeError):
        return ""


async def _find_registrar(inquiry: Inquiry) -> tuple[str, list[str]]:
    """Return where machines find the registrar, and what to know of that."""
    home = inquiry.options.control_plane
    name = TrustDomain(control_plane=Namespace(home)).registrar.name
    service = await inquiry.read(RESOURCES[Kind.SERVICE], home, name)
    if service is None:
        raise Hindrance(
            f"there is no Service {name} in namespace {home}, so no machine can join: switch the registrar on "
            "(registrar.enabled in the chart), or say where it is by --registrar HOST:PORT"
        )
    spec: dict[str, Any] = service.get("spec") or {}
    port = next((each.get("port") for each in spec.get("ports") or ()), REGISTRAR_PORT)
    balancer: dict[str, Any] = (service.get("status") or {}).get("loadBalancer") or {}
    for ingress in balancer.get("ingress") or ():
        if host := ingress.get("ip") or ingress.get("hostname"):
            return write_address(str(host), port), []
    if spec.get("type") == "LoadBalancer":
        why = f"Service {name} has no address of a load balancer yet"
    else:
        why = f"Service {name} has an address inside the cluster only"
    host = str(spec.get("clusterIP") or "")
    if host in ("", "None"):
        host = f"{name}.{home}.svc"
    address = write_address(host, port)
    return address, [f"{why}: machines must be able to reach {address}, or be given another way by --registrar"]


def _say(problems: Iterable[Problem]) -> str:
    return "; ".join(map(str, problems)) or "it cannot be read"
