"""Running our own programs that end again: what they load, the resident process need not."""

import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

_SECONDS = 60.0


class LeafError(Exception):
    """A certificate, or a key, is not as it should be. The text says why."""


def run_leaf(words: Sequence[str]) -> dict[str, Any]:
    """Return what `meshwright.edge.agent.leaf` prints.

    Raises:
        LeafError: it fails.
    """
    return run_child(("meshwright.edge.agent.leaf", *words))


def run_child(words: Sequence[str]) -> dict[str, Any]:
    """Return the JSON object that a program of ours prints. It may have a key in it, and is not logged.

    Raises:
        LeafError: it fails.
    """
    try:
        done = subprocess.run(
            (sys.executable, "-P", "-m", *words),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
        found = json.loads(done.stdout) if done.returncode == 0 else None
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        raise LeafError(f"{words[0]} does not run: {type(error).__name__}") from None
    if not isinstance(found, dict):
        said = done.stderr.strip().splitlines()
        raise LeafError(said[-1] if said else f"{words[0]} ended with status {done.returncode}")
    return found
