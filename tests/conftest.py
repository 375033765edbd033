"""Options for all tests, and what none of them leaves to the next."""

import logging
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

# How long an example takes depends on what else the machine does, and proves nothing. The rest stays as it is:
# hypothesis chooses a profile of its own for CI.
settings.register_profile("meshwright", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("meshwright")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="rewrite the expected files of tests/golden")


@pytest.fixture(autouse=True)
def logs_as_they_were() -> Iterator[None]:
    """Put back where logs go, and from which level on: a test that runs a whole command sets that for its process."""
    root = logging.getLogger()
    handlers, level = root.handlers.copy(), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
