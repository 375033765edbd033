"""Containers, volumes and marks of a pod with a proxy: for each kind, in both forms, and away again without a trace."""

import argparse
import asyncio
import copy
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import kubernetes_asyncio.client as kubernetes_client
import pytest

from meshwright.edge import proxy_command, redirect_command
from meshwright.emit.inject import inject, uninject
from meshwright.emit.sidecar import emit_proxy, emit_redirect, emit_volumes, make_await, make_image
from meshwright.model.injection import TEMPLATES, Amounts, Injected, Injection, Mode, Skip, read_path
from meshwright.model.pod import PROXY_UID, PortRanges
from meshwright.model.problem import Problem, Reason
from meshwright.model.units import Millis, Namespace, Port
from meshwright.parse.pod import parse_pod
from tests.emit.made_pods import SETTINGS, make_template, wrap

SHOP = Namespace("shop")
ASKED = Injection(mode=Mode.ENABLED)
EVERYTHING = Injection(
    mode=Mode.INGRESS,
    skip_inbound=PortRanges(((Port(9000), Port(9010)),)),
    skip_outbound=PortRanges(((Port(3306), Port(3306)),)),
    skip_subnets=("10.1.0.0/16",),
    amounts=Amounts(requests=(("cpu", "1"),), limits=(("memory", "64Mi"),)),
    cores=3,
    log_level="debug",
    exit_delay_seconds=5,
)
FORMS = [replace(base, is_native=native) for base in (ASKED, EVERYTHING) for native in (True, False)]


def put_in(manifest: dict[str, Any], injection: Injection = ASKED) -> Injected:
    return inject(manifest, injection, SETTINGS, namespace=SHOP)


@pytest.mark.parametrize("injection", FORMS)
@pytest.mark.parametrize(("group", "kind"), TEMPLATES)
def test_every_kind_gets_its_proxy_and_is_itself_again(group: str, kind: str, injection: Injection) -> None:
    manifest = wrap(group, kind, make_template(initContainers=[{"name": "own"}]))
    before = copy.deepcopy(manifest)
    result = put_in(manifest, injection)
    assert manifest == before
    template = read_path(result.manifest, TEMPLATES[group, kind])
    spec = template["spec"]
    names = [[each["name"] for each in spec[part]] for part in ("initContainers", "containers", "volumes")]
    volumes = ["meshwright-state", "meshwright-secrets"]
    if injection.is_native:
        assert names == [["meshwright-init", "meshwright-proxy", "own"], ["app"], volumes]
    else:
        assert names == [["own", "meshwright-init"], ["meshwright-proxy", "app"], volumes]
    assert template["metadata"]["labels"]["meshwright.dev/control-plane-ns"] == "meshwright"
    assert template["metadata"]["annotations"]["meshwright.dev/proxy-version"] == "1.2.3"
    assert uninject(result.manifest) == before


def test_delivery_reads_of_an_injected_pod_what_was_decided() -> None:
    pod = wrap("", "Pod", make_template(serviceAccountName="web"))
    carried = (("config.linkerd.io/opaque-ports", "5432"), ("linkerd.io/inject", "ingress"))
    found = parse_pod(put_in(pod, replace(EVERYTHING, carried=carried)).manifest)
    ports = PortRanges(((Port(4191), Port(4191)), (Port(9000), Port(9010))))
    assert (found.is_meshed, found.is_ingress, found.skipped_inbound) == (True, True, ports)
    assert found.opaque == PortRanges(((Port(5432), Port(5432)),))


@pytest.mark.parametrize("injection", FORMS)
def test_both_programs_understand_their_arguments(injection: Injection) -> None:
    for module, container in (
        (redirect_command, emit_redirect(injection, SETTINGS)),
        (proxy_command, emit_proxy(injection, SETTINGS)),
    ):
        parser = argparse.ArgumentParser(exit_on_error=False)
        module.add_arguments(parser)
        parser.parse_args(container["args"])


def test_the_redirect_is_root_with_two_capabilities_and_no_more() -> None:
    assert emit_redirect(EVERYTHING, SETTINGS)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"add": ["NET_ADMIN", "NET_RAW"], "drop": ["ALL"]},
        "privileged": False,
        "readOnlyRootFilesystem": True,
        "runAsGroup": 0,
        "runAsNonRoot": False,
        "runAsUser": 0,
        "seccompProfile": {"type": "RuntimeDefault"},
    }


