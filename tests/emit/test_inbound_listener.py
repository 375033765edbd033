"""How connections to the application are taken: chains by port, and what a change of policy leaves alone."""

from dataclasses import replace
from typing import Any

import pytest

from meshwright.emit.held import find_held, find_undetected
from meshwright.emit.listeners import emit_inbound_listener
from meshwright.emit.settle import emit_settling
from meshwright.model.identity import TrustDomain
from meshwright.model.inbound import Authorization, GovernedPort, Inbound, ServerPolicy, Source
from meshwright.model.pod import PortRanges
from meshwright.model.policy import AccessPolicy, Network, Proof, ProxyProtocol
from meshwright.model.proxy import ProxySettings
from meshwright.model.ref import Kind, Ref
from meshwright.model.selector import Selector
from meshwright.model.units import Namespace, Port

SETTINGS = ProxySettings(trust=TrustDomain())
SOURCE = Source("policy.linkerd.io", "authorizationpolicy", "shop", "web")
WEB = Authorization(source=SOURCE, proof=Proof.IDENTITY, exact=("web.x",))
SERVER = ServerPolicy(server=Ref(Kind.SERVER, Namespace("shop"), "web"), selector=Selector(), port=Port(80))
RBAC, TCP = "envoy.filters.network.rbac", "envoy.filters.network.tcp_proxy"


def at(port: int, protocol: ProxyProtocol = ProxyProtocol.UNKNOWN, *who: Authorization) -> GovernedPort:
    return GovernedPort(port=Port(port), policy=replace(SERVER, protocol=protocol, authorizations=who))


def chains(*ports: GovernedPort, **more: Any) -> dict[str, Any]:
    listener = emit_inbound_listener(SETTINGS, Inbound(ports=ports, **more))
    made = [*listener["filter_chains"], listener["default_filter_chain"]]
    assert len({str(chain.get("filter_chain_match")) for chain in made}) == len(made), "Envoy refuses two alike"
    return {chain["name"]: chain for chain in made}


def words(chain: dict[str, Any]) -> list[str]:
    return [each["name"].rpartition(".")[2] for each in chain["filters"]]


def test_every_chain_of_bytes_asks_who_may() -> None:
    ports = (at(1), at(2, ProxyProtocol.OPAQUE, WEB), at(3, ProxyProtocol.HTTP2), at(4, ProxyProtocol.TLS))
    found = chains(*ports, opaque=PortRanges(((Port(9), Port(9)),)))
    assert list(found) == [
        *("mesh-http", "mesh-tcp", "http", "mesh-tcp-9"),
        *("mesh-http-1", "mesh-tcp-1", "http-1", "raw-1", "tcp-1"),
        *("mesh-tcp-2", "tcp-2"),
        *("mesh-http-3", "http-3", "closed-3"),
        *("mesh-tcp-4", "tcp-4"),
        *("loop", "tcp"),
    ]
    passing = [chain for name, chain in found.items() if "tcp" in name or "raw" in name]
    assert all("rbac" in words(chain) and chain["filters"][-1]["name"] == TCP for chain in passing)
    for closed in ("loop", "closed-3"):
        assert found[closed]["filters"][0]["typed_config"]["cluster"] == "mesh/blackhole"


def test_everybodys_bytes_are_passed_on_without_further_ado() -> None:
    assert words(chains()["tcp"]) == ["rbac", "tcp_proxy"]
    assert chains()["tcp"]["filters"][-1]["typed_config"]["cluster"] == "mesh/inbound"
    limited = chains(access=AccessPolicy.CLUSTER_UNAUTHENTICATED)["tcp"]
    assert words(limited) == ["set_filter_state", "rbac", "tcp_proxy"]
    assert limited["filters"][-1]["typed_config"]["cluster"] == "mesh/blackhole"


def test_who_may_changes_no_http_chain_and_the_bytes_of_its_own_port_alone() -> None:
    before, after = chains(at(1, ProxyProtocol.UNKNOWN, WEB), at(2)), chains(at(1), at(2))
    assert {name for name in before if before[name] != after[name]} == {"mesh-tcp-1"}


def test_a_port_that_differs_in_its_probes_alone_has_no_chain() -> None:
    probed = GovernedPort(port=Port(1), access=AccessPolicy.ALL_UNAUTHENTICATED, probes=("/live",))
    assert chains(probed) == chains()


def test_what_is_said_of_the_proxys_own_port_does_not_open_it() -> None:
    assert chains(at(4143)) == chains()


