"""What the registrar signs with, and what it shows: the mesh's issuer, and a certificate of its own by it."""

import asyncio
from collections.abc import Callable
from datetime import timedelta

from prometheus_client import CollectorRegistry

from meshwright.edge.client import Json
from meshwright.edge.identity_metrics import IdentityMetrics
from meshwright.edge.issuer import Signer
from meshwright.edge.serving_leaf import ServingLeaf
from meshwright.model.identity import TrustDomain

LEAF_LIFETIME = timedelta(hours=24)


class Credentials:
    """Keeps both as the issuer's Secret and the trust bundle change. ``bundle_key``: as for `Signer`. ``is_there`` is
    set once there is a certificate to show; ``changed`` is called when the issuer or the anchors are others."""

    def __init__(self, trust: TrustDomain, *, bundle_key: str | None, collected: CollectorRegistry) -> None:
        metrics = IdentityMetrics(registry=collected)
        self.signer = Signer(trust, lifetime=LEAF_LIFETIME, metrics=metrics, bundle_key=bundle_key)
        self.leaf = ServingLeaf(self.signer, metrics=metrics, account=trust.registrar)
        self.is_there = asyncio.Event()
        self.changed: Callable[[], None] = lambda: None
        self.signer.changed = self._signer_changed

    def put_issuer(self, raw: Json | None) -> None:
        """Take the issuer's Secret, ``None`` when it is gone."""
        self.signer.put_issuer(raw)
        self.look()

    def put_bundle(self, raw: Json | None) -> None:
        """Take the trust bundle's object, ``None`` when it is gone."""
        self.signer.put_bundle(raw)
        self.look()

    def look(self) -> None:
        """Renew the certificate if its time has come."""
        self.leaf.look()
        if self.leaf.is_there:
            self.is_there.set()

    def _signer_changed(self) -> None:
        self.leaf.renew()
        self.changed()
