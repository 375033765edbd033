"""How meshwright was installed: what the flags of its processes say, read off their Deployments."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from meshwright.edge.check.inquiry import DEPLOYMENTS, Inquiry
from meshwright.edge.client import Json
from meshwright.model.identity import TrustDomain
from meshwright.model.units import Namespace

PROCESSES = ("operator", "xds", "webhook")

ISSUER = "meshwright-identity-issuer"


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """``issuer_kind`` is ``none`` when certificates come from outside cert-manager; ``issuer_name`` is who signs the
    issuer, there. ``trust_bundle`` is as the flag has it, ``""`` for the issuer Secret's own anchors. ``image`` is the
    webhook's, and so what proxies get."""

    trust: TrustDomain
    issuer_kind: str = "none"
    issuer_name: str = ""
    issuer_secret: str = ISSUER
    trust_bundle: str = ""
    leaf_lifetime: str = "24h"
    image: str = ""


def deployment_name(process: str) -> str:
    return f"meshwright-{process}"


async def read_installed(inquiry: Inquiry) -> Installed:
    """Return how meshwright was installed; what no Deployment says is as it is by default."""
    home = inquiry.options.control_plane
    operator, xds, webhook = [await inquiry.read(DEPLOYMENTS, home, deployment_name(process)) for process in PROCESSES]
    domain = inquiry.options.trust_domain or read_flag(operator, "--trust-domain") or read_flag(xds, "--trust-domain")
    return Installed(
        trust=TrustDomain(name=domain or "cluster.local", control_plane=Namespace(home)),
        issuer_kind=read_flag(operator, "--issuer-kind") or "none",
        issuer_name=read_flag(operator, "--issuer-name"),
        issuer_secret=read_flag(xds, "--issuer-secret") or read_flag(operator, "--issuer-secret") or ISSUER,
        trust_bundle=read_flag(xds, "--trust-bundle") or read_flag(operator, "--trust-bundle"),
        leaf_lifetime=read_flag(xds, "--leaf-lifetime") or "24h",
        image=next((str(each.get("image") or "") for each in _containers(webhook)), ""),
    )


def read_flag(deployment: Json | None, flag: str) -> str:
    """Return what a Deployment gives its process for a flag, as an argument or by its variable; ``""`` when nothing.
    Never raises."""
    variable = "MESHWRIGHT_" + flag.removeprefix("--").replace("-", "_").upper()
    for container in _containers(deployment):
        words = [str(word) for name in ("command", "args") for word in container.get(name) or ()]
        # As argparse reads them, the last one counts.
        for place in range(len(words) - 1, -1, -1):
            if words[place].startswith(f"{flag}="):
                return words[place].removeprefix(f"{flag}=")
            if words[place] == flag and place + 1 < len(words):
                return words[place + 1]
        for variables in container.get("env") or ():
            if variables.get("name") == variable:
                return str(variables.get("value") or "")
    return ""


def _containers(deployment: Json | None) -> Iterator[Mapping[str, Any]]:
    spec = ((deployment or {}).get("spec") or {}).get("template") or {}
    yield from (spec.get("spec") or {}).get("containers") or ()
