"""The webhook over real HTTPS, as an API server asks it: patches, warnings, events, and a certificate that changes."""

import argparse
import asyncio
import base64
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import jsonpatch
import orjson
import pytest
from prometheus_client import generate_latest

from meshwright.cli import main
from meshwright.edge.client import Client, Json
from meshwright.edge.events import EVENTS
from meshwright.edge.injection import inject_object
from meshwright.edge.injection_flags import SettingsError, add_injection_flags, read_injection_settings
from meshwright.edge.webhook import NAMESPACES, SECRETS, Webhook, admit
from meshwright.edge.webhook_certificate import make_secret
from meshwright.model.injection import Mode
from meshwright.model.units import Namespace
from tests.edge.apiserver import ApiServer
from tests.emit.made_pods import SETTINGS, make_template

NAME = "meshwright-webhook.meshwright.svc"
OWNER = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-7d9f", "uid": "u-1", "controller": True}


def make_pod(**metadata: Any) -> Json:
    template = make_template()
    template["metadata"] |= {"generateName": "web-7d9f-", "ownerReferences": [OWNER], **metadata}
    return {"apiVersion": "v1", "kind": "Pod", **template}


def make_certificate(*, age: timedelta = timedelta()) -> Json:
    return make_secret("meshwright", NAME, (), datetime.now(UTC) - age)


def make_review(pod: Json | None, namespace: str = "shop", **more: Any) -> bytes:
    request = {
        "uid": "review-1",
        "kind": {"group": "", "version": "v1", "kind": "Pod"},
        "operation": "CREATE",
        "namespace": namespace,
        "object": pod,
        **more,
    }
    return orjson.dumps({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request})


@pytest.fixture
def cluster(server: ApiServer) -> ApiServer:
    for resource in (SECRETS, EVENTS):
        if (resource.group, resource.plural) not in server.cluster.resources:
            server.cluster.define(resource)
    server.cluster.put(
        NAMESPACES, {"metadata": {"name": "shop", "annotations": {"linkerd.io/inject": "enabled", "x": "y"}}}
    )
    server.cluster.put(NAMESPACES, {"metadata": {"name": "other"}})
    return server


@asynccontextmanager
async def running(client: Client, **how: Any) -> AsyncIterator[Webhook]:
    async with admit(
        client,
        SETTINGS,
        host="127.0.0.1",
        port=0,
        metrics_port=0,
        **{"drain_seconds": 0.0, "linger_seconds": 0.0} | how,
    ) as webhook:
        yield webhook


async def ask(webhook: Webhook, secret: Json, body: bytes, *, status: int = 200) -> Json:
    """Post a review as the API server does: believing the Secret's ``ca.crt``, for the Service's name."""
    context = ssl.create_default_context(cadata=base64.b64decode(secret["data"]["ca.crt"]).decode())
    async with (
        aiohttp.ClientSession() as session,
        session.post(
            f"https://127.0.0.1:{webhook.port}/inject",
            data=body,
            ssl=context,
            server_hostname=NAME,
            timeout=aiohttp.ClientTimeout(total=10),
        ) as answer,
    ):
        content = await answer.read()
        assert answer.status == status, content
        return dict(orjson.loads(content)["response"]) if status == 200 else {}


@pytest.fixture
async def serving(cluster: ApiServer, client: Client) -> AsyncIterator[tuple[Webhook, Json]]:
    secret = cluster.cluster.put(SECRETS, make_certificate())
    async with running(client) as webhook:
        await asyncio.wait_for(webhook.ready.wait(), 60)
        yield webhook, secret


async def test_a_pod_gets_the_proxy_that_the_command_would_write(serving: tuple[Webhook, Json]) -> None:
    webhook, secret = serving
    pod = make_pod()
    response = await ask(webhook, secret, make_review(pod))
    patch = orjson.loads(base64.b64decode(response.pop("patch")))
    assert response == {"uid": "review-1", "allowed": True, "patchType": "JSONPatch"}
    written = inject_object(
        pod, {"linkerd.io/inject": "enabled"}, SETTINGS, namespace=Namespace("shop"), asked=Mode.DISABLED
    ).manifest
    assert jsonpatch.apply_patch(pod, patch) == written != pod
    assert b'meshwright_injections_total{outcome="injected",reason=""} 1.0' in generate_latest(webhook.registry)


