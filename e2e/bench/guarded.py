"""What a Server's authorizations add to a request, at one real Envoy that has all ways side by side.

A network namespace stands for a pod: the application, its Envoy, and a client with an identity, whose TLS connections
are redirected as in a pod. Each way is another port of the same application behind the same Envoy, so what differs is
policy alone; they take turns as in `latency`. The client is the one who is looked for longest: the last name of the
last policy. Policy takes its usual way: manifests are compiled, and delivery reads the units.

Needs root, ``unshare``, ``ip`` and ``iptables``; nothing leaves the namespace, and it ends with this process.
"""

import asyncio
import json
import os
import ssl
import statistics
import subprocess
import sys
import tempfile
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from e2e.bench.figures import percentile, show_median, to_ms
from e2e.bench.handmade import Authority, write_certificates
from e2e.bench.latency import CLIENT, DELIVERY_PORT, SHOP, WEB, listen_to, other_process, pod, run
from e2e.bench.openloop import Echo, Round, Target, Tls, precise_loop, take_turns
from e2e.bench.sizes import Progress
from e2e.bench.synthetic import IDENTITIES_PER_POLICY, POLICIES_PER_SERVER, make_guarded, make_identities
from meshwright.edge.delivered import Delivery
from meshwright.edge.xds import serve_hub
from meshwright.emit.bootstrap import emit_bootstrap
from meshwright.emit.sds import ANCHORS_FILE, BUNDLE_FILE, IDENTITY_FILE, emit_anchors, emit_identity
from meshwright.model.config import Config
from meshwright.model.identity import TrustDomain
from meshwright.model.inbound import PolicyDefaults
from meshwright.model.pod import PROXY_UID
from meshwright.model.proxy import Proxy, ProxySettings
from meshwright.model.ref import Kind, Ref
from meshwright.parse.kinds import parse_object
from meshwright.pipeline import compile_all
from tests.envoy import fetch, run_envoy

