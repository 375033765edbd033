"""What runs in a pod, against the endpoint that signs: both as they are."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from meshwright.edge.certify import NotCertified, certify
from meshwright.edge.client import Client
from meshwright.edge.leaf_files import LeafFolder
from meshwright.model.identity import Certificate
from meshwright.model.proxy import ProxySettings
from tests.edge.apiserver import ApiServer
from tests.edge.authority import TRUST
from tests.edge.test_signing import ONE, TWO, WEB, World, running


def make_folders(folder: Path, token: str) -> ProxySettings:
    (folder / "token").write_text(token + "\n")
    (folder / "ca-bundle.crt").write_text(ONE.anchor.pem + TWO.anchor.pem)
    return ProxySettings(trust=TRUST, identity_folder=str(folder / "identity"), secrets_folder=str(folder))


async def get(world: World, settings: ProxySettings) -> Certificate:
    return await asyncio.to_thread(certify, LeafFolder(settings), ("127.0.0.1", world.port), TRUST)


async def test_a_pod_gets_its_certificate_and_the_next_ones(server: ApiServer, client: Client, tmp_path: Path) -> None:
    async with running(server, client) as world:
        settings = make_folders(tmp_path, world.tokens.make(WEB))
        first = await get(world, settings)
        world.signer.put_issuer(TWO.secret(ONE))
        second = await get(world, settings)
    assert first.uris == second.uris == (TRUST.uri(WEB.account),)
    assert timedelta(hours=23) < first.not_after - first.not_before <= timedelta(hours=24, seconds=20)
    assert first.issuer_key_id != second.issuer_key_id


@pytest.mark.parametrize(
    ("lifetime", "uid", "words"),
    [
        (timedelta(seconds=-1), WEB.uid, "refused .401 TokenExpired: the token has expired"),
        (timedelta(hours=1), "a-pod-before", "refused .403 WrongPod: the token is for another pod"),
    ],
)
async def test_a_refusal_comes_through_in_words(
    lifetime: timedelta, uid: str, words: str, server: ApiServer, client: Client, tmp_path: Path
) -> None:
    async with running(server, client) as world:
        settings = make_folders(tmp_path, world.tokens.make(replace(WEB, uid=uid), lifetime=lifetime))
        with pytest.raises(NotCertified, match=words):
            await get(world, settings)