@pytest.mark.parametrize(
    "body",
    [
        make_review(make_pod(), "other"),
        make_review(make_pod(), operation="UPDATE"),
        make_review(make_pod(), subResource="ephemeralcontainers"),
        make_review(None),
        make_review({}, kind={"group": "apps", "version": "v1", "kind": "Deployment"}),
        make_review(make_pod(annotations={"linkerd.io/inject": "disabled"})),
    ],
)
async def test_what_did_not_ask_is_allowed_without_a_word(body: bytes, serving: tuple[Webhook, Json]) -> None:
    assert await ask(*serving, body) == {"uid": "review-1", "allowed": True}


async def test_a_pod_that_cannot_have_a_proxy_is_allowed_with_a_warning_and_an_event(
    cluster: ApiServer, serving: tuple[Webhook, Json]
) -> None:
    pod = make_pod()
    pod["spec"]["hostNetwork"] = True
    text = "hostNetwork: true; its connections are the node's, which cannot be redirected"
    for _ in range(3):
        assert await ask(*serving, make_review(pod)) == {
            "uid": "review-1",
            "allowed": True,
            "warnings": [f"meshwright: this pod gets no proxy: {text}"],
        }
    await cluster.eventually(lambda: bool(cluster.cluster.all(EVENTS)))
    (event,) = cluster.cluster.all(EVENTS)
    kept = {key: event[key] for key in ("reason", "note", "type", "action", "regarding", "reportingController")}
    assert kept == {
        "reason": "InjectionSkipped",
        "note": f"HostNetwork: {text}",
        "type": "Warning",
        "action": "Inject",
        "regarding": {key: OWNER[key] for key in ("apiVersion", "kind", "name", "uid")} | {"namespace": "shop"},
        "reportingController": "meshwright.dev/webhook",
    }
    assert event["metadata"]["namespace"] == "shop"


async def test_mistakes_are_warned_about_and_the_proxy_is_there(
    cluster: ApiServer, serving: tuple[Webhook, Json]
) -> None:
    pod = make_pod(annotations={"config.linkerd.io/proxy-cpu-limit": "much"})
    response = await ask(*serving, make_review(pod))
    assert response["patch"]
    assert response["warnings"] == [
        'meshwright: metadata.annotations[config.linkerd.io/proxy-cpu-limit]: found "much"; write an amount such as '
        "100m, 2, 64Mi or 1G; it counts as not set"
    ]
    await cluster.eventually(lambda: bool(cluster.cluster.all(EVENTS)))
    assert [event["reason"] for event in cluster.cluster.all(EVENTS)] == ["InjectionSettings"]


async def test_a_dry_run_leaves_no_event(cluster: ApiServer, serving: tuple[Webhook, Json]) -> None:
    dry, wet = make_pod(), make_pod()
    dry["spec"]["hostNetwork"] = wet["spec"]["hostNetwork"] = True
    wet["metadata"]["ownerReferences"] = []
    await ask(*serving, make_review(dry, dryRun=True))
    await ask(*serving, make_review(wet))
    await cluster.eventually(lambda: bool(cluster.cluster.all(EVENTS)))
    assert [event["regarding"]["name"] for event in cluster.cluster.all(EVENTS)] == ["web-7d9f"]


async def test_an_unreadable_pod_is_allowed(serving: tuple[Webhook, Json]) -> None:
    pod = make_pod()
    pod["spec"]["containers"] = [{"image": "nameless"}]
    response = await ask(*serving, make_review(pod))
    assert (response["allowed"], "patch" in response) == (True, False)


async def test_a_bug_refuses_nobody(serving: tuple[Webhook, Json], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError

    monkeypatch.setattr("meshwright.edge.webhook.decide", fail)
    assert await ask(*serving, make_review(make_pod())) == {"uid": "review-1", "allowed": True}
    assert b'{outcome="failed",reason="Bug"} 1.0' in generate_latest(serving[0].registry)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"{}", make_review(None).replace(b"/v1", b"/v1beta1")])
async def test_what_is_no_review_is_a_bad_request(body: bytes, serving: tuple[Webhook, Json]) -> None:
    await ask(*serving, body, status=400)


async def test_a_namespace_that_no_event_told_of_is_asked_for(
    cluster: ApiServer, serving: tuple[Webhook, Json]
) -> None:
    cluster.freeze_streams()
    cluster.cluster.put(NAMESPACES, {"metadata": {"name": "new", "annotations": {"linkerd.io/inject": "ingress"}}})
    assert "patch" in await ask(*serving, make_review(make_pod(), "new"))
    assert await ask(*serving, make_review(make_pod(), "gone")) == {"uid": "review-1", "allowed": True}
    cluster.fail("namespaces", 500)
    await ask(*serving, make_review(make_pod(), "unknown"), status=503)
    assert "patch" in await ask(*serving, make_review(make_pod()))


