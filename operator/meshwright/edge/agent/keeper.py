"""This machine's certificate: joining, renewing, and what to do when it is too late for that."""

import hashlib
import logging
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from meshwright.edge.agent.backoff import GROUP_MISSING_SECONDS, Backoff, vary
from meshwright.edge.agent.board import Board, Credential, Fatal
from meshwright.edge.agent.disk import State, StateFile, make_uid, remove
from meshwright.edge.agent.following import write_bundle
from meshwright.edge.agent.own_leaf import OwnLeaf
from meshwright.edge.agent.programs import LeafError, run_child
from meshwright.edge.agent.settings import Settings
from meshwright.edge.agent.wire import Answer, CallFailed, NotTrusted, Registrar, Shown, is_bundle, split_pem, stamp
from meshwright.edge.renewal import seconds_to_retry
from meshwright.model.enrollment import Turned
from meshwright.model.group import JoinMode

log = logging.getLogger("meshwright.agent")

_WHAT = "certificate"
_ANSWER_SECONDS = 30.0
_LOOK_SECONDS = 30.0
_RENEWED_AT = 0.5
_AGAIN_AFTER = 0.05
_LEAST_SECONDS = 10.0
_FOR_GOOD = (Turned.BAD_TOKEN, Turned.TOKEN_EXPIRED, Turned.TOKEN_USED, Turned.TOKEN_LOCKED)
"""What no waiting mends: the token will never be taken."""


