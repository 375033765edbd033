"""A proxy's key and certificate as files, changed so that Envoy, which polls them, never sees half a change.

Each pair has files of its own, ``tls-7.key`` and ``tls-7.crt``; ``identity.json`` names the pair that counts and is
replaced by a rename, last. Envoy reads a pair when ``identity.json`` names it, so it never meets a key beside another
key's certificate, as it would with two files that are replaced one after the other. The pair before stays until the
next change: Envoy may be about to read it.
"""

import contextlib
import fcntl
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from meshwright.emit.sds import ANCHORS_FILE, BUNDLE_FILE, IDENTITY_FILE, emit_anchors, emit_identity
from meshwright.model.desired import Json
from meshwright.model.proxy import ProxySettings

_PAIR = re.compile(r"tls-([0-9]{1,12})\.(?:key|crt)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two files: a private key, and its certificate with what lies between it and a trust anchor, both PEM."""

    number: int
    chain: Path
    key: Path

    def remove(self) -> None:
        """Remove both, as far as they are there."""
        self.key.unlink(missing_ok=True)
        self.chain.unlink(missing_ok=True)


class LeafFolder:
    """The folders of one proxy: where its pairs are, and where the kubelet puts its token and the trust anchors."""

    def __init__(self, settings: ProxySettings) -> None:
        self._settings = settings
        self._folder = Path(settings.identity_folder)
        self.token = Path(settings.secrets_folder) / "token"
        self.anchors = Path(settings.secrets_folder) / BUNDLE_FILE

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep others from changing the folder while the context lasts; make it first, readable for us alone.

        Raises:
            OSError: it cannot be made or written to.
        """
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (self._folder / ".lock").open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def read_current(self) -> Pair | None:
        """Return the pair that counts, ``None`` when there is none, or only a trace of one. Never raises."""
        try:
            document = json.loads((self._folder / IDENTITY_FILE).read_bytes())
            chain = Path(document["resources"][0]["tls_certificate"]["certificate_chain"]["filename"])
        except (OSError, ValueError, LookupError, TypeError):
            return None
        if not (matched := _PAIR.fullmatch(chain.name)):
            return None
        pair = self._pair(int(matched[1]))
        return pair if pair.chain.is_file() and pair.key.is_file() else None

    def write_pair(self, chain: str, key: bytes) -> Pair:
        """Write a new pair, which does not count yet, and return it.

        Raises:
            OSError: it cannot be written.
        """
        pair = self._pair(max((pair.number for pair in self._pairs()), default=0) + 1)
        _write(pair.key, key, mode=0o600)
        _write(pair.chain, chain.encode("ascii"))
        return pair

    def switch_to(self, pair: Pair) -> None:
        """Let ``pair`` count, and remove all others but the one that counted until now.

        Raises:
            OSError: it cannot be written; what counted still does.
        """
        before = self.read_current()
        self._replace(IDENTITY_FILE, emit_identity(str(pair.chain), str(pair.key)))
        for old in self._pairs():
            if old != pair and old != before:
                old.remove()

    def write_document(self, name: str, document: Json) -> Path:
        """Write another document into the folder, whole or not at all, and return where.

        Raises:
            OSError: it cannot be written.
        """
        return self._replace(name, document)

    def write_anchors(self) -> None:
        """Write where the trust anchors are.

        Raises:
            OSError: it cannot be written.
        """
        self._replace(ANCHORS_FILE, emit_anchors(self._settings))

    def _pairs(self) -> set[Pair]:
        names = (entry.name for entry in self._folder.iterdir())
        return {self._pair(int(found[1])) for name in names if (found := _PAIR.fullmatch(name))}

    def _pair(self, number: int) -> Pair:
        return Pair(number=number, chain=self._folder / f"tls-{number}.crt", key=self._folder / f"tls-{number}.key")

    def _replace(self, name: str, document: Json) -> Path:
        path = self._folder / name
        new = self._folder / f".{name}.new"
        _write(new, json.dumps(document, sort_keys=True).encode() + b"\n")
        os.replace(new, path)
        return path


def _write(path: Path, content: bytes, *, mode: int = 0o644) -> None:
    """Write a file that is ``mode`` from its first moment on; a half-written one from before is replaced."""
    path.unlink(missing_ok=True)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        try:
            file.write(content)
            file.flush()
        except OSError:
            with contextlib.suppress(OSError):
                path.unlink()
            raise
