"""A machine on which the agent does all of it: iptables, join, a real Envoy with a real delivery; and a pod.

``unshare -n -m python -m tests.edge.agent.redirected_vm`` runs as root, and prints as JSON what was seen.
"""

import asyncio
import json
import subprocess
import sys
import tempfile
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import grpc

from meshwright.edge.delivered import Delivery
from meshwright.edge.xds import serve_hub
from meshwright.link.enroll import make_workload_name
from meshwright.model.inbound import PolicyDefaults
from meshwright.model.pod import PROXY_UID, PortRanges
from meshwright.model.proxy import ProxySettings
from meshwright.model.ref import Kind, Ref
from meshwright.model.units import Millis, Port
from tests.edge.agent.machine import Machine, machine
from tests.edge.agent.office import Office, open_office
from tests.edge.authority import Root
from tests.edge.machined import make_machine
from tests.edge.netns import TRUST, Net, Place, net, run
from tests.envoy import eventually
from tests.mesh import SHOP, make_service
from tests.pki import Pair

SSH = PortRanges(((Port(22), Port(22)),))
INSIDE = ("ip", "netns", "exec", "vm")
AS_AGENT = (*INSIDE, "setpriv", f"--reuid={PROXY_UID}", f"--regid={PROXY_UID}", "--clear-groups")


def open_way(path: Path) -> None:
    """Let everybody reach ``path``, in this mount namespace: a Python in a home folder is its owner's alone."""
    for closed, below in pairwise(reversed((path, *path.parents))):
        if not closed.stat().st_mode & 0o001:
            with tempfile.TemporaryDirectory() as aside:
                run(
                    f"mount --bind {below} {aside}",
                    f"mount -t tmpfs -o mode=755 none {closed}",
                    f"mkdir -p {below}",
                    f"mount --bind {aside} {below}",
                    f"umount {aside}",
                )


def redirect(vm: Machine) -> str:
    vm.places.settings.write_text(json.dumps(vm.settings))
    return ask_agent(vm, "redirect")


def ask_agent(vm: Machine, *words: str) -> str:
    """Return what a command of the agent says to root."""
    command = (*INSIDE, sys.executable, "-m", "meshwright.cli", "agent", *words, *vm.flags)
    return subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True).stderr


async def say_when(look: Any) -> None:
    async def now() -> bool:
        return bool(look())

    await eventually(now, bool, seconds=20)


async def deliver(net: Net, vm: Machine, places: list[Place]) -> int:
    """Run a delivery whose proxies find their certificates where the machine has them; return its port."""
    settings = ProxySettings(
        detect_ms=Millis(200), trust=TRUST, identity_folder=str(vm.places.identity), secrets_folder="/nowhere"
    )
    delivery = Delivery(settings, defaults=PolicyDefaults())
    for each in places:
        if each.machine is not None:
            delivery.put_machine(each.machine.ref, each.machine)
        else:
            delivery.put_pod(each.pod.ref, each.pod)
    for service in net.services:
        delivery.put_service(service.name, service)
    for piece in net.slices:
        delivery.put_slice(piece.ref, piece)
    own = net.anchor.issue(TRUST, TRUST.delivery)
    credentials = grpc.ssl_server_credentials(
        [(own.key_pem, own.chain)], root_certificates=net.anchor.pem, require_client_auth=True
    )
    net.stack.callback(delivery.hub.close)
    return await net.stack.enter_async_context(
        serve_hub(delivery.hub, "0.0.0.0", 0, credentials=credentials, drain=0.1)
    )


async def observe(net: Net, office: Office, vm: Machine) -> dict[str, Any]:
    client, place = net.add("client"), net.add("vm", is_meshed=False)
    await net.serve(place, 8080)
    await net.serve(place, 22)
    await net.serve(client, 8080)
    vm.give_token()
    vm.settings |= {"address": None, "skipInboundPorts": "22", "drainSeconds": 1, "envoy": None}
    vm.settings = {key: value for key, value in vm.settings.items() if value is not None}
    seen: dict[str, Any] = {"redirect": redirect(vm).strip()}
    run(f"chown -R {PROXY_UID}:{PROXY_UID} {vm.folder}")
    vm.start(*AS_AGENT)
    registration = await asyncio.to_thread(office.await_call, "register")
    seen["addresses"] = [each["ip"] for each in registration.body["addresses"]]
    uid = registration.path.rpartition("/")[2]
    name = make_workload_name(SHOP, "ledger", uid)
    ref = Ref(Kind.EXTERNAL_WORKLOAD, SHOP, name)
    known = make_machine(
        TRUST.machine_uri(SHOP, "ledger", uid), TRUST.machine_dns(SHOP, "ledger", name), skipped_inbound=SSH
    )
    place.machine = replace(known, ref=ref, uid="x", ips=(place.v4, place.v6))
    net.put_service(make_service("ledger", "10.96.0.10", "fd00:10:96::10"), 8080, place)
    net.slices[:] = [
        replace(piece, endpoints=tuple(replace(each, target=f"ExternalWorkload/{name}") for each in piece.endpoints))
        for piece in net.slices
    ]
    net.put_service(make_service("client", "10.96.0.11"), 8080, client)
    await net.start(client)
    port = await deliver(net, vm, [client, place])
    beats = len(office.calls)
    office.tell(workload=name, delivery=f"10.244.0.1:{port}")
    passing = await asyncio.to_thread(
        office.await_call, "beat", lambda call: call.body["health"]["state"] == "Passing", after=beats
    )
    seen |= {
        "told": passing.body["health"]["message"],
        "a pod calls the machine": await client.get("10.96.0.10", 80),
        "over IPv6": await client.get("fd00:10:96::10", 80),
        "the machine calls a pod": await place.get("10.96.0.11", 80),
        "a port that is skipped": await client.get(place.v4, 22),
        "the machine, by itself": await place.get("127.0.0.1", 8080),
    }
    office.tell(skipInboundPorts="9100")
    seen["other ports are wanted"] = await asyncio.to_thread(vm.wait)
    seen["redirect again"] = redirect(vm).strip()
    vm.start(*AS_AGENT)
    await say_when(lambda: vm.standing().get("ready"))
    seen["after the restart"] = await client.get("10.96.0.10", 80)
    drains = len(office.of("drain"))
    seen["asked to end"] = await asyncio.to_thread(vm.stop)
    seen["drained"] = len(office.of("drain")) - drains
    seen["after the end"] = await client.get("10.96.0.10", 80)
    # The rules are in place, and what they turn connections to has ended.
    said = await asyncio.to_thread(ask_agent, vm, "leave")
    seen["leaves"] = f"the registrar has forgotten {name}" in said and len(office.of("leave"))
    seen["has left, by itself"] = await place.get(client.v4, 8080)
    return seen


async def main() -> None:
    root = Root(number=1)
    async with net() as running:
        open_way(Path(sys.base_prefix))
        running.anchor = Pair(certificate=root.anchor.certificate, key=root.anchor.key)  # type: ignore[arg-type]
        with (
            open_office(running.folder, root=root, host="10.244.0.1") as office,
            machine(
                running.folder / "vm",
                f"10.244.0.1:{office.port}",
                office.pin,
                inboundPort=4143,
                outboundPort=4140,
                adminPort=4191,
            ) as vm,
        ):
            try:
                seen = await observe(running, office, vm)
            except BaseException:
                print(vm.log, file=sys.stderr)
                raise
            print(json.dumps(seen))


if __name__ == "__main__":
    asyncio.run(main())
