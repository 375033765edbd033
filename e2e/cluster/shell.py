"""Runs other programs to their end."""

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from e2e.cluster.say import ClusterError

QUIET = ["nice", "-n", "10"]
"""Before long computations: they give way to everyone else on the machine."""


def run(
    argv: Sequence[str | Path],
    *,
    environ: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdin: str | None = None,
    accept_failure: bool = False,
    seconds: float | None = None,
) -> str:
    """Return what the program printed on stdout. ``environ`` is added to ours.

    Raises:
        ClusterError: it is missing, failed (unless ``accept_failure``) or took too long. The message has the command
            and the end of its stderr.
    """
    words = [str(word) for word in argv]
    try:
        ended = subprocess.run(
            words,
            env={**os.environ, **(environ or {})},
            cwd=cwd,
            input=stdin if stdin is not None else "",
            capture_output=True,
            text=True,
            check=False,
            timeout=seconds,
        )
    except FileNotFoundError as error:
        raise ClusterError(f"{words[0]} is not installed") from error
    except subprocess.TimeoutExpired as error:
        raise ClusterError(f"`{' '.join(words)}` did not end within {seconds} s") from error
    if ended.returncode and not accept_failure:
        said = "\n".join((ended.stderr.strip() or ended.stdout.strip()).splitlines()[-20:])
        raise ClusterError(f"`{' '.join(words)}` failed ({ended.returncode}):\n{said}")
    return ended.stdout
