"""``python -m e2e.beside [PYTEST'S ARGUMENTS]``: the unit tests and, beside them, the end-to-end tests, which wait.

What the unit tests say is shown first and as they say it, then the same of the end-to-end tests, and last pytest's
closing line of each.
"""

import contextlib
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

FOLDERS = {"tests": ("nice", "-n15"), "e2e": ()}
"""What is run, in the order of showing, and how: the unit tests make room for the cluster, whose tests end last."""


def main(arguments: list[str]) -> int:
    """Return 0 when nothing failed; else an exit status of pytest's, like 5 when there was nothing to run."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    color = ["--color=yes"] if sys.stdout.isatty() else []
    with contextlib.ExitStack() as stack:
        outputs = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        running = {
            folder: stack.enter_context(
                started([*how, sys.executable, "-m", "pytest", *color, *arguments, folder], outputs / folder)
            )
            for folder, how in FOLDERS.items()
        }
        closing = [show(follow(process, outputs / folder)) for folder, process in running.items()]
        results = {process.wait() for process in running.values()}
    print(*closing, sep="\n", flush=True)
    if failed := results - {pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED}:
        return max(*failed, pytest.ExitCode.TESTS_FAILED)  # one that a signal ended has a negative status
    return min(results)


@contextlib.contextmanager
def started(command: list[str], output: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command that writes into a file. Where it still runs at the end of the block, it is interrupted."""
    with output.open("wb") as opened:
        process = subprocess.Popen(command, stdout=opened, stderr=subprocess.STDOUT)
    try:
        yield process
    except KeyboardInterrupt:
        process.wait()  # it was told as we were, and takes away what it made
        raise
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            process.wait()


def follow(process: subprocess.Popen[bytes], output: Path) -> Iterator[str]:
    """Return the lines that a process writes into a file, each as soon as it is whole, until it has ended."""
    with output.open(encoding="utf-8", errors="replace") as opened:
        rest = ""
        while True:
            has_ended = process.poll() is not None
            *lines, rest = (rest + opened.read()).split("\n")
            yield from lines
            if has_ended:
                break
            time.sleep(0.1)
        if rest:
            yield rest


def show(lines: Iterable[str]) -> str:
    """Print every line but the last, which is returned."""
    last = None
    for line in lines:
        if last is not None:
            print(last, flush=True)
        last = line
    return last or ""


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
