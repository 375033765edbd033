"""What an access policy comes to, in the words of authorizations."""

from typing import assert_never

from meshwright.model.inbound import EVERYWHERE, Authorization, PolicyDefaults, Source
from meshwright.model.policy import AccessPolicy, Network, Proof


def authorize_access(access: AccessPolicy, defaults: PolicyDefaults) -> Authorization | None:
    """Return whom ``access`` lets in, ``None`` for nobody. So it is with ``audit``, which refuses nobody either.

    Source: linkerd2 ``policy-controller/k8s/index/src/defaults.rs`` ``DefaultPolicy::default_authzs``.
    """
    source = Source("", "default", "", access.value)
    cluster = tuple(sorted(Network(cidr) for cidr in set(defaults.cluster_networks)))
    match access:
        case AccessPolicy.ALL_UNAUTHENTICATED:
            return Authorization(source=source, networks=EVERYWHERE)
        case AccessPolicy.ALL_AUTHENTICATED:
            return Authorization(source=source, networks=EVERYWHERE, proof=Proof.IDENTITY, is_any=True)
        case AccessPolicy.CLUSTER_UNAUTHENTICATED:
            return Authorization(source=source, networks=cluster)
        case AccessPolicy.CLUSTER_AUTHENTICATED:
            return Authorization(source=source, networks=cluster, proof=Proof.IDENTITY, is_any=True)
        case AccessPolicy.DENY | AccessPolicy.AUDIT:
            return None
        case _:
            assert_never(access)
