"""What one real Envoy makes of inbound policy: who gets through to the application, who does not, and what is said.

``unshare -n python -m tests.edge.enforced`` runs as root, and prints as JSON what was seen. Callers have addresses of
their own, and certificates of the mesh; connections are redirected to the proxy as in a pod.
"""

import asyncio
import contextlib
import json
import os
import ssl
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc

from meshwright.edge.hub import Hub
from meshwright.edge.policies import NOBODY
from meshwright.edge.protobuf import TypeUrl
from meshwright.edge.xds import serve_hub
from meshwright.emit.bootstrap import emit_bootstrap
from meshwright.emit.inbound_routes import emit_inbound_routes
from meshwright.emit.listeners import INBOUND_LISTENER, emit_inbound_listener
from meshwright.emit.names import INBOUND_ROUTES, POLICY_LOG_BUCKET
from meshwright.emit.policy_log import emit_bucket
from meshwright.model.desired import Json
from meshwright.model.identity import ServiceAccount, TrustDomain
from meshwright.model.inbound import (
    Authorization,
    GovernedPort,
    Inbound,
    InboundRule,
    RateLimit,
    RateShare,
    ServerPolicy,
    Source,
)
from meshwright.model.pod import PROXY_UID
from meshwright.model.policy import AccessPolicy, Network, Proof, ProxyProtocol
from meshwright.model.proxy import Proxy, ProxySettings
from meshwright.model.ref import Kind, Ref
from meshwright.model.route import (
    Filters,
    FullPath,
    GrpcMatch,
    Header,
    HeaderModifier,
    HttpMatch,
    PathMatch,
    Redirect,
    Text,
    TextMatch,
)
from meshwright.model.route import (
    Path as RoutePath,
)
from meshwright.model.selector import Selector
from meshwright.model.units import Millis, Namespace, Port
from tests.edge.redirected import run
from tests.envoy import Envoy, eventually, run_envoy, upstream
from tests.mesh import SHOP
from tests.pki import Pair, make_anchor

TRUST = TrustDomain()
OWN, OWN6 = "10.244.0.9", "fd00:244::9"
NEAR, EXCEPTED, FAR, NEAR6 = "10.1.0.5", "10.1.9.5", "10.2.0.5", "fd00:1::5"
RULES = (
    "ip link set lo up",
    *(f"ip address add {address}/32 dev lo" for address in (OWN, NEAR, EXCEPTED, FAR)),
    *(f"ip -6 address add {address}/128 dev lo nodad" for address in (OWN6, NEAR6)),
    f"iptables -t nat -A OUTPUT -p tcp -m owner --uid-owner {PROXY_UID} -j RETURN",
    f"iptables -t nat -A OUTPUT -p tcp -d {OWN} -j REDIRECT --to-ports 4143",
    f"ip6tables -t nat -A OUTPUT -p tcp -m owner --uid-owner {PROXY_UID} -j RETURN",
    f"ip6tables -t nat -A OUTPUT -p tcp -d {OWN6} -j REDIRECT --to-ports 4143",
)
DETECT_MS = 500
LINES_PER_SECOND = 60


def account(name: str, namespace: str = "shop") -> ServiceAccount:
    return ServiceAccount(Namespace(namespace), name)


def dns(name: str, namespace: str = "shop") -> str:
    return TRUST.dns(account(name, namespace))


def by(name: str, **who: Any) -> Authorization:
    return Authorization(source=Source("policy.linkerd.io", "authorizationpolicy", "shop", name), **who)


def named(*identities: str, **more: Any) -> Authorization:
    return by("web", proof=Proof.IDENTITY, exact=tuple(sorted(identities)), **more)


WEB = named(dns("web"))
NETWORKS = (Network("10.1.0.0/16", ("10.1.9.0/24",)), Network("fd00:1::/32"))


