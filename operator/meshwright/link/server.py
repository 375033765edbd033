"""All that holds at one Server's port: who may call, which routes serve, and how often."""

from collections.abc import Iterable, Mapping

from meshwright.link.authorize import applies, authorize_by_policies, authorize_by_servers, combine
from meshwright.link.limit import choose_limit
from meshwright.link.server_routes import attach_to_server
from meshwright.model.access import authorize_access
from meshwright.model.config import Config
from meshwright.model.inbound import ServerPolicy
from meshwright.model.linked_server import Authorized, LinkedServer
from meshwright.model.policy import AuthorizationPolicy, RateLimitPolicy, Server, ServerAuthorization
from meshwright.model.ref import Kind, Ref
from meshwright.model.route import Route
from meshwright.model.snapshot import Parsed
from meshwright.model.units import Namespace


def link_server(
    server: Server,
    *,
    config: Config,
    authorizations: Iterable[ServerAuthorization] = (),
    policies: Iterable[AuthorizationPolicy] = (),
    authentications: Mapping[Ref, Parsed] | None = None,
    routes: Iterable[Route] = (),
    limits: Iterable[RateLimitPolicy] = (),
) -> LinkedServer:
    """Return all that concerns ``server``.

    ``authorizations`` and ``policies``: of its namespace, at least those that concern it or ``routes``; others do no
    harm. ``authentications``: those that exist among what ``policies`` require. ``routes`` and ``limits``: all that
    name it. The order of none of them matters. Never raises.

    Source: linkerd2 ``policy-controller/k8s/index/src/inbound/index.rs`` (``client_authzs``: those of the Server, its
    namespace and its access policy; ``route_client_authzs``: of a route).
    """
    known = authentications or {}
    by_target: dict[Ref, list[AuthorizationPolicy]] = {}
    for policy in policies:
        if policy.ref.namespace == server.ref.namespace:
            by_target.setdefault(policy.target, []).append(policy)
    default = authorize_access(server.access, config.policy)
    own = combine(
        authorize_by_servers((each for each in authorizations if applies(each, server)), config.trust, config.policy),
        *(
            authorize_by_policies(by_target.get(target, ()), known, config.trust)
            for target in (server.ref, Ref(Kind.NAMESPACE, Namespace(""), server.ref.namespace))
        ),
        Authorized(authorizations=() if default is None else (default,)),
    )
    named = list(routes)
    of_routes = {route.ref: authorize_by_policies(by_target.get(route.ref, ()), known, config.trust) for route in named}
    routed = attach_to_server(
        server.ref, server, named, {ref: found.authorizations for ref, found in of_routes.items()}
    )
    limit = choose_limit(server.ref, server, limits, config.trust)
    return LinkedServer(
        policy=ServerPolicy(
            server=server.ref,
            uid=server.uid,
            created=server.created,
            selects_external=server.selects_external,
            selector=server.selector,
            port=server.port,
            protocol=server.protocol,
            access=server.access,
            authorizations=own.authorizations,
            is_routed=routed.is_routed,
            rules=routed.rules,
            rate_limit=limit.limit,
        ),
        missed=own.missed,
        route_missed=tuple((ref, missed) for ref in sorted(of_routes) for missed in of_routes[ref].missed),
        verdicts=routed.verdicts,
        limits=limit.verdicts,
    )
