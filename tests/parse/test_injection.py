"""Every annotation about injection, by its table: read from pod, namespace and defaults, ours before Linkerd's."""

from typing import Any

import pytest

from meshwright.model.injection import Amounts, Injection, Mode
from meshwright.model.pod import PortRanges
from meshwright.model.policy import AccessPolicy
from meshwright.model.problem import Problem, Reason
from meshwright.model.units import Millis, Port
from meshwright.parse.injection import INJECT, LINKERD, OWN, PREFIXES, SETTINGS, check_defaults, parse_injection
from meshwright.parse.known import UNSUPPORTED
from meshwright.parse.pod import parse_pod


def ports(*pairs: tuple[int, int]) -> PortRanges:
    return PortRanges(tuple((Port(low), Port(high)) for low, high in pairs))


GOOD: dict[str, tuple[str, dict[str, Any]]] = {
    "skip-inbound-ports": ("9000, db", {"skip_inbound": ports((5432, 5432), (9000, 9000))}),
    "skip-outbound-ports": ("1-3", {"skip_outbound": ports((1, 3))}),
    "skip-subnets": ("10.1.2.3/16, fd00::/8", {"skip_subnets": ("10.1.0.0/16", "fd00::/8")}),
    "opaque-ports": ("5432", {}),
    "default-inbound-policy": ("cluster-authenticated", {}),
    "proxy-require-identity-inbound-ports": ("db,9000", {}),
    "proxy-cpu-request": ("1100m", {"amounts": Amounts(requests=(("cpu", "1100m"),)), "cores": 2}),
    "proxy-cpu-limit": ("3", {"amounts": Amounts(limits=(("cpu", "3"),)), "cores": 3}),
    "proxy-memory-request": ("8Mi", {"amounts": Amounts(requests=(("memory", "8Mi"),))}),
    "proxy-memory-limit": ("8Mi", {"amounts": Amounts(limits=(("memory", "8Mi"),))}),
    "proxy-ephemeral-storage-request": ("1M", {"amounts": Amounts(requests=(("ephemeral-storage", "1M"),))}),
    "proxy-ephemeral-storage-limit": ("1M", {"amounts": Amounts(limits=(("ephemeral-storage", "1M"),))}),
    "proxy-log-level": ("linkerd=debug,warn", {"log_level": "debug"}),
    "proxy-log-format": ("plain", {}),
    "proxy-image": ("registry.example:5000/mw", {"image": "registry.example:5000/mw"}),
    "proxy-version": ("v9", {"version": "v9"}),
    "image-pull-policy": ("Never", {"pull_policy": "Never"}),
    "shutdown-grace-period": ("90s", {"grace_ms": Millis(90_000)}),
    "proxy-enable-native-sidecar": ("false", {"is_native": False}),
    "access-log": ("apache", {"access_log": "apache"}),
    "proxy-await": ("disabled", {"waits_for_proxy": False}),
    "proxy-wait-before-exit-seconds": ("7", {"exit_delay_seconds": 7}),
    "proxy-admin-shutdown": ("enabled", {}),
}
WRONG: dict[str, str] = {
    "skip-inbound-ports": "0",
    "skip-outbound-ports": "9-1",
    "skip-subnets": "10.0.0.0/33",
    "opaque-ports": "65536",
    "default-inbound-policy": "Deny",
    "proxy-require-identity-inbound-ports": "65536",
    "proxy-log-level": "linkerd=loud",
    "proxy-log-format": "json",
    "proxy-image": "a b",
    "proxy-version": "edge-26.1.1",
    "image-pull-policy": "always",
    "shutdown-grace-period": "soon",
    "proxy-enable-native-sidecar": "enabled",
    "access-log": "common",
    "proxy-await": "true",
    "proxy-wait-before-exit-seconds": "-1",
    "proxy-admin-shutdown": "disabled",
} | {name: "much" for name in SETTINGS if name.endswith(("-request", "-limit"))}


def pod(**annotations: str) -> dict[str, Any]:
    return {
        "metadata": {"annotations": annotations},
        "spec": {"containers": [{"name": "db", "ports": [{"name": "db", "containerPort": 5432}]}]},
    }


def test_the_cases_are_the_table() -> None:
    assert set(GOOD) == set(WRONG) == set(SETTINGS)
    assert not set(SETTINGS) & set(UNSUPPORTED)


@pytest.mark.parametrize("key", [key for row in SETTINGS.values() for key in row.keys])
def test_every_key_is_read_from_the_pod_and_from_its_namespace(key: str) -> None:
    name = key.partition("/")[2]
    text, fields = GOOD[name]
    row = SETTINGS[name]
    on_pod = ((row.keys[1], text),) if row.is_carried and key == row.keys[0] else ()
    assert parse_injection(pod(**{key: text}), {}, {}) == Injection(**fields, carried=on_pod)
    above = ((row.keys[1], text),) if row.is_carried else ()
    assert parse_injection(pod(), {key: text}, {}) == Injection(**fields, carried=above)
    default = above if not row.is_told else ()
    assert parse_injection(pod(), {}, {name: text}) == Injection(**fields, carried=default)