def server(
    name: str, *authorizations: Authorization, protocol: ProxyProtocol = ProxyProtocol.UNKNOWN, **more: Any
) -> ServerPolicy:
    return ServerPolicy(
        server=Ref(Kind.SERVER, SHOP, name),
        selector=Selector(),
        port=Port(1),
        protocol=protocol,
        authorizations=authorizations,
        **more,
    )


def rule(index: int, path: str, *authorizations: Authorization, **more: Any) -> InboundRule:
    return InboundRule(
        route=Ref(Kind.HTTP_ROUTE, SHOP, "paths"),
        index=index,
        match=HttpMatch(path=RoutePath(how=PathMatch.PREFIX, value=path)),
        authorizations=authorizations,
        **more,
    )


ROUTES = (
    rule(0, "/host", WEB, hostnames=("a.example", "*.b.example")),
    rule(1, "/open", by("all")),
    rule(2, "/web", WEB, filters=Filters(request_headers=HeaderModifier(set=(Header(name="x-rule", value="100%"),)))),
    rule(3, "/moved", WEB, filters=Filters(redirect=Redirect(hostname="new.example", status=301))),
    rule(4, "/nobody"),
)
CALLS = (
    InboundRule(
        route=Ref(Kind.GRPC_ROUTE, SHOP, "calls"),
        index=0,
        match=GrpcMatch(service=Text(how=TextMatch.EXACT, value="pkg.Service")),
        authorizations=(WEB,),
    ),
)
LIMIT = RateLimit(
    policy=Ref(Kind.RATE_LIMIT_POLICY, SHOP, "limit"),
    per_identity=3,
    overrides=(RateShare(per_second=5, identities=(dns("cart"), dns("web"))),),
)
MOVED = rule(0, "/moved", by("all"), filters=Filters(redirect=Redirect(path=FullPath(value="/new"))))
TOTAL = RateLimit(policy=Ref(Kind.RATE_LIMIT_POLICY, SHOP, "total"), total=4)
GRPC_TOTAL = RateLimit(policy=Ref(Kind.RATE_LIMIT_POLICY, SHOP, "grpc"), total=1)
ALL = by("all")

SERVERS: dict[int, ServerPolicy] = {
    8001: server(
        "named",
        named(TRUST.uri(account("vm")), dns("web")),
        by("ops", proof=Proof.IDENTITY, suffixes=(f".ops.{TRUST.suffix}",)),
    ),
    8002: server("near", by("near", networks=NETWORKS)),
    8003: server("tls", by("tls", proof=Proof.ANY_TLS)),
    8004: server("audited", WEB, access=AccessPolicy.AUDIT),
    8005: server("routed", is_routed=True, rules=ROUTES),
    8006: server("calls", protocol=ProxyProtocol.GRPC, is_routed=True, rules=CALLS),
    8007: server("first", WEB, protocol=ProxyProtocol.OPAQUE),
    8008: server("http", WEB, protocol=ProxyProtocol.HTTP1),
    8009: server("both", named(dns("web"), networks=NETWORKS)),
    8010: server("limited", ALL, rate_limit=LIMIT),
    8011: server("totalled", ALL, rate_limit=TOTAL, is_routed=True, rules=(MOVED, rule(1, "/", ALL))),
    8012: server("watched", WEB, protocol=ProxyProtocol.OPAQUE, access=AccessPolicy.AUDIT),
    8013: server("nobody"),
    8014: server("few", ALL, protocol=ProxyProtocol.GRPC, rate_limit=GRPC_TOTAL),
    8015: server("closing", WEB, protocol=ProxyProtocol.OPAQUE),
    8016: server("secret", by("void", networks=()), by("none", proof=Proof.IDENTITY)),
}
SPEAKING_FIRST = (8007, 8009, 8012, 8015, 8098)


