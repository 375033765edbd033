"""What ``meshwright compile --status`` shows of a rate limit policy and of a route of the policy group."""

from meshwright.edge.compile_command import object_with_status
from meshwright.emit.status import emit_limit_status, emit_route_status
from meshwright.model.linked_server import LimitVerdict
from meshwright.model.ref import Kind
from meshwright.model.route import Route
from tests.link.policies import limit, ref


def test_a_limit_is_shown_as_kubectl_would_without_times() -> None:
    status = emit_limit_status(limit(), LimitVerdict())
    assert object_with_status(limit().ref, status) == {
        "apiVersion": "policy.linkerd.io/v1alpha1",
        "kind": "HTTPLocalRateLimitPolicy",
        "metadata": {"name": "limit", "namespace": "shop"},
        "status": {
            "conditions": [
                {
                    "type": "Accepted",
                    "status": "True",
                    "reason": "Accepted",
                    "message": "In force on Server shop/web.",
                    "observedGeneration": 1,
                }
            ],
            "targetRef": {"group": "policy.linkerd.io", "kind": "Server", "name": "web"},
        },
    }


def test_a_route_is_shown_in_the_version_that_is_preferred() -> None:
    route = Route(ref=ref(Kind.POLICY_HTTP_ROUTE, "r"), generation=1, created=1, parents=())
    shown = object_with_status(route.ref, emit_route_status(route, ()))
    assert (shown["apiVersion"], shown["status"]) == ("policy.linkerd.io/v1beta3", {"parents": []})
