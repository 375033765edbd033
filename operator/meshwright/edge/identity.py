"""Identity in delivery: the issuer and the anchors as the API server has them, the endpoint that signs, the gate."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta

import grpc
from prometheus_client import CollectorRegistry

from meshwright.edge.client import Client, Json
from meshwright.edge.identity_metrics import IdentityMetrics
from meshwright.edge.issuer import Signer
from meshwright.edge.pod_gate import PodGate
from meshwright.edge.resources import RESOURCES
from meshwright.edge.roster import Roster
from meshwright.edge.serving_leaf import ServingLeaf
from meshwright.edge.signing_server import SigningServer, serve_signing
from meshwright.edge.watch import Put, Reflector
from meshwright.model.identity import TrustDomain
from meshwright.model.pod import Pod
from meshwright.model.ref import Kind, Ref
from meshwright.model.workload import ExternalWorkload
from meshwright.parse.bundle_source import BundleSource

log = logging.getLogger(__name__)

_LOOK_SECONDS = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentityOptions:
    """Where the issuer and the anchors are, in the control plane's namespace, and how leaves are signed.

    ``bundle`` ``None``: the anchors are those in the issuer's Secret.
    """

    trust: TrustDomain
    issuer_secret: str = "meshwright-identity-issuer"
    bundle: BundleSource | None = None
    leaf_lifetime: timedelta = timedelta(hours=24)
    signing_port: int = 15012


class Identity:
    """The issuer in use, and everything that follows from it. `run` keeps it; ``ready`` is set once it can sign.

    Once ready it stays so: with an issuer that may sign no longer, pods that run are served as before.
    """

    def __init__(
        self,
        options: IdentityOptions,
        client: Client,
        roster: Roster[Pod],
        registry: CollectorRegistry,
        machines: Roster[ExternalWorkload] | None = None,
    ) -> None:
        self.ready = asyncio.Event()
        metrics = IdentityMetrics(registry=registry)
        self._options = options
        self._signer = Signer(
            options.trust,
            lifetime=options.leaf_lifetime,
            metrics=metrics,
            bundle_key=None if options.bundle is None else options.bundle.key,
        )
        self._leaf = ServingLeaf(self._signer, metrics=metrics)
        self.handshakes = self._leaf.handshakes
        self._signer.changed = self._changed
        self._server = SigningServer(client, self._signer, roster, metrics)
        self.gate = PodGate(options.trust, roster, metrics, machines=machines)
        self.reflectors = tuple(self._make_reflectors(client))

    def missing(self) -> list[str]:
        """Return what keeps it from being ready, one line each."""
        return [] if self.ready.is_set() else [f"issuer of identities: {each}" for each in self._signer.problems]

    def credentials(self) -> grpc.ServerCredentials:
        """Return the credentials for proxies. Only once it is ready."""
        return self._leaf.credentials()

    async def run(self) -> None:
        """Follow the Secret, the bundle and the clock, for ever."""
        async with asyncio.TaskGroup() as tasks:
            for reflector in self.reflectors:
                tasks.create_task(reflector.run())
            while True:
                await asyncio.sleep(_LOOK_SECONDS)
                self._signer.look()
                self._leaf.look()

    @asynccontextmanager
    async def serve(self, host: str) -> AsyncIterator[int]:
        """Sign while the context lasts, and yield the port.

        Raises:
            OSError: the address cannot be bound.
        """
        async with serve_signing(self._server, self._leaf, host, self._options.signing_port) as port:
            log.info("signing at %s:%d", host or "*", port)
            yield port

    def _changed(self) -> None:
        self._leaf.renew()
        if self._leaf.is_there:
            self.ready.set()

    def _make_reflectors(self, client: Client) -> list[Reflector]:
        secret, bundle = self._options.issuer_secret, self._options.bundle

        def put_issuer(_: Ref, raw: Json | None) -> None:
            self._signer.put_issuer(raw)

        def put_bundle(_: Ref, raw: Json | None) -> None:
            self._signer.put_bundle(raw)

        found = [self._follow(client, Kind.SECRET, secret, put_issuer)]
        if bundle is not None:
            found.append(self._follow(client, bundle.kind, bundle.name, put_bundle))
        return found

    def _follow(self, client: Client, kind: Kind, name: str, put: Put) -> Reflector:
        """Return the reflector of one object: to follow it takes no right to read others."""
        return Reflector(
            client=client,
            kind=kind,
            resource=RESOURCES[kind],
            put=put,
            namespace=self._options.trust.control_plane,
            fields=f"metadata.name={name}",
        )
