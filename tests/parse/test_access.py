"""The words of access policies, and the annotations that say them."""

from typing import Any

import pytest

from meshwright.model.pod import PortRanges
from meshwright.model.policy import AccessPolicy
from meshwright.model.problem import Problem, Reason
from meshwright.model.units import Port
from meshwright.model.workload import ExternalWorkload, NamespaceObject
from meshwright.parse.access import WORDS, parse_access_policy, read_access_policy
from meshwright.parse.kinds import parse_object
from tests.parse.made import make

OWN, LINKERD = (f"config.{prefix}/default-inbound-policy" for prefix in ("meshwright.dev", "linkerd.io"))
ASKS = "proxy-require-identity-inbound-ports"


@pytest.mark.parametrize("policy", AccessPolicy)
def test_every_policy_is_read_by_its_word(policy: AccessPolicy) -> None:
    assert parse_access_policy(policy.value) is policy
    assert parse_access_policy(f" {policy.value}") is None
    assert parse_access_policy(policy.value.upper()) is None


def find_problem(key: str, found: str) -> Problem:
    message = f"found {found}; write one of {WORDS}; it is ignored"
    return Problem(f"metadata.annotations[{key}]", Reason.INVALID_ANNOTATION, message)


@pytest.mark.parametrize(
    ("annotations", "access", "problems"),
    [
        ({}, None, []),
        ({"a": "deny"}, None, []),
        ({LINKERD: "deny"}, AccessPolicy.DENY, []),
        ({OWN: "audit"}, AccessPolicy.AUDIT, []),
        ({LINKERD: "deny", OWN: "audit"}, AccessPolicy.AUDIT, []),
        ({LINKERD: "deny", OWN: "Audit"}, AccessPolicy.DENY, [find_problem(OWN, '"Audit"')]),
        ({LINKERD: "allow"}, None, [find_problem(LINKERD, '"allow"')]),
        ({LINKERD: 3, OWN: ""}, None, [find_problem(OWN, "an empty text"), find_problem(LINKERD, "3")]),
    ],
)
def test_annotations_say_a_policy(
    annotations: dict[str, Any], access: AccessPolicy | None, problems: list[Problem]
) -> None:
    found: list[Problem] = []
    assert (read_access_policy(annotations, found), found) == (access, problems)


def test_a_namespace_says_a_policy_and_its_opaque_ports() -> None:
    own = {OWN: "deny", "config.meshwright.dev/opaque-ports": "3306", "config.linkerd.io/opaque-ports": "25"}
    parsed = parse_object(make("v1", "Namespace", {}, annotations=own))
    assert isinstance(parsed, NamespaceObject)
    assert (parsed.access, parsed.opaque, parsed.problems) == (
        AccessPolicy.DENY,
        PortRanges(((Port(3306), Port(3306)),)),
        (),
    )


def test_an_external_workload_says_what_a_pod_says() -> None:
    annotations = {
        LINKERD: "all-authenticated",
        f"config.linkerd.io/{ASKS}": "sql, 8000-8001",
        "config.linkerd.io/opaque-ports": "sql,nosuch",
    }
    spec = {"meshTLS": {"identity": "a", "serverName": "b"}, "ports": [{"name": "sql", "port": 5432}]}
    parsed = parse_object(make("workload.linkerd.io/v1beta1", "ExternalWorkload", spec, annotations=annotations))
    assert isinstance(parsed, ExternalWorkload)
    assert parsed.access is AccessPolicy.ALL_AUTHENTICATED
    assert parsed.asks_identity == PortRanges(((Port(5432), Port(5432)), (Port(8000), Port(8001))))
    assert parsed.opaque == PortRanges(((Port(5432), Port(5432)),))
    assert [problem.field for problem in parsed.problems] == ["metadata.annotations[config.linkerd.io/opaque-ports]"]


def test_an_external_workload_that_says_nothing_has_nothing() -> None:
    spec = {"meshTLS": {"identity": "a", "serverName": "b"}}
    parsed = parse_object(make("workload.linkerd.io/v1beta1", "ExternalWorkload", spec))
    assert isinstance(parsed, ExternalWorkload)
    assert (parsed.access, parsed.asks_identity, parsed.opaque) == (None, PortRanges(), None)
