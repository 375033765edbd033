"""Who hears of machines outside the cluster, and who does where none may join."""

from collections.abc import Mapping
from typing import Protocol

from meshwright.edge.client import Json
from meshwright.model.ref import Ref
from meshwright.model.snapshot import Parsed


def keep_managed_fields(raw: Json) -> Json:
    """Return ``raw`` itself, as it is: who has written to it is looked at, too."""
    return raw


class Audience(Protocol):
    """Hears what a replica does."""

    @property
    def may_write_slices(self) -> bool:
        """Whether EndpointSlices of external workloads are ours to write."""
        ...

    def put(self, ref: Ref, raw: Json | None) -> bool:
        """Take an object as the API server has it; return whether it is the compiler's, too."""
        ...

    def put_parsed(self, changes: Mapping[Ref, Parsed | None]) -> None:
        """Take what a round has parsed; ``None`` is gone."""
        ...

    def put_issuer(self, raw: Json | None) -> None: ...
    def put_bundle(self, raw: Json | None) -> None: ...


class Nobody:
    """Hears nothing."""

    may_write_slices = True

    def put(self, _ref: Ref, _raw: Json | None) -> bool:
        return True

    def put_parsed(self, changes: Mapping[Ref, Parsed | None]) -> None: ...
    def put_issuer(self, raw: Json | None) -> None: ...
    def put_bundle(self, raw: Json | None) -> None: ...