@pytest.mark.parametrize("name", SETTINGS)
def test_a_wrong_value_is_named_and_the_next_one_down_counts(name: str) -> None:
    row = SETTINGS[name]
    key, good = row.keys[1], GOOD[name][0]
    wrong = parse_injection(pod(**{key: WRONG[name]}), {}, {})
    assert [problem.field for problem in wrong.problems] == [f"metadata.annotations[{key}]"]
    assert {problem.reason for problem in wrong.problems} == {Reason.INVALID_ANNOTATION}
    assert parse_injection(pod(), {key: WRONG[name]}, {}).namespace_problems == wrong.problems
    if "-ports" not in name and "-subnets" not in name:
        found = parse_injection(pod(**{key: WRONG[name]}), {key: good}, {})
        carried = ((row.keys[0], good),) if row.is_carried else ()
        assert found == Injection(**GOOD[name][1], carried=carried, problems=wrong.problems)


@pytest.mark.parametrize(
    ("own", "above", "default", "style"),
    [
        ({}, {}, "json", "json"),
        ({}, {LINKERD: "apache"}, "json", "apache"),
        ({LINKERD: "none"}, {LINKERD: "apache"}, "json", ""),
        ({LINKERD: "common"}, {LINKERD: "apache"}, "json", "apache"),
        ({OWN: "common"}, {OWN: "w3c", LINKERD: "apache"}, "json", "apache"),
        ({OWN: "json"}, {LINKERD: "apache"}, "none", "json"),
        ({LINKERD: "common"}, {}, "json", "json"),
    ],
)
def test_who_reads_the_pod_alone_reads_what_was_decided(
    own: dict[str, str], above: dict[str, str], default: str, style: str
) -> None:
    def full(prefixed: dict[str, str]) -> dict[str, str]:
        return {f"{prefix}access-log": text for prefix, text in prefixed.items()}

    found = parse_injection(pod(**full(own)), full(above), {"access-log": default})
    assert found.access_log == style
    assert parse_pod(pod(**full(own), **dict(found.carried))).access_log == style


POLICY = "config.linkerd.io/default-inbound-policy"


@pytest.mark.parametrize(
    ("own", "above", "follows", "carried", "access"),
    [
        ({}, {POLICY: "deny"}, False, ((POLICY, "deny"),), AccessPolicy.DENY),
        ({}, {POLICY: "deny"}, True, (), None),
        ({POLICY: "audit"}, {POLICY: "deny"}, False, (), AccessPolicy.AUDIT),
        ({POLICY: "audit"}, {POLICY: "deny"}, True, (), AccessPolicy.AUDIT),
        ({OWN + "default-inbound-policy": "audit"}, {}, True, ((POLICY, "audit"),), AccessPolicy.AUDIT),
        ({}, {POLICY: " deny"}, False, (), None),
    ],
)
def test_a_namespaces_inbound_policy_is_written_on_pods_unless_it_is_followed(
    own: dict[str, str],
    above: dict[str, str],
    follows: bool,
    carried: tuple[tuple[str, str], ...],
    access: AccessPolicy | None,
) -> None:
    found = parse_injection(pod(**own), above, {}, follows_namespace=follows)
    assert found.carried == carried
    assert parse_pod(pod(**own, **dict(found.carried))).access is access


def test_ours_wins_and_the_pod_goes_before_its_namespace() -> None:
    own, theirs = OWN + "proxy-memory-limit", "config.linkerd.io/proxy-memory-limit"
    limits = [
        parse_injection(pod(**on_pod), above, {"proxy-memory-limit": "9"}).amounts.limits
        for on_pod, above in (
            ({own: "1", theirs: "2"}, {own: "3"}),
            ({theirs: "2"}, {own: "3", theirs: "4"}),
            ({}, {own: "3", theirs: "4"}),
            ({}, {theirs: "4"}),
            ({}, {}),
        )
    ]
    assert [dict(found)["memory"] for found in limits] == ["1", "2", "3", "4", "9"]


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_what_linkerd_knows_and_we_have_not_is_named(name: str) -> None:
    found = parse_injection(pod(**{f"config.linkerd.io/{name}": "x"}), {}, {})
    message = f"meshwright has no such setting; {UNSUPPORTED[name]}"
    assert found.problems == (
        Problem(f"metadata.annotations[config.linkerd.io/{name}]", Reason.INVALID_ANNOTATION, message),
    )


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("config.linkerd.io/skip-inbound-port", "nobody reads it; write config.linkerd.io/skip-inbound-ports"),
        ("config.meshwright.dev/proxy-awaits", "nobody reads it; write config.meshwright.dev/proxy-await"),
        ("config.alpha.linkerd.io/proxy-await", "nobody reads it; write config.linkerd.io/proxy-await"),
        ("linkerd.io/injet", "nobody reads it; write linkerd.io/inject"),
        ("config.linkerd.io/zzz", "nobody reads it"),
    ],
)
def test_a_misspelt_key_gets_the_nearest_one(key: str, message: str) -> None:
    assert parse_injection(pod(**{key: "1"}), {}, {}).problems == (
        Problem(f"metadata.annotations[{key}]", Reason.INVALID_ANNOTATION, message),
    )


