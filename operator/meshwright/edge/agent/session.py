"""Registering this machine, and telling from then on that it lives and how it is."""

import logging
import secrets
import time
from collections.abc import Mapping
from typing import Any

from meshwright import __version__
from meshwright.edge.agent.addresses import choose_addresses, describe, find_route_source, list_candidates
from meshwright.edge.agent.backoff import GROUP_MISSING_SECONDS, Backoff, vary
from meshwright.edge.agent.board import Board, Credential, Registration
from meshwright.edge.agent.disk import StateFile
from meshwright.edge.agent.settings import Settings
from meshwright.edge.agent.wire import Answer, CallFailed, NotTrusted, Registrar
from meshwright.edge.host_port import split_address
from meshwright.model.enrollment import Health, Turned
from meshwright.model.ref import Kind, Ref

log = logging.getLogger("meshwright.agent")

_BEAT, _REGISTRATION = "beat", "registration"
_MAX_MESSAGE = 500
_LEAST_SECONDS = 0.02
_ADVICE = {
    Turned.STALE_EPOCH: "another copy of this machine has registered since: this one was restored from a snapshot, or "
    "slept; it registers again, which it may as soon as no other copy lives",
    Turned.GROUP_MISSING: "create the ExternalGroup, or mend namespace and group in agent.json",
    Turned.GROUP_UNUSABLE: "mend the ExternalGroup; its status says what is wrong",
    Turned.DUPLICATE_INSTANCE: "another machine is registered under this one's uid, which is a copy of it: run "
    "`meshwright agent leave --local` and `meshwright agent install` with a new token on the copy",
    Turned.DUPLICATE_IDENTITY: "another machine is registered with this identity; give each its own, or set "
    "identityScope: Group in the RegistrationPolicy",
    Turned.ADDRESS_CONFLICT: "another machine, or an ExternalWorkload made by hand, has this address; it is free once "
    "that one's lease has ended",
    Turned.NAME_TAKEN: "an ExternalWorkload made by hand has this machine's name; remove or rename it",
    Turned.WRITER_CONFLICT: "another controller writes these objects; stop it, or have it leave this namespace",
    Turned.NOT_ALLOWED: "the group's RegistrationPolicy does not admit this machine",
    Turned.BAD_ADDRESS: "set address, interface or addressFrom in agent.json",
    Turned.BAD_LABEL: "mend labels in agent.json",
    Turned.BAD_IDENTITY: "the certificate's name cannot be this machine's",
    Turned.QUOTA_EXCEEDED: "the group is full; raise limits.instances in its RegistrationPolicy",
}
"""What to do about a refusal, beside what the registrar says of it."""