def everything(**changed: ServerPolicy) -> Inbound:
    """Return all policy; ``changed``: ports whose Server is another, ``p8001=...``."""
    policies = SERVERS | {int(port[1:]): policy for port, policy in changed.items()}
    return Inbound(
        access=AccessPolicy.ALL_UNAUTHENTICATED,
        ports=(
            GovernedPort(port=Port(8000), access=AccessPolicy.ALL_AUTHENTICATED, probes=("/healthz",)),
            *(
                GovernedPort(port=Port(port), policy=policy, probes=() if policy.is_routed else ("/healthz",))
                for port, policy in policies.items()
            ),
        ),
    )


class Supply:
    """What the proxy gets: everything about its own ports, nothing else."""

    def __init__(self, settings: ProxySettings, inbound: Inbound) -> None:
        self.settings, self.inbound = settings, inbound
        self.hub = Hub(self)

    def put(self, inbound: Inbound) -> None:
        self.inbound = inbound
        self.hub.touch({TypeUrl.LISTENER: (INBOUND_LISTENER,), TypeUrl.ROUTES: (INBOUND_ROUTES,)})

    def names(self, kind: TypeUrl) -> Collection[str]:
        return (INBOUND_LISTENER,) if kind is TypeUrl.LISTENER else ()

    def variant(self, kind: TypeUrl, name: str, proxy: Proxy) -> str:
        return ""

    def make(self, kind: TypeUrl, name: str, variant: str) -> Json | None:
        return self._make(kind, name, self.inbound)

    def _make(self, kind: TypeUrl, name: str, inbound: Inbound) -> Json | None:
        match kind:
            case TypeUrl.LISTENER:
                return emit_inbound_listener(self.settings, inbound)
            case TypeUrl.ROUTES if name == INBOUND_ROUTES:
                return emit_inbound_routes(inbound)
            case TypeUrl.TOKEN_BUCKET if name == POLICY_LOG_BUCKET:
                return emit_bucket(LINES_PER_SECOND)
            case _:
                return None

    def make_fallback(self, kind: TypeUrl, name: str) -> Json | None:
        return self._make(kind, name, NOBODY)

    def may_keep(self, kind: TypeUrl, name: str) -> bool:
        return False


class Caller:
    """Somebody with an address, and a certificate or none."""

    def __init__(self, anchor: Pair, address: str, leaf: Pair | None) -> None:
        self.address, self._tls = address, None
        if leaf is None:
            return
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._tls.load_verify_locations(cadata=anchor.pem.decode())
        with tempfile.NamedTemporaryFile() as file:
            file.write(leaf.chain + leaf.key_pem)
            file.flush()
            self._tls.load_cert_chain(file.name)

    async def connect(self, port: int, *, alpn: str = "") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        host = OWN6 if ":" in self.address else OWN
        if self._tls is None:
            return await asyncio.open_connection(host, port, local_addr=(self.address, 0))
        self._tls.set_alpn_protocols([alpn] if alpn else [])
        return await asyncio.open_connection(
            host, port, local_addr=(self.address, 0), ssl=self._tls, server_hostname=dns("own")
        )

    async def get(self, port: int, path: str = "/", *, method: str = "GET", **headers: str) -> str:
        """Return the status of a request on a connection of its own; ``""`` when there is no answer."""
        return (await self.ask(port, path, method=method, **headers)).partition(" ")[0]

    async def ask(self, port: int, path: str = "/", *, method: str = "GET", **headers: str) -> str:
        """Return status and body, with the redirect's aim between them."""
        reader, writer = await self.connect(port, alpn="http/1.1")
        try:
            return await exchange(reader, writer, path, method=method, **headers)
        except (ssl.SSLError, ConnectionError, asyncio.IncompleteReadError):
            return ""
        finally:
            writer.close()

    async def say(self, port: int, text: bytes = b"\x00\x01 hello") -> str:
        """Return what comes back for bytes, ``"closed"`` when the connection is."""
        try:
            reader, writer = await self.connect(port)
        except (ssl.SSLError, ConnectionError):
            return "closed"
        try:
            writer.write(text)
            return (await asyncio.wait_for(reader.read(100), 60)).decode() or "closed"
        except (ssl.SSLError, ConnectionError):
            return "closed"
        finally:
            writer.close()

    async def listen(self, port: int) -> str:
        """Return what comes to one who says nothing."""
        return await self.say(port, b"")

    async def get_late(self, port: int, path: str = "/") -> str:
        """Return the first line that answers a request on a connection that is silent at first; ``"closed"``."""
        try:
            reader, writer = await self.connect(port)
        except (ssl.SSLError, ConnectionError):
            return "closed"
        try:
            # Longer than the proxy waits to see what is spoken.
            with contextlib.suppress(TimeoutError):
                return (await asyncio.wait_for(reader.read(100), DETECT_MS / 1000 + 0.2)).decode() or "closed"
            writer.write(f"GET {path} HTTP/1.1\r\nHost: late\r\nConnection: close\r\n\r\n".encode())
            return (await asyncio.wait_for(reader.readline(), 60)).decode().strip() or "closed"
        except (ssl.SSLError, ConnectionError):
            return "closed"
        finally:
            writer.close()

    async def call(self, port: int, method: str = "/pkg.Service/Method", *, path: str = "") -> str:
        """Return how a gRPC call over HTTP/1.1 ended: its status, or the application's."""
        answer = await self.ask(port, path or method, method="POST", **{"content-type": "application/grpc"})
        status, _, rest = answer.partition(" ")
        return f"{status} {rest}"


