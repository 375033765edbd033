"""Join tokens in their Secrets: followed, and written only where nobody else has written."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from meshwright.edge.client import ApiError, Client
from meshwright.edge.registrar.token_store import TokenSecrets
from meshwright.model.group import JoinToken, Redemption
from meshwright.model.units import Namespace
from tests.edge.apiserver import ApiServer
from tests.edge.registrar.office import SECRETS, make_token
from tests.edge.shop import FAST

JOINED = Redemption(key_hash="0" * 64, uid="uid-aaaaaaaa", at=5)


@pytest.fixture
async def store(server: ApiServer, client: Client) -> AsyncIterator[TokenSecrets]:
    server.cluster.put(SECRETS, make_token()[1])
    found = TokenSecrets(client=client, namespace=Namespace("meshwright"), may_write=lambda: True, timing=FAST)
    task = asyncio.create_task(found.reflector.run())
    await found.reflector.wait_settled()
    yield found
    task.cancel()


def read(store: TokenSecrets) -> JoinToken:
    token = store.get("abcd2345")
    assert token is not None
    return token


async def test_who_has_joined_is_stored_and_known_at_once(server: ApiServer, store: TokenSecrets) -> None:
    assert await store.write(replace(read(store), redemptions=(JOINED,)))
    assert read(store).redemptions == (JOINED,)
    raw = server.cluster.get(SECRETS, "meshwright", "mw-join-abcd2345")
    assert raw is not None
    stored = json.loads(base64.b64decode(raw["data"]["redemptions"]))
    assert stored == [{"keyHash": "0" * 64, "uid": "uid-aaaaaaaa", "at": 5}]
    assert raw["type"] == "meshwright.dev/join-token"


async def test_what_was_planned_of_an_older_version_is_not_written_and_the_newer_is_read(
    server: ApiServer, store: TokenSecrets
) -> None:
    before = read(store)
    server.freeze_streams(SECRETS)
    locked = {"locked": base64.b64encode(b"true").decode()}
    server.cluster.edit(SECRETS, "meshwright", "mw-join-abcd2345", lambda raw: raw["data"].update(locked))
    assert not await store.write(replace(before, redemptions=(JOINED,)))
    assert (read(store).is_locked, read(store).redemptions) == (True, ())


async def test_a_token_that_was_revoked_meanwhile_is_not_made_again(server: ApiServer, store: TokenSecrets) -> None:
    before = read(store)
    server.freeze_streams(SECRETS)
    server.cluster.remove(SECRETS, "meshwright", "mw-join-abcd2345")
    assert not await store.write(replace(before, redemptions=(JOINED,)))
    assert store.get("abcd2345") is None
    assert server.cluster.get(SECRETS, "meshwright", "mw-join-abcd2345") is None


async def test_an_api_server_that_fails_says_so(server: ApiServer, store: TokenSecrets) -> None:
    server.fail("secrets", 500, method="PATCH")
    with pytest.raises(ApiError):
        await store.write(replace(read(store), redemptions=(JOINED,)))


async def test_nothing_is_written_without_the_lease(server: ApiServer, client: Client, store: TokenSecrets) -> None:
    other = TokenSecrets(client=client, namespace=Namespace("meshwright"), may_write=lambda: False)
    with server.counted() as writes:
        assert not await other.write(read(store))
    assert writes == []


async def test_a_secret_that_cannot_be_read_is_no_token_and_its_content_is_not_logged(
    server: ApiServer, store: TokenSecrets, caplog: pytest.LogCaptureFixture
) -> None:
    hidden = base64.b64encode(b"hidden-in-here").decode()
    server.cluster.edit(
        SECRETS, "meshwright", "mw-join-abcd2345", lambda raw: raw["data"].update({"secret-hash": hidden})
    )
    await server.eventually(lambda: store.get("abcd2345") is None)
    assert "nobody joins with it" in caplog.text
    assert "hidden-in-here" not in caplog.text
    assert hidden not in caplog.text
