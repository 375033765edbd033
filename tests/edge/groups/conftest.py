"""A healthy installation with a group of machines, and the command asked of it."""

import argparse
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from meshwright.edge.group_command import add_arguments, ask
from tests.edge.check.installation import Installation, installed

Run = Callable[..., Awaitable[int]]


@pytest.fixture
async def mesh() -> AsyncIterator[Installation]:
    async with installed() as found:
        yield found


@pytest.fixture
def run(mesh: Installation, tmp_path: Path) -> Run:
    config = mesh.server.kubeconfig(tmp_path)

    async def run(*words: str) -> int:
        parser = argparse.ArgumentParser(prog="meshwright group")
        add_arguments(parser)
        return await ask(parser.parse_args([*words, "--kubeconfig", config]), clock=mesh.clock)

    return run
