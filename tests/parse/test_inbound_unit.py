"""Units of inbound policy read back as what was written, in full or not at all."""

import copy
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshwright.emit.inbound_unit import emit_defaults_unit, emit_inbound_unit
from meshwright.model.config import Config
from meshwright.model.inbound import (
    EVERYWHERE,
    Authorization,
    InboundRule,
    PolicyDefaults,
    RateLimit,
    RateShare,
    ServerPolicy,
    Source,
)
from meshwright.model.policy import AccessPolicy, Network, Proof, ProxyProtocol
from meshwright.model.problem import Problem, Reason
from meshwright.model.ref import Kind, Ref
from meshwright.model.route import (
    Filters,
    FullPath,
    GrpcMatch,
    Header,
    HeaderModifier,
    HttpMatch,
    NamedText,
    Path,
    PathMatch,
    PrefixPath,
    Redirect,
    Text,
    TextMatch,
)
from meshwright.model.selector import Expression, Operator, Selector
from meshwright.model.units import Namespace, Port
from meshwright.parse.inbound_unit import parse_defaults_unit, parse_inbound_unit

NAMES = st.sampled_from(["a", "b-c", "é"])
TEXTS = st.builds(Text, how=st.sampled_from(TextMatch), value=NAMES)
NAMED = st.lists(st.builds(NamedText, name=NAMES, text=TEXTS), max_size=2).map(tuple)
NETWORKS = st.one_of(
    st.just(EVERYWHERE),
    st.lists(st.sampled_from([Network("10.0.0.0/8", ("10.1.0.0/16",)), Network("fd00::/8")]), max_size=2).map(tuple),
)
AUTHORIZATIONS = st.builds(
    Authorization,
    source=st.builds(Source, st.just("g"), NAMES, NAMES, NAMES),
    networks=NETWORKS,
    proof=st.sampled_from(Proof),
    exact=st.lists(NAMES, max_size=2).map(tuple),
    suffixes=st.lists(NAMES.map(lambda name: f".{name}"), max_size=2).map(tuple),
    is_any=st.booleans(),
)
GRANTED = st.lists(AUTHORIZATIONS, max_size=3).map(tuple)
HEADERS = st.lists(st.builds(Header, name=NAMES, value=NAMES), max_size=2).map(tuple)
MODIFIERS = st.builds(HeaderModifier, set=HEADERS, add=HEADERS, remove=st.lists(NAMES, max_size=2).map(tuple))
REDIRECTS = st.builds(
    Redirect,
    scheme=st.sampled_from([None, "http", "https"]),
    hostname=st.one_of(st.none(), NAMES),
    path=st.sampled_from([None, FullPath(value="/"), PrefixPath(matched="/a", value="")]),
    port=st.sampled_from([None, Port(65535)]),
    status=st.sampled_from([301, 308]),
)
FILTERS = st.builds(
    Filters,
    request_headers=st.one_of(st.none(), MODIFIERS),
    response_headers=st.one_of(st.none(), MODIFIERS),
    redirect=st.one_of(st.none(), REDIRECTS),
)
HTTP = st.builds(
    HttpMatch,
    path=st.builds(Path, how=st.sampled_from(PathMatch), value=st.sampled_from(["/", "/a"])),
    method=st.sampled_from([None, "GET"]),
    headers=NAMED,
    query=NAMED,
)
GRPC = st.builds(GrpcMatch, service=st.one_of(st.none(), TEXTS), method=st.one_of(st.none(), TEXTS), headers=NAMED)


@st.composite
def rules(draw: st.DrawFn) -> InboundRule:
    kind = draw(st.sampled_from([Kind.HTTP_ROUTE, Kind.POLICY_HTTP_ROUTE, Kind.GRPC_ROUTE]))
    match: HttpMatch | GrpcMatch = draw(GRPC) if kind is Kind.GRPC_ROUTE else draw(HTTP)
    return InboundRule(
        route=Ref(kind, Namespace("shop"), draw(NAMES)),
        index=draw(st.integers(0, 3)),
        match=match,
        filters=draw(FILTERS),
        hostnames=draw(st.lists(NAMES, max_size=2).map(tuple)),
        authorizations=draw(GRANTED),
    )


LIMITS = st.builds(
    RateLimit,
    policy=st.builds(Ref, st.just(Kind.RATE_LIMIT_POLICY), st.just(Namespace("shop")), NAMES),
    total=st.sampled_from([None, 1]),
    per_identity=st.sampled_from([None, 7]),
    overrides=st.lists(
        st.builds(RateShare, per_second=st.integers(1, 9), identities=st.lists(NAMES, max_size=2).map(tuple)),
        max_size=2,
    ).map(tuple),
)


PORTS: st.SearchStrategy[Port | str] = st.sampled_from([Port(1), Port(65535), "http"])


