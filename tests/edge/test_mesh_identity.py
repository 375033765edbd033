"""Identity in the operator: what it asks of cert-manager, what it publishes, and what it tells."""

import functools
import gc
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from meshwright.edge.api_resource import Resource
from meshwright.edge.client import Json
from meshwright.edge.resources import RESOURCES
from meshwright.edge.webhook_certificate import CONFIGURATIONS
from meshwright.model.config import Config, IssuerKind
from meshwright.model.ref import Kind
from meshwright.parse.bundle_source import BundleSource
from tests.certificates import (
    ANCHOR,
    ISSUER,
    Made,
    anchor,
    make,
    make_bundle,
    make_issuer_secret,
    make_secret,
)
from tests.edge.apiserver import ApiServer, Write
from tests.edge.shop import MESH, SERVICE, Running, is_done, open_shop, operating, units

SECRETS, MAPS, NAMESPACES = RESOURCES[Kind.SECRET], RESOURCES[Kind.CONFIG_MAP], RESOURCES[Kind.NAMESPACE]
ISSUERS, CERTIFICATES = RESOURCES[Kind.ISSUER], RESOURCES[Kind.CERTIFICATE]
ASKING = Config(issuer_kind=IssuerKind.ANCHOR_SECRET, issuer_name="meshwright-trust-anchor")
BUNDLE = BundleSource(kind=Kind.CONFIG_MAP, name="roots")
PLACES = ("meshwright", "shop")


def real(wish: Any = ISSUER, by: Made | None = None, **changes: Any) -> Made:
    """Return a certificate for the clock on the wall."""
    return make(replace(wish, **changes), by=by or real_anchor(), now=datetime.now(UTC))


@functools.cache
def real_anchor(number: int = 1) -> Made:
    return make(replace(ANCHOR, number=number, name=f"root-{number}"), now=datetime.now(UTC))


def open_mesh(server: ApiServer) -> None:
    for name in (*PLACES, "kube-system"):
        server.cluster.put(NAMESPACES, {"metadata": {"name": name}})


def put_issuer(server: ApiServer, made: Made | None = None, *roots: Made) -> None:
    server.cluster.put(SECRETS, make_issuer_secret(made or real(), roots or [real_anchor()]))


def published(server: ApiServer) -> dict[str, str]:
    found = [raw for raw in server.cluster.all(MAPS) if raw["metadata"]["name"] == "mw-trust-anchors"]
    return {raw["metadata"]["namespace"]: raw["data"]["ca-bundle.crt"] for raw in found}


def report(server: ApiServer) -> Json:
    raw = server.cluster.get(MAPS, "meshwright", "mw-mesh")
    return json.loads(raw["data"]["identity.json"]) if raw else {}


def reasons(server: ApiServer) -> list[str]:
    return [problem["reason"] for problem in report(server).get("problems", ())]


def of_mesh(writes: list[Write]) -> list[str]:
    ours = (write for write in writes if write.name in MESH or write.kind in ("Issuer", "Certificate"))
    return sorted(f"{write.verb} {write.kind} {write.namespace}/{write.name}" for write in ours)


def requests(server: ApiServer, resource: Resource) -> list[str]:
    return [raw["metadata"]["name"] for raw in server.cluster.all(resource)]


async def rest(server: ApiServer, running: Running) -> None:
    await server.eventually(lambda: running.is_idle and running.replica.identity.is_judged)


async def test_anchors_reach_every_namespace_and_a_restart_writes_nothing(server: ApiServer, tmp_path: Path) -> None:
    open_mesh(server)
    open_shop(server, 1)
    put_issuer(server)
    expected = dict.fromkeys(PLACES, real_anchor().pem)
    async with operating(server, tmp_path) as running:
        await server.eventually(lambda: published(server) == expected and is_done(server, 1) and report(server) != {})
        await rest(server, running)
        told = report(server)
        assert (told["can_issue"], told["problems"]) == (True, [])
        assert told["issuer"]["subject"] == "CN=identity.meshwright.cluster.local"
        assert told["issuer"]["anchor"] == told["anchors"][0]["fingerprint"]
    with server.counted() as writes:
        async with operating(server, tmp_path) as running:
            await server.eventually(lambda: running.replica.slots.is_open)
            await rest(server, running)
    assert of_mesh(writes) == []


