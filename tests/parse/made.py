"""Manifests to parse, as short as they can be, and what parsing them gave."""

import copy
from typing import Any

from meshwright.model.problem import Problem
from meshwright.model.route import Backend, Route, Rule
from meshwright.model.snapshot import Parsed
from meshwright.parse.kinds import parse_object

Raw = dict[str, Any]

GATEWAY = "gateway.networking.k8s.io"
PARENT: Raw = {"group": "", "kind": "Service", "name": "cart"}
BACKEND: Raw = {"name": "cart", "port": 80}


def http_route(*rules: Any, annotations: Any = None, **spec: Any) -> Raw:
    return _route("HTTPRoute", rules, annotations, spec)


def grpc_route(*rules: Any, annotations: Any = None, **spec: Any) -> Raw:
    return _route("GRPCRoute", rules, annotations, spec)


def _route(kind: str, rules: tuple[Any, ...], annotations: Any, spec: Raw) -> Raw:
    return make(
        f"{GATEWAY}/v1",
        kind,
        {"parentRefs": [PARENT], "rules": list(rules), **spec},
        annotations=annotations,
    )


def make(api_version: str, kind: str, spec: Any = None, **metadata: Any) -> Raw:
    raw: Raw = {
        "apiVersion": api_version,
        "kind": kind,
        "metadata": {"name": "cart", "namespace": "shop", "generation": 3, **metadata},
    }
    return raw if spec is None else {**raw, "spec": spec}


def put(raw: Raw, path: str, value: Any) -> Raw:
    """Return a copy of ``raw`` with ``value`` at ``path`` (dots between names and indexes)."""
    changed = copy.deepcopy(raw)
    *parts, last = path.split(".")
    here: Any = changed
    for part in parts:
        here = here[int(part)] if isinstance(here, list) else here[part]
    if isinstance(here, list):
        here[int(last)] = value
    else:
        here[last] = value
    return changed


def parse_route(raw: Raw) -> Route:
    parsed = parse_object(raw)
    assert isinstance(parsed, Route)
    return parsed


def parse_rule(rule: Any, is_grpc: bool = False) -> Rule:
    (parsed,) = parse_route((grpc_route if is_grpc else http_route)(rule)).rules
    return parsed


def parse_backend(backend: Any, is_grpc: bool = False, **rule: Any) -> Backend:
    parsed = parse_rule({**rule, "backendRefs": [backend]}, is_grpc)
    assert parsed.problems == ()
    return parsed.backends[0]


def find_problems(parsed: Parsed) -> list[Problem]:
    """Return every problem of an object, wherever it is."""
    problems = list(parsed.problems)
    for rule in parsed.rules if isinstance(parsed, Route) else ():
        problems += [*rule.problems, *(problem for backend in rule.backends for problem in backend.problems)]
    return problems


def fields(problems: tuple[Problem, ...]) -> list[str]:
    return [problem.field for problem in problems]
