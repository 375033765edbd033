"""What is seen of real Envoys at machines outside the cluster, called by pods' and calling them.

``unshare -n -m python -m tests.edge.machined`` runs as root, and prints as JSON what was seen.
"""

import asyncio
import json
from dataclasses import replace
from typing import Any

from cryptography import x509

from meshwright.model.identity import ServiceAccount
from meshwright.model.inbound import Authorization, ServerPolicy, Source
from meshwright.model.pod import PortRanges
from meshwright.model.policy import AccessPolicy, Proof
from meshwright.model.ref import Kind, Ref
from meshwright.model.selector import Selector
from meshwright.model.units import Port
from meshwright.model.workload import ExternalWorkload
from tests.edge.netns import TRUST, Net, Place, net
from tests.envoy import eventually
from tests.mesh import SHOP, make_service
from tests.pki import Pair

SKIPPED = PortRanges(((Port(4567), Port(4567)),))
SVID = "spiffe://cluster.local/legacy/db"


def make_machine(identity: str, server_name: str, **more: Any) -> ExternalWorkload:
    ref = Ref(Kind.EXTERNAL_WORKLOAD, SHOP, "")
    return ExternalWorkload(
        ref=ref, uid="", ips=(), ports=(), is_ready=True, identity=identity, server_name=server_name, **more
    )


def join(net: Net, name: str, **more: Any) -> Place:
    """Add a machine that joined by token: its certificate has a URI and a DNS name."""
    uri, dns = TRUST.machine_uri(SHOP, "ledger", f"uid-{name}"), TRUST.machine_dns(SHOP, "ledger", name)
    return net.add_machine(name, make_machine(uri, dns, **more), issue(net, uri, dns))


def issue(net: Net, uri: str = "", *dns: str) -> Pair:
    uris = [x509.UniformResourceIdentifier(uri)] if uri else []
    return net.anchor.issue_names(*uris, *map(x509.DNSName, dns))


def allow(port: int, *exact: str) -> ServerPolicy:
    """Return the policy of a Server for machines that lets in ``exact`` identities."""
    source = Source("policy.linkerd.io", "authorizationpolicy", SHOP, "some")
    return ServerPolicy(
        server=Ref(Kind.SERVER, SHOP, f"machines-{port}"),
        selects_external=True,
        selector=Selector(),
        port=Port(port),
        authorizations=(Authorization(source=source, proof=Proof.IDENTITY, exact=exact),),
    )


