"""Laws of Servers: what should be depends on what there is, and on nothing else."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from meshwright.model.config import Config
from meshwright.model.desired import Desired
from meshwright.model.inbound import ServerPolicy
from meshwright.model.policy import AccessPolicy, Network, Proof, ProxyProtocol
from meshwright.model.problem import Problem, Reason
from meshwright.model.ref import Kind, Ref
from meshwright.model.route import Filters, GrpcMatch, HttpMatch, Path, PathMatch, Rewrite, Route
from meshwright.model.selector import Selector
from meshwright.model.snapshot import Broken, Parsed
from meshwright.model.units import Namespace, Port
from meshwright.model.workload import ExternalWorkload
from meshwright.parse.inbound_unit import parse_inbound_unit
from meshwright.pipeline import Compiler
from tests.link.made import bad, rule
from tests.link.policies import (
    FAULT,
    account,
    limit,
    mesh_tls,
    network,
    on_server,
    policy,
    ref,
    server,
    server_authorization,
)

NAMES = st.sampled_from(["a", "b"])
NAMESPACES = st.sampled_from(["shop", "client"])
LABELS = st.sampled_from([(), (("app", "a"),), (("app", "a"), ("tier", "1")), (("app", "b"),)])
CREATED = st.sampled_from([None, 1, 2])
SELECTORS = LABELS.map(lambda labels: Selector(labels=labels))
ROUTE_KINDS = (Kind.HTTP_ROUTE, Kind.POLICY_HTTP_ROUTE, Kind.GRPC_ROUTE)
AUTHENTICATIONS = (Kind.MESH_TLS_AUTHENTICATION, Kind.NETWORK_AUTHENTICATION)
NAMED: dict[str, Any] = {"name": NAMES, "namespace": NAMESPACES}
VOID = st.sampled_from([{}, {}, {}, {"is_void": True, "problems": (FAULT,)}])

servers = st.builds(
    server,
    **NAMED,
    created=CREATED,
    uid=st.sampled_from(["1", "2"]),
    labels=LABELS,
    selector=SELECTORS,
    selects_external=st.booleans(),
    port=st.sampled_from([Port(80), "http"]),
    protocol=st.sampled_from([*ProxyProtocol, ProxyProtocol.GRPC, ProxyProtocol.HTTP1]),
    access=st.sampled_from(AccessPolicy),
)


@st.composite
def authorizations(draw: st.DrawFn) -> Parsed:
    who: dict[str, Any] = draw(
        st.sampled_from(
            [
                {"proof": Proof.ANY_TLS},
                {"networks": (Network("10.0.0.0/8"),)},
                {"proof": Proof.IDENTITY, "identities": ("*", "*.x", "y"), "accounts": (account("a"),)},
            ]
        )
    )
    where: dict[str, Any] = {"selector": draw(SELECTORS)} if draw(st.booleans()) else {"server": draw(NAMES)}
    return server_authorization(draw(NAMES), draw(NAMESPACES), **who, **where, **draw(VOID))


@st.composite
def policies(draw: st.DrawFn) -> Parsed:
    namespace = draw(NAMESPACES)
    target = draw(
        st.sampled_from(
            [
                *(ref(kind, name, namespace) for kind in (Kind.SERVER, *ROUTE_KINDS) for name in ("a", "b")),
                ref(Kind.NAMESPACE, namespace, ""),
            ]
        )
    )
    required = draw(st.lists(st.builds(ref, st.sampled_from(AUTHENTICATIONS), NAMES, NAMESPACES), max_size=2))
    return policy(draw(NAMES), namespace, target, required=tuple(required), **draw(VOID))


authentications = st.one_of(
    st.builds(lambda name, namespace, void: mesh_tls(name, namespace, identities=("*",), **void), **NAMED, void=VOID),
    st.builds(
        lambda name, namespace, void: network(name, namespace, networks=(Network("10.0.0.0/8"),), **void),
        **NAMED,
        void=VOID,
    ),
)
limits = st.builds(
    limit,
    **NAMED,
    created=CREATED,
    server=NAMES,
    total=st.sampled_from([None, 1]),
    refusal=st.sampled_from([None, None, FAULT]),
)


@st.composite
def routes(draw: st.DrawFn) -> Route:
    kind = draw(st.sampled_from(ROUTE_KINDS))
    rules = []
    for index in range(draw(st.integers(0, 2))):
        path = Path(how=PathMatch.PREFIX, value=draw(st.sampled_from(["/", "/a"])))
        matches: Any = (GrpcMatch(),) if kind is Kind.GRPC_ROUTE else (HttpMatch(path=path),)
        more: dict[str, Any] = draw(
            st.sampled_from(
                [
                    {},
                    {},
                    {},
                    {"problems": (bad(field=f"spec.rules[{index}]"),)},
                    {"filters": Filters(rewrite=Rewrite())},
                ]
            )
        )
        rules.append(rule(index, matches=matches, backends=(), **more))
    parents = []
    for index in range(draw(st.integers(0, 2))):
        port: dict[str, Any] = {"port": Port(80)} if draw(st.integers(0, 5)) == 0 else {}
        parents.append(on_server(draw(NAMES), draw(NAMESPACES), index, **port))
    return Route(
        ref=ref(kind, draw(NAMES), draw(NAMESPACES)),
        generation=1,
        created=draw(CREATED),
        parents=tuple(parents),
        hostnames=draw(st.sampled_from([(), ("a.test", "*.test")])),
        rules=tuple(rules),
    )


workloads = st.builds(
    lambda name, namespace, labels, ready: ExternalWorkload(
        ref=ref(Kind.EXTERNAL_WORKLOAD, name, namespace), uid="1", ips=(), ports=(), is_ready=ready, labels=labels
    ),
    **NAMED,
    labels=LABELS,
    ready=st.booleans(),
)
broken = st.builds(
    lambda kind, name, namespace: Broken(ref=ref(kind, name, namespace), generation=1, problems=(FAULT,)),
    st.sampled_from([Kind.SERVER, *ROUTE_KINDS, *AUTHENTICATIONS, Kind.RATE_LIMIT_POLICY, Kind.AUTHORIZATION_POLICY]),
    NAMES,
    NAMESPACES,
)
OBJECTS: st.SearchStrategy[Parsed] = st.one_of(
    servers,
    servers,
    authorizations(),
    policies(),
    policies(),
    authentications,
    limits,
    routes(),
    routes(),
    workloads,
    broken,
)


@st.composite
def histories(draw: st.DrawFn) -> list[dict[Ref, Parsed | None]]:
    """Batches of changes: objects put, put again differently, and removed."""
    batches: list[dict[Ref, Parsed | None]] = []
    known: list[Ref] = []
    for _ in range(draw(st.integers(1, 5))):
        batch: dict[Ref, Parsed | None] = {}
        for value in draw(st.lists(OBJECTS, max_size=6)):
            batch[value.ref] = value
            known.append(value.ref)
        for gone in draw(st.lists(st.sampled_from(known), max_size=3)) if known else []:
            batch[gone] = None
        batches.append(batch)
    return batches


def shape(compiler: Compiler) -> dict[str, Any]:
    desired = compiler.desired
    return {
        "units": dict(desired.units),
        "statuses": dict(desired.statuses),
        "problems": dict(desired.problems),
        "servers": dict(compiler.servers),
    }


def compiled(objects: dict[Ref, Parsed]) -> Compiler:
    compiler = Compiler(Config())
    compiler.update(objects)
    return compiler


@given(histories())
@settings(max_examples=200, deadline=None)
def test_any_history_ends_where_compiling_its_outcome_does(history: list[dict[Ref, Parsed | None]]) -> None:
    compiler = Compiler(Config())
    objects: dict[Ref, Parsed] = {}
    told: dict[str, dict[Any, Any]] = {"units": {}, "statuses": {}, "problems": {}}
    for batch in history:
        answer = compiler.update(batch)
        for part, known in told.items():
            known |= getattr(answer, part)
        for each, value in batch.items():
            objects.pop(each, None)
            if value is not None:
                objects[each] = value
    whole = shape(compiler)
    assert whole == shape(compiled(objects))
    for part, known in told.items():
        assert {key: value for key, value in known.items() if value} == whole[part], part
    compiler.update(dict.fromkeys(objects))
    assert (compiler.desired, dict(compiler.servers)) == (Desired(), {})


@given(st.lists(OBJECTS, max_size=14, unique_by=lambda value: value.ref), st.randoms(use_true_random=False))
@settings(max_examples=100, deadline=None)
def test_the_order_of_updates_does_not_matter(objects: list[Parsed], random: Any) -> None:
    shuffled = list(objects)
    random.shuffle(shuffled)
    one_by_one = Compiler(Config())
    for value in shuffled:
        one_by_one.update({value.ref: value})
    assert shape(one_by_one) == shape(compiled({value.ref: value for value in objects}))


@given(st.lists(OBJECTS, max_size=14, unique_by=lambda value: value.ref))
@settings(max_examples=100, deadline=None)
def test_every_unit_reads_back_as_the_policy_it_was_made_of(objects: list[Parsed]) -> None:
    compiler = compiled({value.ref: value for value in objects})
    read = [parse_inbound_unit(unit) for unit in compiler.desired.units.values() if unit is not None]
    assert {each.server: each for each in read if isinstance(each, ServerPolicy)} == {
        each: linked.policy for each, linked in compiler.servers.items()
    }
    assert len(read) == len(compiler.servers)


def grants(compiler: Compiler) -> set[tuple[Ref, str, str]]:
    """Return every authorization of any Server or route, but for those of access policies."""
    found = set()
    for each, linked in compiler.servers.items():
        for authorization in linked.policy.authorizations:
            if authorization.source.kind != "default":
                found.add((each, "", str(authorization)))
        for made in linked.policy.rules:
            found |= {(each, str(made.route), str(authorization)) for authorization in made.authorizations}
    return found


BREAKABLE = (Kind.SERVER_AUTHORIZATION, Kind.AUTHORIZATION_POLICY, *AUTHENTICATIONS)


@given(st.lists(OBJECTS, max_size=14, unique_by=lambda value: value.ref), st.data())
@settings(max_examples=100, deadline=None)
def test_a_broken_or_missing_policy_lets_in_nobody_whom_its_absence_would_not(
    objects: list[Parsed], data: st.DataObject
) -> None:
    by_ref = {value.ref: value for value in objects}
    candidates = sorted(each for each in by_ref if each.kind in BREAKABLE)
    if not candidates:
        return
    chosen = data.draw(st.sampled_from(candidates))
    problem = Problem("", Reason.INVALID_OBJECT, "broken")
    broke = compiled({**by_ref, chosen: Broken(ref=chosen, generation=1, problems=(problem,))})
    absent = compiled({each: value for each, value in by_ref.items() if each != chosen})
    assert grants(broke) == grants(absent)
    assert grants(absent) <= grants(compiled(by_ref))


def test_namespaces_do_not_mix() -> None:
    other = policy("a", "client", ref(Kind.SERVER, "web", "client"))
    objects: list[Parsed] = [server(), other, server_authorization(namespace="client", selector=Selector())]
    linked = compiled({value.ref: value for value in objects}).servers[ref(Kind.SERVER, "web")]
    assert linked.policy.authorizations == ()
    assert Namespace("client") not in {missed.source.namespace for missed in linked.missed}
