"""Whom nobody's authorization lets in, in the words of authorizations: by access policies, as localhost, to probe."""

from typing import assert_never

from meshwright.model.inbound import EVERYWHERE, LOOPBACK, Authorization, PolicyDefaults, Source
from meshwright.model.policy import AccessPolicy, Network, Proof

LOCALHOST = Authorization(source=Source("", "default", "", "localhost"), networks=LOOPBACK)
"""The application's own pod may always.

Source: linkerd2 ``policy-controller/k8s/index/src/inbound/index.rs`` (``localhost``).
"""

EVERYBODY = Authorization(source=Source("", "default", "", AccessPolicy.ALL_UNAUTHENTICATED.value), networks=EVERYWHERE)
"""Whoever calls, from wherever, and shows nothing."""


def authorize_probes(defaults: PolicyDefaults) -> Authorization | None:
    """Return who may ask what the kubelet asks, ``None`` for nobody.

    Source: linkerd2 ``policy-controller/k8s/index/src/inbound/index.rs`` (probe routes).
    """
    networks = tuple(sorted(Network(cidr) for cidr in set(defaults.probe_networks)))
    return Authorization(source=Source("", "default", "", "probe"), networks=networks) if networks else None


def authorize_access(access: AccessPolicy, defaults: PolicyDefaults) -> Authorization | None:
    """Return whom ``access`` lets in, ``None`` for nobody. So it is with ``audit``, which refuses nobody either.

    Source: linkerd2 ``policy-controller/k8s/index/src/defaults.rs`` ``DefaultPolicy::default_authzs``.
    """
    source = Source("", "default", "", access.value)
    cluster = tuple(sorted(Network(cidr) for cidr in set(defaults.cluster_networks)))
    match access:
        case AccessPolicy.ALL_UNAUTHENTICATED:
            return EVERYBODY
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
