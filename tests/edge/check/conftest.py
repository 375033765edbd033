"""A healthy installation, and what looks at it."""

from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest

from meshwright.edge.check.inquiry import Inquiry, Options
from meshwright.edge.client import connect
from tests.edge.check.installation import Installation, installed


@pytest.fixture
async def mesh() -> AsyncIterator[Installation]:
    async with installed() as found:
        yield found


@pytest.fixture
async def inquiry(mesh: Installation, tmp_path: Path) -> AsyncIterator[Inquiry]:
    way = partial(connect, mesh.server.kubeconfig(tmp_path))
    async with Inquiry(way, Options(), clock=mesh.clock) as opened:
        yield opened
