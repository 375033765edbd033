"""An API server and a client for it."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from meshwright.edge.client import Client, connect
from tests.edge.apiserver import ApiServer


@pytest.fixture
async def server() -> AsyncIterator[ApiServer]:
    async with ApiServer() as running:
        yield running


@pytest.fixture
async def client(server: ApiServer, tmp_path: Path) -> AsyncIterator[Client]:
    async with await connect(server.kubeconfig(tmp_path)) as connected:
        yield connected
