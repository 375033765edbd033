"""Which timeouts and retries are in force for a rule: its own, its route's or its Service's."""

from dataclasses import replace

from meshwright.model.route import Retry, Route, Rule, Timeouts, Traffic


def resolve_timeouts(rule: Rule, route: Route, service: Traffic) -> Timeouts:
    """Return the timeouts in force for ``rule``.

    What the route's annotations and the rule's ``timeouts.request`` say is taken whole: if they say anything, the
    Service's timeouts are ignored, all three. The annotation beats the rule's field. ``timeouts.backendRequest`` is
    the rule's own matter and never keeps the Service's timeouts away.

    A ``request`` of ``0s`` on the rule says "none" and so keeps the Service's away: Gateway API asks for ``0s`` to
    disable, where Linkerd reads it as not written.

    Source: linkerd2 ``policy-controller/k8s/index/src/outbound/index.rs`` and ``index/http.rs`` (a route's timeouts
    replace the parent's as a whole); Gateway API GEP-1742 for ``backendRequest`` and ``0s``.
    """
    said = route.traffic.timeouts
    if said.request_ms is None:
        said = replace(said, request_ms=rule.timeouts.request_ms)
    in_force = service.timeouts if said.is_empty else said
    return replace(in_force, backend_request_ms=rule.timeouts.backend_request_ms)


def resolve_retry(rule: Rule, route: Route, service: Traffic) -> Retry | None:
    """Return the retry policy in force for ``rule``, ``None`` for no retries.

    The route's annotations beat the rule's ``retry`` stanza, which beats the Service's annotations; each as a whole.
    A stanza also retries calls that a gRPC server refused as UNAVAILABLE.

    Source: linkerd2 ``policy-controller/k8s/index/src/outbound/index.rs`` (the route's policy replaces the parent's);
    Gateway API GEP-1731 for the stanza (requests that the backend did not process SHOULD be retried).
    """
    annotated = route.traffic.retry_grpc if route.is_grpc else route.traffic.retry_http
    if annotated is not None:
        return annotated
    if rule.retry is not None:
        return replace(rule.retry, grpc=tuple(sorted({*rule.retry.grpc, "unavailable"})))
    return service.retry_grpc if route.is_grpc else service.retry_http
