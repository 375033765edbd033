"""One proxy's configuration, resource by resource."""

from dataclasses import replace
from typing import Any

import pytest

from meshwright.emit.bootstrap import emit_bootstrap
from meshwright.emit.clusters import emit_address_cluster, emit_blackhole, emit_endpoints, emit_service_cluster
from meshwright.emit.listeners import dev_listener, emit_inbound_listener, emit_outbound_listener
from meshwright.emit.names import Address, ServicePortName
from meshwright.emit.proxy import assemble, flatten, make_cluster
from meshwright.emit.scopes import emit_route_configuration, emit_scope
from meshwright.model.inbound import Inbound
from meshwright.model.proxy import EndpointSlice, Proxy, ProxySettings, SliceEndpoint
from meshwright.model.ref import Kind, Ref, ServiceName
from meshwright.model.units import Namespace, Port
from meshwright.model.workload import Protocol, Service, ServicePort

SHOP = Namespace("shop")
WEB = ServiceName(SHOP, "web")
WEB_80 = ServicePortName(WEB, Port(80))
SETTINGS = ProxySettings()
HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


def make_service(name: str = "web", *addresses: str, ports: tuple[ServicePort, ...] | None = None) -> Service:
    one = ServicePort(name="http", port=Port(80), target=Port(8080), protocol=Protocol.HTTP1)
    return Service(
        ref=Ref(Kind.SERVICE, SHOP, name),
        uid="u",
        type="ClusterIP",
        addresses=addresses or ("10.96.0.10",),
        is_headless=False,
        ports=(one,) if ports is None else ports,
        selector=None,
    )


def make_slice(*endpoints: SliceEndpoint, name: str = "web-1", ports: dict[str, int] | None = None) -> EndpointSlice:
    return EndpointSlice(
        ref=Ref(Kind.ENDPOINT_SLICE, SHOP, name),
        service=WEB,
        family="IPv4",
        ports={key: Port(port) for key, port in ({"http": 8080} if ports is None else ports).items()},
        endpoints=endpoints,
    )


def at(*addresses: str, **more: Any) -> SliceEndpoint:
    return SliceEndpoint(addresses=addresses, **more)


def socket(address: str, port: int = 8080) -> dict[str, Any]:
    return {"address": {"socket_address": {"address": address, "port_value": port}}}


def endpoints(*found: dict[str, Any], zone: str = "") -> dict[str, Any]:
    return {**({"locality": {"zone": zone}} if zone else {}), "lb_endpoints": [{"endpoint": each} for each in found]}


@pytest.mark.parametrize(
    ("slices", "expected"),
    [
        ([], []),
        ([make_slice(at("10.0.0.2"), at("10.0.0.1"))], [endpoints(socket("10.0.0.1"), socket("10.0.0.2"))]),
        ([make_slice(at("10.0.0.1", is_ready=False))], []),
        ([make_slice(at("10.0.0.1"), ports={"other": 8080})], []),
        (
            [make_slice(at("10.0.0.1")), make_slice(at("10.0.0.1"), at("10.0.0.3"), name="web-2")],
            [endpoints(socket("10.0.0.1"), socket("10.0.0.3"))],
        ),
        (
            [make_slice(at("10.0.0.1")), make_slice(at("10.0.0.2"), name="web-2", ports={"http": 9090})],
            [endpoints(socket("10.0.0.1"), socket("10.0.0.2", 9090))],
        ),
        (
            [make_slice(at("10.0.0.1", target="Pod/a")), make_slice(at("fd00::1", target="Pod/a"), name="web-v6")],
            [endpoints({**socket("10.0.0.1"), "additional_addresses": [socket("fd00::1")]})],
        ),
        (
            [make_slice(at("10.0.0.1", zone="b"), at("10.0.0.2", zone="a"), at("10.0.0.3"))],
            [
                endpoints(socket("10.0.0.3")),
                endpoints(socket("10.0.0.2"), zone="a"),
                endpoints(socket("10.0.0.1"), zone="b"),
            ],
        ),
    ],
    ids=["none", "sorted", "unready", "another port", "twice", "two targets", "dual stack", "zones"],
)
def test_endpoints_of_a_port(slices: list[EndpointSlice], expected: list[dict[str, Any]]) -> None:
    assert emit_endpoints(WEB_80, "http", slices) == {"cluster_name": "shop/web/80", "endpoints": expected}
    assert emit_endpoints(WEB_80, "http", reversed(slices)) == {"cluster_name": "shop/web/80", "endpoints": expected}


