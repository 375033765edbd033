"""What is seen of real Envoys beside real pods, scene by scene.

``unshare -n -m python -m tests.edge.meshed SCENE`` runs as root, and prints as JSON what a scene has seen.
"""

import asyncio
import json
import ssl
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from meshwright.edge.protobuf import TypeUrl
from meshwright.model.identity import ServiceAccount, TrustDomain
from meshwright.model.pod import AccessLog, PortRanges
from meshwright.model.ref import ServiceName
from meshwright.model.units import Namespace, Port
from tests.edge.netns import TRUST, Net, Place, TlsServer, net
from tests.envoy import eventually
from tests.mesh import SHOP, make_service, make_unit, to
from tests.pki import make_anchor


async def ordinary(net: Net) -> dict[str, Any]:
    """All kinds of traffic between meshed pods, and with two that are not."""
    skipped = PortRanges(((Port(4567), Port(4567)),))
    client, web = net.add("client"), net.add("web", skipped_inbound=skipped)
    other = net.add("other", "web-next")
    old, stranger = net.add("old", is_meshed=False), net.add("stranger", is_meshed=False)
    for place in (web, other, old):
        await net.serve(place, 8080)
        await net.serve(place, 4567)
    await net.serve(stranger, 80)
    await net.serve_bytes(web, 9000)
    await net.serve_bytes(web, 3306, speaks_first=True)
    await net.serve_bytes(web, 9001, speaks_first=True)
    await net.serve_upgrades(web, 8081)
    net.put_service(make_service("web", "10.96.0.10", "fd00:10:96::10"), 8080, web)
    net.put_service(make_service("both", "10.96.0.11"), 8080, web, other)
    net.put_service(make_service("old", "10.96.0.12"), 8080, old)
    net.put_service(make_service("raw", "10.96.0.13", port=3306), 9000, web)
    net.put_service(make_service("sql", "10.96.0.14", port=5432), 3306, web)
    net.put_service(make_service("chat", "10.96.0.15"), 8081, web)
    for place in (client, web, other):
        await net.start(place, is_own_admin=place is other)
    seen: dict[str, Any] = {
        "a Service": await client.get("10.96.0.10", 80),
        "a Service, IPv6": await client.get("fd00:10:96::10", 80),
        "a Service, gRPC": await client.call_grpc("10.96.0.10:80"),
        "a Service, WebSocket": await client.upgrade("10.96.0.15", 80),
        "a Service, bytes": await client.say("10.96.0.13", 3306),
        "a Service, silent at first": await client.get_late("10.96.0.10", 80, 1.0),
        "a Service, server speaks first": await client.listen("10.96.0.14", 5432),
        "two identities": sorted({await client.get("10.96.0.11", 80) for _ in range(20)}),
        "a pod": await client.get(web.v4, 8080),
        "a pod, IPv6": await client.get(web.v6, 8080),
        "a pod, server speaks first": await client.listen(web.v4, 9001),
        "a pod, skipped port": await client.get(web.v4, 4567),
        "unmeshed": await client.get("10.96.0.12", 80),
        "outside": await client.get(stranger.v4, 80),
        "from outside": await stranger.get(web.v4, 8080),
        "from outside, IPv6": await stranger.get(web.v6, 8080),
        "from outside, bytes": await stranger.say(web.v4, 9000),
        "from outside, server speaks first": await stranger.listen(web.v4, 3306),
        "itself, by Service": await web.get("10.96.0.10", 80),
        "itself, by address": await web.get(web.v4, 8080),
    }
    stats = await client.stats("^cluster.*ssl.handshake$")
    encrypted = {name.removeprefix("cluster.").removesuffix(".ssl.handshake") for name, count in stats.items() if count}
    versions = {name.rpartition(".")[2] for name in await client.stats("^cluster.*ssl.versions")}
    told = await client.seen("10.96.0.10", 80, l5d_client_id="forged", x_forwarded_client_cert="forged")
    untold = await stranger.seen(web.v4, 8080, l5d_client_id="forged", x_forwarded_client_cert="forged")
    itself = await web.seen("10.96.0.10", 80, l5d_client_id="forged", l5d_dst_override="forged")
    return seen | {
        "encrypted": sorted(encrypted),
        "versions": sorted(versions),
        "a meshed caller": {name: told.get(name) for name in ("l5d-client-id", "proxy-status")},
        "its certificate": sorted(part.partition("=")[0] for part in told["x-forwarded-client-cert"].split(";")),
        "its URI": TRUST.uri(client.pod.account) in told["x-forwarded-client-cert"],
        "an unmeshed caller": sorted({"l5d-client-id", "x-forwarded-client-cert"} & untold.keys()),
        "the pod itself": itself.get("l5d-client-id"),
        "shutdown from outside": [await place.post(other.v4, 4191, "/shutdown") for place in (client, stranger)],
        "live": await stranger.get(other.v4, 4191, "/live"),
        "ready": await stranger.get(other.v4, 4191, "/ready"),
        "metrics": await stranger.get(other.v4, 4191, "/metrics"),
        "anything else": await stranger.get(other.v4, 4191, "/config_dump"),
        "shutdown by GET": await other.get("127.0.0.1", 4191, "/shutdown"),
        "shut down": await other.post("127.0.0.1", 4191, "/shutdown") in ("", "200") and await net.is_ended(other),
    }