async def exchange(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str = "/", *, method: str = "GET", **headers: str
) -> str:
    """Return what answers a request: the status and, as far as there, aim, gRPC status and body."""
    lines = {"host": "app", **{name.replace("_", "-"): value for name, value in headers.items()}}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    writer.write(f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode())
    text = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 60)).decode()
    status = text.split()[1]
    found = dict(line.lower().split(": ", 1) for line in text.splitlines()[1:] if ": " in line)
    body = ""
    if "content-length" in found:
        body = (await asyncio.wait_for(reader.readexactly(int(found["content-length"])), 60)).decode()
    told = (status, found.get("location", ""), found.get("grpc-status", ""), body if status == "200" else "")
    return " ".join(part for part in told if part)


@asynccontextmanager
async def stage() -> AsyncIterator[tuple[Supply, Envoy, dict[str, Caller]]]:
    run(RULES)
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="enforced-")))
        os.chmod(folder, 0o755)  # for another user
        anchor = make_anchor()
        settings = ProxySettings(
            detect_ms=Millis(DETECT_MS),
            trust=TRUST,
            identity_folder=str(folder / "identity"),
            secrets_folder=str(folder / "secrets"),
        )
        anchor.issue(TRUST, account("own")).write(settings, anchor)
        for port in (8000, *SERVERS, 8098, 8099):
            if port in SPEAKING_FIRST:
                await stack.enter_async_context(_greeter(port))
            else:
                await stack.enter_async_context(upstream("app", host="", port=port))
        supply = Supply(settings, everything())
        delivery = anchor.issue(TRUST, TRUST.delivery)
        credentials = grpc.ssl_server_credentials(
            [(delivery.key_pem, delivery.chain)], root_certificates=anchor.pem, require_client_auth=True
        )
        at = await stack.enter_async_context(serve_hub(supply.hub, "127.0.0.1", 0, credentials=credentials, drain=0.1))
        stack.callback(supply.hub.close)
        bootstrap = emit_bootstrap(Proxy(SHOP, "own"), f"127.0.0.1:{at}", settings)
        envoy = await stack.enter_async_context(run_envoy(bootstrap, uid=PROXY_UID))
        leaves = {
            name: anchor.issue(TRUST, account(*name.split(".")), is_named=name != "vm")
            for name in ("web", "cart", "evil", "root.ops", "root.devops", "vm")
        }
        callers = {name: Caller(anchor, FAR, leaf) for name, leaf in leaves.items()}
        callers["near web"] = Caller(anchor, NEAR, leaves["web"])
        callers["near6 web"] = Caller(anchor, NEAR6, leaves["web"])
        callers["excepted web"] = Caller(anchor, EXCEPTED, leaves["web"])
        callers["near evil"] = Caller(anchor, NEAR, leaves["evil"])
        for name, address in (
            ("nobody", FAR),
            ("near", NEAR),
            ("near6", NEAR6),
            ("excepted", EXCEPTED),
            ("localhost", "127.0.0.1"),
            ("localhost6", "::1"),
        ):
            callers[name] = Caller(anchor, address, None)
        yield supply, envoy, callers