@pytest.mark.parametrize(
    "key", ["linkerd.io/created-by", "meshwright.dev/injected", "example.com/config.linkerd.io", "a"]
)
def test_other_keys_are_nobodys_concern(key: str) -> None:
    assert parse_injection(pod(**{key: "1"}), {key: "2"}, {}) == Injection()


@pytest.mark.parametrize(
    ("on_pod", "above", "mode", "carried"),
    [
        ({}, {}, None, ()),
        ({"linkerd.io/inject": "enabled"}, {}, Mode.ENABLED, ()),
        ({}, {"linkerd.io/inject": "enabled"}, Mode.ENABLED, (("linkerd.io/inject", "enabled"),)),
        ({}, {"meshwright.dev/inject": "ingress"}, Mode.INGRESS, (("linkerd.io/inject", "ingress"),)),
        ({"linkerd.io/inject": "disabled"}, {"linkerd.io/inject": "enabled"}, Mode.DISABLED, ()),
        ({"linkerd.io/inject": "enabled"}, {"linkerd.io/inject": "disabled"}, Mode.ENABLED, ()),
        ({"meshwright.dev/inject": "ingress", "linkerd.io/inject": "disabled"}, {}, Mode.INGRESS, ()),
        ({"linkerd.io/inject": ""}, {"linkerd.io/inject": "disabled"}, Mode.DISABLED, ()),
    ],
)
def test_who_asks_for_a_proxy(
    on_pod: dict[str, str], above: dict[str, str], mode: Mode | None, carried: tuple[tuple[str, str], ...]
) -> None:
    assert parse_injection(pod(**on_pod), above, {}) == Injection(mode=mode, carried=carried)


@pytest.mark.parametrize("key", INJECT)
def test_another_word_for_inject_counts_as_none(key: str) -> None:
    found = parse_injection(pod(**{key: "true"}), {"linkerd.io/inject": "enabled"}, {})
    assert found.mode is Mode.ENABLED
    assert [str(problem) for problem in found.problems] == [
        f'metadata.annotations[{key}]: found "true"; write enabled, ingress, disabled; it counts as not set'
    ]


def test_good_elements_of_a_list_count_beside_bad_ones() -> None:
    found = parse_injection(pod(**{"config.linkerd.io/skip-inbound-ports": "80,nope,90"}), {}, {})
    assert found.skip_inbound == ports((80, 80), (90, 90))
    assert len(found.problems) == 1


def test_a_request_above_its_limit_is_lowered_to_it() -> None:
    found = parse_injection(pod(), {}, {"proxy-memory-request": "1Gi", "proxy-memory-limit": "64Mi"})
    assert found.amounts == Amounts(requests=(("memory", "64Mi"),), limits=(("memory", "64Mi"),))
    assert len(found.problems) == 1


@pytest.mark.parametrize(
    "template",
    [
        None,
        [],
        "x",
        {"metadata": 1},
        {"metadata": {"annotations": []}},
        {"spec": {"containers": [1, {"ports": 2}]}},
    ],
)
def test_whatever_is_there_it_never_raises(template: object) -> None:
    parse_injection(template, template, {})


def test_defaults_are_checked_by_the_same_table() -> None:
    good, problems = check_defaults(
        {"proxy-await": "disabled", "proxy-cpu-limit": "much", "proxy-awai": "x", "access-log": 1}
    )
    assert good == {"proxy-await": "disabled"}
    assert [str(problem) for problem in problems] == [
        'proxy-cpu-limit: found "much"; write an amount such as 100m, 2, 64Mi or 1G; it counts as not set',
        "proxy-awai: no such setting; write proxy-await",
        "access-log: found 1; write a text, in quotes; it counts as not set",
    ]
    assert check_defaults([])[0] == {}


def test_prefixes_are_no_others() -> None:
    assert {key.partition("/")[0] + "/" for row in SETTINGS.values() for key in row.keys} == set(PREFIXES)