@pytest.mark.parametrize(
    ("protocol", "options"),
    [
        (Protocol.HTTP1, {"explicit_http_config": {"http_protocol_options": {}}}),
        (Protocol.HTTP2, {"explicit_http_config": {"http2_protocol_options": {}}}),
        (
            Protocol.DETECT,
            {"use_downstream_protocol_config": {"http_protocol_options": {}, "http2_protocol_options": {}}},
        ),
        (
            Protocol.OPAQUE,
            {"use_downstream_protocol_config": {"http_protocol_options": {}, "http2_protocol_options": {}}},
        ),
    ],
)
def test_a_cluster_of_a_service(protocol: Protocol, options: dict[str, Any]) -> None:
    limit = 1_000_000
    assert emit_service_cluster("10.96.0.10:80", WEB_80, protocol, SETTINGS) == {
        "name": "10.96.0.10:80",
        "type": "EDS",
        "eds_cluster_config": {
            "service_name": "shop/web/80",
            "eds_config": {"ads": {}, "resource_api_version": "V3"},
        },
        "connect_timeout": "1s",
        "common_lb_config": {"healthy_panic_threshold": {"value": 0}, "update_merge_window": "0s"},
        "circuit_breakers": {
            "thresholds": [
                {
                    "max_connections": limit,
                    "max_pending_requests": limit,
                    "max_requests": limit,
                    "max_retries": limit,
                }
            ]
        },
        "load_balancing_policy": {
            "policies": [
                {
                    "typed_extension_config": {
                        "name": "envoy.load_balancing_policies.least_request",
                        "typed_config": {
                            "@type": "type.googleapis.com/"
                            "envoy.extensions.load_balancing_policies.least_request.v3.LeastRequest",
                            "selection_method": "FULL_SCAN",
                        },
                    }
                }
            ]
        },
        "upstream_connection_options": {
            "tcp_keepalive": {"keepalive_time": 60, "keepalive_interval": 10, "keepalive_probes": 3}
        },
        "typed_extension_protocol_options": {HTTP_OPTIONS: {"@type": f"type.googleapis.com/{HTTP_OPTIONS}", **options}},
    }


@pytest.mark.parametrize(
    ("name", "owner", "expected"),
    [
        ("shop/web/80", None, emit_service_cluster("shop/web/80", WEB_80, Protocol.HTTP1, SETTINGS)),
        ("10.96.0.10:80", WEB_80, emit_service_cluster("10.96.0.10:80", WEB_80, Protocol.HTTP1, SETTINGS)),
        ("10.244.0.1:80", None, emit_address_cluster(Address("10.244.0.1", Port(80)), SETTINGS)),
        ("mesh/blackhole", None, emit_blackhole(SETTINGS)),
        ("10.244.0.1:4140", None, None),
        ("10.244.0.1:4143", None, None),
        ("shop/web/81", None, None),
        ("shop/other/80", None, None),
        ("a.name", None, None),
    ],
)
def test_a_cluster_for_any_name(name: str, owner: ServicePortName | None, expected: dict[str, Any] | None) -> None:
    assert make_cluster(name, {WEB: make_service()}, owner, SETTINGS) == expected


def test_an_address_cluster_is_that_address() -> None:
    cluster = emit_address_cluster(Address("fd00::1", Port(80)), SETTINGS)
    assert (cluster["name"], cluster["type"]) == ("[fd00::1]:80", "STATIC")
    assert cluster["load_assignment"] == {
        "cluster_name": "[fd00::1]:80",
        "endpoints": [endpoints(socket("fd00::1", 80))],
    }


def test_a_scope_leads_from_an_address_to_routes_when_first_used() -> None:
    assert emit_scope(Address("10.96.0.10", Port(80)), WEB_80) == {
        "name": "10.96.0.10:80",
        "on_demand": True,
        "route_configuration_name": "shop/web/80",
        "key": {"fragments": [{"string_key": "10.96.0.10:80"}]},
    }


def test_routes_without_policy_lead_to_the_service_without_time_limits() -> None:
    assert emit_route_configuration(WEB_80, None) == {
        "name": "shop/web/80",
        "request_headers_to_remove": ["proxy-status"],
        "most_specific_header_mutations_wins": True,
        "validate_clusters": False,
        "virtual_hosts": [
            {
                "name": "shop/web/80",
                "domains": ["*"],
                "routes": [
                    {
                        "match": {"prefix": "/"},
                        "route": {"cluster": "shop/web/80", "timeout": "0s", "idle_timeout": "0s"},
                    }
                ],
            }
        ],
    }