async def test_a_namespace_that_changes_its_mind_is_followed(cluster: ApiServer, serving: tuple[Webhook, Json]) -> None:
    cluster.cluster.put(NAMESPACES, {"metadata": {"name": "shop"}})
    async with asyncio.timeout(60):
        while True:
            if "patch" not in await ask(*serving, make_review(make_pod())):
                break
            await asyncio.sleep(0.01)


async def test_it_is_not_ready_before_it_has_a_certificate(cluster: ApiServer, client: Client) -> None:
    async with running(client) as webhook:
        await cluster.eventually(lambda: cluster.requests["LIST", "secrets"] > 0)
        assert not webhook.ready.is_set()
        broken = make_certificate()
        broken["data"]["tls.key"] = make_certificate()["data"]["tls.key"]
        cluster.cluster.put(SECRETS, broken)
        another = make_certificate()
        another["metadata"]["name"] = "another"
        cluster.cluster.put(SECRETS, another)
        secret = cluster.cluster.put(SECRETS, make_certificate())
        await asyncio.wait_for(webhook.ready.wait(), 60)
        assert "patch" in await ask(webhook, secret, make_review(make_pod()))


async def test_a_new_certificate_is_served_without_a_restart(cluster: ApiServer, client: Client) -> None:
    first = cluster.cluster.put(SECRETS, make_certificate())
    async with running(client) as webhook:
        await asyncio.wait_for(webhook.ready.wait(), 60)
        port = webhook.port
        await ask(webhook, first, make_review(None))
        second = cluster.cluster.put(SECRETS, make_certificate(age=timedelta(days=1)))
        await served(webhook, second)
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            await ask(webhook, first, make_review(None))
        for data in (
            {},
            {"tls.crt": "AAAA", "tls.key": "AAAA"},
            {**second["data"], "tls.key": first["data"]["tls.key"]},
        ):
            cluster.cluster.put(SECRETS, second | {"data": data})
        cluster.cluster.remove(SECRETS, "meshwright", "meshwright-webhook-tls")
        third = cluster.cluster.put(SECRETS, make_certificate())
        await served(webhook, third)
        assert webhook.port == port


async def test_a_good_certificate_is_served_for_a_while_when_there_is_another(
    cluster: ApiServer, client: Client
) -> None:
    first = cluster.cluster.put(SECRETS, make_certificate())
    async with running(client, linger_seconds=600.0) as webhook:
        await asyncio.wait_for(webhook.ready.wait(), 60)
        cluster.cluster.put(SECRETS, make_certificate())
        await cluster.eventually(lambda: webhook.is_renewing)
        await ask(webhook, first, make_review(None))


async def served(webhook: Webhook, secret: Json) -> None:
    """Return once new connections get this Secret's certificate."""
    async with asyncio.timeout(60):
        while True:
            try:
                await ask(webhook, secret, make_review(None))
            except aiohttp.ClientConnectorCertificateError:
                await asyncio.sleep(0.01)
            else:
                return


async def test_it_still_answers_while_the_cluster_forgets_it(cluster: ApiServer, client: Client) -> None:
    secret = cluster.cluster.put(SECRETS, make_certificate())
    leaving, leave = asyncio.Event(), asyncio.Event()
    found: list[Webhook] = []

    async def serve() -> None:
        async with running(client, drain_seconds=1.0) as webhook:
            await webhook.ready.wait()
            found.append(webhook)
            leaving.set()
            await leave.wait()

    task = asyncio.create_task(serve())
    await asyncio.wait_for(leaving.wait(), 60)
    leave.set()
    await cluster.eventually(lambda: found[0].is_stopping)
    assert "patch" in await ask(found[0], secret, make_review(make_pod()))
    await asyncio.wait_for(task, 60)
    with pytest.raises(aiohttp.ClientConnectorError):
        await ask(found[0], secret, make_review(None))


def test_wrong_defaults_stop_it_from_starting(tmp_path: Path) -> None:
    file = tmp_path / "defaults.json"
    for text, message in (
        ('{"proxy-cpu-limit": "much"}', "proxy-cpu-limit: found"),
        ('{"proxy-cpu-limi": "1"}', "write proxy-cpu-limit"),
        ("{", "this is not JSON"),
    ):
        file.write_text(text)
        parser = argparse.ArgumentParser()
        add_injection_flags(parser)
        with pytest.raises(SettingsError, match=message):
            read_injection_settings(parser.parse_args(["--defaults", str(file)]))
        assert main(["webhook", "--defaults", str(file)]) == 1
