"""The words of access policies: who may call where nobody was named."""

from collections.abc import Mapping

from meshwright.model.policy import AccessPolicy
from meshwright.model.problem import Problem, Reason
from meshwright.parse.shape import quote

WORDS = ", ".join(policy.value for policy in AccessPolicy)
"""What may be written, for messages."""

DEFAULT_INBOUND_POLICY = ("config.meshwright.dev/default-inbound-policy", "config.linkerd.io/default-inbound-policy")
"""The annotation of namespaces, pods and ExternalWorkloads, by either name; where both say something our own counts.

Source: https://linkerd.io/2-edge/reference/authorization-policy/; linkerd2 ``pkg/k8s/labels.go``
ProxyDefaultInboundPolicyAnnotation.
"""

_POLICIES = {policy.value: policy for policy in AccessPolicy}


def parse_access_policy(text: str) -> AccessPolicy | None:
    """Return the policy that ``text`` names, ``None`` when it names none. Exact: no blanks, letters in their case.

    Source: linkerd2 ``policy-controller/k8s/index/src/defaults.rs`` ``DefaultPolicy::from_str``.
    """
    return _POLICIES.get(text)


def read_access_policy(annotations: Mapping[str, object], problems: list[Problem]) -> AccessPolicy | None:
    """Return the policy that ``annotations`` ask for, ``None`` when they do not say. Never raises.

    One that cannot be read gives a Problem and counts as not said: what the namespace or the installation has holds.
    """
    found = []
    for key in DEFAULT_INBOUND_POLICY:
        value = annotations.get(key)
        access = parse_access_policy(value) if isinstance(value, str) else None
        if access is not None:
            found.append(access)
        elif value is not None:
            message = f"found {quote(value)}; write one of {WORDS}; it is ignored"
            problems.append(Problem(f"metadata.annotations[{key}]", Reason.INVALID_ANNOTATION, message))
    return found[0] if found else None