class Keeper:
    """Sees to it that there is a certificate: `Board.credential`."""

    def __init__(self, settings: Settings, leaf: OwnLeaf, registrar: Registrar, kept: StateFile, board: Board) -> None:
        self._settings = settings
        self._leaf = leaf
        self._registrar = registrar
        self._kept = kept
        self._board = board

    def run(self) -> None:
        """Keep until the agent ends.

        Raises:
            Ending: the agent ends.
            Fatal: there is no certificate, and no way to have one.
        """
        if self._kept.was_corrupt and (uid := self._leaf.adopt_former()):
            log.warning("the state is lost, but not the certificate: this machine goes on as %s", uid)
        while True:
            if self._kept.known.fenced:
                self._begin_anew(self._kept.known.fenced)
            credential, due = None, 0.0
            try:
                credential = self._leaf.find()
            except LeafError as error:
                self._board.fault(_WHAT, f"the one in place cannot be used: {error}")
            if credential is None:
                credential = self._obtain()
                due = _find_due(credential)
            elif self._settings.mode is not JoinMode.SPIFFE:  # an SVID may have become another one meanwhile
                due = _find_due(credential)
            self._board.change(credential=credential)
            self._stay(credential, due)

    def _begin_anew(self, why: str) -> None:
        """Be another instance than the one that may not come again, if there is a way to join.

        Raises:
            Fatal: there is none.
        """
        if self._settings.mode is JoinMode.TOKEN and not self._leaf.read_token():
            raise Fatal(f"{why}; {self._how_to_join()}")
        log.warning("%s; joining anew, under another uid", why)
        self._board.change(credential=None, registration=None)
        self._leaf.forget()
        self._kept.write(State(uid=make_uid(), fingerprint=self._kept.known.fingerprint))

    # getting one

    def _obtain(self) -> Credential:
        """Return a certificate, as soon as there is one.

        Raises:
            Ending: the agent ends before.
            Fatal: there is no way to have one.
        """
        backoff, board = Backoff(), self._board
        while True:
            retry_after: float | None = None
            if self._settings.mode is JoinMode.TOKEN:
                self._need_token()
            try:
                self._need_anchors()
                if self._settings.mode is JoinMode.SPIFFE:
                    return self._fetch_svid()
                answer = self._join()
                if answer.is_good:
                    return self._take_joined(answer)
                retry_after = self._note_refusal(answer)
            except NotTrusted as error:
                board.fault(_WHAT, str(error))
                if not error.by_time:
                    self._renew_anchors()
            except (CallFailed, LeafError) as error:
                board.fault(_WHAT, str(error))
            board.pause(backoff.wait(retry_after))

    def _need_anchors(self) -> None:
        """Have trust anchors: those of before, or those that agent.json knows by their hashes."""
        if not self._registrar.anchors.is_file():
            write_bundle(self._registrar.anchors, self._registrar.fetch_bundle(self._settings.ca_hashes))
            log.info("the trust anchors of the registrar are those that caHashes names")

    def _need_token(self) -> str:
        """Return the token to join with.

        Raises:
            Fatal: there is none, or it was refused before.
        """
        token = self._leaf.read_token()
        if not token:
            raise Fatal(self._say_why_not() + self._how_to_join())
        if _hash(token) == self._kept.known.refused:
            raise Fatal(f"the token was refused before ({self._kept.known.refusal}); {self._how_to_join()}")
        return token

    def _renew_anchors(self) -> None:
        """Take the pinned anchors beside those that are here: the registrar's certificate hangs from none of these.
        Which are to go is for the registrar to say, once it is one again."""
        try:
            pinned = self._registrar.fetch_bundle(self._settings.ca_hashes)
        except CallFailed as error:
            self._board.fault("trust anchors", str(error))
            return
        here = self._registrar.anchors.read_text(encoding="ascii", errors="replace")
        known = {fingerprint for fingerprint, _ in split_pem(here)}
        new = "".join(pem for fingerprint, pem in split_pem(pinned) if fingerprint not in known)
        if new:
            write_bundle(self._registrar.anchors, f"{here.rstrip()}\n{new}")
            self._forget_loaded_bundle()
            log.warning("the registrar has another trust anchor than this machine had; caHashes names it: it counts")

    def _join(self) -> Answer:
        """Return the answer to the request to join. Token and key are kept until the answer is stored: should it be
        lost, the same token and the same key have it again."""
        body: dict[str, Any] = {"uid": self._kept.known.uid}
        shown, name = None, ""
        if self._settings.mode is JoinMode.CERTIFICATE:
            shown = Shown(chain=Path(self._settings.certificate_file), key=Path(self._settings.key_file))
            body |= {"namespace": self._settings.namespace, "group": self._settings.group}
            # Whose authorities a machine's own certificate is looked at by is said before it is shown.
            name = self._settings.trust.group_dns(self._settings.namespace, self._settings.group)
        else:
            body["token"] = self._need_token()
        body["csr"] = self._leaf.make_request(is_fresh=False)
        log.info("joining group %s/%s", self._settings.namespace, self._settings.group)
        return self._registrar.call("POST", "/v1/join", body, shown=shown, name=name, seconds=_ANSWER_SECONDS)

    def _take_joined(self, answer: Answer) -> Credential:
        body, settings = answer.body, self._settings
        theirs = body.get("namespace", settings.namespace), body.get("group", settings.group)
        if theirs != (settings.namespace, settings.group):
            raise Fatal(
                f"the token is for group {theirs[0]}/{theirs[1]}, and agent.json says "
                f"{settings.namespace}/{settings.group}; mend one of the two"
            )
        bundle = str(body.get("bundle") or "")
        if is_bundle(bundle):
            write_bundle(self._registrar.anchors, bundle)
            self._forget_loaded_bundle()
        credential = self._leaf.store(str(body.get("chain") or ""), self._leaf.pending.read_bytes())
        self._kept.change(
            identity=credential.identity,
            workload=str(body.get("workload") or ""),
            namespace=settings.namespace,
            group=settings.group,
            refused="",
            refusal="",
        )
        self._leaf.tidy(credential)
        log.info("joined as %s; certificate until %s", credential.identity, _date(credential.not_after))
        self._board.mend(_WHAT, "there is one")
        return credential

    def _note_refusal(self, answer: Answer) -> float | None:
        """Say why the machine may not join, and return what to wait for, ``None`` when the registrar does not say.

        Raises:
            Fatal: asking again is of no use.
        """
        reason = Turned(answer.reason) if answer.reason in list(Turned) else None
        if reason in _FOR_GOOD and self._settings.mode is JoinMode.TOKEN:
            # Asked again and again with a bad token, the registrar would block this machine's address.
            self._kept.change(refused=_hash(self._leaf.read_token()), refusal=f"{answer.reason}: {answer.message}")
            raise Fatal(f"the registrar refuses this machine's token ({answer}); {self._how_to_join()}")
        group = f"ExternalGroup {self._settings.namespace}/{self._settings.group}"
        self._board.fault(_WHAT, f"the registrar does not let this machine join {group} ({answer})")
        if answer.status == 404 and answer.retry_after is None:
            return vary(GROUP_MISSING_SECONDS, 0.2)
        return answer.retry_after

    def _fetch_svid(self) -> Credential:
        """Return the SVID that the Workload API has now; it counts.

        Raises:
            LeafError: there is none, or it hangs from another anchor than the mesh.
        """
        found = run_child(("meshwright.edge.agent.svid", self._settings.spiffe_socket))
        if self._board.credential is not None and self._leaf.read_chain() == found["chain"]:
            return self._board.credential
        credential = self._leaf.store(str(found["chain"]), str(found["key"]).encode())
        if self._kept.known.identity not in ("", credential.identity):
            log.warning(
                "this machine was %s, and is %s now: did its SPIRE entry change?",
                self._kept.known.identity,
                credential.identity,
            )
        self._kept.change(identity=credential.identity)
        log.info("identity %s by SPIFFE, until %s", credential.identity, _date(credential.not_after))
        self._board.mend(_WHAT, "there is one")
        return credential

    # keeping one

    def _stay(self, credential: Credential, due: float) -> None:
        """Return when there must be another certificate: because there is none, or because this one has ended.

        By the clock of the wall, and not in one go: clocks are set, and machines sleep.
        """
        attempt, board = 0, self._board
        while not board.pause(min(_LOOK_SECONDS, max(0.0, due - time.time())), self._is_called, False):
            now = time.time()
            if now >= credential.not_after:
                board.fault(_WHAT, self._describe_expiry(credential))
                board.change(credential=None)
                return
            if now < due:
                continue
            try:
                newer = self._renew(credential)
            except (CallFailed, LeafError) as error:
                attempt += 1
                board.fault(_WHAT, f"it was not renewed: {error}; it is good until {_date(credential.not_after)}")
                left = timedelta(seconds=credential.not_after - now)
                due = time.time() + seconds_to_retry(attempt, left, vary(0.5, 1.0))
                continue
            board.mend(_WHAT, "it was renewed")
            attempt = 0
            if newer == credential:
                due = now + max(1.0, (credential.not_after - credential.not_before) * _AGAIN_AFTER)
            else:
                # However short its life may be, it is not renewed without end.
                credential, due = newer, max(_find_due(newer), now + _LEAST_SECONDS)
                board.change(credential=credential)
        if board.is_distrusted and not self._kept.known.fenced:
            board.change(is_distrusted=False)
            self._renew_anchors()

    def _is_called(self) -> bool:
        return self._board.is_distrusted or bool(self._kept.known.fenced)

    def _renew(self, credential: Credential) -> Credential:
        """Return a newer certificate, or an equal one, when there is none yet.

        Raises:
            CallFailed, LeafError: there is none.
        """
        if self._settings.mode is JoinMode.SPIFFE:
            return self._fetch_svid()
        body = {"csr": self._leaf.make_request(is_fresh=True)}
        answer = self._registrar.call("POST", "/v1/renew", body, shown=credential.shown, seconds=_ANSWER_SECONDS)
        if not answer.is_good:
            if answer.reason == Turned.REMOVED:
                self._kept.change(fenced=f"somebody has removed this machine from its group ({answer.message})")
            raise LeafError(f"the registrar refused ({answer})")
        newer = self._leaf.store(str(answer.body.get("chain") or ""), self._leaf.pending.read_bytes())
        remove(self._leaf.pending)
        log.info("certificate renewed; it is good until %s", _date(newer.not_after))
        return newer

    # words

    def _say_why_not(self) -> str:
        """Return why there is no certificate that could be used, for who must give a token."""
        if not self._leaf.is_there():
            return "this machine has not joined yet, and there is no token; "
        try:
            self._leaf.find()
        except LeafError as error:
            return f"the certificate in place cannot be used ({error}; {self._registrar.compare_clocks()}); "
        return ""

    def _describe_expiry(self, credential: Credential) -> str:
        return (
            f"it was good from {_date(credential.not_before)} to {_date(credential.not_after)}, and is not now; "
            f"{self._registrar.compare_clocks()}; did this machine sleep, or is its clock wrong?"
        )

    def _how_to_join(self) -> str:
        return (
            f"run `meshwright group token create {self._settings.group} -n {self._settings.namespace}`, and write the "
            f"token into {self._leaf.token}"
        )

    def _forget_loaded_bundle(self) -> None:
        """Other anchors are in place than those of the last configuration: have the registrar say its own again."""
        if self._board.config is not None:
            self._board.change(config=replace(self._board.config, bundle="", bundle_hash=""))


def _find_due(credential: Credential) -> float:
    """Return when it is to be renewed, in seconds since 1970: at half its life, a little earlier or later."""
    life = credential.not_after - credential.not_before
    return credential.not_before + vary(life * _RENEWED_AT, 0.05)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _date(at: float) -> str:
    return stamp(datetime.fromtimestamp(at, UTC))