@st.composite
def server_policies(draw: st.DrawFn) -> ServerPolicy:
    is_routed = draw(st.booleans())
    expression = Expression(
        key="k", operator=draw(st.sampled_from(Operator)), values=draw(st.sampled_from([(), ("v",)]))
    )
    return ServerPolicy(
        server=Ref(Kind.SERVER, Namespace("shop"), draw(NAMES)),
        uid=draw(st.sampled_from(["", "1"])),
        created=draw(st.sampled_from([None, -1, 5])),
        selects_external=draw(st.booleans()),
        selector=Selector(
            labels=draw(st.sampled_from([(), (("a", ""), ("b", "c"))])),
            expressions=draw(st.sampled_from([(), (expression,)])),
        ),
        port=draw(PORTS),
        protocol=draw(st.sampled_from(ProxyProtocol)),
        access=draw(st.sampled_from(AccessPolicy)),
        authorizations=draw(GRANTED),
        is_routed=is_routed,
        rules=tuple(draw(st.lists(rules(), max_size=3))) if is_routed else (),
        rate_limit=draw(st.one_of(st.none(), LIMITS)),
    )


def unit_of(policy: ServerPolicy) -> dict[str, Any]:
    unit = emit_inbound_unit(policy)
    assert isinstance(unit, dict)
    return unit


@given(server_policies())
@settings(max_examples=200, deadline=None)
def test_every_policy_reads_back_as_itself(policy: ServerPolicy) -> None:
    assert parse_inbound_unit(unit_of(policy)) == policy
    assert unit_of(policy) == unit_of(policy)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, part in items for place in places(part, (*path, key)))]


@given(server_policies(), st.data())
@settings(max_examples=300, deadline=None)
def test_a_policy_that_was_tampered_with_never_raises(policy: ServerPolicy, data: st.DataObject) -> None:
    unit = unit_of(policy)
    said = json.loads(unit["data"]["unit.json"])
    where = data.draw(st.sampled_from(places(said)[1:]))
    junk: Any = data.draw(
        st.sampled_from([None, True, -1, 10**30, 1.5, "", "x", "10.0.0.1/8", "\ud800", [], [[]], {}, {"a": 1}])
    )
    part = said
    for key in where[:-1]:
        part = part[key]
    if data.draw(st.booleans()):
        part[where[-1]] = junk
    elif isinstance(part, dict):
        part["unknown"] = part.pop(where[-1])
    tampered = copy.deepcopy(unit)
    tampered["data"]["unit.json"] = json.dumps(said)
    found = parse_inbound_unit(tampered)
    if isinstance(found, ServerPolicy):
        assert parse_inbound_unit(unit_of(found)) == found
    else:
        assert (found.field, found.reason) == ("data[unit.json]", Reason.INVALID_OBJECT)


POLICY = ServerPolicy(
    server=Ref(Kind.SERVER, Namespace("shop"), "web"),
    selector=Selector(),
    port=Port(80),
    authorizations=(Authorization(source=Source("", "default", "", "x"), suffixes=(".a",)),),
)


@pytest.mark.parametrize(
    ("path", "value", "why"),
    [
        (("version",), 2, "version: it is of version 2, and only 1 can be read"),
        (("more",), 1, "'more' is not known"),
        (("port",), 0, "a port is not within 1 to 65535"),
        (("port",), True, "something is no whole number"),
        (("server", "namespace"), "front", "the Server is of another namespace than the ConfigMap, shop"),
        (("authorizations",), [1], "there is no such grant"),
        (("authorizations",), [-1], "a number is less than 0"),
        (("grants", 0, "suffixes"), ["."], "a suffix does not begin with a dot"),
        (("grants", 0, "suffixes"), ["a.b"], "a suffix does not begin with a dot"),
        (("grants", 0, "exact"), [""], "a name is empty"),
        (("grants", 0, "networks"), [{"cidr": "10.0.0.1/8"}], "10.0.0.1/8 has host bits set"),
        (("grants", 0, "proof"), "none", "'none' is not a valid Proof"),
        (("access",), "allow", "'allow' is not a valid AccessPolicy"),
    ],
)
def test_a_policy_that_says_something_else_is_not_read(path: tuple[Any, ...], value: Any, why: str) -> None:
    unit = unit_of(POLICY)
    said = part = json.loads(unit["data"]["unit.json"])
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    unit["data"]["unit.json"] = json.dumps(said)
    found = parse_inbound_unit(unit)
    assert isinstance(found, Problem)
    assert why in found.message


@pytest.mark.parametrize("data", [None, {}, {"unit.json": None}, {"unit.json": "["}, {"unit.json": "[1]"}])
def test_a_config_map_without_a_policy_is_not_read(data: Any) -> None:
    raw = {"metadata": {"namespace": "shop", "name": "mw-in-web"}, **({} if data is None else {"data": data})}
    assert isinstance(parse_inbound_unit(raw), Problem)
    assert isinstance(parse_defaults_unit(raw), Problem)


@given(
    st.builds(
        PolicyDefaults,
        access=st.sampled_from(AccessPolicy),
        cluster_networks=st.sampled_from([(), ("10.0.0.0/8", "fd00::/8")]),
        probe_networks=st.sampled_from([(), ("::/0",)]),
        follows_namespace=st.booleans(),
    )
)
def test_defaults_read_back_as_themselves(defaults: PolicyDefaults) -> None:
    assert parse_defaults_unit(emit_defaults_unit(Config(policy=defaults))) == defaults