async def observe(net: Net) -> dict[str, Any]:
    client, web, stranger = net.add("client"), net.add("web"), net.add("stranger", is_meshed=False)
    vm = join(net, "vm", labels=(("app", "ledger"),), skipped_inbound=SKIPPED)
    by_svid = net.add_machine(
        "svid", make_machine(SVID, "Legacy.example", access=AccessPolicy.ALL_AUTHENTICATED), issue(net, SVID)
    )
    by_dns = net.add_machine("dns", make_machine("db.example", "db.example"), issue(net, SVID, "db.example"))
    expected = make_machine(TRUST.machine_uri(SHOP, "ledger", "uid-false"), TRUST.machine_dns(SHOP, "ledger", "false"))
    pods = net.anchor.issue(TRUST, ServiceAccount(SHOP, "web"))
    impostors = {
        "another machine's": net.add_machine(
            "false", expected, issue(net, TRUST.machine_uri(SHOP, "ledger", "uid-vm"))
        ),
        "a pod's": net.add_machine("pod", expected, pods),
        "only the name TLS calls it": net.add_machine("named", expected, issue(net, SVID, expected.server_name)),
        "nobody can read who": net.add_machine("void", replace(expected, identity=""), issue(net, expected.identity)),
    }
    plain = net.add_machine("plain", expected, pods, is_meshed=False)
    servers = (web, vm, by_svid, by_dns, *impostors.values())
    for place in servers:
        await net.serve(place, 8080)
    await net.serve(plain, 8080)
    await net.serve(vm, 8081)
    await net.serve(vm, 4567)
    await net.serve_bytes(vm, 9000)
    await net.serve_bytes(vm, 3306, speaks_first=True)
    net.policies.append(allow(8081, TRUST.dns(client.pod.account)))
    net.policies.append(allow(9000, TRUST.dns(client.pod.account)))
    net.put_service(make_service("ledger", "10.96.0.10", "fd00:10:96::10"), 8080, vm)
    net.put_service(make_service("mixed", "10.96.0.11"), 8080, web, vm)
    net.put_service(make_service("svid", "10.96.0.12"), 8080, by_svid)
    net.put_service(make_service("dns", "10.96.0.13"), 8080, by_dns)
    net.put_service(make_service("sql", "10.96.0.14", port=5432), 3306, vm)
    net.put_service(make_service("web", "10.96.0.15"), 8080, web)
    for number, place in enumerate(impostors.values()):
        net.put_service(make_service(place.name, f"10.96.1.{number + 1}"), 8080, place)
    for place in (client, *servers):
        await net.start(place)
    seen: dict[str, Any] = {
        "a Service": await client.get("10.96.0.10", 80),
        "a Service, IPv6": await client.get("fd00:10:96::10", 80),
        "a Service, gRPC": await client.call_grpc("10.96.0.10:80"),
        "a Service, server speaks first": await client.listen("10.96.0.14", 5432),
        "pods and machines": sorted({await client.get("10.96.0.11", 80) for _ in range(20)}),
        "its address": await client.get(vm.v4, 8080),
        "its address, IPv6": await client.get(vm.v6, 8080),
        "a URI only": await client.get("10.96.0.12", 80),
        "a DNS name": await client.get("10.96.0.13", 80),
        "a skipped port": await client.get(vm.v4, 4567),
        "no proxy": await client.get(plain.v4, 8080),
        "somebody else, by Service": {
            name: await client.get(f"10.96.1.{number + 1}", 80) for number, name in enumerate(impostors)
        },
        "somebody else, by address": {name: await client.get(place.v4, 8080) for name, place in impostors.items()},
        "a Server's port": [await place.get(vm.v4, 8081) for place in (client, web, stranger)],
        "a Server's bytes": [await place.say(vm.v4, 9000) for place in (client, web)],
        "its own default": [await place.get(by_svid.v4, 8080) for place in (client, stranger)],
        "the installation's default": await stranger.get(vm.v4, 8080),
        "itself, by Service": await vm.get("10.96.0.10", 80),
        "itself, by address": await vm.get(vm.v4, 8080),
        "a machine calls a pod": await vm.get("10.96.0.15", 80),
        "a machine calls a machine": await by_svid.get("10.96.0.10", 80),
    }
    stats = await client.stats("^cluster.*ssl.handshake$")
    encrypted = {name.removeprefix("cluster.").removesuffix(".ssl.handshake") for name, count in stats.items() if count}
    told = {place.name: await place.seen("10.96.0.15", 80, l5d_client_id="forged") for place in (vm, by_svid)}
    assert client.delivery is not None
    assert vm.machine is not None
    client.delivery.put_machine(vm.machine.ref, None)

    async def call() -> str:
        return await client.get("10.96.0.10", 80)

    gone = await eventually(call, lambda answer: answer == "503")
    client.delivery.put_machine(vm.machine.ref, vm.machine)
    return seen | {
        "gone and back": [gone, await eventually(call, lambda answer: answer != "503")],
        "encrypted": sorted(encrypted),
        "who calls": {name: headers.get("l5d-client-id") for name, headers in told.items()},
        "its URI": [vm.machine.identity in told["vm"]["x-forwarded-client-cert"], SVID in str(told["svid"])],
    }


async def main() -> None:
    async with net() as made:
        print(json.dumps(await observe(made)))


if __name__ == "__main__":
    asyncio.run(main())
