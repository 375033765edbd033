"""The operator's part of the webhook's certificate: made, renewed, mended, and believed at every moment."""

import asyncio
import base64
import ssl
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from meshwright.edge.client import Client, Json
from meshwright.edge.live_certificate import LiveCertificate
from meshwright.edge.webhook_certificate import (
    CONFIGURATIONS,
    LIFETIME,
    SECRETS,
    VALIDATIONS,
    WebhookCertificate,
    make_secret,
)
from meshwright.link.webhook_certificate import judge_serving
from meshwright.parse.certificate import parse_certificates, parse_issuer_secret
from tests.edge.apiserver import ApiServer

NOW = datetime(2026, 1, 1, tzinfo=UTC)
NAME = "meshwright-webhook.meshwright.svc"


@pytest.fixture
def cluster(server: ApiServer) -> ApiServer:
    for resource in (SECRETS, CONFIGURATIONS):
        if (resource.group, resource.plural) not in server.cluster.resources:
            server.cluster.define(resource)
    service = {"namespace": "meshwright", "name": "meshwright-webhook", "path": "/inject"}
    webhook = {"name": "inject.meshwright.dev", "clientConfig": {"service": service}, "failurePolicy": "Ignore"}
    server.cluster.put(
        CONFIGURATIONS, {"metadata": {"name": "meshwright-inject"}, "webhooks": [webhook]}, manager="helm"
    )
    return server


def keep(
    client: Client, *, makes: bool = True, now: Callable[[], datetime] = lambda: NOW, **how: Any
) -> WebhookCertificate:
    timing = {"look_seconds": 0.01, "settle_seconds": 0.0, "linger_seconds": 0.0}
    return WebhookCertificate(
        client=client, namespace="meshwright", may_write=lambda: True, makes=makes, now=now, **(timing | how)
    )


def read_secret(cluster: ApiServer) -> Json:
    secret = cluster.cluster.get(SECRETS, "meshwright", "meshwright-webhook-tls")
    assert secret is not None
    return secret


def read_bundle(cluster: ApiServer) -> bytes:
    configuration = cluster.cluster.get(CONFIGURATIONS, "", "meshwright-inject")
    assert configuration is not None
    return base64.b64decode(configuration["webhooks"][0]["clientConfig"].get("caBundle") or "")


def fingerprints(pem: bytes) -> list[str]:
    return [found.fingerprint for found in parse_certificates(pem, "")[0]]


async def test_the_first_one_is_made_and_believed_and_then_nothing_is_written(
    cluster: ApiServer, client: Client
) -> None:
    certificate = keep(client)
    await certificate.look()
    secret = read_secret(cluster)
    assert judge_serving(parse_issuer_secret(secret), NAME, NOW) is None
    assert secret["type"] == "kubernetes.io/tls"
    assert read_bundle(cluster) == base64.b64decode(secret["data"]["ca.crt"])
    with cluster.counted() as writes:
        await certificate.look()
        await keep(client).look()
    assert writes == []


async def test_it_is_believed_wherever_the_webhook_is_asked(cluster: ApiServer, client: Client) -> None:
    cluster.cluster.define(VALIDATIONS)
    service = {"namespace": "meshwright", "name": "meshwright-webhook", "path": "/validate"}
    webhook = {"name": "validate.meshwright.dev", "clientConfig": {"service": service}}
    cluster.cluster.put(VALIDATIONS, {"metadata": {"name": "meshwright-validate"}, "webhooks": [webhook]})
    await keep(client).look()
    configuration = cluster.cluster.get(VALIDATIONS, "", "meshwright-validate")
    assert configuration is not None
    assert base64.b64decode(configuration["webhooks"][0]["clientConfig"]["caBundle"]) == read_bundle(cluster)


async def test_the_next_one_is_believed_before_it_is_there_and_the_last_one_after(
    cluster: ApiServer, client: Client
) -> None:
    await keep(client).look()
    old = fingerprints(read_bundle(cluster))
    clock = NOW + LIFETIME * 0.7
    start = len(cluster.writes)
    await keep(client, now=lambda: clock).look()
    assert [(write.verb, write.kind) for write in cluster.writes[start:]] == [
        ("patch", "MutatingWebhookConfiguration"),
        ("apply", "Secret"),
    ]
    new = fingerprints(base64.b64decode(read_secret(cluster)["data"]["ca.crt"]))
    assert fingerprints(read_bundle(cluster)) == new
    assert (len(new), new[1:]) == (2, old)
    clock = NOW + LIFETIME * 1.4
    await keep(client, now=lambda: clock).look()
    newest = fingerprints(read_bundle(cluster))
    assert (len(newest), newest[1:]) == (2, new[:1])


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"tls.crt": "AAAA"},
        {**make_secret("meshwright", "another.name", (), NOW)["data"]},
        {**make_secret("meshwright", NAME, (), NOW)["data"], "tls.key": "AAAA"},
        {**make_secret("meshwright", NAME, (), NOW - LIFETIME * 2)["data"]},
    ],
)
async def test_a_broken_one_is_made_anew(data: dict[str, str], cluster: ApiServer, client: Client) -> None:
    metadata = {"name": "meshwright-webhook-tls", "namespace": "meshwright"}
    cluster.cluster.put(SECRETS, {"metadata": metadata, "type": "kubernetes.io/tls", "data": data})
    await keep(client).look()
    assert judge_serving(parse_issuer_secret(read_secret(cluster)), NAME, NOW) is None


