"""Following what the registrar wants of this machine: the trust anchors, the probe, where delivery is."""

import dataclasses
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from meshwright.edge.agent.backoff import GROUP_MISSING_SECONDS, Backoff, vary
from meshwright.edge.agent.board import Board, Credential
from meshwright.edge.agent.disk import make_folder, read_json, write_durably, write_json
from meshwright.edge.agent.settings import Settings
from meshwright.edge.agent.wire import Answer, CallFailed, Registrar, is_bundle
from meshwright.model.enrollment import MachineConfig
from meshwright.model.units import Namespace

log = logging.getLogger("meshwright.agent")

_WAIT_SECONDS = 30
_PATIENCE_SECONDS = 45.0
_LEAST_SECONDS, _UNUSABLE_SECONDS = 0.2, 15.0
_UNCHANGED = 304
_WHAT = "configuration"
_NAMES = {
    "hash": "hash",
    "bundleHash": "bundle_hash",
    "bundle": "bundle",
    "workload": "workload",
    "identity": "identity",
    "delivery": "delivery",
    "trustDomain": "trust_domain",
    "controlPlane": "control_plane",
    "skipInboundPorts": "skip_inbound_ports",
    "skipOutboundPorts": "skip_outbound_ports",
    "skipSubnets": "skip_subnets",
}
_NEEDED = ("hash", "workload", "delivery")


def parse_config(raw: object) -> MachineConfig:
    """Return what the registrar, or the file of its last answer, says. A field that is unknown is left out.

    Raises:
        ValueError: something that is needed is missing, or of another type.
    """
    if not isinstance(raw, dict):
        raise ValueError("it is no object")
    texts: dict[str, Any] = {name: raw.get(key) or "" for key, name in _NAMES.items()}
    wrong = [key for key, name in _NAMES.items() if not isinstance(texts[name], str)]
    missing = [key for key in _NEEDED if not raw.get(key)]
    probe, address_from = raw.get("probe"), raw.get("addressFrom") or []
    if wrong or missing or not isinstance(probe, dict | None) or not isinstance(address_from, list):
        raise ValueError(f"it lacks {', '.join(missing)}" if missing else f"{', '.join(wrong) or 'a field'} is wrong")
    texts["control_plane"] = Namespace(texts["control_plane"])
    return MachineConfig(**texts, probe=probe, address_from=tuple(map(str, address_from)))


def write_config(config: MachineConfig) -> dict[str, Any]:
    """Return a configuration as JSON; `parse_config` reads it back."""
    fields = {each.name: getattr(config, each.name) for each in dataclasses.fields(config)}
    named = {key: fields[name] for key, name in _NAMES.items()}
    return {**named, "probe": config.probe, "addressFrom": list(config.address_from)}


def load_config(path: Path) -> MachineConfig | None:
    """Return the configuration of before, ``None`` when there is none that can be used. Never raises."""
    try:
        return parse_config(read_json(path))
    except ValueError:
        return None


def write_bundle(path: Path, bundle: str) -> None:
    """Let the trust anchors count, all at once: Envoy, which polls the file, never sees half of them.

    Raises:
        OSError: they cannot be written; those of before count.
    """
    make_folder(path.parent)
    write_durably(path, bundle.encode(), mode=0o644)


class Follower:
    """Asks for the configuration, and puts in force what is new."""

    def __init__(
        self, settings: Settings, registrar: Registrar, board: Board, path: Path, get_path: Callable[[], str]
    ) -> None:
        self._settings = settings
        self._registrar = registrar
        self._board = board
        self._path = path
        self._get_path = get_path

    def run(self) -> None:
        """Follow until the agent ends.

        Raises:
            Ending: the agent ends.
        """
        backoff, board = Backoff(), self._board
        while True:
            # Who has not registered is not known, and would only be told so.
            registration = board.wait_for(lambda: board.registration)
            credential = board.wait_for(lambda: board.credential)
            began = time.monotonic()
            try:
                answer = self._ask(credential)
            except CallFailed as error:
                board.fault(_WHAT, str(error))
                board.pause(backoff.wait())
                continue
            if answer.is_good or answer.status == _UNCHANGED:
                backoff.reset()
                board.mend(_WHAT, "the registrar answers again")
                is_whole = answer.status == _UNCHANGED or self._take(answer.body)
                # It waits with its answer; one that does not, or that we cannot use, must not keep us busy.
                least = _LEAST_SECONDS if is_whole else vary(_UNUSABLE_SECONDS)
                board.pause(max(0.0, least - (time.monotonic() - began)))
                continue
            board.fault(_WHAT, f"the registrar refused ({answer})")
            if answer.status in (404, 410) and answer.retry_after is None:
                seconds = vary(GROUP_MISSING_SECONDS, 0.2)
            else:
                seconds = backoff.wait(answer.retry_after)
            board.pause(seconds, lambda: board.registration, registration)

    def _ask(self, credential: Credential) -> Answer:
        """Return the answer, which the registrar keeps back until there is something new, but not for ever."""
        config = self._board.config
        have = quote(f"{config.hash},{config.bundle_hash}" if config else ",", safe=",:")
        path = f"{self._get_path()}/config?have={have}&wait={_WAIT_SECONDS if config else 0}"
        return self._registrar.call("GET", path, shown=credential.shown, seconds=_PATIENCE_SECONDS)

    def _take(self, body: Mapping[str, Any]) -> bool:
        """Put in force what the registrar says; return whether that was possible with all of it."""
        before = self._board.config
        try:
            said = parse_config(body)
        except ValueError as error:
            self._board.fault(_WHAT, f"the registrar's answer cannot be used: {error}; is it of another version?")
            return False
        config = said
        if before is None or config.bundle_hash != before.bundle_hash or config.bundle != before.bundle:
            config = self._take_bundle(config, before)
        trust = self._settings.trust
        theirs = config.trust_domain or trust.name, config.control_plane or trust.control_plane
        if theirs != (trust.name, trust.control_plane):
            self._board.fault(
                _WHAT,
                f"the registrar is of trust domain {theirs[0]} in namespace {theirs[1]}, and agent.json says "
                f"{trust.name} in {trust.control_plane}, which holds",
            )
        write_json(self._path, write_config(config))
        if before is None or before.hash != config.hash:
            log.info("configuration %s is in force", config.hash)
        self._board.change(config=config)
        return config is said

    def _take_bundle(self, config: MachineConfig, before: MachineConfig | None) -> MachineConfig:
        """Let new trust anchors count; those that nobody could use are left out, and told as not loaded."""
        if not config.bundle or not is_bundle(config.bundle):
            self._board.fault("trust anchors", "the registrar's cannot be read; those of before stay in force")
            old, old_hash = (before.bundle, before.bundle_hash) if before else ("", "")
            return dataclasses.replace(config, bundle=old, bundle_hash=old_hash)
        write_bundle(self._registrar.anchors, config.bundle)
        self._board.mend("trust anchors", "those of the registrar are in force")
        log.info("trust anchors %s are in force", config.bundle_hash)
        return config
