"""What the user reads: numbered steps with their seconds, on stderr. stdout is left for answers."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager


class ClusterError(Exception):
    """The cluster cannot be had. The message is for the user: what is wrong, and the next command or file."""


def note(text: str) -> None:
    """Print one line below the steps: what takes long now, or why something is done."""
    print(f"        {text}", file=sys.stderr, flush=True)


class Steps:
    """Counts steps. ``with steps.step("etcd ready"):`` prints ``[ 3/14] etcd ready  0.4 s`` at the block's end."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.done = 0

    @contextmanager
    def step(self, what: str) -> Iterator[None]:
        """Time the block. Nothing is printed when it raises: the error says which step it was."""
        self.done += 1
        begun = time.monotonic()
        yield
        seconds = time.monotonic() - begun
        print(f"[{self.done:2}/{self.total}] {what}  {seconds:.1f} s", file=sys.stderr, flush=True)
