"""Whether the certificate in a webhook's Secret will do, and whether the API server is told to believe it."""

import base64
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from meshwright.link.trust import chain_to_anchor
from meshwright.model.identity import IssuerSecret
from meshwright.model.problem import Problem, Reason

_CRT, _CA = "data[tls.crt]", "data[ca.crt]"


def judge_serving(secret: IssuerSecret, name: str, now: datetime) -> Problem | None:
    """Return why the certificate must be made anew, ``None`` while it will do: it is a server's certificate for
    ``name``, has its key, hangs from ``ca.crt``, and has more than a third of its life before it. Never raises."""
    if secret.problems:
        return secret.problems[0]
    leaf = secret.chain[0]
    if not secret.has_fitting_key:
        return Problem("data[tls.key]", Reason.KEY_MISMATCH, "it is not the key of the certificate")
    if name not in leaf.dns_names:
        return Problem(_CRT, Reason.WRONG_NAME, f"found {', '.join(leaf.dns_names) or 'no names'}; {name} is missing")
    if leaf.extended_usages is not None and "serverAuth" not in leaf.extended_usages:
        return Problem(_CRT, Reason.WRONG_USAGE, "it is no server's certificate")
    if now < leaf.not_before:
        return Problem(_CRT, Reason.NOT_YET_VALID, f"it is valid from {leaf.not_before} on")
    if not secret.anchors or chain_to_anchor(secret.chain, secret.anchors, now) is None:
        return Problem(_CA, Reason.UNTRUSTED, "no certificate in it vouches for tls.crt now")
    if now >= leaf.not_before + (leaf.not_after - leaf.not_before) * 2 / 3:
        return Problem(_CRT, Reason.EXPIRES_SOON, f"it ends {leaf.not_after}")
    return None


def plan_bundle(configuration: Mapping[str, Any], service: str, bundle: bytes) -> list[dict[str, Any]]:
    """Return the JSON patch after which each webhook that ``service`` (``namespace/name``) answers believes ``bundle``.

    Empty when nothing differs. Each step first tests that what it changes is still what was seen. Never raises.
    """
    wanted = base64.b64encode(bundle).decode()
    steps: list[dict[str, Any]] = []
    for index, webhook, client in _find_clients(configuration, service):
        if client.get("caBundle") == wanted:
            continue
        path = f"/webhooks/{index}"
        steps.append({"op": "test", "path": f"{path}/name", "value": webhook.get("name")})
        steps.append({"op": "test", "path": f"{path}/clientConfig", "value": client})
        steps.append({"op": "add", "path": f"{path}/clientConfig/caBundle", "value": wanted})
    return steps


def read_bundles(configuration: Mapping[str, Any], service: str) -> tuple[bytes, ...]:
    """Return what the webhooks that ``service`` answers believe now, each in PEM; ``b""`` for nothing. Never raises."""
    found = []
    for _, _, client in _find_clients(configuration, service):
        try:
            found.append(base64.b64decode(client.get("caBundle") or "", validate=True))
        except (TypeError, ValueError):
            found.append(b"")
    return tuple(found)


def _find_clients(
    configuration: Mapping[str, Any], service: str
) -> Iterator[tuple[int, dict[str, Any], dict[str, Any]]]:
    webhooks = configuration.get("webhooks")
    for index, webhook in enumerate(webhooks if isinstance(webhooks, list) else ()):
        match webhook:
            case {"clientConfig": {"service": {"namespace": str(namespace), "name": str(name)}} as client}:
                if f"{namespace}/{name}" == service:
                    yield index, webhook, client
