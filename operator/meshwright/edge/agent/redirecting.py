"""Turning the machine's connections to its Envoy, and knowing whether they are turned as they should be."""

import hashlib
from ipaddress import ip_network
from typing import Any

from meshwright.edge.agent.disk import make_run_folder, read_json, write_json
from meshwright.edge.agent.fingerprint import hash_product_uuid
from meshwright.edge.agent.settings import Places, Settings
from meshwright.emit.redirect import Redirect, emit_rules
from meshwright.model.enrollment import MachineConfig
from meshwright.model.pod import PROXY_UID
from meshwright.parse.ports import merge_ports, parse_port_list


def make_redirect(settings: Settings, config: MachineConfig | None, *, uid: int = PROXY_UID) -> Redirect:
    """Return what is to be turned: all but what agent.json or the group says, and what ``uid``, who is the agent and
    its Envoy, does. Never raises: what the group says that cannot be read is left out."""
    inbound, outbound = [settings.skip_inbound_ports], [settings.skip_outbound_ports]
    subnets = [settings.skip_subnets]
    if config is not None:
        inbound.append(config.skip_inbound_ports)
        outbound.append(config.skip_outbound_ports)
        subnets.append(config.skip_subnets)
    found: dict[Any, None] = {}
    for piece in filter(None, (part.strip() for text in subnets for part in text.split(","))):
        try:
            found[ip_network(piece, strict=False)] = None
        except ValueError:
            continue
    own = (settings.admin_port, settings.admin_port)
    return Redirect(
        inbound_port=settings.inbound_port,
        outbound_port=settings.outbound_port,
        proxy_uid=uid,
        skip_inbound=merge_ports((*(each for text in inbound for each in parse_port_list(text).ranges), own)),
        skip_outbound=merge_ports(each for text in outbound for each in parse_port_list(text).ranges),
        skip_subnets=tuple(found),
    )


def note_redirected(places: Places, redirect: Redirect) -> None:
    """Keep what was put in place, and what only root may read of the machine.

    Raises:
        OSError: it cannot be written.
    """
    make_run_folder(places.run)
    noted = {"rules": _digest(redirect), "uid": redirect.proxy_uid, "productUuid": hash_product_uuid()}
    write_json(places.redirected, noted, mode=0o644)


def is_redirected_as_wished(settings: Settings, config: MachineConfig, places: Places) -> bool:
    """Whether what root has put in place is what should be; also when root has put nothing in place. Never raises."""
    noted = read_json(places.redirected)
    if not isinstance(noted, dict) or not isinstance(uid := noted.get("uid"), int):
        return True
    return bool(noted.get("rules") == _digest(make_redirect(settings, config, uid=uid)))


def _digest(redirect: Redirect) -> str:
    rules = "\n".join((*emit_rules(redirect, 4), *emit_rules(redirect, 6)))
    return hashlib.sha256(rules.encode()).hexdigest()[:16]
