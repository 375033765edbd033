"""What the chart lets each process do is what the process does."""

import re
from itertools import product

from meshwright.edge.client import CUSTOM_RESOURCE_DEFINITIONS, Resource
from meshwright.edge.delivery import SERVICE_CIDRS, WATCHED
from meshwright.edge.resources import LEASES, OUTPUTS, RESOURCES
from meshwright.emit.slices import LABEL_SLICE_MANAGER, SLICE_MANAGER
from meshwright.model.config import FIELD_MANAGER, LABEL_MANAGED_BY
from meshwright.model.ref import Kind
from meshwright.parse.kinds import KINDS
from tests.helm.conftest import Json, of_kind

Grants = set[tuple[str, str, str, str]]
"""API group, resource, name (``*``: any) and verb."""

READ = ("get", "list", "watch")


def allow(resource: Resource, *verbs: str, part: str = "", name: str = "*") -> Grants:
    return {(resource.group, resource.plural + part, name, verb) for verb in verbs}


def granted(role: Json) -> Grants:
    return {
        (group, resource, name, verb)
        for rule in role["rules"]
        for group, resource, name, verb in product(
            rule["apiGroups"], rule["resources"], rule.get("resourceNames", ["*"]), rule["verbs"]
        )
    }


def test_the_operator_may_do_what_its_tables_say_and_nothing_else(default: tuple[Json, ...]) -> None:
    needed = allow(CUSTOM_RESOURCE_DEFINITIONS, *READ)
    for row in KINDS.values():
        needed |= {(row.kind.group, row.plural, "*", verb) for verb in READ}
        if row.has_status:
            needed.add((row.kind.group, f"{row.plural}/status", "*", "patch"))
    for kind in OUTPUTS:
        needed |= allow(RESOURCES[kind], *READ, "create", "patch", "delete")
    # Asked of whoever writes an owner reference that blocks the owner's deletion, as those of slices do.
    needed |= allow(RESOURCES[Kind.SERVICE], "update", part="/finalizers")
    assert granted(of_kind(default, "ClusterRole")["meshwright-operator"]) == needed

    leases = allow(LEASES, "create") | allow(LEASES, "get", "update", name="meshwright-operator")
    assert granted(of_kind(default, "Role")["meshwright-operator"]) == leases


def test_delivery_may_only_read(default: tuple[Json, ...]) -> None:
    needed = allow(SERVICE_CIDRS, "list")
    for kind, _ in WATCHED:
        needed |= allow(RESOURCES[kind], *READ)
    assert granted(of_kind(default, "ClusterRole")["meshwright-xds"]) == needed
    assert set(of_kind(default, "Role")) == {"meshwright-operator"}


def test_each_role_is_given_to_the_account_of_its_process_alone(default: tuple[Json, ...]) -> None:
    bound = {
        (raw["kind"], raw["roleRef"]["kind"], raw["roleRef"]["name"], tuple(s.values()))
        for raw in default
        if raw["kind"].endswith("Binding") and "roleRef" in raw
        for s in raw["subjects"]
    }
    assert bound == {
        ("ClusterRoleBinding", "ClusterRole", "meshwright-operator", ("ServiceAccount", "meshwright-operator", "mesh")),
        ("ClusterRoleBinding", "ClusterRole", "meshwright-xds", ("ServiceAccount", "meshwright-xds", "mesh")),
        ("RoleBinding", "Role", "meshwright-operator", ("ServiceAccount", "meshwright-operator", "mesh")),
    }
    accounts = of_kind(default, "ServiceAccount")
    used = {raw["spec"]["template"]["spec"]["serviceAccountName"] for raw in of_kind(default, "Deployment").values()}
    assert set(accounts) == used == {"meshwright-operator", "meshwright-xds"}
    assert not any(raw["automountServiceAccountToken"] for raw in accounts.values())


def test_the_admission_policy_speaks_of_our_account_and_the_labels_that_we_write(default: tuple[Json, ...]) -> None:
    policy = of_kind(default, "ValidatingAdmissionPolicy")["meshwright-operator-writes"]
    (condition,) = policy["spec"]["matchConditions"]
    assert condition["expression"] == ("request.userInfo.username == 'system:serviceaccount:mesh:meshwright-operator'")
    said = " ".join(rule["expression"] for rule in policy["spec"]["validations"])
    assert set(re.findall(r"'([^']*)'", said)) - {""} == {
        LABEL_MANAGED_BY,
        FIELD_MANAGER,
        LABEL_SLICE_MANAGER,
        SLICE_MANAGER,
        "mw-",
    }
    watched = {
        (group, resource, operation)
        for rule in policy["spec"]["matchConstraints"]["resourceRules"]
        for group, resource, operation in product(rule["apiGroups"], rule["resources"], rule["operations"])
    }
    assert watched == {
        (RESOURCES[kind].group, RESOURCES[kind].plural, operation)
        for kind in OUTPUTS
        for operation in ("CREATE", "UPDATE", "DELETE")
    }
    binding = of_kind(default, "ValidatingAdmissionPolicyBinding")["meshwright-operator-writes"]
    assert binding["spec"] == {"policyName": "meshwright-operator-writes", "validationActions": ["Deny"]}
