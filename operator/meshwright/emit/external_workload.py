"""The ExternalWorkload of a machine that has joined: the manifest, and what its conditions say.

Both are functions of what is known of the machine, and hold no time: while a machine is well, nothing is written.

Source: linkerd2 ``controller/gen/apis/externalworkload/v1beta1/types.go``.
"""

from functools import lru_cache

from meshwright.model.config import FIELD_MANAGER, LABEL_MANAGED_BY
from meshwright.model.desired import Condition, Json
from meshwright.model.enrollment import Health, Trouble
from meshwright.model.group import HeartbeatLoss, Reachability
from meshwright.model.instance import (
    ADDRESS,
    ANNOTATION_AGENT,
    ANNOTATION_AGENT_LABELS,
    ANNOTATION_EPOCH,
    ANNOTATION_GROUP,
    ANNOTATION_NONCE,
    ANNOTATION_SOURCE,
    ANNOTATION_TEMPLATE,
    ANNOTATION_UID,
    CONFIG,
    HEARTBEAT,
    LABEL_EXTERNAL,
    PROBE,
    READY,
    TRUST,
    Enrolled,
    LeaseState,
    Standing,
)
from meshwright.model.ref import Kind
from meshwright.model.workload import WorkloadPort

API_VERSION = f"{Kind.EXTERNAL_WORKLOAD.group}/v1beta1"

_AROUND = {
    Trouble.PROBE: ("Its probe fails: ", "; see to the application"),
    Trouble.DOWN: ("Its proxy does not run: ", "; see what its agent says there: meshwright agent status"),
    Trouble.UNCONFIGURED: (
        "Its proxy has no configuration: ",
        "; see that the machine reaches meshwright xds, and what its agent says there: meshwright agent status",
    ),
    Trouble.REFUSED: (
        "Its proxy refuses its configuration: ",
        "; see that its Envoy is of the version that meshwright is for, and the logs of meshwright xds",
    ),
    "Unreachable": (
        "The cluster does not reach its proxy there: ",
        "; open port 4143 of the machine to the cluster's nodes",
    ),
    "AddressLost": ("", "; see to the machine's network"),
}
"""What is said around what was found, by reason."""

_LIVE = (LeaseState.CURRENT, LeaseState.SUSPENDED, LeaseState.HELD)
_MAX_MESSAGE = 1000
_MAX_FOUND = 600


def emit_workload(enrolled: Enrolled) -> Json:
    """Return the manifest of a machine's ExternalWorkload: metadata and spec, the same for the same machine.

    The template's labels and annotations stand over the machine's, ours over both.
    """
    annotations = {
        **dict(enrolled.template.annotations),
        ANNOTATION_GROUP: enrolled.key.group,
        ANNOTATION_UID: enrolled.key.uid,
        ANNOTATION_EPOCH: str(enrolled.epoch),
        ANNOTATION_NONCE: enrolled.nonce_hash,
        ANNOTATION_TEMPLATE: enrolled.template.hash,
        ANNOTATION_SOURCE: enrolled.registered_from,
    }
    if enrolled.agent:
        annotations[ANNOTATION_AGENT] = enrolled.agent
    if enrolled.agent_labels:
        annotations[ANNOTATION_AGENT_LABELS] = ",".join(key for key, _ in enrolled.agent_labels)
    labels = {
        **dict(enrolled.agent_labels),
        **dict(enrolled.template.labels),
        LABEL_MANAGED_BY: FIELD_MANAGER,
        LABEL_EXTERNAL: "true",
    }
    return {
        "apiVersion": API_VERSION,
        "kind": Kind.EXTERNAL_WORKLOAD.word,
        "metadata": {
            "annotations": dict(sorted(annotations.items())),
            "labels": dict(sorted(labels.items())),
            "name": enrolled.ref.name,
            "namespace": enrolled.ref.namespace,
        },
        "spec": {
            "meshTLS": {"identity": enrolled.identity, "serverName": enrolled.server_name},
            "ports": [_emit_port(port) for port in enrolled.template.ports],
            "workloadIPs": [{"ip": ip} for ip in enrolled.ips],
        },
    }


def emit_conditions(standing: Standing) -> tuple[Condition, ...]:
    """Return the six conditions of a machine, Ready first.

    Ready is all that endpoints depend on. The others say why, or inform only: those of configuration and trust never
    take an endpoint. Each that is not True says what to do next.
    """
    heartbeat, probe, address = _emit_heartbeat(standing), _emit_probe(standing), _emit_address(standing)
    config = _emit_loaded(
        CONFIG, "configuration", standing.loaded.config, standing.want.config, "see its logs: meshwright agent status"
    )
    trust = _emit_loaded(
        TRUST, "trust anchors", standing.loaded.bundle, standing.want.bundle, "do not remove old anchors before it has"
    )
    return (_emit_ready(standing, heartbeat, probe, address), heartbeat, probe, address, config, trust)


def read_found(condition: Condition) -> str:
    """Return what was found, as a condition tells of it: what `emit_conditions` made the message of."""
    before, after = _AROUND.get(condition.reason, ("", ""))
    return condition.message.removeprefix(before).removesuffix(after)