class Session:
    """One run of the agent, as the registrar sees it: it has a nonce of its own."""

    def __init__(self, settings: Settings, registrar: Registrar, kept: StateFile, board: Board, envoy: str) -> None:
        self._settings = settings
        self._registrar = registrar
        self._kept = kept
        self._board = board
        self._envoy = envoy
        self._nonce = secrets.token_hex(16)
        self._seq = 0

    def run(self) -> None:
        """Register, beat, and register again when asked to, until the agent ends.

        Raises:
            Ending: the agent ends.
        """
        while True:
            credential = self._board.wait_for(lambda: self._board.credential)
            next_ms = self._register(credential)
            if next_ms is not None:
                self._beat(next_ms, credential.identity)

    def drain(self, seconds: float) -> None:
        """Tell the registrar that this machine will stop; what fails is logged, and not tried again."""
        credential, registration = self._board.credential, self._board.registration
        if credential is None or registration is None:
            return
        body = {"epoch": registration.epoch, "drainMs": round(seconds * 1000)}
        registrar = Registrar(self._settings.registrar, self._settings.trust, self._registrar.anchors)
        try:
            answer = registrar.call("POST", f"{self.path}/drain", body, shown=credential.shown, seconds=3.0)
            if not answer.is_good:
                log.warning("drain: the registrar refused: %s", answer)
        except CallFailed as error:
            log.warning("drain: %s", error)
        finally:
            registrar.close()

    @property
    def path(self) -> str:
        """Where this machine is at the registrar."""
        return make_path(self._settings, self._kept.known.uid)

    def _register(self, credential: Credential) -> int | None:
        """Register until it is done, and return the milliseconds until the first beat; ``None`` when the machine
        may not."""
        backoff, board = Backoff(), self._board
        epoch = self._kept.change(epoch=self._kept.known.epoch + 1).epoch
        while True:
            seconds: float
            addresses = self._look_for_addresses()
            if not addresses:
                board.fault(_REGISTRATION, f"no address to register; there are: {describe(board.candidates)}")
                board.pause(backoff.wait())
                continue
            try:
                answer = self._registrar.call("PUT", self.path, self._claim(epoch, credential), shown=credential.shown)
            except CallFailed as error:
                self._note_failure(_REGISTRATION, error)
                seconds = backoff.wait()
            else:
                if answer.is_good:
                    return self._take_registered(answer, epoch)
                self._note_refusal(_REGISTRATION, answer)
                if self._fence(answer):
                    return None
                seconds = _wait_after(answer, backoff)
                if answer.reason == Turned.STALE_EPOCH:
                    # Seconds since 1970 are more than anybody has counted to. That no two copies are let in at once is
                    # for the registrar to see, who knows which of them lives.
                    epoch = self._kept.change(epoch=max(epoch + 1, int(time.time()))).epoch
            if board.pause(seconds, lambda: board.credential, credential):
                credential = board.wait_for(lambda: board.credential)

    def _beat(self, next_ms: int, identity: str) -> None:
        """Beat, as ``identity``, until the machine must register again."""
        backoff, board = Backoff(), self._board
        seconds, said = 0.0, None
        while True:
            if said is not None:
                board.pause(max(seconds, _LEAST_SECONDS), lambda: _kind(board), said)
            credential = board.credential
            if credential is None or credential.identity != identity:
                return
            report = board.report()
            said = report.health, report.trouble, board.config
            self._look_for_addresses()
            self._seq += 1
            body = {
                "epoch": self._kept.known.epoch,
                "nonce": self._nonce,
                "seq": self._seq,
                "health": {
                    "state": report.health.value,
                    **({"trouble": report.trouble.value} if report.health is Health.FAILING else {}),
                    "message": report.message[:_MAX_MESSAGE],
                    "ageMs": max(0, round((time.monotonic() - report.at) * 1000)),
                },
                "addresses": self._addresses(),
                "loaded": self._loaded(),
            }
            try:
                answer = self._registrar.call("POST", f"{self.path}/beat", body, shown=credential.shown)
            except CallFailed as error:
                self._note_failure(_BEAT, error)
                seconds = backoff.wait()
                continue
            if answer.status == 410:
                log.info("the registrar does not know this machine any more (%s); registering again", answer.message)
                return
            if not answer.is_good:
                self._note_refusal(_BEAT, answer)
                if self._fence(answer):
                    return
                seconds = _wait_after(answer, backoff)
                if answer.status in (409, 403, 404):
                    board.change(is_ready=False)
                    board.pause(seconds)
                    return
                continue
            backoff.reset()
            board.mend(_BEAT, "the registrar answers again")
            self._take_beaten(answer)
            if answer.body.get("mustRegister") is True:
                log.info("the registrar asks this machine to register again: what it registered with has changed")
                return
            seconds = vary(_number(answer.body.get("nextMs"), next_ms) / 1000)

    def _take_registered(self, answer: Answer, epoch: int) -> int:
        board = self._board
        registration = Registration(
            workload=str(answer.body.get("workload") or ""),
            epoch=epoch,
            beat_ms=_number(answer.body.get("beatMs"), 10_000),
            lease_ms=_number(answer.body.get("leaseMs"), 35_000),
            at=time.monotonic(),
        )
        if registration.workload and registration.workload != self._kept.known.workload:
            self._kept.change(workload=registration.workload)
        board.change(registration=registration, is_ready=answer.body.get("ready") is True, beaten=time.monotonic())
        board.mend(_REGISTRATION, "done")
        log.info(
            "registered as ExternalWorkload %s/%s, epoch %d, at %s; a beat each %.3g s, a lease of %.3g s",
            self._settings.namespace,
            registration.workload,
            epoch,
            describe(board.addresses),
            registration.beat_ms / 1000,
            registration.lease_ms / 1000,
        )
        for label in _texts(answer.body.get("droppedLabels")):
            log.warning("registration: the label %s was dropped: the RegistrationPolicy does not allow it", label)
        for warning in _texts(answer.body.get("warnings")):
            log.warning("registration: %s", warning)
        return registration.beat_ms

    def _take_beaten(self, answer: Answer) -> None:
        is_ready = answer.body.get("ready") is True
        if is_ready is not self._board.is_ready:
            log.info("the cluster %s this machine traffic", "sends" if is_ready else "does not send")
        self._board.change(is_ready=is_ready, beaten=time.monotonic())

    def _fence(self, answer: Answer) -> bool:
        """Keep in mind that this instance may not come again, if the registrar says so; the keeper sees to what is
        next."""
        if answer.reason != Turned.REMOVED:
            return False
        self._kept.change(fenced=f"somebody has removed this machine from its group ({answer.message})")
        self._board.change(registration=None, is_ready=False, credential=None)
        return True

    def _note_failure(self, what: str, error: CallFailed) -> None:
        self._board.fault(what, str(error))
        if isinstance(error, NotTrusted) and not error.by_time:
            self._board.change(is_distrusted=True)

    def _note_refusal(self, what: str, answer: Answer) -> None:
        advice = _ADVICE.get(Turned(answer.reason), "") if answer.reason in list(Turned) else ""
        ref = Ref(Kind.EXTERNAL_GROUP, self._settings.namespace, self._settings.group)
        self._board.fault(what, f"{ref}: the registrar refused ({answer}){f'; {advice}' if advice else ''}")

    def _look_for_addresses(self) -> bool:
        """Find out which addresses the machine has now; return whether there is one to be reached at."""
        board, config = self._board, self._board.config
        try:
            candidates = list_candidates()
        except OSError as error:
            board.fault("addresses", str(error))
            return bool(board.addresses)
        host, port = split_address(self._settings.registrar)
        told = config.address_from if config is not None else ()
        is_said = self._settings.address or self._settings.interface or self._settings.address_from or told
        addresses = choose_addresses(
            candidates,
            explicit=self._settings.address,
            interface=self._settings.interface,
            address_from=self._settings.address_from or told,
            route=() if is_said else find_route_source(host, port),
        )
        if addresses != board.addresses:
            log.info("this machine is reached at %s; it has %s", describe(addresses), describe(candidates))
        board.candidates, board.addresses = candidates, addresses
        return bool(addresses)

    def _addresses(self) -> list[dict[str, str]]:
        return [{"ip": str(each.ip), "if": each.interface} for each in self._board.addresses]

    def _loaded(self) -> dict[str, str]:
        config = self._board.config
        return {"config": config.hash, "bundle": config.bundle_hash} if config else {"config": "", "bundle": ""}

    def _claim(self, epoch: int, credential: Credential) -> Mapping[str, Any]:
        return {
            "epoch": epoch,
            "nonce": self._nonce,
            "addresses": self._addresses(),
            "labels": dict(self._settings.labels),
            "identity": credential.identity,
            "versions": {"agent": __version__, "envoy": self._envoy},
            "loaded": self._loaded(),
        }


def make_path(settings: Settings, uid: str) -> str:
    """Return where a machine is at the registrar."""
    return f"/v1/ns/{settings.namespace}/groups/{settings.group}/instances/{uid}"


def _kind(board: Board) -> object:
    """Return what is told at once when it changes."""
    report = board.report()
    return report.health, report.trouble, board.config


def _wait_after(answer: Answer, backoff: Backoff) -> float:
    """Return the seconds to wait after a refusal."""
    if answer.status == 404 and answer.retry_after is None:
        return vary(GROUP_MISSING_SECONDS, 0.2)
    return backoff.wait(answer.retry_after)


def _number(raw: object, default: int) -> int:
    return raw if isinstance(raw, int) and not isinstance(raw, bool) and 0 < raw <= 3_600_000 else default


def _texts(raw: object) -> list[str]:
    return [str(each) for each in raw] if isinstance(raw, list) else []
