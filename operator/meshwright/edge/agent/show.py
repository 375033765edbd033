"""How an agent is, in words for who is on call."""

from collections.abc import Mapping
from typing import Any

GOOD, UNWELL, GONE = 0, 1, 3
"""Exit statuses of `meshwright agent status`; 3 as ``systemctl status`` has it."""


def judge(standing: Mapping[str, Any]) -> int:
    """Return `GOOD` when the machine is registered, its certificate good, its proxy ready, its application well."""
    certificate = standing.get("certificate") or {}
    is_good = (
        standing.get("registered") is True
        and certificate.get("seconds", 0) > 0
        and standing.get("proxy", {}).get("ready") is True
        and standing.get("health") == "Passing"
    )
    return GOOD if is_good else UNWELL


def write_standing(standing: Mapping[str, Any]) -> str:
    """Return the text that `meshwright agent status` prints."""
    proxy, certificate, probe = standing["proxy"], standing["certificate"], standing["probe"]
    if standing["fenced"]:
        registered = f"no: {standing['fenced']}"
    elif standing["registered"]:
        registered = (
            f"yes, as {standing['workload']}, epoch {standing['epoch']}; last beat {standing['beatenSecondsAgo']} s "
            f"ago, lease for {standing['leaseSeconds']} s more"
        )
    elif standing["beatenSecondsAgo"] is not None:
        registered = f"no: the registrar last answered {standing['beatenSecondsAgo']} s ago, and the lease has ended"
    else:
        registered = "no, not since this agent has been started"
    lines = [
        ("group", f"{standing['group']} (registrar {standing['registrar']}, mode {standing['mode']})"),
        ("registered", registered),
        ("traffic", "the cluster sends it here" if standing["ready"] else "the cluster sends none here"),
        ("health", _join(standing["health"], standing["healthMessage"])),
        (
            "probe",
            "the group has none"
            if probe is None
            else f"{probe['health']}, {probe['secondsAgo']} s ago: {probe['message']}",
        ),
        ("proxy", f"ready, process {proxy['pid']}" if proxy["ready"] else _join("not ready", proxy["message"])),
        ("certificate", "none" if certificate is None else _describe_certificate(certificate)),
        ("addresses", _describe_addresses(standing["addresses"]) or "none"),
        ("of", _describe_addresses(standing["candidates"]) or "none"),
        (
            "loaded",
            f"configuration {standing['loaded']['config'] or 'none'}, trust {standing['loaded']['bundle'] or 'none'}",
        ),
        ("agent", f"{standing['version']}, process {standing['pid']}, uid {standing['uid']}"),
    ]
    text = [f"{name + ':':<13}{value}" for name, value in lines]
    if standing["faults"]:
        text += ["", "lately:", *(f"  {one['at']} {one['what']}: {one['message']}" for one in standing["faults"])]
    return "\n".join(text)


def _describe_certificate(certificate: Mapping[str, Any]) -> str:
    hours, minutes = divmod(max(0, certificate["seconds"]) // 60, 60)
    left = f"{hours} h {minutes} min left" if certificate["seconds"] > 0 else "it has ended"
    return f"{certificate['identity']}, until {certificate['until']} ({left})"


def _describe_addresses(addresses: list[Mapping[str, str]]) -> str:
    return ", ".join(f"{one['ip']} ({one['interface']})" if one["interface"] else one["ip"] for one in addresses)


def _join(word: str, message: str) -> str:
    return f"{word}: {message}" if message else word