async def test_namespaces_come_go_and_end_and_edits_are_undone(server: ApiServer, tmp_path: Path) -> None:
    open_mesh(server)
    put_issuer(server)
    pem = real_anchor().pem
    async with operating(server, tmp_path) as running:
        await server.eventually(lambda: set(published(server)) == set(PLACES))
        server.cluster.put(NAMESPACES, {"metadata": {"name": "late"}})
        await server.eventually(lambda: set(published(server)) == {*PLACES, "late"})
        server.cluster.remove(MAPS, "shop", "mw-trust-anchors")
        await server.eventually(lambda: "shop" in published(server))
        server.cluster.edit(MAPS, "shop", "mw-trust-anchors", lambda raw: raw["data"].update({"ca-bundle.crt": "x"}))
        await server.eventually(lambda: published(server)["shop"] == pem)
        await rest(server, running)
        with server.counted() as writes:
            ending = {"name": "late", "deletionTimestamp": "2026-01-01T00:00:00Z"}
            server.cluster.put(NAMESPACES, {"metadata": ending})
            await server.eventually(lambda: "late" in running.replica.identity._ending)
            server.cluster.remove(MAPS, "late", "mw-trust-anchors")
            server.cluster.put(NAMESPACES, {"metadata": {"name": "next"}})
            await server.eventually(lambda: "next" in published(server))
            await rest(server, running)
        assert of_mesh(writes) == ["apply ConfigMap next/mw-trust-anchors"]


