"""What starts agents lives as long as the tests of agents do."""

from collections.abc import Iterator

import pytest

from tests.edge.agent.nursery import NURSERY


@pytest.fixture(scope="session", autouse=True)
def nursery() -> Iterator[None]:
    yield
    NURSERY.close()