Json = dict[str, Any]
RATE_PER_SECOND = 500
SECONDS = 0.2
ROUNDS = 40
SITTINGS = 3
OWN = "10.99.0.2"
TRUST = TrustDomain()
RULES = (
    "ip link set lo up",
    f"ip address add {OWN}/32 dev lo",
    f"iptables -t nat -A OUTPUT -p tcp -m owner --uid-owner {PROXY_UID} -j RETURN",
    f"iptables -t nat -A OUTPUT -p tcp -d {OWN} -j REDIRECT --to-ports 4143",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """One port of the application, and how many AuthorizationPolicies, and identities in each, its Server has."""

    name: str
    port: int
    policies: int = 0
    identities: int = 0


DEFAULT = Way(name="all-unauthenticated", port=8081)
WAYS = (
    DEFAULT,
    Way(name="Server, 1 x 1", port=8082, policies=1, identities=1),
    Way(
        name=f"Server, {POLICIES_PER_SERVER} x {IDENTITIES_PER_POLICY}",
        port=8083,
        policies=POLICIES_PER_SERVER,
        identities=IDENTITIES_PER_POLICY,
    ),
)
_MODULE = "e2e.bench.guarded"


def make_settings(folder: Path) -> ProxySettings:
    """Return what the pod's proxy is told by delivery."""
    return ProxySettings(trust=TRUST, identity_folder=str(folder / WEB.name), secrets_folder=str(folder / "secrets"))


def write_identities(folder: Path) -> None:
    """Write an anchor, and a certificate for the pod and for the client, as the proxy's own program would."""
    settings, authority = make_settings(folder), Authority()
    (folder / "secrets").mkdir()
    (folder / "secrets" / BUNDLE_FILE).write_bytes(authority.pem)
    for account in (CLIENT, WEB):
        its = folder / account.name
        write_certificates(its, account, TRUST, authority)
        (its / IDENTITY_FILE).write_text(json.dumps(emit_identity(f"{its}/tls.crt", f"{its}/tls.key")))
        (its / ANCHORS_FILE).write_text(json.dumps(emit_anchors(settings)))
    for path in folder.rglob("*"):
        os.chown(path, PROXY_UID, PROXY_UID)


def make_policy() -> list[Json]:
    """Return the Servers and what lets callers in; the client is the last one that the last of them names."""
    found = []
    for way in WAYS:
        if not way.policies:
            continue
        made = make_guarded(f"web-{way.port}", SHOP, port=way.port, policies=way.policies, identities=way.identities)
        made[0]["spec"]["podSelector"] = {"matchLabels": {"app": WEB.name}}
        identities = [*make_identities("other", SHOP, way.identities - 1), TRUST.dns(CLIENT)]
        assert identities == sorted(identities)
        made[-1]["spec"]["identities"] = identities
        found += made
    return found


def make_delivery(settings: ProxySettings) -> Delivery:
    """Return what knows of one pod and its policy."""
    delivery = Delivery(settings, defaults=PolicyDefaults())
    parsed = [parse_object(raw) for raw in make_policy()]
    desired = compile_all({each.ref: each for each in parsed if each is not None}, Config())
    for name, unit in desired.units.items():
        delivery.put(Ref(Kind.CONFIG_MAP, name.namespace, name.name), unit)
    raw = pod(WEB, OWN)
    raw["metadata"]["labels"] = {"app": WEB.name}
    delivery.put(Ref(Kind.POD, SHOP, WEB.name), raw)
    return delivery


async def be_pod(folder: Path) -> list[Json]:
    """Be the pod, in this network namespace, which is new; return the rounds of one sitting."""
    run(RULES)
    write_identities(folder)
    loop = asyncio.get_running_loop()
    async with AsyncExitStack() as stack:
        for way in WAYS:
            server = await loop.create_server(Echo, OWN, way.port)
            stack.callback(server.close)
        delivery = await stack.enter_async_context(other_process("delivery", str(folder), module=_MODULE))
        assert await listen_to(delivery) == "ready"
        bare = ProxySettings(trust=None)
        bootstrap = emit_bootstrap(Proxy(SHOP, WEB.name), f"127.0.0.1:{DELIVERY_PORT}", bare)
        envoy = await stack.enter_async_context(run_envoy(bootstrap, uid=PROXY_UID))
        for way in WAYS:
            # Somebody who shows nothing: so it is seen that it is policy that lets the client in.
            status = (await fetch(way.port, host=OWN)).status
            assert status == (403 if way.policies else 200), f"{way.name}: a stranger got {status}"
        targets = [asdict(Target(name=way.name, host=OWN, port=way.port, pids=(envoy.pid,))) for way in WAYS]
        load = await stack.enter_async_context(other_process("load", str(folder), json.dumps(targets), module=_MODULE))
        return list(json.loads(await listen_to(load)))


async def be_delivery(folder: Path) -> None:
    """Serve the Envoy, until stdin ends."""
    delivery = make_delivery(make_settings(folder))
    async with serve_hub(delivery.hub, "127.0.0.1", DELIVERY_PORT):
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
    delivery.hub.close()


async def be_load(folder: Path, targets: list[Json]) -> None:
    context = ssl.create_default_context(cafile=str(folder / "secrets" / BUNDLE_FILE))
    context.load_cert_chain(folder / CLIENT.name / "tls.crt", folder / CLIENT.name / "tls.key")
    context.set_alpn_protocols(["http/1.1"])
    rounds = await take_turns(
        [Target(**each) for each in targets],
        rate=RATE_PER_SECOND,
        seconds=SECONDS,
        rounds=ROUNDS,
        tls=Tls(context=context, asked=TRUST.dns(WEB)),
    )
    print(json.dumps([asdict(each) for each in rounds]), flush=True)


def summarize(rounds: list[Round]) -> Json:
    """Return the figures of each way, and the ratios of the others to the default policy, with the interval that the
    median is in with 95 % confidence. ``cpu_us``: the Envoy's, a request; ``per_core_second``: requests that come to.
    """
    requests = round(RATE_PER_SECOND * SECONDS)
    found = {
        way: {
            "p50": [percentile(each.took, 0.5) for each in rounds if each.name == way.name],
            "p99": [percentile(each.took, 0.99) for each in rounds if each.name == way.name],
            "cpu": [each.cpu / requests for each in rounds if each.name == way.name],
        }
        for way in WAYS
    }
    ways = []
    for way, figures in found.items():
        cpu = statistics.median(figures["cpu"])
        row: Json = {
            "way": way.name,
            "p50_ms": to_ms(statistics.median(figures["p50"])),
            "p99_ms": to_ms(statistics.median(figures["p99"])),
            "cpu_us": round(cpu * 1e6, 1),
            "per_core_second": round(1 / cpu),
        }
        for kind, values in figures.items() if way != DEFAULT else ():
            row |= show_median(f"{kind}_ratio", [a / b for a, b in zip(values, found[DEFAULT][kind], strict=True)])
        ways.append(row)
    return {"ways": ways, "requests_each": len(rounds) // len(WAYS) * requests, "requests_per_second": RATE_PER_SECOND}


def measure() -> Json:
    """Return all figures.

    Raises:
        PermissionError: this is not root.
    """
    if os.geteuid() != 0:
        raise PermissionError("measuring requests makes network namespaces: run it as root")
    progress = Progress("requests")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    rounds = []
    for number in range(1, SITTINGS + 1):
        progress(
            f"start {number} of {SITTINGS}: one Envoy, {ROUNDS} rounds of {SECONDS:g} s for each of {len(WAYS)} ways"
        )
        with tempfile.TemporaryDirectory(prefix="mw-guarded-") as folder:
            os.chmod(folder, 0o755)  # for the Envoy
            command = ["unshare", "--net", sys.executable, "-m", _MODULE, "pod", folder]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment, check=True)
        rounds += [Round(**each) for each in json.loads(done.stdout.splitlines()[-1])]
    return summarize(rounds)


def main() -> None:
    """Be one of the processes of the measurement."""
    match sys.argv[1:]:
        case ["pod", folder]:
            print(json.dumps(asyncio.run(be_pod(Path(folder)))))
        case ["delivery", folder]:
            asyncio.run(be_delivery(Path(folder)))
        case ["load", folder, targets]:
            with asyncio.Runner(loop_factory=precise_loop) as runner:
                runner.run(be_load(Path(folder), json.loads(targets)))


if __name__ == "__main__":
    main()