async def refused(net: Net) -> dict[str, Any]:
    """Servers and clients whose certificates are not to be believed, and those that are."""
    client, web = net.add("client"), net.add("web")
    account = ServiceAccount(SHOP, "server")
    foreign = make_anchor("root.meshwright.cluster.local")
    elsewhere, now = TrustDomain(name="evil.local"), datetime.now(UTC)
    past = now - timedelta(hours=1)
    leaves = {
        "good": net.anchor.issue(TRUST, account),
        "by an issuer": net.anchor.make_issuer().issue(TRUST, account),
        "another account": net.anchor.issue(TRUST, ServiceAccount(SHOP, "mallory")),
        "another namespace": net.anchor.issue(TRUST, ServiceAccount(Namespace("other"), "server")),
        "another authority": foreign.issue(TRUST, account),
        "another trust domain": net.anchor.issue(elsewhere, account),
        "expired": net.anchor.issue(TRUST, account, starts=past - timedelta(hours=1), ends=past),
        "not yet valid": net.anchor.issue(TRUST, account, starts=now + timedelta(hours=1)),
    }
    servers: dict[str, TlsServer] = {}
    for name, leaf in leaves.items():
        place = net.add(f"s{len(servers)}", "server", is_meshed=False)
        place.pod = replace(place.pod, is_meshed=True)
        servers[name] = await net.serve_tls(place, 8080, leaf)
        net.put_service(make_service(place.name, f"10.96.1.{len(servers)}"), 8080, place)
    nobody = net.add("nobody", is_meshed=False)
    await net.serve(nobody, 8080)
    net.put_service(make_service("nobody", "10.96.2.1"), 8080, nobody)
    await net.serve(web, 8080)
    await net.serve_bytes(web, 9000)
    for place in (client, web):
        await net.start(place)
    as_servers = {name: await client.get(f"10.96.1.{number}", 80) for number, name in enumerate(servers, 1)}
    seen = servers["good"].offers[:]
    servers["good"].offers.clear()
    await client.say(net.places["s0"].v4, 8080)
    assert client.delivery is not None
    as_made = client.delivery.make

    def make(kind: TypeUrl, name: str, variant: str) -> Any:
        made = as_made(kind, name, variant)
        if made and (kind, name) == (TypeUrl.ENDPOINTS, "shop/nobody/80"):
            del made["endpoints"][0]["lb_endpoints"][0]["metadata"]
        return made

    client.delivery.make = make  # type: ignore[method-assign]
    swapped, others = net.places["s2"], [net.places["s0"], net.add("s99", "mallory")]
    client.delivery.put_pod(others[1].pod.ref, others[1].pod)
    service = make_service("swap", "10.96.2.2")
    net.put_service(service, 8080, swapped, *others, ready=("s2",))
    client.delivery.put_service(service.name, service)
    for piece in net.slices[-2:]:
        client.delivery.put_slice(piece.ref, piece)
    client.delivery.put_pod(nobody.pod.ref, nobody.pod)

    async def call_swapped() -> str:
        return await client.get("10.96.2.2", 80)

    before = await eventually(call_swapped, lambda answer: answer == "503")
    pod = replace(swapped.pod, account=ServiceAccount(SHOP, "mallory"))
    client.delivery.put_pod(pod.ref, pod)
    after = await eventually(call_swapped, lambda answer: answer != "503")
    return {
        "somebody else at the same address": [before, after],
        "as servers": as_servers,
        "HTTP offers": sorted({str(offer) for offer in seen}),
        "bytes offer": sorted({str(offer) for offer in servers["good"].offers}),
        "as clients": {
            name: await nobody.call_tls(web.v4, 8080, leaf, TRUST.dns(web.pod.account), net.anchor)
            for name, leaf in {**leaves, "no certificate": None}.items()
        },
        "an older TLS": await nobody.call_tls(
            web.v4, 8080, leaves["good"], TRUST.dns(web.pod.account), net.anchor, version=ssl.TLSVersion.TLSv1_2
        ),
        "an endpoint that does not say who it is": await client.get("10.96.2.1", 80),
    }