def _emit_ready(standing: Standing, heartbeat: Condition, probe: Condition, address: Condition) -> Condition:
    if standing.conflict:
        message = (
            f"Another has its address: {standing.conflict}. It becomes ready when that one is gone or gives the "
            "address up; delete that one if it is a leftover, or give one of them another address"
        )
        return _make(READY, "False", "AddressConflict", message)
    if standing.is_draining:
        return _make(READY, "False", "Draining", "The machine said that it stops; it comes back when its agent starts")
    if standing.lost:
        return _make(READY, "False", "AddressLost", _say("AddressLost", standing.lost))
    tolerates = standing.heartbeat_loss is HeartbeatLoss.TOLERATE and standing.is_reachable is True
    if standing.lease not in _LIVE and not tolerates:
        return _make(READY, "False", heartbeat.reason, heartbeat.message)
    if probe.status != "True":
        return _make(READY, "False", probe.reason, probe.message)
    if standing.reachability is Reachability.GATE and standing.is_reachable is None:
        message = "The cluster has not reached its proxy yet, as the group's policy demands; it is tried again soon"
        return _make(READY, "False", "NotReachedYet", message)
    if standing.reachability is Reachability.GATE and not standing.is_reachable:
        return _make(READY, "False", address.reason, address.message)
    if standing.lease is LeaseState.EXPIRED:
        message = "Its agent is silent, but the cluster reaches its proxy, and the group's policy tolerates that"
        return _make(READY, "True", "SilenceTolerated", message)
    if standing.lease is not LeaseState.CURRENT:
        return _make(READY, "True", heartbeat.reason, heartbeat.message)
    if standing.is_orphan:
        message = "Its ExternalGroup is gone: it will be removed unless the group comes back"
        return _make(READY, "True", "GroupMissing", message)
    return _make(READY, "True", "Ready", "Connected and healthy")


def _emit_heartbeat(standing: Standing) -> Condition:
    seconds = f"{standing.lease_ms / 1000:g} s"
    match standing.lease:
        case LeaseState.CURRENT:
            return _make(HEARTBEAT, "True", "Beating", "Its agent is heard of in time")
        case LeaseState.PENDING:
            return _make(HEARTBEAT, "False", "Pending", "Its agent has registered; its first beat is awaited")
        case LeaseState.SUSPENDED:
            message = (
                f"Its agent has been silent for {seconds}, as many others at once: that may be a fault of the cluster, "
                "so it counts as well for up to 5 min; look at the registrar and at the network to the machines"
            )
            return _make(HEARTBEAT, "Unknown", "ExpirySuspended", message)
        case LeaseState.HELD:
            message = (
                f"Its agent has been silent for {seconds}; it stays for a while because it is the last endpoint of a "
                "Service; see to the machine, then to its agent: systemctl status meshwright-agent"
            )
            return _make(HEARTBEAT, "False", "LastEndpointHeld", message)
        case LeaseState.EXPIRED:
            message = (
                f"Its agent has been silent for {seconds}, which says nothing of the application; see to the machine, "
                "then to its agent: systemctl status meshwright-agent"
            )
            return _make(HEARTBEAT, "False", "LeaseExpired", message)


def _emit_probe(standing: Standing) -> Condition:
    if standing.health is Health.FAILING and standing.trouble is not Trouble.PROBE:
        # Nobody comes to the application but by the proxy. How the application is was not said.
        return _make(PROBE, "Unknown", standing.trouble.value, _say(standing.trouble, standing.health_message))
    if not standing.has_probe:
        return _make(PROBE, "True", "NoProbe", "The group has no probe: a machine that beats is healthy")
    match standing.health:
        case Health.PASSING:
            return _make(PROBE, "True", "ProbePassed", "Its probe passes")
        case Health.FAILING:
            return _make(PROBE, "False", Trouble.PROBE.value, _say(Trouble.PROBE, standing.health_message))
        case Health.UNKNOWN:
            message = "Its probe has not passed yet; it is asked again every period that the group's probe says"
            return _make(PROBE, "Unknown", "ProbePending", message)


def _emit_address(standing: Standing) -> Condition:
    if standing.reachability is not Reachability.OFF and standing.is_reachable is not None:
        if standing.is_reachable:
            return _make(ADDRESS, "True", "Reachable", "The cluster reaches its proxy there, with its identity")
        return _make(ADDRESS, "False", "Unreachable", _say("Unreachable", standing.reach_message))
    if standing.is_observed:
        return _make(ADDRESS, "True", "SourceMatches", "Its calls come from this address")
    if standing.is_in_range:
        return _make(ADDRESS, "True", "InAllowedRange", "It is in a range that the group's policy allows")
    message = (
        f"Its calls come from {standing.observed or 'elsewhere'}, not from this address; behind NAT, allow its range "
        "or turn on reachability in the group's RegistrationPolicy"
    )
    return _make(ADDRESS, "Unknown", "SourceDiffers", message)


def _emit_loaded(type_: str, what: str, loaded: str, want: str, advice: str) -> Condition:
    if not want or not loaded:
        return _make(
            type_, "Unknown", "NotReported", f"It has not said yet which {what} it has; its agent does with each beat"
        )
    if loaded == want:
        return _make(type_, "True", "Current", f"It has the {what} that it should have")
    return _make(type_, "False", "Outdated", f"It still has older {what}; {advice}")


def _say(reason: str, found: str) -> str:
    before, after = _AROUND[reason]
    return f"{before}{found[:_MAX_FOUND] or 'no more is said'}{after}"


def _emit_port(port: WorkloadPort) -> Json:
    named = {"name": port.name} if port.name else {}
    return {**named, "port": port.port, "protocol": port.transport}


@lru_cache(maxsize=1024)
def _make(type_: str, status: str, reason: str, message: str) -> Condition:
    text = message if len(message) <= _MAX_MESSAGE else f"{message[: _MAX_MESSAGE - 1]}…"
    match status:
        case "True":
            return Condition(type=type_, status="True", reason=reason, message=text)
        case "False":
            return Condition(type=type_, status="False", reason=reason, message=text)
        case _:
            return Condition(type=type_, status="Unknown", reason=reason, message=text)
