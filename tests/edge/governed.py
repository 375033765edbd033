"""What is seen of one real Envoy beside its pod while Servers come and go: delivery in between, as in a cluster.

``unshare -n -m python -m tests.edge.governed`` runs as root, and prints as JSON what was seen after each change.
"""

import asyncio
import json
from typing import Any

from meshwright.emit.inbound_unit import emit_defaults_unit, emit_inbound_unit
from meshwright.model.config import Config
from meshwright.model.inbound import Authorization, PolicyDefaults, ServerPolicy, Source
from meshwright.model.policy import AccessPolicy, Proof, ProxyProtocol
from meshwright.model.problem import Problem
from meshwright.model.ref import Kind, Ref
from meshwright.model.selector import Selector
from meshwright.model.units import Port
from tests.edge.netns import TRUST, Net, net
from tests.envoy import eventually
from tests.mesh import SHOP

HTTP, BYTES = 8080, 9000
WEB = Selector(labels=(("app", "web"),))


async def switched(net: Net) -> dict[str, Any]:
    """A stranger and a meshed client call a pod, each way, under one policy after the other."""
    client, stranger = net.add("client"), net.add("stranger", is_meshed=False)
    web = net.add("web", labels=WEB.labels, probes=((Port(HTTP), "/live"),))
    await net.serve(web, HTTP)
    await net.serve_bytes(web, BYTES)
    for place in (client, web):
        await net.start(place)
    delivery = web.delivery
    assert delivery is not None
    may = Authorization(
        source=Source("policy.linkerd.io", "authorizationpolicy", "shop", "client"),
        proof=Proof.IDENTITY,
        exact=(TRUST.dns(client.pod.account),),
    )

    def put(name: str, port: int, protocol: ProxyProtocol, *authorizations: Authorization) -> Ref:
        server = Ref(Kind.SERVER, SHOP, name)
        policy = ServerPolicy(
            server=server, selector=WEB, port=Port(port), protocol=protocol, authorizations=authorizations
        )
        unit = emit_inbound_unit(policy)
        assert not isinstance(unit, Problem)
        ref = Ref(Kind.CONFIG_MAP, SHOP, unit["metadata"]["name"])
        delivery.put(ref, unit)
        return ref

    async def look() -> dict[str, str]:
        async def say(place: Any) -> str:
            try:
                return "heard" if (await place.say(web.v4, BYTES)).startswith("heard") else "cut"
            except OSError:
                return "cut"

        return {
            "client": f"{await client.get(web.v4, HTTP)}, {await say(client)}",
            "stranger": f"{await stranger.get(web.v4, HTTP)}, {await say(stranger)}",
            "probe": await stranger.get(web.v4, HTTP, "/live"),
        }

    async def look_until(client_seen: str, stranger_seen: str) -> dict[str, str]:
        """Look again until the callers see this: a change takes some milliseconds to get there."""
        return await eventually(look, lambda seen: (seen["client"], seen["stranger"]) == (client_seen, stranger_seen))

    everybody = "200 web, heard"
    seen = {"no Server": await look_until(everybody, everybody)}
    http = put("http", HTTP, ProxyProtocol.HTTP1, may)
    seen["a Server for requests"] = await look_until(everybody, "403, heard")
    put("bytes", BYTES, ProxyProtocol.OPAQUE, may)
    seen["and one for bytes"] = await look_until(everybody, "403, cut")
    put("http", HTTP, ProxyProtocol.HTTP1)
    seen["nobody named"] = await look_until("403, heard", "403, cut")
    delivery.put(
        http, {"metadata": {"namespace": "shop", "name": http.name, "labels": {"meshwright.dev/unit": "inbound"}}}
    )
    seen["a unit that cannot be read"] = await look()
    delivery.put(http, None)
    seen["the first one gone"] = await look_until(everybody, "200 web, cut")
    defaults = PolicyDefaults(access=AccessPolicy.ALL_AUTHENTICATED)
    unit = emit_defaults_unit(Config(policy=defaults))
    delivery.put(Ref(Kind.CONFIG_MAP, unit["metadata"]["namespace"], unit["metadata"]["name"]), unit)
    seen["identities asked for by default"] = await look_until(everybody, "403, cut")
    return seen


async def main() -> None:
    async with net() as made:
        print(json.dumps(await switched(made)))


if __name__ == "__main__":
    asyncio.run(main())
