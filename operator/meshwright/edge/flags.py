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


def make_add(parser: argparse._ActionsContainer) -> Add:
    """Return what adds flags to ``parser``; each says in its help which variable sets it, and what it is else."""

    def add(flag: str, default: str, text: str, **more: object) -> None:
        variable = variable_of(flag)
        value = os.environ.get(variable, default)
        parser.add_argument(flag, default=value, help=f"{text} (${variable}, default: {default or 'none'})", **more)  # type: ignore[arg-type]

    return add


def add_switch(parser: argparse._ActionsContainer, flag: str, text: str) -> None:
    """Add a flag without a value; its variable switches it on with ``1`` or ``true``."""
    variable = variable_of(flag)
    is_on = os.environ.get(variable, "").lower() in ("1", "true")
    parser.add_argument(flag, action="store_true", default=is_on, help=f"{text} (${variable}: true)")


def add_connection(parser: argparse._ActionsContainer) -> None:
    """Add the flags that say which cluster is asked."""
    parser.add_argument("--kubeconfig", metavar="FILE", help="how to reach the API server (default: as kubectl does)")
    parser.add_argument("--context", metavar="NAME", help="which context of the file (default: the current one)")


def add_control_plane(parser: argparse._ActionsContainer, text: str = "where meshwright is") -> None:
    """Add the flag that says where meshwright is. A pod's environment has it under another name than the flag's."""
    parser.add_argument(
        "--control-plane-namespace",
        default=os.environ.get("MESHWRIGHT_NAMESPACE", "meshwright"),
        metavar="NS",
        help=f"{text} ($MESHWRIGHT_NAMESPACE, default: meshwright)",
    )