async def ingress(net: Net) -> dict[str, Any]:
    """An ingress controller's pod: requests name the Service they are for, whatever address they are sent to."""
    controller, web, plain = net.add("controller", is_ingress=True), net.add("web"), net.add("plain")
    await net.serve(web, 8080)
    await net.serve_bytes(web, 9000)
    api = net.add("api")
    await net.serve(api, 8080)
    net.put_service(make_service("web", "10.96.0.10"), 8080, web)
    net.put_service(make_service("api", "10.96.0.11", port=8000), 8080, api)
    net.put_service(make_service("raw", "10.96.0.12", port=9300), 9000, web)
    for place in (controller, web, plain, api):
        await net.start(place)
    for place in (controller, plain):
        assert place.delivery is not None
        unit = make_unit(
            ServiceName(SHOP, "api"),
            {"match": {"path": "/gone"}, "direct_response": {"status": 410}},
            to("shop/api/8000"),
            port=8000,
        )
        place.delivery.put_unit(unit.name, unit)
    name = "api.shop.svc.cluster.local:8000"

    async def ask(host: str, named: str = "", path: str = "/", *, by: Place = controller) -> str:
        return await by.get(
            host, 8080 if host == web.v4 else 80, path, headers={"l5d-dst-override": named} if named else {}
        )

    named = {"l5d_dst_override": name}
    headers = await controller.seen(web.v4, 8080, **named)
    return {
        "a Service": await ask("10.96.0.10"),
        "a pod": await ask(web.v4),
        "a Service, another named": await ask("10.96.0.10", name),
        "a pod, a Service named": await ask(web.v4, name),
        "a pod, a Service named shortly": await ask(web.v4, "api.shop.svc:8000"),
        "a pod, a Service without a port": await ask(web.v4, "web.shop.svc.cluster.local"),
        "policy of the one named": await ask(web.v4, name, "/gone"),
        "nobody named": await ask(web.v4, "nobody.shop.svc.cluster.local:80"),
        "nonsense named": await ask(web.v4, "::"),
        "bytes": await controller.say("10.96.0.12", 9300),
        "left over": sorted({"l5d-dst-override", "proxy-status", "x-mesh-address"} & headers.keys()),
        "who calls": headers["l5d-client-id"],
        "not a controller": await ask("10.96.0.10", name, by=plain),
    }


async def opaque(net: Net) -> dict[str, Any]:
    """Ports whose bytes are passed on as they are: by the server's pod, and by the Service."""
    said = PortRanges(((Port(8080), Port(8080)),))
    client, web, stranger = net.add("client"), net.add("web", opaque=said), net.add("stranger", is_meshed=False)
    await net.serve(web, 8080)
    await net.serve(web, 8081)
    await net.serve_bytes(web, 8082, speaks_first=True)
    net.put_service(make_service("web", "10.96.0.10"), 8080, web)
    net.put_service(replace(make_service("raw", "10.96.0.11"), opaque=PortRanges(((Port(80), Port(80)),))), 8081, web)
    net.put_service(replace(make_service("first", "10.96.0.12"), opaque=PortRanges(((Port(80), Port(80)),))), 8082, web)
    for place in (client, web):
        await net.start(place)

    async def ask(by: Place, host: str, port: int) -> list[Any]:
        """Return which proxies took a request for HTTP, the caller's and the server's, and whether TLS was used."""
        before = [
            await client.sum("http.(outbound|direct).downstream_rq_total"),
            await web.sum("http.inbound.downstream_rq_total"),
            await client.sum("cluster.*ssl.handshake$"),
        ]
        headers = await by.seen(host, port, l5d_client_id="mine")
        after = [
            await client.sum("http.(outbound|direct).downstream_rq_total"),
            await web.sum("http.inbound.downstream_rq_total"),
            await client.sum("cluster.*ssl.handshake$"),
        ]
        return [*(new - old for new, old in zip(after, before, strict=True)), headers.get("l5d-client-id")]

    return {
        "the pod's port": await ask(client, "10.96.0.10", 80),
        "the pod's port, from outside": await ask(stranger, web.v4, 8080),
        "the Service's port": await ask(client, "10.96.0.11", 80),
        "another port, from outside": await ask(stranger, web.v4, 8081),
        "server speaks first": await client.listen("10.96.0.12", 80),
    }


async def written(net: Net) -> dict[str, Any]:
    """What proxies write down of the requests that they take, each as its own pod asks."""
    client, stranger = net.add("client"), net.add("stranger", is_meshed=False)
    logged = {
        style: net.add(f"web-{style or 'silent'}", access_log=style)
        for style in (AccessLog.JSON, AccessLog.APACHE, AccessLog.NONE)
    }
    for number, place in enumerate(logged.values()):
        await net.serve(place, 8080)
        net.put_service(make_service(place.name, f"10.96.0.{number + 10}"), 8080, place)
    for place in (client, *logged.values()):
        await net.start(place)
    headers = {"user-agent": 'curl "1"\\', "referer": "http://a.example/"}
    for number, place in enumerate(logged.values()):
        await client.get(f"10.96.0.{number + 10}", 80, "/a?b=c", headers=headers)
        await stranger.get(place.v4, 8080, "/from-outside", headers=headers)

    async def look(place: Place) -> list[str]:
        assert place.envoy is not None
        return [line for line in place.envoy.log_lines() if "a.example" in line or line.startswith("{")]

    json_place, apache_place, silent = logged.values()
    lines = await eventually(lambda: look(json_place), lambda found: len(found) == 2)
    texts = await eventually(lambda: look(apache_place), lambda found: len(found) == 2)
    return {"json": [json.loads(line) for line in lines], "apache": texts, "silent": await look(silent)}


SCENES = {scene.__name__: scene for scene in (ordinary, refused, ingress, opaque, written)}


async def main(name: str) -> None:
    async with net() as made:
        print(json.dumps(await SCENES[name](made)))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