@pytest.mark.parametrize("injection", FORMS)
def test_the_proxy_keeps_to_the_restricted_standard(injection: Injection) -> None:
    context = emit_proxy(injection, SETTINGS)["securityContext"]
    assert context == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
        "runAsGroup": PROXY_UID,
        "runAsNonRoot": True,
        "runAsUser": PROXY_UID,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    kinds = [set(volume) - {"name"} for volume in emit_volumes()]
    assert kinds == [{"emptyDir"}, {"projected"}]


def test_the_application_starts_after_the_proxy_unless_told_otherwise() -> None:
    waiting, hasty = (emit_proxy(replace(ASKED, waits_for_proxy=waits), SETTINGS) for waits in (True, False))
    assert waiting["startupProbe"]["httpGet"] == {"path": "/ready", "port": 4191}
    assert waiting["startupProbe"]["periodSeconds"] == 1
    assert "startupProbe" not in hasty
    plain, hasty_plain = (
        emit_proxy(replace(ASKED, is_native=False, waits_for_proxy=waits), SETTINGS) for waits in (True, False)
    )
    assert plain["lifecycle"]["postStart"]["exec"]["command"] == ["/bin/bash", "-c", make_await(4191)]
    assert "lifecycle" not in hasty_plain
    assert "restartPolicy" not in plain
    assert waiting["restartPolicy"] == "Always"


@pytest.mark.parametrize("has_body", [True, False])
async def test_waiting_for_the_proxy_ends_when_it_says_it_is_ready(has_body: bool) -> None:
    answers = [b"HTTP/1.1 503 Service Unavailable\r\n\r\n", b"", b"HTTP/1.1 200 OK\r\n\r\n" + b"LIVE\n" * has_body]
    asked = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(answers[len(asked) - 1])
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        shell = await asyncio.create_subprocess_exec("/bin/bash", "-c", make_await(port))
        async with asyncio.timeout(20):
            assert await shell.wait() == 0
    assert asked == [b"GET /ready HTTP/1.0\r\n\r\n"] * 3


@pytest.mark.parametrize(
    ("usual", "image", "version", "found"),
    [
        ("r.example:5000/mw:1", "", "", "r.example:5000/mw:1"),
        ("r.example:5000/mw:1", "", "2", "r.example:5000/mw:2"),
        ("r.example:5000/mw:1", "m.example/mw", "", "m.example/mw:1"),
        ("r.example:5000/mw:1", "m.example/mw", "2", "m.example/mw:2"),
        ("r.example:5000/mw:1", "m.example/mw:3", "", "m.example/mw:3"),
        ("r.example:5000/mw:1", "m.example/mw:3", "2", "m.example/mw:2"),
        ("r.example/mw@sha256:abc", "", "", "r.example/mw@sha256:abc"),
        ("r.example/mw:1@sha256:abc", "", "2", "r.example/mw:2"),
        ("r.example/mw@sha256:abc", "m.example/mw", "", "m.example/mw:1.2.3"),
        ("mw", "", "", "mw:1.2.3"),
    ],
)
def test_annotations_may_name_an_image_or_a_version_of_it(usual: str, image: str, version: str, found: str) -> None:
    settings = replace(SETTINGS, image=usual)
    assert make_image(Injection(image=image, version=version), settings) == found


def test_a_pod_that_was_injected_is_left_alone() -> None:
    once = put_in(wrap("", "Pod", make_template())).manifest
    again = put_in(once)
    assert (again.manifest, again.skip) == (once, Skip.ALREADY_INJECTED)


def test_who_did_not_ask_is_told_that_and_nothing_else() -> None:
    unfit = {"apiVersion": "v1", "kind": "Pod", "metadata": 1, "spec": {"hostNetwork": True}}
    assert inject(unfit, Injection(), SETTINGS, namespace=SHOP).skip is Skip.NOT_ASKED
    assert inject(unfit, Injection(mode=Mode.DISABLED), SETTINGS, namespace=SHOP).skip is Skip.DISABLED


def test_what_the_command_asks_counts_where_nobody_else_does() -> None:
    pod = wrap("", "Pod", make_template())
    result = inject(pod, Injection(), SETTINGS, namespace=SHOP, asked=Mode.INGRESS)
    assert result.manifest["metadata"]["annotations"]["linkerd.io/inject"] == "ingress"
    assert uninject(result.manifest) == pod
    refused = inject(pod, Injection(mode=Mode.DISABLED), SETTINGS, namespace=SHOP, asked=Mode.ENABLED)
    assert refused.skip is Skip.DISABLED


