"""What an agent is told of its group, and how it knows that it has the newest: one hash for all but the bundle."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace

from meshwright.model.enrollment import MachineConfig
from meshwright.model.group import Group, Pairs, Probe, ProbeKind, Rules
from meshwright.model.identity import TrustDomain
from meshwright.model.units import Millis

Json = dict[str, object]

_SKIP = "config.linkerd.io/skip-"
_LOOPBACK = "127.0.0.1"
_HASH_DIGITS = 16


def make_machine_config(
    group: Group, rules: Rules, *, workload: str, identity: str, delivery: str, trust: TrustDomain, bundle: str
) -> MachineConfig:
    """Return what the machine ``workload`` of ``group`` is told. ``delivery``: host:port; ``bundle``: PEM.

    Which ports and subnets stay as they are is passed on as written: who sets up the rules there reads it.
    """
    annotations = dict(group.annotations)
    config = MachineConfig(
        hash="",
        bundle_hash=hash_text(bundle),
        bundle=bundle,
        workload=workload,
        identity=identity,
        delivery=delivery,
        trust_domain=trust.name,
        control_plane=trust.control_plane,
        probe=None if group.probe is None else _emit_probe(group.probe),
        skip_inbound_ports=annotations.get(f"{_SKIP}inbound-ports", ""),
        skip_outbound_ports=annotations.get(f"{_SKIP}outbound-ports", ""),
        skip_subnets=annotations.get(f"{_SKIP}subnets", ""),
        address_from=rules.address_from,
    )
    return replace(config, hash=hash_text(json.dumps(_emit_hashed(config), sort_keys=True)))


def emit_machine_config(config: MachineConfig) -> Json:
    """Return a `MachineConfig` as agents read it: JSON, in camelCase, every field there."""
    return {"hash": config.hash, "bundleHash": config.bundle_hash, "bundle": config.bundle, **_emit_hashed(config)}


def hash_text(text: str) -> str:
    """Return ``sha256:`` and the first 16 hexadecimal digits of the SHA-256 of a text."""
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()[:_HASH_DIGITS]}"


def _emit_hashed(config: MachineConfig) -> Json:
    return {
        "workload": config.workload,
        "identity": config.identity,
        "delivery": config.delivery,
        "trustDomain": config.trust_domain,
        "controlPlane": config.control_plane,
        "probe": config.probe,
        "skipInboundPorts": config.skip_inbound_ports,
        "skipOutboundPorts": config.skip_outbound_ports,
        "skipSubnets": config.skip_subnets,
        "addressFrom": list(config.address_from),
    }


def _emit_probe(probe: Probe) -> Json:
    """Return a probe as manifests have it, with every default filled in."""
    return {
        probe.kind.value: _emit_action(probe),
        "initialDelaySeconds": _seconds(probe.initial_delay_ms),
        "periodSeconds": _seconds(probe.period_ms),
        "timeoutSeconds": _seconds(probe.timeout_ms),
        "failureThreshold": probe.failure_threshold,
        "successThreshold": probe.success_threshold,
    }


def _emit_action(probe: Probe) -> Mapping[str, object]:
    match probe.kind:
        case ProbeKind.HTTP:
            return {
                "host": probe.host or _LOOPBACK,
                "port": probe.port,
                "path": probe.path,
                "scheme": probe.scheme,
                "httpHeaders": _emit_headers(probe.headers),
            }
        case ProbeKind.TCP:
            return {"host": probe.host or _LOOPBACK, "port": probe.port}
        case ProbeKind.GRPC:
            return {"port": probe.port, "service": probe.service}


def _emit_headers(headers: Pairs) -> list[Json]:
    return [{"name": name, "value": value} for name, value in headers]


def _seconds(millis: Millis) -> int | float:
    return millis // 1000 if millis % 1000 == 0 else millis / 1000
