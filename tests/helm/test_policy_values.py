"""Who may call where no Server does: the operator decides by the chart's values, and the webhook agrees."""

import pytest

from meshwright.edge.policy_flags import read_policy_arguments
from meshwright.model.inbound import PolicyDefaults
from meshwright.model.policy import AccessPolicy
from tests.helm.conftest import Helm
from tests.helm.test_identity_values import read

CHOSEN = (
    'proxy.defaultInboundPolicy="cluster-authenticated"',
    "proxy.defaultInboundPolicyFollowsNamespace=true",
    'clusterNetworks="10.0.0.0/8, fd00::/8"',
    'probeNetworks="192.0.2.1"',
)


@pytest.mark.parametrize(
    ("sets", "defaults"),
    [
        ((), PolicyDefaults()),
        (
            CHOSEN,
            PolicyDefaults(
                access=AccessPolicy.CLUSTER_AUTHENTICATED,
                cluster_networks=("10.0.0.0/8", "fd00::/8"),
                probe_networks=("192.0.2.1/32",),
                follows_namespace=True,
            ),
        ),
        (('probeNetworks=""',), PolicyDefaults(probe_networks=())),
    ],
)
def test_the_operator_is_told_and_the_webhook_agrees(
    helm: Helm, sets: tuple[str, ...], defaults: PolicyDefaults
) -> None:
    objects = helm.render(*sets)
    assert read_policy_arguments(read(objects, "operator")) == defaults
    assert read(objects, "webhook").default_inbound_follows_namespace is defaults.follows_namespace


@pytest.mark.parametrize("policy", AccessPolicy)
def test_every_policy_can_be_the_default(helm: Helm, policy: AccessPolicy) -> None:
    objects = helm.render(f'proxy.defaultInboundPolicy="{policy.value}"')
    assert read_policy_arguments(read(objects, "operator")).access is policy


@pytest.mark.parametrize(
    ("value", "place"),
    [
        ('proxy.defaultInboundPolicy="Deny"', "/proxy/defaultInboundPolicy"),
        ('proxy.defaultInboundPolicy=""', "/proxy/defaultInboundPolicy"),
        ('clusterNetworks=""', "/clusterNetworks"),
        ('clusterNetworks="everywhere"', "/clusterNetworks"),
        ('probeNetworks="10.0.0.0/8;10.1.0.0/16"', "/probeNetworks"),
        ('proxy.defaults.default-inbound-policy="Deny"', "/proxy/defaults/default-inbound-policy"),
    ],
)
def test_what_the_operator_would_not_start_with_is_refused(helm: Helm, value: str, place: str) -> None:
    assert place in helm.refusal(value)