@pytest.mark.parametrize(
    ("usual", "ports", "expected"),
    [
        ("", (), ""),
        ("25", (at(1, ProxyProtocol.OPAQUE), at(2), at(3, ProxyProtocol.HTTP1)), "1,3,25"),
        ("1-5", (at(1), at(3), at(5)), "2,4"),
        ("1-5", (at(6, ProxyProtocol.TLS),), "1-6"),
        ("1-65535", (at(65535),), "1-65534"),
    ],
)
def test_nobody_waits_where_only_one_thing_is_taken(usual: str, ports: tuple[GovernedPort, ...], expected: str) -> None:
    ranges = tuple(
        (Port(int(low)), Port(int(high or low)))
        for low, _, high in (part.partition("-") for part in usual.split(","))
        if low
    )
    held = [find_held(Inbound(), port) for port in ports]
    assert str(find_undetected(PortRanges(ranges), held)) == expected


def test_a_verdict_is_written_by_the_last_name_first() -> None:
    near = Authorization(source=replace(SOURCE, name="near"), networks=(Network("10.0.0.0/8", ("10.1.0.0/16",)),))
    vm = Authorization(source=replace(SOURCE, name="it's %)%"), proof=Proof.IDENTITY, exact=("spiffe://x/a%)%'",))

    def texts(*who: Authorization, **more: Any) -> list[tuple[str, str]]:
        states = emit_settling(who, **{"is_audit": False, "has_tls": True, **more})["typed_config"]
        return [
            (state["object_key"], state["format_string"]["text_format_source"]["inline_string"])
            for state in states["on_downstream_tls_handshake"]
        ]

    found = texts(WEB, near, vm)
    assert [text for key, text in found if key == "meshwright.authz"] == [
        "-",
        "%CEL(((filter_state['meshwright.net.8'] in [b'127.0.0.0/8']) || "
        "(filter_state['meshwright.net.128'] in [b'::1/128'])) && true ? 'default/localhost' : '')%",
        "%CEL(true && has(connection.dns_san_peer_certificate) && connection.dns_san_peer_certificate in ['web.x']"
        " ? 'authorizationpolicy/shop/web' : '')%",
        "%CEL(((filter_state['meshwright.net.8'] in [b'10.0.0.0/8'] && "
        "!(filter_state['meshwright.net.16'] in [b'10.1.0.0/16']))) && true ? 'authorizationpolicy/shop/near' : '')%",
        "%CEL(true && has(connection.uri_san_peer_certificate) && connection.uri_san_peer_certificate in "
        "['spiffe://x/a\\U00000025\\U00000029\\U00000025\\U00000027']"
        " ? 'authorizationpolicy/shop/it\\U00000027s\\U00000020\\U00000025\\U00000029\\U00000025' : '')%",
    ]
    assert ("meshwright.authz", "~default/audit") in texts(is_audit=True)
    assert not any("connection." in text for _, text in texts(WEB, vm, has_tls=False))


def test_expressions_are_no_longer_than_envoy_takes_whatever_a_policy_lists() -> None:
    cidrs = [f"10.{number // 200}.{number % 200}.0/24" for number in range(6000)]
    who = Authorization(
        source=SOURCE,
        networks=(*(Network(cidr) for cidr in cidrs), Network("172.16.0.0/12", tuple(cidrs[:1000]))),
        proof=Proof.IDENTITY,
        exact=tuple(f"spiffe://x/{number:03}{'a' * 2000}" for number in range(100)),
    )
    states = emit_settling((who,), is_audit=False, has_tls=True)["typed_config"]["on_downstream_tls_handshake"]
    texts = [state["format_string"]["text_format_source"]["inline_string"] for state in states]
    assert max(map(len, texts)) < 90_000
    assert all(any(f"b'{cidr}'" in text for text in texts) for cidr in cidrs)
    where = "%CEL(filter_state['meshwright.where'] == b'y' && has(connection.uri_san_peer_certificate) && "
    assert len([text for text in texts if text.startswith(where)]) > 5


def test_bytes_that_came_before_a_port_was_set_apart_are_cut_with_the_rest() -> None:
    def changed(*before: GovernedPort, after: GovernedPort, **more: Any) -> set[str]:
        old, new = chains(*before, **more), chains(after, **more)
        return {name for name in old if old[name] != new.get(name)}

    assert changed(after=at(1)) == {"mesh-tcp", "tcp"}
    audited = GovernedPort(port=Port(1), policy=replace(SERVER, access=AccessPolicy.AUDIT))
    assert changed(after=audited) == set(), "nobody loses anything"
    assert changed(audited, after=at(1)) == {"mesh-tcp", "tcp", "mesh-tcp-1", "raw-1", "tcp-1"}
    assert changed(at(1), after=at(1, ProxyProtocol.UNKNOWN, WEB)) == {"mesh-tcp-1"}
    assert changed(after=at(1), access=AccessPolicy.DENY) == set(), "there is nothing to cut"