async def test_where_others_make_it_only_what_is_believed_is_kept_true(cluster: ApiServer, client: Client) -> None:
    certificate = keep(client, makes=False)
    await certificate.look()
    assert read_bundle(cluster) == b""
    secret = cluster.cluster.put(SECRETS, make_secret("meshwright", NAME, (), NOW), manager="cert-manager")
    await certificate.look()
    assert read_bundle(cluster) == base64.b64decode(secret["data"]["ca.crt"])
    assert {write.kind for write in cluster.writes} == {"MutatingWebhookConfiguration"}
    cluster.cluster.edit(
        CONFIGURATIONS, "", "meshwright-inject", lambda raw: raw["webhooks"][0]["clientConfig"].pop("caBundle")
    )
    await certificate.look()
    assert read_bundle(cluster) == base64.b64decode(secret["data"]["ca.crt"])
    cluster.cluster.put(SECRETS, secret | {"data": {**secret["data"], "ca.crt": "AAAA"}})
    await certificate.look()
    assert read_bundle(cluster) == base64.b64decode(secret["data"]["ca.crt"])


async def test_what_was_believed_stays_for_a_while_beside_what_is_new(cluster: ApiServer, client: Client) -> None:
    certificate = keep(client, makes=False, linger_seconds=0.3)
    first, second = (make_secret("meshwright", NAME, (), NOW) for _ in range(2))
    cluster.cluster.put(SECRETS, first)
    await certificate.look()
    cluster.cluster.put(SECRETS, second)
    await certificate.look()
    found = [fingerprints(base64.b64decode(each["data"]["ca.crt"])) for each in (second, first)]
    assert fingerprints(read_bundle(cluster)) == [each for pem in found for each in pem]
    async with asyncio.timeout(60):
        while True:
            await certificate.look()
            if read_bundle(cluster) == base64.b64decode(second["data"]["ca.crt"]):
                break
            await asyncio.sleep(0.05)


async def test_it_goes_on_until_the_server_takes_it(cluster: ApiServer, client: Client) -> None:
    faults = [cluster.fail("secrets", 500, times=1), cluster.fail("secrets", 403, method="PATCH", times=2)]
    certificate = keep(client)
    task = asyncio.create_task(certificate.run())
    await cluster.eventually(lambda: bool(cluster.cluster.all(SECRETS)) and certificate.problem == "")
    assert [fault.hits for fault in faults] == [1, 2]
    task.cancel()


async def test_who_does_not_lead_writes_nothing(cluster: ApiServer, client: Client) -> None:
    leads = False
    certificate = WebhookCertificate(
        client=client, namespace="meshwright", may_write=lambda: leads, makes=True, look_seconds=0.01, now=lambda: NOW
    )
    await certificate.look()
    assert (cluster.writes, cluster.cluster.all(SECRETS)) == ([], [])


def test_keys_are_in_no_text() -> None:
    secret = make_secret("meshwright", NAME, (), datetime.now(UTC))
    live = LiveCertificate()
    assert live.load(secret)
    assert not live.load(secret)
    other = make_secret("meshwright", NAME, (), datetime.now(UTC))
    for data in (
        {**secret["data"], "tls.key": other["data"]["tls.key"]},
        {**secret["data"], "tls.key": base64.b64encode(b"hush").decode()},
        {**secret["data"], "tls.key": "hush!"},
        {"tls.crt": secret["data"]["tls.key"], "tls.key": secret["data"]["tls.key"]},
        {"tls.key": secret["data"]["tls.key"]},
    ):
        with pytest.raises(ValueError, match=r"tls\.(crt|key)") as caught:
            live.load({"data": data})
        key = base64.b64decode(secret["data"]["tls.key"]).decode().splitlines()[1]
        assert key not in str(caught.value)
        assert "hush" not in str(caught.value)
    assert isinstance(live.context, ssl.SSLContext)
    assert live.not_after is not None
    assert live.not_after - datetime.now(UTC) > LIFETIME - timedelta(minutes=1)