async def test_a_namespace_that_ends_before_we_know_makes_no_noise(
    server: ApiServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    open_mesh(server)
    put_issuer(server)
    async with operating(server, tmp_path) as running:
        await server.eventually(lambda: set(published(server)) == set(PLACES))
        await rest(server, running)
        fault = server.fail("configmaps", 403, method="PATCH", times=1, cause="NamespaceTerminating")
        server.cluster.put(NAMESPACES, {"metadata": {"name": "late"}})
        await server.eventually(lambda: fault.hits == 1)
        await rest(server, running)
    assert "late" not in published(server)
    assert not [line for line in caplog.messages if "not written" in line]


@pytest.mark.parametrize("broken", [None, {"other": "x"}, {"ca-bundle.crt": ""}, {"ca-bundle.crt": "-----BEGIN X"}])
async def test_what_was_published_stays_while_its_source_is_broken(
    server: ApiServer, tmp_path: Path, broken: dict[str, str] | None
) -> None:
    open_mesh(server)
    put_issuer(server)
    server.cluster.put(MAPS, make_bundle([real_anchor()]))
    async with operating(server, tmp_path, bundle=BUNDLE) as running:
        await server.eventually(lambda: set(published(server)) == set(PLACES))
        before = published(server)
        if broken is None:
            server.cluster.remove(MAPS, "meshwright", "roots")
        else:
            server.cluster.put(MAPS, {"metadata": {"namespace": "meshwright", "name": "roots"}, "data": broken})
        await server.eventually(lambda: report(server).get("can_issue") is False)
        await rest(server, running)
        assert published(server) == before
        server.cluster.put(MAPS, make_bundle([real_anchor(2)]))
        await server.eventually(lambda: set(published(server).values()) == {real_anchor(2).pem})


async def test_a_bundle_grows_and_shrinks(server: ApiServer, tmp_path: Path) -> None:
    open_mesh(server)
    old, new = real_anchor(1), real_anchor(2)
    put_issuer(server)
    server.cluster.put(MAPS, make_bundle([old]))
    both = "".join(made.pem for made in sorted((old, new), key=lambda made: made.fingerprint))
    async with operating(server, tmp_path, bundle=BUNDLE):
        await server.eventually(lambda: published(server) == dict.fromkeys(PLACES, old.pem))
        server.cluster.put(MAPS, make_bundle([new, old]))
        await server.eventually(lambda: published(server) == dict.fromkeys(PLACES, both))
        server.cluster.put(MAPS, make_bundle([new]))
        await server.eventually(lambda: published(server) == dict.fromkeys(PLACES, new.pem))
        await server.eventually(lambda: reasons(server) == ["Untrusted"])


async def test_cert_manager_is_asked_once_it_is_there(server: ApiServer, tmp_path: Path) -> None:
    open_mesh(server)
    config = replace(ASKING, asks_webhook_certificate=True)
    async with operating(server, tmp_path, config=config) as running:
        await server.eventually(lambda: "NotIssued" in reasons(server))
        await rest(server, running)
        assert not [write for write in server.writes if write.kind in ("Issuer", "Certificate")]
        server.cluster.define(ISSUERS, CERTIFICATES)
        issuers = ["meshwright-identity-issuer.meshwright-trust-anchor", "meshwright-webhook-tls"]
        names = ["meshwright-identity-issuer", "meshwright-webhook-tls"]
        await server.eventually(
            lambda: [requests(server, kind) for kind in (ISSUERS, CERTIFICATES)] == [issuers, names]
        )
        # What it asked for comes back to it, and each Certificate is told of: only then it is done.
        await server.eventually(lambda: reasons(server) == ["Missing", "NotIssued", "NotIssued"])
        await rest(server, running)
    with server.counted() as writes:
        async with operating(server, tmp_path, config=config) as running:
            await server.eventually(lambda: running.replica.slots.is_open)
            await rest(server, running)
    assert of_mesh(writes) == []


async def test_what_cert_manager_says_is_told(server: ApiServer, tmp_path: Path) -> None:
    open_mesh(server)
    server.cluster.define(ISSUERS, CERTIFICATES)
    name = "meshwright-identity-issuer"
    async with operating(server, tmp_path, config=ASKING):
        await server.eventually(lambda: server.cluster.get(CERTIFICATES, "meshwright", name) is not None)
        condition = {"type": "Ready", "status": "False", "reason": "DoesNotExist", "message": "no Secret"}
        server.cluster.edit(
            CERTIFICATES, "meshwright", name, lambda raw: raw.update(status={"conditions": [condition]})
        )
        await server.eventually(lambda: "Certificate " + name in [each["field"] for each in report(server)["problems"]])
        assert report(server)["cert_manager"][0]["reason"] == "DoesNotExist"
        put_issuer(server)
        status = {"conditions": [{"type": "Ready", "status": "True"}], "renewalTime": "2027-01-01T00:00:00Z"}
        server.cluster.edit(CERTIFICATES, "meshwright", name, lambda raw: raw.update(status=status))
        await server.eventually(lambda: report(server)["next_renewal"] == "2027-01-01T00:00:00Z")
        await server.eventually(lambda: reasons(server) == [])
        server.cluster.edit(CERTIFICATES, "meshwright", name, lambda raw: raw["spec"].update(duration="1h"))

        def duration() -> str:
            raw = server.cluster.get(CERTIFICATES, "meshwright", name)
            return raw["spec"]["duration"] if raw else ""

        await server.eventually(lambda: duration() == "48h")


async def test_an_issuer_that_cert_manager_only_found_is_told_if_it_is_not_as_asked_for(
    server: ApiServer, tmp_path: Path
) -> None:
    open_mesh(server)
    server.cluster.define(ISSUERS, CERTIFICATES)
    put_issuer(server, real(until=timedelta(days=365)))
    name, ready = "meshwright-identity-issuer", {"conditions": [{"type": "Ready", "status": "True"}]}
    async with operating(server, tmp_path, config=ASKING):
        await server.eventually(lambda: server.cluster.get(CERTIFICATES, "meshwright", name) is not None)
        server.cluster.edit(CERTIFICATES, "meshwright", name, lambda raw: raw.update(status=ready))
        await server.eventually(lambda: reasons(server) == ["NotIssued"])
        assert "365 days" in report(server)["problems"][0]["message"]
        made = {**ready, "revision": 1}
        server.cluster.edit(CERTIFICATES, "meshwright", name, lambda raw: raw.update(status=made))
        await server.eventually(lambda: reasons(server) == [])
        server.cluster.edit(CERTIFICATES, "meshwright", name, lambda raw: raw.update(status=ready))
        await server.eventually(lambda: reasons(server) == ["NotIssued"])
        put_issuer(server)
        await server.eventually(lambda: reasons(server) == [])


async def test_what_is_no_longer_asked_for_goes_and_others_requests_stay(server: ApiServer, tmp_path: Path) -> None:
    open_mesh(server)
    server.cluster.define(ISSUERS, CERTIFICATES)
    other = {"metadata": {"namespace": "meshwright", "name": "meshwright-trust-anchor"}, "spec": {"isCA": True}}
    server.cluster.put(CERTIFICATES, other)
    async with operating(server, tmp_path, config=ASKING):
        await server.eventually(lambda: len(server.cluster.all(CERTIFICATES)) == 2)
    async with operating(server, tmp_path):
        await server.eventually(lambda: len(server.cluster.all(CERTIFICATES)) == 1)
        await server.eventually(lambda: server.cluster.all(ISSUERS) == [])
    assert server.cluster.all(CERTIFICATES)[0]["metadata"]["name"] == "meshwright-trust-anchor"


async def test_secrets_are_asked_for_by_name_and_their_keys_are_not_kept(server: ApiServer, tmp_path: Path) -> None:
    open_mesh(server)
    made = real()
    put_issuer(server, made)
    server.cluster.put(SECRETS, make_secret({"ca.crt": real_anchor().pem, "tls.key": anchor(2).key_pem}, "roots"))
    bundle = BundleSource(kind=Kind.SECRET, name="roots")
    async with operating(server, tmp_path, bundle=bundle) as running:
        await server.eventually(lambda: len(report(server).get("anchors", ())) == 1)
        await rest(server, running)
        asked = {(stream.namespace, stream.fields) for stream in server.streams if stream.resource == SECRETS}
        named = {f"metadata.name={name}" for name in ("meshwright-identity-issuer", "roots")}
        assert asked == {("meshwright", fields) for fields in named}
        replica = running.replica
        gc.collect()
        kept = repr((vars(replica.identity), replica.store.outputs, replica.wanted, replica.store._waiting))
        for line in (*made.key_pem.splitlines()[1:-1], *anchor(2).key_pem.splitlines()[1:-1]):
            assert line not in kept
        assert Kind.SECRET not in {ref.kind for ref in replica.store.outputs}
    assert [write for write in server.writes if write.kind == "Secret"] == []


async def test_a_secret_that_may_not_be_read_stops_nothing_else(server: ApiServer, tmp_path: Path) -> None:
    open_mesh(server)
    open_shop(server, 1)
    server.fail("secrets", 403)
    async with operating(server, tmp_path) as running:
        await server.eventually(lambda: is_done(server, 1) and "Missing" in reasons(server))
        await rest(server, running)
        messages = [problem["message"] for problem in report(server)["problems"]]
        assert any(message.startswith("the issuer may not be read: 403") for message in messages)
        server.heal()
        put_issuer(server)
        await server.eventually(lambda: set(published(server)) == set(PLACES))


async def test_gauges_tell_when_certificates_end(server: ApiServer, tmp_path: Path) -> None:
    open_mesh(server)
    made, root = real(), real_anchor(2)
    put_issuer(server, made, root)
    async with operating(server, tmp_path) as running:
        await server.eventually(lambda: reasons(server) == ["Untrusted"])
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://127.0.0.1:{running.port}/metrics") as answer,
        ):
            lines = (await answer.text()).splitlines()
    end = made.certificate.not_valid_after_utc.timestamp()
    assert float(value_of(lines, "meshwright_issuer_not_after_seconds")) == end
    of_anchor = f'meshwright_anchor_not_after_seconds{{fingerprint="{root.fingerprint}"}}'
    assert float(value_of(lines, of_anchor)) == root.certificate.not_valid_after_utc.timestamp()
    assert value_of(lines, 'meshwright_identity_problems{reason="Untrusted"}') == "1.0"


