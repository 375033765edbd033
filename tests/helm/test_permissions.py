"""What the chart lets each process do is what the process does."""

import re
from itertools import product

import pytest

from meshwright.edge.api_resource import CUSTOM_RESOURCE_DEFINITIONS, Resource
from meshwright.edge.delivery import SERVICE_CIDRS, WATCHED
from meshwright.edge.events import EVENTS
from meshwright.edge.registrar.ranges import NODES
from meshwright.edge.registrar.rivals import LEASE_NAME as RIVAL
from meshwright.edge.resources import LEASES, LOCAL_OUTPUTS, OUTPUTS, RESOURCES
from meshwright.edge.selection import PODS
from meshwright.edge.tokens import TOKEN_REVIEWS
from meshwright.edge.webhook import NAMESPACES
from meshwright.edge.webhook_certificate import BELIEVERS, SECRETS
from meshwright.edge.webhook_certificate import SECRET as WEBHOOK
from meshwright.emit.slices import LABEL_SLICE_MANAGER, SLICE_MANAGER
from meshwright.model.config import FIELD_MANAGER, LABEL_MANAGED_BY, LABEL_UNIT
from meshwright.model.group import TOKEN_TYPE
from meshwright.model.ref import Kind
from meshwright.parse.kinds import KINDS
from tests.helm.conftest import Helm, Json, of_kind

Grants = set[tuple[str, str, str, str]]
"""API group, resource, name (``*``: any) and verb."""

READ = ("get", "list", "watch")
LOOKED_UP = (
    Kind.SERVER,
    Kind.MESH_TLS_AUTHENTICATION,
    Kind.NETWORK_AUTHENTICATION,
    Kind.RATE_LIMIT_POLICY,
    Kind.POLICY_HTTP_ROUTE,
    Kind.HTTP_ROUTE,
    Kind.GRPC_ROUTE,
)
"""What authorizations and rate limits speak of."""
PROCESSES = ("operator", "xds", "webhook")
ISSUER = "meshwright-identity-issuer"


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


def of_role(objects: tuple[Json, ...], kind: str, process: str) -> Grants:
    return granted(of_kind(objects, kind)[f"meshwright-{process}"])


def test_the_operator_may_do_what_its_tables_say_and_nothing_else(default: tuple[Json, ...]) -> None:
    needed = allow(CUSTOM_RESOURCE_DEFINITIONS, *READ)
    for row in KINDS.values():
        needed |= {(row.kind.group, row.plural, "*", verb) for verb in READ}
        if row.has_status:
            needed.add((row.kind.group, f"{row.plural}/status", "*", "patch"))
    for kind in OUTPUTS:
        needed |= allow(RESOURCES[kind], *READ, "create", "patch", "delete")
    # Whom Servers select, and telling what is wrong where there is no status.
    needed |= allow(PODS, "list", "watch") | allow(EVENTS, "create")
    # Machines that have joined, and where none can be.
    needed |= allow(RESOURCES[Kind.EXTERNAL_WORKLOAD], "create", "patch", "delete")
    needed |= allow(RESOURCES[Kind.EXTERNAL_WORKLOAD], "patch", part="/status")
    needed |= allow(RESOURCES[Kind.EXTERNAL_GROUP], "patch", part="/status")
    needed |= allow(NODES, "list") | allow(SERVICE_CIDRS, "list") | allow(LEASES, "list", name=RIVAL)
    # What the API server believes of the webhook.
    for resource, name in BELIEVERS:
        needed |= allow(resource, "get", "patch", name=name)
    # Asked of whoever writes an owner reference that blocks the owner's deletion, as those of slices do.
    needed |= allow(RESOURCES[Kind.SERVICE], "update", part="/finalizers")
    assert of_role(default, "ClusterRole", "operator") == needed


def test_without_the_registrar_the_operator_writes_nothing_of_machines(helm: Helm, default: tuple[Json, ...]) -> None:
    without = helm.render("registrar.enabled=false")
    gone = {
        (resource, name, verb)
        for kind in ("ClusterRole", "Role")
        for _, resource, name, verb in of_role(default, kind, "operator") - of_role(without, kind, "operator")
    }
    assert gone == {
        *(("externalworkloads", "*", verb) for verb in ("create", "patch", "delete")),
        ("externalworkloads/status", "*", "patch"),
        ("externalgroups/status", "*", "patch"),
        ("nodes", "*", "list"),
        ("servicecidrs", "*", "list"),
        ("leases", RIVAL, "list"),
        *(("secrets", "*", verb) for verb in (*READ, "patch")),
    }


READ_SECRETS = allow(SECRETS, *READ, name=ISSUER) | allow(SECRETS, *READ, name=WEBHOOK)


@pytest.mark.parametrize(
    ("sets", "secrets"),
    [
        ((), READ_SECRETS),
        (('identity.trustBundle="configmap/roots"',), READ_SECRETS),
        (('identity.trustBundle="secret/roots"',), READ_SECRETS | allow(SECRETS, *READ, name="roots")),
        (('webhook.certificate="operator"',), READ_SECRETS | allow(SECRETS, "create", "patch", name=WEBHOOK)),
        (
            ("identity.anchor.create=false", "identity.issuer.external=true", 'identity.issuer.secretName="ours"'),
            allow(SECRETS, *READ, name="ours") | allow(SECRETS, *READ, "create", "patch", name=WEBHOOK),
        ),
    ],
)
def test_in_its_own_namespace_the_operator_asks_for_certificates_and_knows_two_secrets_by_name(
    helm: Helm, sets: tuple[str, ...], secrets: Grants
) -> None:
    needed = allow(LEASES, "create") | allow(LEASES, "get", "update", name="meshwright-operator")
    # Join tokens, which have no names before they are made.
    needed |= allow(SECRETS, *READ, "patch")
    for kind in LOCAL_OUTPUTS:
        needed |= allow(RESOURCES[kind], *READ, "create", "patch", "delete")
    assert of_role(helm.render(*sets), "Role", "operator") == needed | secrets


