"""What becomes of an attempt, and the first reason why each authorization did not let the caller in."""

import pytest

from meshwright.link.decide import decide
from meshwright.model.inbound import (
    Authorization,
    GovernedPort,
    Inbound,
    InboundRule,
    PolicyDefaults,
    ServerPolicy,
    Source,
)
from meshwright.model.pod import PortRanges
from meshwright.model.policy import AccessPolicy, Network, Proof, ProxyProtocol
from meshwright.model.ref import Kind, Ref
from meshwright.model.request import Caller, Decision, Missed, Outcome, Request
from meshwright.model.route import HttpMatch, Path, PathMatch
from meshwright.model.selector import Selector
from meshwright.model.units import Namespace, Port

SHOP = Namespace("shop")
SERVER = Ref(Kind.SERVER, SHOP, "web")
ROUTE = Ref(Kind.HTTP_ROUTE, SHOP, "api")
PORT = Port(8080)
NOBODY = Caller(address="10.0.0.1")
CLIENT = Caller(address="10.0.0.1", dns="client.shop.id", uri="spiffe://td/ns/shop/sa/client", has_tls=True)
VM = Caller(address="10.0.0.1", uri="spiffe://td/vm", has_tls=True)
GET = Request()


def source(name: str) -> Source:
    return Source("policy.linkerd.io", "authorizationpolicy", "shop", name)


def grant(name: str = "a", **more: object) -> Authorization:
    return Authorization(source=source(name), **more)  # type: ignore[arg-type]


def default(name: str) -> Source:
    return Source("", "default", "", name)


def server(*authorizations: Authorization, **more: object) -> Inbound:
    """Return what holds where a Server has port 8080."""
    policy = ServerPolicy(
        server=SERVER,
        selector=Selector(),
        port=PORT,
        authorizations=authorizations,
        **more,  # type: ignore[arg-type]
    )
    return Inbound(access=AccessPolicy.DENY, ports=(GovernedPort(port=PORT, policy=policy),))


@pytest.mark.parametrize(
    ("authorization", "caller", "why"),
    [
        (grant(), NOBODY, None),
        (grant(networks=(Network("10.0.0.0/8"),)), NOBODY, None),
        (grant(networks=(Network("10.0.0.0/8"),)), Caller(address="::ffff:10.0.0.1"), None),
        (grant(networks=()), NOBODY, "it names no network"),
        (grant(networks=(Network("192.0.2.0/24"),)), NOBODY, "10.0.0.1 is outside 192.0.2.0/24"),
        (
            grant(networks=tuple(Network(f"192.0.{n}.0/24") for n in range(5))),
            NOBODY,
            "10.0.0.1 is outside 192.0.0.0/24, 192.0.1.0/24, 192.0.2.0/24 or 2 more",
        ),
        (
            grant(networks=(Network("10.0.0.0/8", ("10.0.0.0/16",)), Network("fd00::/8")), proof=Proof.IDENTITY),
            NOBODY,
            "10.0.0.1 is in 10.0.0.0/8, but excepted there (10.0.0.0/16)",
        ),
        (grant(networks=(Network("10.0.0.0/8", ("10.0.0.0/16",)), Network("10.0.0.1/32"))), NOBODY, None),
        (grant(proof=Proof.ANY_TLS), NOBODY, "the connection is not TLS of the mesh"),
        (grant(proof=Proof.ANY_TLS), Caller(address="10.0.0.1", has_tls=True), None),
        (grant(proof=Proof.ANY_TLS), VM, None),
        (grant(proof=Proof.IDENTITY), CLIENT, "it names no identity"),
        (
            grant(proof=Proof.IDENTITY, is_any=True),
            NOBODY,
            "the connection is not TLS of the mesh, so the caller has no identity",
        ),
        (
            grant(proof=Proof.IDENTITY, is_any=True),
            Caller(address="10.0.0.1", has_tls=True),
            "the caller has no identity",
        ),
        (grant(proof=Proof.IDENTITY, is_any=True), CLIENT, None),
        (
            grant(proof=Proof.IDENTITY, is_any=True),
            VM,
            "spiffe://td/vm is a SPIFFE identity, and * covers DNS names only",
        ),
        (grant(proof=Proof.IDENTITY, exact=("spiffe://td/vm",)), VM, None),
        (grant(proof=Proof.IDENTITY, exact=("spiffe://td/ns/shop/sa/client",)), CLIENT, None),
        (grant(proof=Proof.IDENTITY, exact=("client.shop.id",)), CLIENT, None),
        (grant(proof=Proof.IDENTITY, suffixes=(".shop.id",)), CLIENT, None),
        (grant(proof=Proof.IDENTITY, suffixes=(".client.shop.id",)), CLIENT, "client.shop.id is not *.client.shop.id"),
        (
            grant(proof=Proof.IDENTITY, exact=("a.shop.id", "b.shop.id"), suffixes=(".other.id",)),
            CLIENT,
            "client.shop.id is not a.shop.id, b.shop.id or *.other.id",
        ),
    ],
)
def test_an_authorization_lets_in_or_says_the_first_reason_why_not(
    authorization: Authorization, caller: Caller, why: str | None
) -> None:
    found = decide(server(authorization), caller, PORT, GET)
    if why is None:
        assert found == Decision(outcome=Outcome.ALLOWED, server=SERVER, by=source("a"))
    else:
        missed = (Missed(source=source("a"), why=why),)
        assert found == Decision(outcome=Outcome.DENIED, server=SERVER, missed=missed)