@asynccontextmanager
async def _greeter(port: int) -> AsyncIterator[None]:
    """Run a server that greets, and then repeats what it hears."""

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            writer.write(b"welcome")
            while heard := await reader.read(100):
                writer.write(heard)
        writer.close()

    server = await asyncio.start_server(accept, None, port)
    try:
        yield
    finally:
        server.close()


async def judge(callers: dict[str, Caller]) -> dict[str, Any]:
    """Return what each caller gets, by what is tried."""
    everyone = ("web", "cart", "root.ops", "root.devops", "vm", "nobody", "localhost", "localhost6")
    seen: dict[str, Any] = {}
    for what, port, names in (
        ("default", 8000, everyone),
        ("named", 8001, everyone),
        ("near", 8002, ("near", "near6", "excepted", "nobody", "near web", "excepted web", "localhost")),
        ("any TLS", 8003, ("web", "vm", "nobody", "near6 web")),
        ("audited", 8004, ("web", "evil", "nobody")),
        ("HTTP", 8008, ("web", "cart", "nobody")),
        ("nobody", 8013, ("web", "nobody", "localhost")),
        ("empty lists", 8016, ("web", "nobody", "localhost")),
        ("no Server", 8099, ("nobody",)),
    ):
        seen[what] = {name: await callers[name].get(port) for name in names}
    web, cart, nobody = callers["web"], callers["cart"], callers["nobody"]
    seen["probes"] = {
        "default": await nobody.get(8000, "/healthz"),
        "default, query": await nobody.get(8000, "/healthz?a=b"),
        "default, posted": await nobody.get(8000, "/healthz", method="POST"),
        "default, below": await nobody.get(8000, "/healthz/x"),
        "Server": await nobody.get(8013, "/healthz"),
        "routed": await nobody.get(8005, "/healthz"),
    }
    seen["routes"] = {
        "no match": [await each.get(8005, "/else") for each in (web, nobody)],
        "open": [await each.get(8005, "/open") for each in (web, nobody)],
        "web": [await each.get(8005, "/web/x") for each in (web, cart, nobody)],
        "nobody": [await each.get(8005, "/nobody") for each in (web, callers["localhost"])],
        "host": [
            await web.get(8005, "/host", host=host)
            for host in ("a.example", "A.EXAMPLE:8005", "x.b.example", "x.y.b.example", "b.example", "xa.example", "")
        ],
        "redirect": [await each.ask(8005, "/moved/x?y=z") for each in (web, cart)],
        "dots": await web.get(8005, "/open/../nobody"),
    }
    application = json.loads((await web.ask(8005, "/web", proxy_status="8001", l5d_client_id="x")).partition(" ")[2])
    seen["told"] = {
        name: application["headers"].get(name) for name in ("x-rule", "proxy-status", "l5d-client-id", "host")
    }
    forged = ("8003", "8005", "*", "", "8003\r\nProxy-Status: 8005")
    seen["forged"] = [await nobody.get(8001, proxy_status=port) for port in forged]
    seen["gRPC"] = {
        "called": await web.call(8006),
        "denied": await cart.call(8006),
        "not found": await web.call(8006, "/other.Service/Method"),
        "not found, stranger": await nobody.call(8006, "/other.Service/Method"),
        "denied by default": await nobody.call(8000),
        "HTTP": await web.get(8006, "/pkg.Service/Method"),
    }
    return seen