def test_problems_become_warnings_that_say_whose_they_are() -> None:
    one, two = (Problem(f"metadata.annotations[{key}]", Reason.INVALID_ANNOTATION, "wrong") for key in "ab")
    result = put_in(wrap("", "Pod", make_template()), replace(ASKED, problems=(one,), namespace_problems=(two,)))
    assert result.warnings == (
        "metadata.annotations[a]: wrong",
        "namespace shop: metadata.annotations[b]: wrong",
    )


def test_a_job_with_a_plain_proxy_is_warned_about() -> None:
    of_job = make_template()
    of_job["metadata"]["ownerReferences"] = [{"apiVersion": "batch/v1", "kind": "Job", "name": "j", "uid": "u"}]
    plain = replace(ASKED, is_native=False)
    for manifest in (wrap("batch", "Job", make_template()), wrap("", "Pod", of_job)):
        assert [text[:20] for text in put_in(manifest, plain).warnings] == ["the proxy is a plain"]
        assert put_in(manifest).warnings == ()


@pytest.mark.parametrize(
    ("is_native", "grace_ms", "flag"),
    [
        (True, None, None),
        (False, None, "120s"),
        (True, 90_000, "90s"),
        (False, 1_500, "1500ms"),
        (True, 0, None),
        (False, 0, None),
    ],
)
def test_a_plain_proxy_goes_on_for_two_minutes_and_a_native_one_ends_unless_said_otherwise(
    is_native: bool, grace_ms: int | None, flag: str | None
) -> None:
    grace = None if grace_ms is None else Millis(grace_ms)
    found = emit_proxy(replace(ASKED, is_native=is_native, grace_ms=grace), SETTINGS)["args"]
    said = [word.partition("=")[2] for word in found if word.startswith("--shutdown-grace-period=")]
    assert said == ([] if flag is None else [flag])


@pytest.mark.parametrize("record", ["", "{", "[]", '{"annotations":1}', '{"annotations":[],"before":{},"made":{}}'])
def test_an_edited_record_does_not_keep_the_proxy_in(record: str) -> None:
    injected = put_in(wrap("", "Pod", make_template())).manifest
    injected["metadata"]["annotations"]["meshwright.dev/injected"] = record
    bare = uninject(injected)
    assert bare is not None
    assert [each["name"] for each in bare["spec"]["containers"]] == ["app"]
    assert bare["spec"]["initContainers"] == bare["spec"]["volumes"] == []
    assert bare["metadata"] == {"name": "app", "labels": {"app": "app"}, "annotations": {}}


@pytest.mark.parametrize(
    "manifest", [wrap("", "Pod", make_template()), {"apiVersion": "v1", "kind": "Pod"}, {"kind": 1}]
)
def test_there_is_nothing_to_take_out_of_others(manifest: dict[str, Any]) -> None:
    assert uninject(manifest) is None


# ---- the API's own schema


def find_strangers(value: object, type_: str, path: str) -> Iterator[str]:
    """Yield the paths of keys that Kubernetes' own model of a type does not have."""
    if listed := re.fullmatch(r"list\[(.+)\]", type_):
        assert isinstance(value, list), path
        for index, each in enumerate(value):
            yield from find_strangers(each, listed[1], f"{path}[{index}]")
    elif mapped := re.fullmatch(r"dict\[str, (.+)\]|dict\(str, (.+)\)", type_):
        assert isinstance(value, dict), path
        for key, each in value.items():
            yield from find_strangers(each, mapped[1] or mapped[2], f"{path}.{key}")
    elif type_ in ("str", "int", "bool", "object"):
        wanted: Mapping[str, type] = {"str": str, "int": int, "bool": bool, "object": object}
        assert isinstance(value, wanted[type_]), (path, value)
    else:
        model = getattr(kubernetes_client, type_)
        types = {model.attribute_map[name]: of for name, of in model.openapi_types.items()}
        assert isinstance(value, dict), path
        for key, each in value.items():
            if key not in types:
                yield f"{path}.{key}"
            else:
                yield from find_strangers(each, types[key], f"{path}.{key}")


@pytest.mark.parametrize("injection", FORMS)
def test_every_field_of_an_injected_pod_is_one_of_kubernetes(injection: Injection) -> None:
    assert list(find_strangers(put_in(wrap("", "Pod", make_template()), injection).manifest, "V1Pod", "")) == []


