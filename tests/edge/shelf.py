"""Resources to hand out, and a proxy's end of a stream, without a network."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from envoy.service.discovery.v3.discovery_pb2 import DeltaDiscoveryRequest, DeltaDiscoveryResponse

from meshwright.edge.hub import Hub
from meshwright.edge.protobuf import TypeUrl
from meshwright.edge.stream import Stream
from meshwright.model.desired import Json
from meshwright.model.proxy import Proxy
from meshwright.model.units import Namespace

PROXY = Proxy(Namespace("shop"), "client")
ROUTES = TypeUrl.ROUTES
OWN = "own"
"""What a proxy may not keep when it refuses a newer one."""


def routes(name: str, header: str = "") -> Json:
    """Return a small RouteConfiguration; another ``header`` makes it another version."""
    return {"name": name, "request_headers_to_remove": [header] if header else []}


@dataclass
class Shelf:
    """Resources to hand out, and how often each was made."""

    resources: dict[tuple[TypeUrl, str], Json] = field(default_factory=dict)
    made: list[tuple[TypeUrl, str]] = field(default_factory=list)

    def names(self, kind: TypeUrl) -> list[str]:
        return [name for each, name in self.resources if each is kind]

    def variant(self, kind: TypeUrl, name: str, proxy: Proxy) -> str:
        return ""

    def make(self, kind: TypeUrl, name: str, variant: str) -> Json | None:
        self.made.append((kind, name))
        return self.resources.get((kind, name))

    def make_fallback(self, kind: TypeUrl, name: str) -> Json | None:
        return routes(name, "fallback") if kind is ROUTES else None

    def may_keep(self, kind: TypeUrl, name: str) -> bool:
        return name != OWN


def change(hub: Hub, shelf: Shelf, kind: TypeUrl, *names: str, content: str = "changed") -> None:
    for name in names:
        shelf.resources[kind, name] = routes(name, content)
    hub.touch({kind: names})


class Client:
    """A proxy's end of a stream: what it asks, and what it got, by kind."""

    def __init__(self, hub: Hub, *, clock: Callable[[], float] = lambda: 0.0) -> None:
        self.stream = Stream(hub, PROXY, clock=clock)

    def ask(
        self,
        kind: TypeUrl,
        *names: str,
        without: tuple[str, ...] = (),
        has: Mapping[str, str] | None = None,
        nonce: str = "",
        error: str = "",
    ) -> None:
        request = DeltaDiscoveryRequest(
            type_url=kind.value,
            resource_names_subscribe=names,
            resource_names_unsubscribe=without,
            initial_resource_versions=has or {},
            response_nonce=nonce,
        )
        if error:
            request.error_detail.message = error
        self.stream.take(request)

    def got(self) -> list[tuple[TypeUrl, list[str], list[str]]]:
        """Return the responses due now: kind, names sent, names removed. Each is accepted."""
        found = self.receive()
        for response in found:
            self.ask(TypeUrl(response.type_url), nonce=response.nonce)
        return [
            (TypeUrl(each.type_url), sorted(item.name for item in each.resources), sorted(each.removed_resources))
            for each in found
        ]

    def receive(self) -> list[DeltaDiscoveryResponse]:
        return [DeltaDiscoveryResponse.FromString(response) for response in self.stream.responses()]
