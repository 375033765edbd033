"""Laws of parsing: it never fails, says the truth about where, and ignores what it does not know."""

import contextlib
import copy
import json
from collections.abc import Iterator
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from meshwright.model.problem import Reason
from meshwright.model.route import Route
from meshwright.model.snapshot import Broken, Parsed
from meshwright.model.units import Millis
from meshwright.parse.annotations import ANNOTATIONS
from meshwright.parse.duration import MAX_MILLIS, format_millis, parse_gateway_duration, parse_millis
from meshwright.parse.kinds import KINDS, parse_object, ref_of
from tests.parse.made import GATEWAY, Raw, find_problems, make
from tests.parse.policy_rows import ROWS as POLICY_ROWS

RICH: tuple[Raw, ...] = (
    make(
        f"{GATEWAY}/v1",
        "HTTPRoute",
        {
            "parentRefs": [{"group": "", "kind": "Service", "name": "cart", "port": 80, "sectionName": "web"}],
            "hostnames": ["cart.example"],
            "rules": [
                {
                    "name": "first",
                    "matches": [
                        {
                            "path": {"type": "PathPrefix", "value": "/old"},
                            "method": "GET",
                            "headers": [{"type": "RegularExpression", "name": "Env", "value": ".+"}],
                            "queryParams": [{"type": "Exact", "name": "q", "value": "1"}],
                        }
                    ],
                    "filters": [
                        {
                            "type": "RequestHeaderModifier",
                            "requestHeaderModifier": {
                                "set": [{"name": "a", "value": "1"}],
                                "add": [{"name": "b", "value": "2"}],
                                "remove": ["c"],
                            },
                        },
                        {
                            "type": "URLRewrite",
                            "urlRewrite": {
                                "hostname": "a.b",
                                "path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/new"},
                            },
                        },
                    ],
                    "backendRefs": [
                        {"name": "v1", "port": 80, "weight": 90},
                        {
                            "group": "",
                            "kind": "Service",
                            "namespace": "other",
                            "name": "v2",
                            "port": 80,
                            "weight": 10,
                            "filters": [
                                {"type": "ResponseHeaderModifier", "responseHeaderModifier": {"remove": ["x"]}}
                            ],
                        },
                    ],
                    "timeouts": {"request": "10s", "backendRequest": "1s"},
                    "retry": {"attempts": 3, "codes": [500, 503], "backoff": "10ms"},
                },
                {
                    "filters": [
                        {
                            "type": "RequestRedirect",
                            "requestRedirect": {
                                "scheme": "https",
                                "hostname": "a",
                                "port": 443,
                                "statusCode": 301,
                                "path": {"type": "ReplaceFullPath", "replaceFullPath": "/x"},
                            },
                        }
                    ]
                },
            ],
        },
        annotations={"retry.linkerd.io/http": "5xx", "timeout.linkerd.io/request": "1s"},
        labels={"a": "b"},
        creationTimestamp="2026-01-31T23:59:59Z",
    ),
    make(
        f"{GATEWAY}/v1",
        "GRPCRoute",
        {
            "parentRefs": [{"group": "", "kind": "Service", "name": "cart"}],
            "rules": [
                {
                    "matches": [
                        {"method": {"type": "RegularExpression", "service": "a.*", "method": "b"}},
                        {"method": {"type": "Exact", "service": "a", "method": "b"}},
                    ],
                    "backendRefs": [{"name": "v1", "port": 80}],
                }
            ],
        },
    ),
    make(
        "v1",
        "Service",
        {
            "type": "ClusterIP",
            "clusterIP": "10.0.0.1",
            "clusterIPs": ["10.0.0.1"],
            "ipFamilies": ["IPv4"],
            "ports": [{"name": "web", "port": 80, "targetPort": 8080, "protocol": "TCP", "appProtocol": "http"}],
            "selector": {"a": "b"},
        },
    ),
    make("v1", "Namespace", {}, labels={"a": "b"}, annotations={"c": "d"}),
    make(
        f"{GATEWAY}/v1",
        "ReferenceGrant",
        {"from": [{"group": "", "kind": "A", "namespace": "b"}], "to": [{"group": "", "kind": "B", "name": "c"}]},
    ),
    {
        **make(
            "workload.linkerd.io/v1beta1",
            "ExternalWorkload",
            {
                "meshTLS": {"identity": "a", "serverName": "b"},
                "ports": [{"name": "sql", "port": 5432, "protocol": "TCP"}],
                "workloadIPs": [{"ip": "10.0.0.9"}],
            },
        ),
        "status": {"conditions": [{"type": "Ready", "status": "True"}]},
    },
    make(
        "workload.buoyant.io/v1alpha1",
        "ExternalGroup",
        {
            "template": {
                "metadata": {"labels": {"app": "ledger"}, "annotations": {"config.linkerd.io/opaque-ports": "5432"}},
                "ports": [{"name": "sql", "port": 5432, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}],
            },
            "probes": [
                {
                    "httpGet": {
                        "host": "127.0.0.1",
                        "path": "/ready",
                        "port": "sql",
                        "scheme": "HTTPS",
                        "httpHeaders": [{"name": "a", "value": "b"}],
                    },
                    "initialDelaySeconds": 1,
                    "periodSeconds": 2,
                    "timeoutSeconds": 3,
                    "failureThreshold": 4,
                    "successThreshold": 5,
                }
            ],
        },
    ),
    make(
        "meshwright.dev/v1alpha1",
        "RegistrationPolicy",
        {
            "targetRef": {"group": "workload.buoyant.io", "kind": "ExternalGroup", "name": "ledger"},
            "modes": ["JoinToken", "SPIFFE"],
            "identities": ["spiffe://root/vm/*", "*.vm.example.com"],
            "allowedCIDRs": ["192.0.2.0/24"],
            "addressFrom": ["192.0.2.0/25"],
            "allowedLabels": ["tier"],
            "identityScope": "Group",
            "limits": {"instances": 3},
            "timers": {
                "beatSeconds": 1,
                "leaseSeconds": 3,
                "goneAfterSeconds": 4,
                "groupGoneAfterSeconds": 0,
                "lastEndpointHoldSeconds": 0,
            },
            "heartbeatLoss": "TolerateIfReachable",
            "reachability": "Gate",
            "zone": "a",
        },
    ),
    *(row.raw for row in POLICY_ROWS if not row.faults and row.kind != "HTTPRoute"),
)
MAPS = frozenset(("labels", "annotations", "selector", "matchLabels"))
TEXTS = st.text(st.characters(exclude_categories=()), max_size=8)
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    TEXTS,
    st.sampled_from(["x" * 10_000, "", "/", "Exact", "core", "(", "0", "1s", "-1", "None", 10**4000, -1, 0, 65536]),
)
KEYS = st.one_of(TEXTS, st.sampled_from(["name", "type", "value", "path", "port", "spec", *ANNOTATIONS]))
JSON = st.recursive(
    LEAVES,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(KEYS, inner, max_size=4)),
    max_leaves=12,
)
ROWS = st.sampled_from(list(KINDS.values()))