def value_of(lines: list[str], name: str) -> str:
    (line,) = (line for line in lines if line.startswith(name + " "))
    return line.rpartition(" ")[2]


async def test_the_operator_makes_the_webhooks_certificate_where_it_is_told_to(
    server: ApiServer, tmp_path: Path
) -> None:
    server.cluster.define(CONFIGURATIONS)
    async with operating(server, tmp_path, has_election=False, webhook_certificate="operator"):
        await server.eventually(
            lambda: server.cluster.get(SECRETS, "meshwright", "meshwright-webhook-tls") is not None, seconds=25
        )


async def test_an_operator_that_cannot_read_the_issuer_yet_takes_nothing_away(
    server: ApiServer, tmp_path: Path
) -> None:
    open_mesh(server)
    open_shop(server, 1)
    put_issuer(server)
    async with operating(server, tmp_path):
        await server.eventually(lambda: set(published(server)) == set(PLACES) and is_done(server, 1))
    before, told = published(server), report(server)
    server.fail("secrets", 503)
    with server.counted() as writes:
        async with operating(server, tmp_path) as running:
            await server.eventually(lambda: running.replica.slots.is_open and running.is_idle)
            server.cluster.remove(SERVICE, "shop", "s0")
            await server.eventually(lambda: units(server) == [])  # what routing no longer wants does go
            await server.eventually(lambda: running.is_idle)
            assert not running.replica.identity.is_judged
    assert (published(server), report(server), of_mesh(writes)) == (before, told, [])


async def test_a_replica_without_the_lease_publishes_nothing(server: ApiServer, tmp_path: Path) -> None:
    open_mesh(server)
    put_issuer(server)
    async with operating(server, tmp_path) as leader:
        await server.eventually(lambda: set(published(server)) == set(PLACES))
        (tmp_path / "second").mkdir()
        async with operating(server, tmp_path / "second") as follower:
            await server.eventually(lambda: follower.is_idle and follower.replica.identity.is_judged)
            await rest(server, leader)
            assert not follower.replica.slots.is_open
            assert follower.replica.wanted.mesh == leader.replica.wanted.mesh
    names = [write for write in server.writes if write.name == "mw-trust-anchors"]
    assert len(names) == len(PLACES)