def test_delivery_may_only_read_and_have_tokens_reviewed(default: tuple[Json, ...]) -> None:
    needed = allow(SERVICE_CIDRS, "list") | allow(TOKEN_REVIEWS, "create")
    for kind in (kind for kind, _ in WATCHED if RESOURCES[kind].is_custom):
        # Whether the kind is gone, or only not served yet.
        where = RESOURCES[kind]
        needed |= allow(CUSTOM_RESOURCE_DEFINITIONS, "get", name=f"{where.plural}.{where.group}")
    for kind, _ in WATCHED:
        needed |= allow(RESOURCES[kind], *READ)
    assert of_role(default, "ClusterRole", "xds") == needed


def test_delivery_reads_the_issuer_and_the_bundle_by_name(helm: Helm) -> None:
    assert of_role(helm.render(), "Role", "xds") == allow(SECRETS, *READ, name=ISSUER)
    both = allow(SECRETS, *READ, name=ISSUER) | allow(SECRETS, *READ, name="roots")
    assert of_role(helm.render('identity.trustBundle="secret/roots"'), "Role", "xds") == both
    # A ConfigMap is none of the secrets, and ConfigMaps are read anyway.
    assert of_role(helm.render('identity.trustBundle="configmap/roots"'), "Role", "xds") == allow(
        SECRETS, *READ, name=ISSUER
    )


def test_the_webhook_reads_namespaces_policy_and_its_own_secret_and_writes_events(default: tuple[Json, ...]) -> None:
    needed = allow(NAMESPACES, *READ) | allow(EVENTS, "create")
    for kind in LOOKED_UP:
        needed |= allow(RESOURCES[kind], "get")
    for kind in (Kind.SERVER, Kind.RATE_LIMIT_POLICY):
        needed |= allow(RESOURCES[kind], "list")
    assert of_role(default, "ClusterRole", "webhook") == needed
    assert of_role(default, "Role", "webhook") == allow(SECRETS, *READ, name=WEBHOOK)


def test_each_role_is_given_to_the_account_of_its_process_alone(default: tuple[Json, ...]) -> None:
    bound = {
        (raw["kind"], raw["roleRef"]["kind"], raw["roleRef"]["name"], tuple(s.values()))
        for raw in default
        if raw["kind"].endswith("Binding") and "roleRef" in raw
        for s in raw["subjects"]
    }
    assert bound == {
        (f"{scope}Binding", scope, f"meshwright-{process}", ("ServiceAccount", f"meshwright-{process}", "mesh"))
        for scope in ("ClusterRole", "Role")
        for process in PROCESSES
    }
    accounts = of_kind(default, "ServiceAccount")
    used = {raw["spec"]["template"]["spec"]["serviceAccountName"] for raw in of_kind(default, "Deployment").values()}
    assert set(accounts) == used == {f"meshwright-{process}" for process in PROCESSES}
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
        TOKEN_TYPE,
        WEBHOOK,
    }
    watched = {
        (group, resource, operation)
        for rule in policy["spec"]["matchConstraints"]["resourceRules"]
        for group, resource, operation in product(rule["apiGroups"], rule["resources"], rule["operations"])
    }
    assert watched == {
        (RESOURCES[kind].group, RESOURCES[kind].plural, operation)
        for kind in OUTPUTS | LOCAL_OUTPUTS
        for operation in ("CREATE", "UPDATE", "DELETE")
    } | {
        *(
            (Kind.EXTERNAL_WORKLOAD.group, f"externalworkloads{part}", operation)
            for part in ("", "/status")
            for operation in ("CREATE", "UPDATE", "DELETE")
        ),
        ("", "secrets", "UPDATE"),
    }
    binding = of_kind(default, "ValidatingAdmissionPolicyBinding")["meshwright-operator-writes"]
    assert binding["spec"] == {"policyName": "meshwright-operator-writes", "validationActions": ["Deny"]}


def test_nobody_but_the_operator_writes_compiled_policy(default: tuple[Json, ...]) -> None:
    policy = of_kind(default, "ValidatingAdmissionPolicy")["meshwright-units"]["spec"]
    (selected,) = policy["matchConstraints"]["objectSelector"]["matchExpressions"]
    assert selected == {"key": LABEL_UNIT, "operator": "Exists"}
    (rule,) = policy["matchConstraints"]["resourceRules"]
    assert (rule["resources"], rule["operations"]) == (["configmaps"], ["CREATE", "UPDATE", "DELETE"])
    by_others, by_no_admin = (condition["expression"] for condition in policy["matchConditions"])
    assert "'system:serviceaccount:mesh:meshwright-operator'" in by_others
    assert by_no_admin == "!('system:masters' in request.userInfo.groups)"
    assert [rule["expression"] for rule in policy["validations"]] == ["false"]
    binding = of_kind(default, "ValidatingAdmissionPolicyBinding")["meshwright-units"]
    assert binding["spec"] == {"policyName": "meshwright-units", "validationActions": ["Deny"]}
