"""Where the trust bundle is kept, as flags write it: ``configmap/NAME``, ``secret/NAME/KEY``."""

import re
from dataclasses import dataclass

from meshwright.model.ref import Kind

_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?", re.ASCII)
_KEY = re.compile(r"[-._a-zA-Z0-9]{1,253}", re.ASCII)
_KINDS = {"configmap": Kind.CONFIG_MAP, "secret": Kind.SECRET}


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleSource:
    """An object in the control plane's namespace. ``kind`` is ConfigMap or Secret; ``key`` ``""``: the usual one."""

    kind: Kind
    name: str
    key: str = ""


def parse_bundle_source(text: str) -> BundleSource | None:
    """Return which object ``text`` names; ``None`` for ``""``: the anchors are in the issuer's own Secret.

    Raises:
        ValueError: any other text. The message says what to write.
    """
    if not text:
        return None
    word, _, rest = text.partition("/")
    name, slash, key = rest.partition("/")
    kind = _KINDS.get(word.lower())
    if kind is None or not _NAME.fullmatch(name) or (slash and not _KEY.fullmatch(key)):
        raise ValueError("configmap/NAME or secret/NAME, and /KEY after it if it is not the usual one")
    return BundleSource(kind=kind, name=name, key=key)