async def judge_bytes(callers: dict[str, Caller]) -> dict[str, Any]:
    """Return what each caller of bytes gets, by what is tried: all at once, for who keeps quiet is waited for."""

    async def each(ask: Callable[[Caller], Awaitable[str]], *names: str) -> dict[str, str]:
        return {name: await ask(callers[name]) for name in names}

    async def greet(caller: Caller) -> str:
        return await _greeting_with_alpn(caller, 8007)

    async def say(caller: Caller, port: int) -> str:
        return (await caller.say(port))[:12]

    near = ("near web", "near6 web", "excepted web", "web", "near evil", "near", "localhost")
    tried = {
        "speaks first": each(lambda who: who.listen(8007), "web", "cart", "nobody", "vm", "localhost", "localhost6"),
        "speaks first, HTTP told by ALPN": each(greet, "web"),
        "identity and network": each(lambda who: who.listen(8009), *near),
        "audited": each(lambda who: who.listen(8012), "web", "evil", "nobody"),
        "bytes": each(lambda who: say(who, 8000), "web", "vm", "nobody"),
        "HTTP only": each(lambda who: say(who, 8008), "web", "cart", "nobody"),
        "HTTP only, late": each(lambda who: who.get_late(8008), "web", "nobody"),
        "late": each(lambda who: who.get_late(8001), "web", "cart", "nobody"),
        "routed, late": each(lambda who: who.get_late(8005, "/nobody"), "web"),
        "routed, bytes": each(lambda who: say(who, 8005), "web"),
    }
    found: dict[str, Any] = dict(zip(tried, await asyncio.gather(*tried.values()), strict=True))
    return {what: seen["web"] if list(seen) == ["web"] else seen for what, seen in found.items()}


async def _greeting_with_alpn(caller: Caller, port: int) -> str:
    reader, writer = await caller.connect(port, alpn="http/1.1")
    try:
        return (await asyncio.wait_for(reader.read(100), 60)).decode()
    finally:
        writer.close()


async def burst(caller: Caller, port: int, count: int, path: str = "/") -> dict[str, int]:
    """Return how often requests on one connection, one after the other, were answered how."""
    reader, writer = await caller.connect(port, alpn="http/1.1")
    answers = [await exchange(reader, writer, path) for _ in range(count)]
    writer.close()
    return dict(Counter(answer.partition(" ")[0] for answer in answers))


async def limit(callers: dict[str, Caller]) -> dict[str, Any]:
    """Return how many of some requests get through that come as fast as they can."""

    async def together(port: int, count: int, *names: str) -> dict[str, int]:
        counts = await asyncio.gather(*(burst(callers[name], port, count) for name in names))
        return dict(sum((Counter(each) for each in counts), Counter()))

    return {
        "one identity": await together(8010, 20, "evil"),
        "another": await together(8010, 20, "root.ops"),
        "URI only": await together(8010, 20, "vm"),
        "no identity": await together(8010, 10, "nobody", "near"),
        "sharing": await together(8010, 15, "web", "cart"),
        "probe": await burst(callers["evil"], 8010, 20, "/healthz"),
        "total": await together(8011, 10, "web", "nobody"),
        "redirected": await burst(callers["web"], 8011, 10, "/moved"),
        "gRPC": sorted({await callers["web"].call(8014) for _ in range(4)}),
    }


