"""Objects as a cluster would have them, which gives addresses to Services, kept as manifests change."""

from collections.abc import Iterable, Mapping

from meshwright.edge.manifests import Manifest
from meshwright.edge.offline import fill_in_addresses
from meshwright.model.desired import Json
from meshwright.model.proxy import DEFAULT_SERVICE_RANGES
from meshwright.model.ref import Kind, Ref

_ADDRESS_KEYS = ("clusterIP", "clusterIPs", "ipFamilies", "type")


class LocalObjects:
    """The objects that are compiled: ``raws``, by ref. They depend on the manifests taken last, on no earlier ones."""

    def __init__(self) -> None:
        self.raws: dict[Ref, Json] = {}

    def take(self, written: Mapping[Ref, Manifest], refs: Iterable[Ref]) -> set[Ref]:
        """Take the manifests as they are now, and return the objects that are others than before.

        ``refs``: the only ones that may be written otherwise. An address may move on with another Service's, so more
        than these may be returned.
        """
        new: dict[Ref, Json | None] = {ref: written[ref].raw if ref in written else None for ref in refs}
        if any(_may_move(self.raws.get(ref), raw) for ref, raw in new.items() if ref.kind is Kind.SERVICE):
            services = {ref: manifest.raw for ref, manifest in written.items() if ref.kind is Kind.SERVICE}
            new |= fill_in_addresses(services, DEFAULT_SERVICE_RANGES)
        changed = {ref for ref, raw in new.items() if raw != self.raws.get(ref)}
        for ref in changed:
            self.raws.pop(ref, None)
            if (raw := new[ref]) is not None:
                self.raws[ref] = raw
        return changed


def _may_move(old: Json | None, new: Json | None) -> bool:
    """Return whether a Service that was ``old`` and is written ``new`` may have another address, or another Service
    because of it."""
    wish = _wish(new)
    is_drawn = bool(wish) and not any(wish[:2])
    return is_drawn or wish != _wish(old)


def _wish(service: Json | None) -> tuple[object, ...]:
    """Return all that a Service says of its addresses."""
    spec = service.get("spec") if service is not None else None
    return tuple(spec.get(key) for key in _ADDRESS_KEYS) if isinstance(spec, dict) else ()