def test_everything_a_proxy_can_ask_for() -> None:
    udp = ServicePort(name="dns", port=Port(53), target=Port(53), protocol=Protocol.DETECT, transport="UDP")
    http = ServicePort(name="http", port=Port(80), target=Port(8080), protocol=Protocol.DETECT)
    headless = replace(make_service("cache"), addresses=(), is_headless=True)
    web = make_service("web", "10.96.0.10", "fd00::10", ports=(http, udp))
    resources = assemble(
        Proxy(SHOP, "client"), [], [web, headless], [make_slice(SliceEndpoint(addresses=("10.0.0.1",)))], SETTINGS
    )
    ports = {"shop/web/80", "shop/cache/80"}
    addresses = {"10.96.0.10:80", "[fd00::10]:80"}
    assert resources.listeners.keys() == {"outbound", "inbound"}
    assert resources.scopes.keys() == addresses
    assert resources.routes.keys() == ports | {"inbound/proxy-status"}
    assert resources.clusters.keys() == ports | addresses | {"mesh/blackhole"}
    assert resources.endpoints.keys() == ports


def test_the_order_of_inputs_changes_nothing() -> None:
    services = [make_service("web"), make_service("api"), make_service("cart", "10.96.0.12")]
    slices = [make_slice(SliceEndpoint(addresses=("10.0.0.1",)))]
    proxy = Proxy(SHOP, "client")
    forwards = flatten(proxy, assemble(proxy, [], services, slices, SETTINGS), SETTINGS)
    assert forwards == flatten(proxy, assemble(proxy, [], services[::-1], slices, SETTINGS), SETTINGS)


def test_the_outbound_listener_knows_no_service() -> None:
    listener = emit_outbound_listener(replace(SETTINGS, service_ranges=("10.96.0.0/12", "fd00:10:96::/112")))
    matches = {chain["name"]: chain["filter_chain_match"] for chain in listener["filter_chains"]}
    http = {"application_protocols": ["http/1.0", "http/1.1", "h2c"]}
    assert matches == {
        "services": {
            "prefix_ranges": [
                {"address_prefix": "10.96.0.0", "prefix_len": 12},
                {"address_prefix": "fd00:10:96::", "prefix_len": 112},
            ],
            **http,
        },
        "direct": http,
        "loop": {"destination_port": 4140},
    }
    assert listener["default_filter_chain"]["name"] == "tcp"


def test_nobody_waits_for_bytes_on_opaque_ports() -> None:
    def disabled(listener: dict[str, Any]) -> Any:
        return listener["listener_filters"][-1].get("filter_disabled")

    def emit_inbound(settings: ProxySettings) -> dict[str, Any]:
        return emit_inbound_listener(settings, Inbound())

    for emit in (emit_outbound_listener, emit_inbound):
        rules = disabled(emit(SETTINGS))["or_match"]["rules"]
        assert [rule["destination_port_range"]["start"] for rule in rules] == list(SETTINGS.opaque_ports)
        assert disabled(emit(replace(SETTINGS, opaque_ports=(Port(25),)))) == {
            "destination_port_range": {"start": 25, "end": 26}
        }
        assert disabled(emit(replace(SETTINGS, opaque_ports=()))) is None
    door = Address("127.0.0.1", Port(9000))
    sql = dev_listener(Address("10.96.0.11", Port(5432)), door, SETTINGS)
    assert disabled(sql) == {"destination_port_range": {"start": 9000, "end": 9001}}
    assert disabled(dev_listener(Address("10.96.0.11", Port(80)), door, SETTINGS)) is None


@pytest.mark.parametrize(
    ("delivery", "kind", "address"),
    [
        ("delivery.meshwright.svc:15010", "STRICT_DNS", "delivery.meshwright.svc"),
        ("10.96.0.1:15010", "STATIC", "10.96.0.1"),
        ("[fd00::1]:15010", "STATIC", "fd00::1"),
    ],
)
def test_a_bootstrap_says_who_it_is_and_where_delivery_is(delivery: str, kind: str, address: str) -> None:
    bootstrap = emit_bootstrap(Proxy(SHOP, "web-1"), delivery, SETTINGS)
    cluster = bootstrap["static_resources"]["clusters"][0]
    assert bootstrap["node"] == {"id": "shop/web-1", "cluster": "shop"}
    assert (cluster["name"], cluster["type"]) == ("mesh/delivery", kind)
    assert cluster["load_assignment"]["endpoints"] == [endpoints(socket(address, 15010))]
    assert bootstrap["dynamic_resources"].keys() == {"ads_config", "lds_config"}, "clusters are asked for by name"


@pytest.mark.parametrize("delivery", ["", "delivery", "delivery:", ":80", "delivery:http"])
def test_a_bootstrap_needs_host_and_port(delivery: str) -> None:
    with pytest.raises(ValueError, match="is not host:port"):
        emit_bootstrap(Proxy(SHOP, "web-1"), delivery, SETTINGS)