def test_of_several_that_let_in_the_first_by_text_is_told_and_the_others_are_not_missed() -> None:
    inbound = server(grant("b"), grant("a"), Authorization(source=default("all-unauthenticated")))
    assert decide(inbound, NOBODY, PORT, GET) == Decision(outcome=Outcome.ALLOWED, server=SERVER, by=source("a"))


@pytest.mark.parametrize("address", ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"])
@pytest.mark.parametrize("request_", [GET, None])
def test_the_workload_itself_is_always_let_in(address: str, request_: Request | None) -> None:
    found = decide(server(), Caller(address=address), PORT, request_)
    assert found == Decision(outcome=Outcome.ALLOWED, server=SERVER, by=default("localhost"))


@pytest.mark.parametrize(
    ("protocol", "request_", "outcome"),
    [
        (ProxyProtocol.UNKNOWN, GET, Outcome.DENIED),
        (ProxyProtocol.UNKNOWN, None, Outcome.DENIED),
        (ProxyProtocol.HTTP1, GET, Outcome.DENIED),
        (ProxyProtocol.HTTP1, None, Outcome.REFUSED),
        (ProxyProtocol.HTTP2, None, Outcome.REFUSED),
        (ProxyProtocol.GRPC, None, Outcome.REFUSED),
        (ProxyProtocol.OPAQUE, GET, Outcome.DENIED),
        (ProxyProtocol.OPAQUE, None, Outcome.DENIED),
        (ProxyProtocol.TLS, None, Outcome.DENIED),
        (ProxyProtocol.UNKNOWN, Request(path="/%00"), Outcome.REFUSED),
        (ProxyProtocol.OPAQUE, Request(path="/%00"), Outcome.DENIED),
    ],
)
def test_what_a_port_does_not_take_is_refused(
    protocol: ProxyProtocol, request_: Request | None, outcome: Outcome
) -> None:
    assert decide(server(protocol=protocol), NOBODY, PORT, request_) == Decision(outcome=outcome, server=SERVER)


def rule(path: str, *authorizations: Authorization) -> InboundRule:
    match = HttpMatch(path=Path(how=PathMatch.PREFIX, value=path))
    return InboundRule(route=ROUTE, index=0, match=match, authorizations=authorizations)


def test_only_routes_serve_where_any_is_attached() -> None:
    inbound = server(is_routed=True, rules=(rule("/api", grant()),), access=AccessPolicy.AUDIT)
    assert decide(inbound, NOBODY, PORT, GET) == Decision(outcome=Outcome.NOT_FOUND, server=SERVER)
    allowed = Decision(outcome=Outcome.ALLOWED, server=SERVER, route=ROUTE, by=source("a"))
    assert decide(inbound, NOBODY, PORT, Request(path="/x/../api")) == allowed


def test_bytes_on_a_routed_port_need_the_servers_own_authorizations() -> None:
    of_route = server(is_routed=True, rules=(rule("/", grant()),))
    assert decide(of_route, NOBODY, PORT, None) == Decision(outcome=Outcome.DENIED, server=SERVER)
    of_server = server(grant("s"), is_routed=True, rules=(rule("/", grant()),))
    assert decide(of_server, NOBODY, PORT, None).by == source("s")


def test_audit_lets_in_whom_nobody_does_and_says_why_nobody_does() -> None:
    inbound = server(grant(proof=Proof.ANY_TLS), access=AccessPolicy.AUDIT)
    missed = (Missed(source=source("a"), why="the connection is not TLS of the mesh"),)
    assert decide(inbound, NOBODY, PORT, GET) == Decision(outcome=Outcome.AUDITED, server=SERVER, missed=missed)
    assert decide(inbound, CLIENT, PORT, GET).outcome is Outcome.ALLOWED


@pytest.mark.parametrize(
    ("access", "caller", "outcome"),
    [
        (AccessPolicy.ALL_UNAUTHENTICATED, Caller(address="192.0.2.7"), Outcome.ALLOWED),
        (AccessPolicy.ALL_AUTHENTICATED, NOBODY, Outcome.DENIED),
        (AccessPolicy.ALL_AUTHENTICATED, CLIENT, Outcome.ALLOWED),
        (AccessPolicy.CLUSTER_UNAUTHENTICATED, Caller(address="192.0.2.7"), Outcome.DENIED),
        (AccessPolicy.CLUSTER_AUTHENTICATED, CLIENT, Outcome.ALLOWED),
        (AccessPolicy.DENY, CLIENT, Outcome.DENIED),
        (AccessPolicy.AUDIT, NOBODY, Outcome.AUDITED),
    ],
)
@pytest.mark.parametrize("request_", [GET, None])
def test_without_a_server_the_default_decides(
    access: AccessPolicy, caller: Caller, outcome: Outcome, request_: Request | None
) -> None:
    found = decide(Inbound(access=access), caller, PORT, request_)
    assert (found.outcome, found.server, found.default) == (outcome, None, access.value)
    assert found.by == (default(access.value) if outcome is Outcome.ALLOWED else None)


def test_a_port_has_its_own_default_and_its_own_way_of_taking_bytes() -> None:
    own = GovernedPort(port=Port(9000), access=AccessPolicy.ALL_AUTHENTICATED, is_opaque=True, probes=("/live",))
    inbound = Inbound(ports=(own,))
    assert decide(inbound, NOBODY, Port(9000), Request(path="/live")).outcome is Outcome.DENIED
    assert decide(inbound, NOBODY, PORT, Request(path="/%00")).outcome is Outcome.REFUSED
    assert decide(inbound, NOBODY, Port(3306), Request(path="/%00")).outcome is Outcome.ALLOWED
    opaque = Inbound(opaque=PortRanges(((PORT, PORT),)))
    assert decide(opaque, NOBODY, PORT, Request(path="/%00")).outcome is Outcome.ALLOWED
    assert decide(opaque, NOBODY, Port(3306), Request(path="/%00")).outcome is Outcome.REFUSED


@pytest.mark.parametrize(
    ("request_", "networks", "by"),
    [
        (Request(path="/live"), ("10.0.0.0/8",), "probe"),
        (Request(path="/a/../live"), ("10.0.0.0/8",), "probe"),
        (Request(path="/live", method="POST"), ("10.0.0.0/8",), None),
        (Request(path="/live/x"), ("10.0.0.0/8",), None),
        (Request(path="/live"), ("192.0.2.0/24",), None),
        (Request(path="/live"), (), None),
        (None, ("10.0.0.0/8",), None),
    ],
)
def test_the_kubelet_may_ask_for_its_probes(
    request_: Request | None, networks: tuple[str, ...], by: str | None
) -> None:
    governed = GovernedPort(port=PORT, access=AccessPolicy.DENY, probes=("/live",))
    inbound = Inbound(ports=(governed,), defaults=PolicyDefaults(probe_networks=networks))
    assert decide(inbound, NOBODY, PORT, request_).by == (default(by) if by else None)


def test_a_caller_without_an_address_is_a_mistake_of_ours() -> None:
    with pytest.raises(ValueError):
        decide(server(), Caller(address="nowhere"), PORT, GET)