def walk(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Yield the path of every part of ``value``."""
    yield path
    if isinstance(value, dict):
        for key, item in value.items():
            yield from walk(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from walk(item, (*path, index))


def find(value: Any, path: tuple[str | int, ...]) -> Any:
    for part in path:
        value = value[part]
    return value


PARTS = [(index, path) for index, raw in enumerate(RICH) for path in walk(raw) if path]
TELLS_UNKNOWN = ("ExternalGroup", "RegistrationPolicy")
"""The kinds that tell of fields that they do not know."""
UNKNOWN_PLACES = [
    (index, path)
    for index, raw in enumerate(RICH)
    for path in walk(raw)
    if isinstance(find(raw, path), dict) and not MAPS & set(path) and raw["kind"] not in TELLS_UNKNOWN
]


def check(parsed: Parsed) -> None:
    """Everything that is said can be written into a status, and names a place in the object."""
    for problem in find_problems(parsed):
        assert problem.message == problem.message.encode().decode()
        assert problem.field == problem.field.encode().decode()
        assert problem.field.split(".")[0].split("[")[0] in ("apiVersion", "metadata", "spec")
        assert len(str(problem)) < 1000
    if isinstance(parsed, Route):
        for rule in parsed.rules:
            assert rule.matches or rule.problems
            assert all(problem.field.startswith(rule.field) for problem in rule.problems)
            for backend in rule.backends:
                assert backend.field.startswith(f"{rule.field}.backendRefs[")
                assert all(problem.field.startswith(backend.field) for problem in backend.problems)
                assert backend.problems or (backend.name and backend.port)


def test_the_rich_objects_are_sound() -> None:
    for raw in RICH:
        parsed = parse_object(raw)
        assert parsed is not None
        assert find_problems(parsed) == []


@given(JSON)
def test_no_value_makes_parsing_fail(raw: Any) -> None:
    assert parse_object(raw) is None
    assert ref_of(raw) is None


@given(ROWS, st.data())
def test_no_object_of_a_known_kind_makes_parsing_fail(row: Any, data: st.DataObject) -> None:
    raw = {
        "apiVersion": data.draw(st.sampled_from(row.api_versions)),
        "kind": row.kind.word,
        "metadata": data.draw(st.one_of(JSON, st.just({"name": "a", "namespace": "b"}))),
        "spec": data.draw(JSON),
        "status": data.draw(JSON),
    }
    parsed = parse_object(raw)
    assert parsed is not None
    assert parsed.ref == ref_of(raw)
    check(parsed)


@settings(max_examples=500)
@given(st.sampled_from(PARTS), JSON)
def test_any_value_at_any_place_is_read_or_said(part: tuple[int, tuple[str | int, ...]], value: Any) -> None:
    index, path = part
    raw = copy.deepcopy(RICH[index])
    find(raw, path[:-1])[path[-1]] = value
    before = repr(raw)
    parsed = parse_object(raw)
    assert repr(raw) == before
    if parsed is not None:
        check(parsed)
        assert parsed == parse_object(copy.deepcopy(raw))


@settings(max_examples=300)
@given(st.sampled_from(PARTS))
def test_null_is_absent(part: tuple[int, tuple[str | int, ...]]) -> None:
    index, path = part
    if MAPS & set(path[:-1]) or isinstance(path[-1], int):
        return
    with_null, without = copy.deepcopy(RICH[index]), copy.deepcopy(RICH[index])
    find(with_null, path[:-1])[path[-1]] = None
    del find(without, path[:-1])[path[-1]]
    read, expected = parse_object(with_null), parse_object(without)
    if not isinstance(read, Broken):
        assert read == expected
    else:
        assert isinstance(expected, Broken)
        assert [p.field for p in read.problems] == [p.field for p in expected.problems]


@given(
    st.sampled_from(UNKNOWN_PLACES), st.dictionaries(TEXTS.map(lambda text: f"x{text}"), JSON, min_size=1, max_size=3)
)
def test_unknown_fields_change_nothing(place: tuple[int, tuple[str | int, ...]], unknown: Raw) -> None:
    index, path = place
    raw = copy.deepcopy(RICH[index])
    find(raw, path).update(unknown)
    assert parse_object(raw) == parse_object(RICH[index])


@given(st.integers(min_value=0, max_value=len(RICH) - 1), st.randoms(use_true_random=False))
def test_the_order_of_fields_changes_nothing(index: int, random: Any) -> None:
    def shuffle(value: Any) -> Any:
        if isinstance(value, dict):
            items = [(key, shuffle(item)) for key, item in value.items()]
            random.shuffle(items)
            return dict(items)
        return [shuffle(item) for item in value] if isinstance(value, list) else value

    assert parse_object(shuffle(RICH[index])) == parse_object(RICH[index])


@given(st.dictionaries(st.one_of(st.sampled_from(list(ANNOTATIONS)), KEYS), JSON, max_size=6))
def test_annotations_never_break_a_route(annotations: Raw) -> None:
    raw = copy.deepcopy(RICH[1])
    raw["metadata"]["annotations"] = annotations
    parsed = parse_object(raw)
    assert isinstance(parsed, Route)
    assert [rule.problems for rule in parsed.rules] == [()]
    assert {problem.reason for problem in parsed.problems} <= {Reason.INVALID_ANNOTATION}
    check(parsed)


@given(st.integers(min_value=0, max_value=MAX_MILLIS).map(Millis))
def test_every_duration_reads_back_as_itself(value: Millis) -> None:
    assert parse_millis(format_millis(value)) == value


@given(st.text(max_size=20))
def test_a_duration_is_read_or_refused(text: str) -> None:
    for parse in (parse_millis, parse_gateway_duration):
        with contextlib.suppress(ValueError):
            assert parse(text) >= 0


@given(st.lists(st.tuples(st.integers(0, 99_999), st.sampled_from(["h", "m", "s", "ms"])), min_size=1, max_size=4))
def test_a_gateway_duration_is_the_sum_of_its_parts(parts: list[tuple[int, str]]) -> None:
    sizes = {"h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1}
    text = "".join(f"{count}{unit}" for count, unit in parts)
    assert parse_gateway_duration(text) == sum(count * sizes[unit] for count, unit in parts)


def test_the_rich_objects_are_json() -> None:
    assert tuple(json.loads(json.dumps(RICH))) == RICH