def test_a_field_that_kubernetes_has_not_would_be_found() -> None:
    pod = {"spec": {"containers": [{"name": "a", "restartpolicy": "Always"}]}}
    assert list(find_strangers(pod, "V1Pod", "")) == [".spec.containers[0].restartpolicy"]


BUDGETS = (
    {"requests": {"cpu": "100m", "memory": "64Mi"}},
    {"limits": {"cpu": "200m"}, "requests": {"cpu": "200m"}},
)


@pytest.mark.parametrize("is_native", [True, False])
@pytest.mark.parametrize("budget", BUDGETS)
def test_where_the_pod_has_a_budget_its_proxy_asks_for_nothing_beside_it(
    budget: dict[str, Any], is_native: bool
) -> None:
    manifest = wrap("apps", "Deployment", make_template(resources=budget))
    before = copy.deepcopy(manifest)
    result = put_in(manifest, replace(EVERYTHING, is_native=is_native))
    spec = result.manifest["spec"]["template"]["spec"]
    ours = [each for part in ("initContainers", "containers") for each in spec[part] if each["name"] != "app"]
    assert [each.get("resources") for each in ours] == [None, None]
    assert spec["resources"] == budget
    assert result.warnings == (
        "the pod's own resources (spec.resources) count for its proxy, too, which gets none beside them; "
        "have room there for request cpu 1, limit memory 64Mi",
    )
    assert uninject(result.manifest) == before


@pytest.mark.parametrize("budget", [{}, None, {"claims": []}, {"requests": {}}])
def test_a_budget_that_says_nothing_is_none(budget: object) -> None:
    result = put_in(wrap("", "Pod", make_template(resources=budget)), EVERYTHING)
    proxy = result.manifest["spec"]["initContainers"][1]
    assert (proxy["resources"], result.warnings) == ({"limits": {"memory": "64Mi"}, "requests": {"cpu": "1"}}, ())


@pytest.mark.parametrize(
    ("spec", "seconds", "is_told"),
    [
        ({}, 29, False),
        ({}, 30, True),
        ({"terminationGracePeriodSeconds": 60}, 59, False),
        ({"terminationGracePeriodSeconds": 60}, 99, True),
        ({"terminationGracePeriodSeconds": "soon"}, 29, False),
        ({}, 0, False),
    ],
)
def test_a_proxy_that_waits_longer_than_the_pod_lives_is_told_of(
    spec: dict[str, Any], seconds: int, is_told: bool
) -> None:
    warnings = put_in(wrap("", "Pod", make_template(**spec)), replace(ASKED, exit_delay_seconds=seconds)).warnings
    limit = spec.get("terminationGracePeriodSeconds", 30)
    said = (
        f"the proxy waits {seconds} s before it stops (proxy-wait-before-exit-seconds), and the pod is killed after "
        f"{limit}; make terminationGracePeriodSeconds longer"
    )
    assert warnings == ((said,) if is_told else ())


SCRAPED = {"prometheus.io/scrape": "true", "prometheus.io/port": "4191", "prometheus.io/path": "/metrics"}


@pytest.mark.parametrize(
    ("own", "added"),
    [
        ({}, SCRAPED),
        ({"linkerd.io/inject": "enabled"}, SCRAPED),
        ({"prometheus.io/port": "9000"}, {}),
        ({"prometheus.io/scrape": "false"}, {}),
    ],
)
def test_prometheus_is_told_of_a_proxy_where_the_pod_does_not_speak_of_it(
    own: dict[str, str], added: dict[str, str]
) -> None:
    template = make_template()
    template["metadata"]["annotations"] = dict(own)
    manifest = wrap("apps", "Deployment", template)
    settings = replace(SETTINGS, has_scrape_annotations=True)
    injected = inject(manifest, ASKED, settings, namespace=SHOP).manifest
    annotations = injected["spec"]["template"]["metadata"]["annotations"]
    assert {key: text for key, text in annotations.items() if key.startswith("prometheus.io/")} == added | {
        key: text for key, text in own.items() if key.startswith("prometheus.io/")
    }
    assert uninject(injected) == manifest


def test_prometheus_is_told_nothing_unless_that_is_asked_for() -> None:
    assert "prometheus" not in str(put_in(wrap("apps", "Deployment", make_template())).manifest)
