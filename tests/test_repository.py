"""What must hold of the repository itself."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LOCKS = sorted([*ROOT.glob("*.lock"), *ROOT.glob("e2e/**/*.lock")])


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_a_lock_pins_with_hashes_and_names_no_download_address(lock: Path) -> None:
    text = lock.read_text()
    pinned = re.findall(r"^[A-Za-z0-9_.-]+==\S+", text, re.MULTILINE)
    assert pinned
    assert "://" not in text
    assert "--find-links" not in text
    assert "index-url" not in text
    for requirement in re.split(r"^(?=[A-Za-z0-9])", text, flags=re.MULTILINE)[1:]:
        assert "--hash=sha256:" in requirement, requirement.splitlines()[0]


def test_the_runtime_lock_is_part_of_the_lock_for_tests() -> None:
    def pins(lock: str) -> set[str]:
        return set(re.findall(r"^[A-Za-z0-9_.-]+==[^ ;\\]+", (ROOT / lock).read_text(), re.MULTILINE))

    assert pins("requirements.lock") <= pins("requirements-dev.lock")


def test_every_make_target_that_the_readme_names_exists_and_is_listed_by_help() -> None:
    named = set(re.findall(r"\bmake ([a-z][a-z0-9-]*)", (ROOT / "README.md").read_text()))
    shown = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    listed = set(re.findall(r"^  make ([a-z0-9-]+)", shown, re.MULTILINE))
    assert {
        "help",
        "demo",
        "test",
        "lint",
        "unit",
        "e2e",
        "cluster",
        "cluster-down",
        "image",
        "bench",
        "clean",
    } <= listed
    assert named <= listed


def test_operator_is_a_source_root_and_never_a_package() -> None:
    assert not (ROOT / "operator" / "__init__.py").exists()
