"""Making a machine run an agent: the user, the files, the unit.

Source: ``useradd(8)``, ``systemctl(1)``.
"""

import json
import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from meshwright.edge.agent.disk import write_durably
from meshwright.edge.agent.settings import Places, Settings, write_settings
from meshwright.edge.agent.unit import UNIT, USER, make_unit
from meshwright.model.pod import PROXY_UID

UNIT_FOLDER = Path("/etc/systemd/system")
_HIDDEN = "(not shown)\n"


class InstallError(Exception):
    """The machine is not as it should be. The text says what was not done, and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One thing to do: a command, a folder (``mode``) or a file (``mode``, ``content``), owned by root, or by the
    agent's user. ``is_secret``: its content is shown to nobody."""

    command: tuple[str, ...] = ()
    path: Path | None = None
    content: str | None = field(default=None, repr=False)
    mode: int = 0o644
    is_agents: bool = False
    is_secret: bool = False


def plan_steps(
    settings: Settings,
    places: Places,
    *,
    token: str,
    user: str,
    spire_unit: str,
    starts: bool,
    unit_folder: Path = UNIT_FOLDER,
    program: str = "",
) -> tuple[Step, ...]:
    """Return what to do, in order. ``user``: who has the proxy's uid already, ``""`` when nobody does; ``program``:
    what starts meshwright, ``""`` for this very one."""
    unit = make_unit(settings, places, program or find_program(), user or USER, spire_unit)
    document = json.dumps(write_settings(settings), indent=2, ensure_ascii=False) + "\n"
    shell = "/usr/sbin/nologin"
    make_user = (
        *("useradd", "--system", "--uid", str(PROXY_UID), "--user-group", "--no-create-home"),
        *("--home-dir", str(places.state), "--shell", shell, USER),
    )
    steps = [
        *(() if user else (Step(command=make_user),)),
        Step(path=places.settings.parent, mode=0o755),
        Step(path=places.settings, content=document),
        Step(path=places.state, mode=0o700, is_agents=True),
    ]
    if token:
        steps.append(
            Step(path=places.token(settings), content=f"{token}\n", mode=0o600, is_agents=True, is_secret=True)
        )
    steps.append(Step(path=unit_folder / UNIT, content=unit))
    if starts:
        steps.append(Step(command=("systemctl", "daemon-reload")))
        steps.append(Step(command=("systemctl", "enable", UNIT)))
        steps.append(Step(command=("systemctl", "restart", UNIT)))
    return tuple(steps)


def describe_steps(steps: Sequence[Step]) -> str:
    """Return the steps as text, secrets left out."""
    pieces = []
    for step in steps:
        owner = "the agent's user" if step.is_agents else "root"
        if step.command:
            pieces.append(f"# run\n{' '.join(step.command)}\n")
        elif step.content is None:
            pieces.append(f"# folder {step.path} (mode {step.mode:04o}, of {owner})\n")
        else:
            shown = _HIDDEN if step.is_secret else step.content
            pieces.append(f"# file {step.path} (mode {step.mode:04o}, of {owner})\n{shown}")
    return "\n".join(pieces)


def take_steps(steps: Sequence[Step], say: Callable[[str], None]) -> None:
    """Do all of it. Doing it again does no harm.

    Raises:
        InstallError: a step failed; those before it are done.
    """
    for step in steps:
        try:
            if step.command:
                _run(step.command)
                say(f"ran {' '.join(step.command)}")
            elif step.path is not None:
                _write(step, step.path)
                say(f"{'made' if step.content is None else 'wrote'} {step.path}")
        except OSError as error:
            what = " ".join(step.command) or step.path
            raise InstallError(f"{what}: {error.strerror or error}") from None


def find_user() -> str:
    """Return who has the proxy's uid on this machine, ``""`` when nobody does."""
    try:
        return pwd.getpwuid(PROXY_UID).pw_name
    except KeyError:
        return ""


def find_program() -> str:
    """Return the words that start this very meshwright, as a unit has them."""
    script = Path(sys.executable).parent / "meshwright"
    return str(script) if os.access(script, os.X_OK) else f"{sys.executable} -P -m meshwright.cli"


def has_systemd() -> bool:
    """Whether systemd runs this machine.

    Source: ``sd_booted(3)``.
    """
    return Path("/run/systemd/system").is_dir() and shutil.which("systemctl") is not None


def _run(command: Sequence[str]) -> None:
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False
        )
    except subprocess.TimeoutExpired:
        raise InstallError(f"{' '.join(command)} does not end") from None
    if done.returncode:
        said = " ".join(done.stderr.split()) or f"status {done.returncode}"
        raise InstallError(f"{' '.join(command)}: {said}")


def _write(step: Step, path: Path) -> None:
    owner = None
    if step.is_agents:
        user = pwd.getpwuid(PROXY_UID)
        owner = user.pw_uid, user.pw_gid
    if step.content is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_durably(path, step.content.encode(), mode=step.mode, owner=owner, is_exact=True)
        return
    path.mkdir(parents=True, exist_ok=True)
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        os.fchmod(folder, step.mode)
        if owner is not None:
            os.fchown(folder, *owner)
    finally:
        os.close(folder)
