"""Options for all tests, what they and the programs they start need not do again, and what none leaves to the next."""

import gc
import logging
import os
import sys
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from tests.bytecode import BYTECODE, FOLDER

# How long an example takes depends on what else the machine does, and proves nothing. The rest stays as it is:
# hypothesis chooses a profile of its own for CI.
settings.register_profile("meshwright", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("meshwright")

if sys.dont_write_bytecode:
    sys.pycache_prefix, sys.dont_write_bytecode = str(FOLDER), False
    os.environ |= BYTECODE

# No test trusts the world's authorities. Where one file has all of them, each new TLS context takes 25 ms to read it.
os.environ |= {"SSL_CERT_FILE": os.devnull, "SSL_CERT_DIR": os.devnull}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="rewrite the expected files of tests/golden")


def pytest_collection_finish() -> None:
    """Have all that was imported and collected left alone by the garbage collector, which finds nothing there."""
    gc.freeze()
    gc.set_threshold(5_000)


@pytest.fixture(autouse=True)
def logs_as_they_were() -> Iterator[None]:
    """Put back where logs go, and from which level on: a test that runs a whole command sets that for its process."""
    root = logging.getLogger()
    handlers, level = root.handlers.copy(), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
