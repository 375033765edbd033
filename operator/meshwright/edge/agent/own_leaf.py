"""This machine's key and certificate on disk: looking at them, and letting others count."""

import ssl
import time
from pathlib import Path

from meshwright.edge.agent.board import Credential
from meshwright.edge.agent.disk import StateFile, remove, sync, sync_all
from meshwright.edge.agent.programs import LeafError, run_leaf
from meshwright.edge.agent.settings import Places, Settings
from meshwright.edge.agent.wire import Shown
from meshwright.edge.leaf_files import LeafFolder
from meshwright.edge.self_handshake import shake_own_hands
from meshwright.model.group import JoinMode


class OwnLeaf:
    """The folder of the pair that counts, and the key that a certificate is being asked for."""

    def __init__(self, settings: Settings, places: Places, kept: StateFile) -> None:
        self._settings = settings
        self._places = places
        self._kept = kept
        self._folder = LeafFolder(places.proxy_settings(settings))
        self.pending = places.pending_key
        self.token = places.token(settings)

    def is_there(self) -> bool:
        """Whether there is a pair, good or not."""
        return self._folder.read_current() is not None

    def read_chain(self) -> str:
        """Return the chain in place, ``""`` without one."""
        pair = self._folder.read_current()
        return pair.chain.read_text(encoding="ascii", errors="replace") if pair else ""

    def find(self) -> Credential | None:
        """Return the pair in place, ``None`` when there is none.

        Raises:
            LeafError: it is not this machine's, or not good now.
        """
        pair = self._folder.read_current()
        if pair is None or not self._places.bundle.is_file():
            return None
        credential = self._look(pair.chain, pair.key)
        self.tidy(credential)
        return credential

    def read_token(self) -> str:
        """Return the token to join with, ``""`` without one."""
        try:
            return self.token.read_text(encoding="ascii", errors="replace").strip()
        except OSError:
            return ""

    def make_request(self, *, is_fresh: bool) -> str:
        """Return a request, PEM, for the pending key: one that is there already unless it must be fresh.

        Raises:
            LeafError: none can be made.
        """
        if is_fresh:
            remove(self.pending)
        return str(run_leaf(("request", str(self.pending)))["csr"])

    def store(self, chain: str, key: bytes) -> Credential:
        """Let a pair count, once it was looked at, and return it; it is on disk then.

        Raises:
            LeafError: it may not be used; what counted still does.
            OSError: it cannot be written.
        """
        if not chain.isascii():
            raise LeafError("the answer has no certificate")
        with self._folder.locked():
            pair = self._folder.write_pair(chain, key)
            try:
                credential = self._look(pair.chain, pair.key)
            except LeafError:
                pair.remove()
                raise
            self._folder.write_anchors()
            sync_all(self._places.identity)
            self._folder.switch_to(pair)
            sync_all(self._places.identity)
            sync(self._places.state)
        return credential

    def tidy(self, credential: Credential) -> None:
        """Remove token and key of a joining that is done, whose answer is on disk."""
        if self.pending.is_file() and self.pending.read_bytes() == credential.shown.key.read_bytes():
            remove(self.token)
            remove(self.pending)

    def forget(self) -> None:
        """Remove every key."""
        with self._folder.locked():
            pair = self._folder.read_current()
            if pair is not None:
                pair.remove()
        remove(self.pending)

    def adopt_former(self) -> str:
        """Be who the pair in place says, when the state is lost, and return the uid; ``""`` when it does not say.

        The epoch is lost with the state; seconds since 1970 are more than any that was counted from 1.
        """
        pair = self._folder.read_current()
        if pair is None or self._settings.mode is JoinMode.SPIFFE:
            return ""
        prefix = self._settings.trust.machine_uri(self._settings.namespace, self._settings.group, "")
        found = _see(pair.chain, pair.key, self._places.bundle)
        uid = found.identity.removeprefix(prefix) if found is not None else ""
        if found is None or not uid or uid == found.identity:
            return ""
        self._kept.change(uid=uid, epoch=int(time.time()))
        return uid

    def _look(self, chain: Path, key: Path) -> Credential:
        trust, uri = self._settings.trust, ""
        if self._settings.mode is not JoinMode.SPIFFE:
            assert self._kept.state is not None
            uri = trust.machine_uri(self._settings.namespace, self._settings.group, self._kept.state.uid)
        found = _see(chain, key, self._places.bundle)
        if found is None or not found.identity.startswith(trust.uri_prefix) or uri not in ("", found.identity):
            # What is wrong with it is for a program to say that has what it takes to read it.
            words = ("look", str(chain), str(key), str(self._places.bundle), f"--prefix={trust.uri_prefix}")
            run_leaf((*words, f"--uri={uri}"))
            raise LeafError("the certificate cannot be used")
        return found


def _see(chain: Path, key: Path, anchors: Path) -> Credential | None:
    """Return what a pair says, ``None`` when it is not good now, or has no one URI name."""
    try:
        found = shake_own_hands(chain, key, anchors) or {}
        names = [str(value) for kind, value in found.get("subjectAltName", ()) if kind == "URI"]
        return Credential(
            shown=Shown(chain=chain, key=key),
            identity=names[0] if len(names) == 1 else "",
            not_before=float(ssl.cert_time_to_seconds(str(found["notBefore"]))),
            not_after=float(ssl.cert_time_to_seconds(str(found["notAfter"]))),
        )
    except (OSError, LookupError, ValueError):
        return None
