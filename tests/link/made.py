"""Routes and Services made by hand, as parse would make them."""

from dataclasses import replace
from typing import Any

from meshwright.model.problem import Problem, Reason
from meshwright.model.ref import Kind, Ref, ServiceName
from meshwright.model.route import (
    Backend,
    Filters,
    GrpcMatch,
    HttpMatch,
    ParentRef,
    Path,
    PathMatch,
    Retry,
    Route,
    Rule,
    StatusRange,
    Timeouts,
    Traffic,
)
from meshwright.model.units import Millis, Namespace, Port
from meshwright.model.workload import Protocol, Service, ServicePort

SHOP = Namespace("shop")
WEB = ServiceName(SHOP, "web")


def port(number: int, name: str = "", protocol: Protocol = Protocol.DETECT, **more: Any) -> ServicePort:
    return ServicePort(name=name, port=Port(number), target=more.pop("target", Port(8080)), protocol=protocol, **more)


def service(name: str = "web", namespace: str = "shop", **more: Any) -> Service:
    made = Service(
        ref=Ref(Kind.SERVICE, Namespace(namespace), name),
        uid=f"uid-{name}",
        type="ClusterIP",
        addresses=("10.96.0.1",),
        is_headless=False,
        ports=(port(80, "http"),),
        selector=(("app", name),),
    )
    return replace(made, **more)


def parent(name: str = "web", namespace: str = "shop", index: int = 0, **more: Any) -> ParentRef:
    written: list[tuple[str, str | int]] = [("group", ""), ("kind", "Service"), ("name", name)]
    if "port" in more:
        written.append(("port", more["port"]))
    if "section_name" in more:
        written.append(("sectionName", more["section_name"]))
    return ParentRef(
        field=f"spec.parentRefs[{index}]",
        group="",
        kind="Service",
        namespace=Namespace(namespace),
        name=name,
        written=tuple(sorted(written)),
        **more,
    )


def backend(name: str = "web", number: int | None = 80, rule: int = 0, index: int = 0, **more: Any) -> Backend:
    return Backend(
        field=f"spec.rules[{rule}].backendRefs[{index}]",
        group=more.pop("group", ""),
        kind=more.pop("kind", "Service"),
        namespace=Namespace(more.pop("namespace", "shop")),
        name=name,
        port=None if number is None else Port(number),
        **more,
    )


def prefix(value: str = "/", **more: Any) -> HttpMatch:
    return HttpMatch(path=Path(how=PathMatch.PREFIX, value=value), **more)


def rule(index: int = 0, **more: Any) -> Rule:
    more = {"matches": (prefix(),), "backends": (backend(rule=index),), **more}
    return Rule(field=f"spec.rules[{index}]", **more)


def http_route(name: str = "web", namespace: str = "shop", **more: Any) -> Route:
    ref = Ref(Kind.HTTP_ROUTE, Namespace(namespace), name)
    return Route(ref=ref, **{"generation": 1, "created": 1000, "parents": (parent(),), "rules": (rule(),), **more})


def grpc_route(name: str = "rpc", namespace: str = "shop", **more: Any) -> Route:
    ref = Ref(Kind.GRPC_ROUTE, Namespace(namespace), name)
    rules = (rule(matches=(GrpcMatch(),)),)
    return Route(ref=ref, **{"generation": 1, "created": 1000, "parents": (parent(),), "rules": rules, **more})


def bad(reason: Reason = Reason.UNSUPPORTED_VALUE, field: str = "spec.rules[0].matches[0].path.value") -> Problem:
    return Problem(field, reason, "this is not an RE2 expression")


__all__ = [
    "SHOP",
    "WEB",
    "Filters",
    "Millis",
    "Retry",
    "StatusRange",
    "Timeouts",
    "Traffic",
    "backend",
    "bad",
    "grpc_route",
    "http_route",
    "parent",
    "port",
    "prefix",
    "rule",
    "service",
]
