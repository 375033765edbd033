"""What Envoy is told of identities: who is asked for, who is let in, and what must fail."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from meshwright.emit.bootstrap import emit_bootstrap
from meshwright.emit.clusters import emit_address_cluster, emit_endpoints, emit_service_cluster
from meshwright.emit.listeners import Opaque, emit_inbound_listener, emit_outbound_listener, find_opaque
from meshwright.emit.names import Address, ServicePortName, read_authority, write_authorities
from meshwright.emit.proxy import assemble, flatten
from meshwright.model.identity import ServiceAccount, TrustDomain
from meshwright.model.inbound import Inbound
from meshwright.model.pod import Pod, PortRanges
from meshwright.model.proxy import EndpointSlice, Proxy, ProxySettings, SliceEndpoint
from meshwright.model.ref import Kind, Ref, ServiceName
from meshwright.model.units import Namespace, Port
from meshwright.model.workload import Protocol, Service, ServicePort
from tests.envoy import validate
from tests.pki import make_anchor

SHOP = Namespace("shop")
TRUST = TrustDomain()
SETTINGS = ProxySettings(trust=TRUST, identity_folder="/identity", secrets_folder="/secrets")
WEB = ServicePortName(ServiceName(SHOP, "web"), Port(80))
SKIPPED = PortRanges(((Port(9000), Port(9010)),))
SUFFIX = "serviceaccount.identity.meshwright.cluster.local"


def make_pod(name: str, ip: str, account: str = "web", **more: Any) -> Pod:
    made = Pod(
        ref=Ref(Kind.POD, SHOP, name),
        uid=name,
        account=ServiceAccount(SHOP, account),
        addresses=(ip,),
        is_meshed=True,
        skipped_inbound=SKIPPED,
    )
    return replace(made, **more)


ONE, TWO = make_pod("one", "10.0.0.1"), make_pod("two", "10.0.0.2", account="next")
OLD = make_pod("old", "10.0.0.3", is_meshed=False)
PODS = {pod.ref: pod for pod in (ONE, TWO, OLD)}


def make_slice(*endpoints: SliceEndpoint, port: int = 8080) -> EndpointSlice:
    return EndpointSlice(
        ref=Ref(Kind.ENDPOINT_SLICE, SHOP, "web-1"),
        service=WEB.service,
        family="IPv4",
        ports={"http": Port(port)},
        endpoints=endpoints,
    )


def said(*endpoints: SliceEndpoint, port: int = 8080) -> dict[str, Any]:
    """Return what each endpoint says of itself, by address."""
    made = emit_endpoints(WEB, "http", [make_slice(*endpoints, port=port)], PODS, SETTINGS)
    return {
        each["endpoint"]["address"]["socket_address"]["address"]: each["metadata"]["filter_metadata"]
        for group in made["endpoints"]
        for each in group["lb_endpoints"]
    }


def at(ip: str, target: str = "") -> SliceEndpoint:
    return SliceEndpoint(addresses=(ip,), target=target)


def peer(**pairs: str) -> dict[str, Any]:
    return {"envoy.transport_socket_match": pairs}


def test_every_endpoint_says_who_it_is_or_that_it_is_nobody() -> None:
    web, later = "spiffe://cluster.local/ns/shop/sa/web", "spiffe://cluster.local/ns/shop/sa/next"
    found = said(
        at("10.0.0.1", "Pod/one"),
        at("10.0.0.2", "Pod/two"),
        at("10.0.0.3", "Pod/old"),
        at("10.0.0.4", "Pod/unknown"),
        at("10.0.0.5"),
        at("10.0.0.6", "Node/one"),
    )
    assert found == {
        "10.0.0.1": peer(peer=web, pod="one"),
        "10.0.0.2": peer(peer=later, pod="two"),
        "10.0.0.3": peer(peer="plaintext"),
        "10.0.0.5": peer(peer="plaintext"),
        "10.0.0.6": peer(peer="plaintext"),
    }


@pytest.mark.parametrize("port", [9000, 9005, 9010, 4191])
def test_where_no_proxy_listens_there_is_no_identity(port: int) -> None:
    assert said(at("10.0.0.1", "Pod/one"), port=port) == {"10.0.0.1": peer(peer="plaintext")}
    assert "transport_socket" not in emit_address_cluster(Address("10.0.0.1", Port(port)), SETTINGS, ONE)


def tls_of(socket: dict[str, Any]) -> tuple[str, str] | str:
    """Return the name and the URI that are asked for, or what is spoken instead of TLS."""
    config = socket["typed_config"]
    if "common_tls_context" not in config:
        return str(socket["name"])
    common = config["common_tls_context"]
    [uri] = common["combined_validation_context"]["default_validation_context"]["match_typed_subject_alt_names"]
    assert common["tls_params"] == {
        "tls_minimum_protocol_version": "TLSv1_3",
        "tls_maximum_protocol_version": "TLSv1_3",
    }
    assert "alpn_protocols" not in common
    return config["sni"], uri["matcher"]["exact"]


def test_a_cluster_speaks_to_each_as_it_says_and_to_nobody_who_says_nothing() -> None:
    made = emit_service_cluster(str(WEB), WEB, Protocol.DETECT, SETTINGS, (TWO.account, ONE.account))
    assert [(each["match"], tls_of(each["transport_socket"])) for each in made["transport_socket_matches"]] == [
        (
            {"peer": "spiffe://cluster.local/ns/shop/sa/next"},
            (f"next.shop.{SUFFIX}", "spiffe://cluster.local/ns/shop/sa/next"),
        ),
        (
            {"peer": "spiffe://cluster.local/ns/shop/sa/web"},
            (f"web.shop.{SUFFIX}", "spiffe://cluster.local/ns/shop/sa/web"),
        ),
        ({"peer": "plaintext"}, "envoy.transport_sockets.raw_buffer"),
    ]
    assert TRUST.read_uri(tls_of(made["transport_socket"])[1]) is None, "no certificate can have it"


def test_a_proxy_reaches_its_own_pod_as_the_application_does() -> None:
    made = emit_service_cluster(str(WEB), WEB, Protocol.DETECT, SETTINGS, (ONE.account,), ONE.ref)
    first = made["transport_socket_matches"][0]
    assert (first["match"], tls_of(first["transport_socket"])) == (
        {"pod": "one"},
        "envoy.transport_sockets.raw_buffer",
    )
    address = Address("10.0.0.1", Port(8080))
    assert "transport_socket" not in emit_address_cluster(address, SETTINGS, ONE, ONE.ref)
    assert tls_of(emit_address_cluster(address, SETTINGS, ONE, TWO.ref)["transport_socket"]) == (
        f"web.shop.{SUFFIX}",
        "spiffe://cluster.local/ns/shop/sa/web",
    )


def test_strangers_addresses_and_a_mesh_without_identities_stay_plaintext() -> None:
    address = Address("10.0.0.3", Port(8080))
    plain = ProxySettings()
    assert "transport_socket" not in emit_address_cluster(address, SETTINGS, OLD)
    assert "transport_socket" not in emit_address_cluster(address, SETTINGS, None)
    assert emit_address_cluster(address, plain, ONE) == emit_address_cluster(address, plain)
    assert emit_service_cluster("web", WEB, Protocol.DETECT, plain, (ONE.account,), ONE.ref) == emit_service_cluster(
        "web", WEB, Protocol.DETECT, plain
    )
    piece = make_slice(at("10.0.0.1", "Pod/one"), at("10.0.0.4", "Pod/unknown"))
    assert emit_endpoints(WEB, "http", [piece], PODS, plain) == emit_endpoints(WEB, "http", [piece])


def test_the_inbound_listener_tells_proxies_from_everybody_else() -> None:
    listener = emit_inbound_listener(SETTINGS, Inbound(opaque=PortRanges(((Port(9000), Port(9001)),))))
    mesh = {"transport_protocol": "tls", "server_names": [f"*.{SUFFIX}"]}
    assert {chain["name"]: chain["filter_chain_match"] for chain in listener["filter_chains"]} == {
        "mesh-http": {**mesh, "application_protocols": ["h2", "http/1.1"]},
        "mesh-tcp": mesh,
        "mesh-tcp-9000": {"destination_port": 9000, **mesh},
        "mesh-tcp-9001": {"destination_port": 9001, **mesh},
        "http": {"transport_protocol": "raw_buffer", "application_protocols": ["http/1.0", "http/1.1", "h2c"]},
        "loop": {"destination_port": 4143},
    }
    assert [each["name"].rpartition(".")[2] for each in listener["listener_filters"]] == [
        "original_dst",
        "tls_inspector",
        "http_inspector",
    ]
    meshed = [chain for chain in listener["filter_chains"] if chain["name"].startswith("mesh-")]
    assert len(meshed) == 4
    for chain in meshed:
        tls = chain["transport_socket"]["typed_config"]
        validation = tls["common_tls_context"]["combined_validation_context"]["default_validation_context"]
        assert tls["require_client_certificate"] is True
        assert validation["match_typed_subject_alt_names"] == [
            {"san_type": "URI", "matcher": {"prefix": "spiffe://cluster.local/"}}
        ]


def test_very_many_opaque_ports_do_not_make_very_many_chains() -> None:
    listener = emit_inbound_listener(SETTINGS, Inbound(opaque=PortRanges(((Port(1), Port(65535)),))))
    assert len(listener["filter_chains"]) == 104
    assert listener["listener_filters"][-1]["filter_disabled"] == {"destination_port_range": {"start": 1, "end": 65536}}


def port(number: int, *, is_opaque: bool = False) -> ServicePort:
    return ServicePort(name="p", port=Port(number), target=Port(number), protocol=Protocol.DETECT, is_opaque=is_opaque)


def test_an_opaque_services_address_is_named_where_its_port_is_also_somebody_elses() -> None:
    one, two, three = (Address(f"10.96.0.{number}", Port(80)) for number in (1, 2, 3))
    sql = Address("10.96.0.4", Port(5432))
    found = [(one, port(80)), (three, port(80, is_opaque=True)), (two, port(80, is_opaque=True))]
    found.append((sql, port(5432, is_opaque=True)))
    opaque = find_opaque(found, [each for _, each in found], [Port(25), Port(80)])
    assert opaque == Opaque(ports=(Port(25), Port(5432)), addresses=(two, three))
    listener = emit_outbound_listener(SETTINGS, opaque)
    matches = {chain["name"]: chain["filter_chain_match"] for chain in listener["filter_chains"]}
    assert list(matches) == ["services", "direct", "opaque-80", "services-80", "direct-80", "loop"]
    assert matches["opaque-80"] == {
        "destination_port": 80,
        "prefix_ranges": [{"address_prefix": ip, "prefix_len": 32} for ip in ("10.96.0.2", "10.96.0.3")],
    }
    assert matches["services-80"] == {"destination_port": 80, **matches["services"]}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("web.shop.svc.cluster.local:80", WEB),
        ("web.shop.svc.cluster.local", WEB),
        ("web.shop.svc:80", WEB),
        ("web.shop.svc", WEB),
        ("web.shop:80", None),
        ("web.shop.svc.cluster.local:", None),
        ("web.shop.svc.cluster.local:0", None),
        ("web..svc:80", None),
        ("10.96.0.1:80", None),
        ("::", None),
        ("", None),
    ],
)
def test_requests_name_services_as_clusters_resolve_them(text: str, expected: ServicePortName | None) -> None:
    assert read_authority(text) == expected
    assert (text in write_authorities(WEB)) == (expected is not None)


def test_delivery_is_believed_only_with_its_own_identity() -> None:
    made = emit_bootstrap(Proxy(SHOP, "web-1"), "xds.meshwright:15010", SETTINGS)
    [delivery] = [each for each in made["static_resources"]["clusters"] if each["name"] == "mesh/delivery"]
    assert tls_of(delivery["transport_socket"]) == (
        f"meshwright-xds.meshwright.{SUFFIX}",
        "spiffe://cluster.local/ns/meshwright/sa/meshwright-xds",
    )
    plain = emit_bootstrap(Proxy(SHOP, "web-1"), "xds.meshwright:15010", ProxySettings())
    assert all("transport_socket" not in each for each in plain["static_resources"]["clusters"])


@pytest.mark.parametrize("is_ingress", [False, True])
async def test_a_whole_configuration_with_identities_is_accepted(is_ingress: bool, tmp_path: Path) -> None:
    settings = replace(SETTINGS, identity_folder=str(tmp_path / "identity"), secrets_folder=str(tmp_path / "secrets"))
    anchor = make_anchor()
    anchor.issue(TRUST, ONE.account).write(settings, anchor)
    web = Service(
        ref=WEB.service.ref,
        uid="u",
        type="ClusterIP",
        addresses=("10.96.0.10",),
        is_headless=False,
        ports=(replace(port(80), name="http"), replace(port(81, is_opaque=True), name="raw")),
        selector=None,
    )
    other = replace(web, ref=Ref(Kind.SERVICE, SHOP, "other"), addresses=("10.96.0.11",), ports=(port(81),))
    own = replace(ONE, is_ingress=is_ingress, opaque=PortRanges(((Port(7000), Port(7001)),)))
    pieces = [make_slice(at("10.0.0.1", "Pod/one"), at("10.0.0.2", "Pod/two"))]
    resources = assemble(Proxy(SHOP, "one"), [], [web, other], pieces, settings, [own, TWO, OLD])
    assert await validate(flatten(Proxy(SHOP, "one"), resources, settings)) == ""