async def revoke(supply: Supply, envoy: Envoy, callers: dict[str, Caller]) -> dict[str, Any]:
    """Return what becomes of open connections as authorizations are taken back, and given."""
    web = callers["web"]
    reader, writer = await web.connect(8001, alpn="http/1.1")
    other_reader, other_writer = await web.connect(8007)
    cut_reader, cut_writer = await web.connect(8015)
    kept = [(await each.read(100)).decode() for each in (other_reader, cut_reader)]
    before = await exchange(reader, writer)
    supply.put(everything(p8001=server("named")))

    async def ask() -> str:
        return await exchange(reader, writer)

    after = await eventually(ask, lambda answer: answer != before)
    supply.put(everything(p8015=server("closing", protocol=ProxyProtocol.OPAQUE)))
    end = await asyncio.wait_for(cut_reader.read(100), 60)
    again = await eventually(ask, lambda answer: answer != after)
    other_writer.write(b"still there")
    still = (await asyncio.wait_for(other_reader.read(100), 60)).decode()
    refused = await web.listen(8015)
    supply.put(everything())

    async def look() -> str:
        return await web.listen(8015)

    given = await eventually(look, lambda answer: answer == "welcome")
    for each in (other_writer, cut_writer):
        each.close()
    late = [await who.connect(8098) for who in (callers["nobody"], web)]
    later = [(await each.read(100)).decode() for each, _ in late]
    supply.put(everything(p8098=server("late")))
    later += [(await asyncio.wait_for(each.read(100), 60)).decode() for each, _ in late]
    stats = await envoy.stats("listener_manager.listener_(in_place_updated|modified)")
    return {
        "greeted": kept,
        "a request": [text.partition(" ")[0] for text in (before, after, again)],
        "bytes": [end.decode(), refused, given],
        "bytes elsewhere": still,
        "updates": {name.rpartition(".")[2]: count for name, count in stats.items()},
        "bytes that were there first": later,
        "refusals": [str(problem) for problem in supply.hub.problems()],
        "refused": await refuse(supply, ask),
        "shut": await shut(supply, callers["nobody"]),
    }


async def shut(supply: Supply, anybody: Caller) -> list[str]:
    """Return what one connection gets at a port that is everybody's, then has a Server that lets in nobody, then is
    everybody's again."""
    reader, writer = await anybody.connect(8099, alpn="http/1.1")

    async def ask() -> str:
        return (await exchange(reader, writer)).partition(" ")[0]

    seen = [await ask()]
    for inbound in (everything(p8099=server("shut")), everything()):
        supply.put(inbound)
        seen.append(await eventually(ask, lambda answer: answer != seen[-1]))
    writer.close()
    return seen


async def refuse(supply: Supply, ask: Callable[[], Awaitable[str]]) -> list[str]:
    """Return what ``ask`` gives as authorizations are taken back by policy that the proxy refuses, and then by
    policy that it takes again."""
    seen = [await ask()]
    broken = InboundRule(
        route=Ref(Kind.HTTP_ROUTE, SHOP, "broken"),
        index=0,
        match=HttpMatch(path=RoutePath(how=PathMatch.REGEX, value="(")),
    )
    supply.put(everything(p8001=server("named"), p8016=server("secret", is_routed=True, rules=(broken,))))
    seen.append(await eventually(ask, lambda answer: answer != seen[-1]))
    supply.put(everything())
    seen.append(await eventually(ask, lambda answer: answer != seen[-1]))
    return [answer.partition(" ")[0] for answer in seen]


async def main() -> None:
    async with stage() as (supply, envoy, callers):
        seen: dict[str, Any] = {
            "requests": await judge(callers),
            "bytes": await judge_bytes(callers),
            "limits": await limit(callers),
            "flood": await burst(callers["cart"], 8001, 400, "/flood"),
        }
        await asyncio.sleep(0.1)  # a few more lines are free
        await callers["nobody"].get(8001, "/last?secret=1")

        async def look() -> list[str]:
            return [line for line in envoy.log_lines() if line.startswith("{")]

        lines = await eventually(look, lambda found: any('"/last"' in line for line in found))
        seen["lines"] = [json.loads(line) for line in lines]
        metrics = await envoy.admin("/stats/prometheus?usedonly&filter=inbound_(http|tcp)_")
        seen["metrics"] = sorted(line for line in metrics.splitlines() if not line.startswith("#"))
        seen["open"] = await revoke(supply, envoy, callers)
        print(json.dumps(seen))


if __name__ == "__main__":
    asyncio.run(main())
