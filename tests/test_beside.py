"""What is shown of two runs of pytest at once, and what counts as success."""

import subprocess
import sys
from pathlib import Path

import pytest

from e2e.mesh import ROOT
from tests.bytecode import BYTECODE


def run(folder: Path, tests: dict[str, str], *arguments: str) -> tuple[int, list[str]]:
    """Return the exit status and the lines shown of a project whose two folders have these tests."""
    for name, text in tests.items():
        (folder / name).mkdir()
        (folder / name / f"test_{name}.py").write_text(text)
    done = subprocess.run(
        [sys.executable, "-m", "e2e.beside", "-p", "no:cacheprovider", *arguments],
        cwd=folder,
        # Of pytest's plugins none takes part: to load them takes longer than all the rest.
        env={**BYTECODE, "PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr == ""
    return done.returncode, done.stdout.splitlines()


PASSES = "def test_it(): pass\n"
DIES = "import os\ndef test_it(): os.kill(os.getpid(), 9)\n"
FAILS = "def test_it(): assert False, 'so it is'\n"


@pytest.mark.parametrize(
    ("tests", "arguments", "status", "closing"),
    [
        ({"tests": PASSES, "e2e": PASSES}, (), 0, ["1 passed", "1 passed"]),
        ({"tests": FAILS, "e2e": PASSES}, (), 1, ["1 failed", "1 passed"]),
        ({"tests": PASSES, "e2e": FAILS}, (), 1, ["1 passed", "1 failed"]),
        ({"tests": PASSES, "e2e": PASSES}, ("-k", "test_e2e"), 0, ["1 deselected", "1 passed"]),
        ({"tests": PASSES, "e2e": PASSES}, ("-k", "nothing"), 5, ["1 deselected", "1 deselected"]),
    ],
)
def test_both_are_shown_whole_and_both_count(
    tmp_path: Path, tests: dict[str, str], arguments: tuple[str, ...], status: int, closing: list[str]
) -> None:
    found, lines = run(tmp_path, tests, *arguments)
    assert found == status, lines
    begun = [number for number, line in enumerate(lines) if "test session starts" in line]
    assert len(begun) == 2
    for line, words in zip(lines[-2:], closing, strict=True):
        assert words in line
        assert line.startswith("===")
    told = [number for number, line in enumerate(lines) if "so it is" in line]
    assert bool(told) is (FAILS in tests.values())
    assert all((number > begun[1]) is (tests["e2e"] == FAILS) for number in told)


def test_a_run_that_is_killed_is_no_success(tmp_path: Path) -> None:
    assert run(tmp_path, {"tests": PASSES, "e2e": DIES})[0] == 1
