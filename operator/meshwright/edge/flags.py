"""Flags that the environment can set, too: what a command line does not say, a pod's environment may."""

import argparse
import os
from typing import Protocol


class Add(Protocol):
    """Adds one flag: its name, its default, what it says."""

    def __call__(self, flag: str, default: str, text: str, **more: object) -> None: ...


def variable_of(flag: str) -> str:
    """Return the environment variable that sets ``flag``: ``MESHWRIGHT_TRUST_DOMAIN`` for ``--trust-domain``."""
    return "MESHWRIGHT_" + flag.removeprefix("--").replace("-", "_").upper()


def make_add(parser: argparse.ArgumentParser) -> Add:
    """Return what adds flags to ``parser``; each says in its help which variable sets it, and what it is else."""

    def add(flag: str, default: str, text: str, **more: object) -> None:
        variable = variable_of(flag)
        value = os.environ.get(variable, default)
        parser.add_argument(flag, default=value, help=f"{text} (${variable}, default: {default or 'none'})", **more)  # type: ignore[arg-type]

    return add


def add_switch(parser: argparse.ArgumentParser, flag: str, text: str) -> None:
    """Add a flag without a value; its variable switches it on with ``1`` or ``true``."""
    variable = variable_of(flag)
    is_on = os.environ.get(variable, "").lower() in ("1", "true")
    parser.add_argument(flag, action="store_true", default=is_on, help=f"{text} (${variable}: true)")
