"""The tour, as `make demo ONCE=1` gives it."""

import shutil
import time
from pathlib import Path

import pytest

from meshwright.cli import main
from meshwright.edge.tour import STEPS

EXAMPLES = Path(__file__).parent.parent.parent / "examples"


def read_all(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_every_step_holds_and_the_examples_stay_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    before = read_all(EXAMPLES)
    started = time.monotonic()

    status = main(["dev", "--tour", "--once", str(EXAMPLES)])

    text = capsys.readouterr().out
    assert (status, "✗" in text) == (0, False), text
    assert all(f"{number}  {title}" in text for number, (title, _, _) in enumerate(STEPS, start=1))
    assert text.count("✓") >= len(STEPS)
    assert "\x1b" not in text
    assert read_all(EXAMPLES) == before
    assert time.monotonic() - started < 30


def test_a_step_that_does_not_hold_fails_the_tour(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    examples = tmp_path / "examples"
    shutil.copytree(EXAMPLES, examples)
    canary = examples / "10-canary.yaml"
    canary.write_text(canary.read_text().replace("weight: 90", "weight: 9").replace("weight: 10", "weight: 90"))

    assert main(["dev", "--tour", "--once", str(examples)]) == 1
    assert "✗ nine of ten requests go to version 1: this did not hold" in capsys.readouterr().out


def test_another_folder_than_the_examples_is_bad_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dev", "--tour", "--once", str(tmp_path)]) == 2
    assert "10-canary.yaml" in capsys.readouterr().out
