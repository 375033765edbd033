"""The proxy's container: the shell that stays, with real processes, and how it comes to run a real Envoy."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import pytest

from meshwright.cli import main
from meshwright.edge.envoy_program import find_envoy
from meshwright.edge.proxy_command import make_shell
from meshwright.model.proxy import Proxy, ProxySettings
from meshwright.model.units import Namespace
from tests.edge.signer import make_pod_folders, run_signer
from tests.envoy import free_port

T = TypeVar("T")
CAN_UNSHARE = os.getuid() == 0 and shutil.which("unshare") is not None
REAL_ENVOY = find_envoy().resolve()
ENVOY = ("/bin/sh", "-c", 'trap "exit 7" TERM; echo up; while :; do sleep 0.1; done')
"""Something that starts, says so, and ends with status 7 when it is asked to."""


def eventually(look: Callable[[], T], seconds: float = 60.0) -> T:
    """Return what ``look`` gives once it is true."""
    end = time.monotonic() + seconds
    while not (seen := look()):
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.01)
    return seen


def children(pid: int) -> dict[int, str]:
    """Return the command lines of a process's children, by their ids."""
    found = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            try:
                found[int(child)] = Path(f"/proc/{child}/cmdline").read_text().replace("\0", " ").strip()
            except (FileNotFoundError, ProcessLookupError):
                continue
    return found


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


@contextmanager
def running(command: Sequence[str], **more: str) -> Iterator[subprocess.Popen[str]]:
    """Run a command in a session of its own, and end what is left of it."""
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **more},
    ) as process:
        try:
            yield process
        finally:
            end(process)


def end(process: "subprocess.Popen[str]") -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def script(folder: Path, text: str) -> tuple[str, ...]:
    """Return a command that renews as ``text`` says, and writes down the arguments it was given."""
    path = folder / "renew.sh"
    path.write_text(f'echo "$*" >>{folder}/runs\n{text}\n')
    return ("/bin/sh", str(path), "a word")


def runs(folder: Path) -> list[str]:
    path = folder / "runs"
    return path.read_text().splitlines() if path.exists() else []


def shell(folder: Path, text: str, *, seconds: float = 0, envoy: Sequence[str] = ENVOY) -> tuple[str, ...]:
    return make_shell(seconds, renew=script(folder, text), answer=f"{folder}/renewal", envoy=envoy)


def test_renewals_go_on_as_each_says(tmp_path: Path) -> None:
    with running(shell(tmp_path, "echo 0.1")) as process:
        eventually(lambda: len(runs(tmp_path)) >= 3)
        assert process.poll() is None
    assert set(runs(tmp_path)) == {"a word --attempt 1"}


def test_failures_are_counted_until_one_succeeds(tmp_path: Path) -> None:
    text = f"echo 0.1; [ $(wc -l <{tmp_path}/runs) -ge 3 ]"
    with running(shell(tmp_path, text)):
        eventually(lambda: len(runs(tmp_path)) >= 4)
    assert [line.rpartition(" ")[2] for line in runs(tmp_path)][:4] == ["1", "2", "3", "1"]


@pytest.mark.parametrize("text", ["", "exit 3", "echo soon", "kill -KILL $$", "exec /nowhere/at-all 2>/dev/null"])
def test_a_renewal_without_an_answer_is_tried_again_and_told(text: str, tmp_path: Path) -> None:
    with running(shell(tmp_path, text)) as process:
        assert process.stderr is not None
        said = next(line for line in process.stderr if line.startswith("meshwright"))  # a shell tells of a kill, too
        assert said == "meshwright proxy: renewal gave no answer; next attempt in 60 s\n"
        pid = eventually(lambda: [pid for pid, line in children(process.pid).items() if line.startswith("sleep ")])[0]
        assert int(children(process.pid)[pid].split()[1]) in (60, 61)


def test_long_waits_are_looked_at_again_every_five_minutes(tmp_path: Path) -> None:
    with running(shell(tmp_path, "echo 1", seconds=57_600)) as process:
        eventually(lambda: "sleep 300" in children(process.pid).values())
        [pause] = [pid for pid, line in children(process.pid).items() if line == "sleep 300"]
        os.kill(pause, signal.SIGKILL)
        eventually(lambda: any(line == "sleep 300" and pid != pause for pid, line in children(process.pid).items()))
    assert runs(tmp_path) == []


@pytest.mark.parametrize("text", ["echo 3600", "sleep 1000"], ids=["asleep", "renewing"])
def test_sigterm_reaches_envoy_at_once_and_nothing_stays(text: str, tmp_path: Path) -> None:
    with running(shell(tmp_path, text)) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        eventually(lambda: runs(tmp_path) and len(children(process.pid)) == 2)
        started, left = time.monotonic(), children(process.pid)
        process.terminate()
        assert process.wait(60) == 7
        assert time.monotonic() - started < 2
        eventually(lambda: all(is_gone(pid) for pid in left))


def test_the_container_ends_with_envoy(tmp_path: Path) -> None:
    for _ in range(5):
        with running(shell(tmp_path, "echo 3600")) as process:
            assert process.stdout is not None
            process.stdout.readline()
            [envoy] = [pid for pid, line in children(process.pid).items() if line.startswith("/bin/sh -c trap")]
            os.kill(envoy, signal.SIGKILL)
            assert process.wait(60) == 128 + signal.SIGKILL


@pytest.mark.parametrize("status", [0, 1, 42])
def test_envoy_that_ends_at_once_is_noticed(status: int, tmp_path: Path) -> None:
    for _ in range(10):
        with running(shell(tmp_path, "echo 3600", envoy=("/bin/sh", "-c", f"exit {status}"))) as process:
            assert process.wait(60) == status


@pytest.mark.skipif(not CAN_UNSHARE, reason="a process namespace of one's own needs root and unshare")
def test_envoy_does_not_outlive_its_renewals(tmp_path: Path) -> None:
    """The shell is the container's first process: killed, it takes all others with it."""
    command = ("unshare", "--fork", "--pid", "--mount-proc", *shell(tmp_path, "echo 3600"))
    with running(command) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        [first] = children(process.pid)
        eventually(lambda: len(children(first)) == 2)
        inside = children(first)
        os.kill(first, signal.SIGKILL)
        eventually(lambda: all(is_gone(pid) for pid in (first, *inside)))


@pytest.mark.skipif(not CAN_UNSHARE, reason="a process namespace of one's own needs root and unshare")
def test_sigterm_reaches_envoy_in_a_container(tmp_path: Path) -> None:
    command = ("unshare", "--fork", "--pid", "--mount-proc", *shell(tmp_path, "echo 3600"))
    with running(command) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        [first] = children(process.pid)
        eventually(lambda: len(children(first)) == 2)
        os.kill(first, signal.SIGTERM)
        assert process.wait(60) == 7


def held_kib(pid: int) -> int:
    """Return the memory that is this process's share of what it uses."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def test_between_renewals_identity_holds_two_mebibytes_at_most(tmp_path: Path) -> None:
    with running(shell(tmp_path, "echo 57600")) as process:
        [pause] = eventually(lambda: [pid for pid, line in children(process.pid).items() if line == "sleep 300"])
        held = {pid: held_kib(pid) for pid in (process.pid, pause)}
    assert sum(held.values()) <= 2048, held


def proxy(settings: ProxySettings, signing: str, *more: str) -> tuple[str, ...]:
    return (
        *(sys.executable, "-m", "meshwright.cli", "proxy", f"--xds=127.0.0.1:{free_port()}", f"--signing={signing}"),
        *(f"--identity-folder={settings.identity_folder}", f"--secrets-folder={settings.secrets_folder}", *more),
    )


POD = {"POD_NAME": "web-1", "POD_NAMESPACE": "shop"}


@pytest.fixture(autouse=True)
def _apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give every Envoy a network of its own, where its ports are free."""
    if CAN_UNSHARE:
        program = tmp_path / "envoy"
        program.write_text(f'#!/bin/sh\nexec unshare --net -- {REAL_ENVOY} "$@"\n')
        program.chmod(0o755)
        monkeypatch.setenv("MESHWRIGHT_ENVOY", str(program))


def envoy_of(process: "subprocess.Popen[str]") -> int:
    """Return the id of the Envoy that the shell runs, once it takes signals."""

    def look() -> list[int]:
        return [pid for pid in children(process.pid) if is_envoy(pid) and takes(pid, signal.SIGTERM)]

    return eventually(look)[0]


def is_envoy(pid: int) -> bool:
    try:
        return os.readlink(f"/proc/{pid}/exe") == str(REAL_ENVOY)
    except FileNotFoundError:
        return False


def takes(pid: int, number: signal.Signals) -> bool:
    """Whether a process has a handler of its own for a signal."""
    found = re.search(r"^SigCgt:\s*(\w+)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return found is not None and bool(int(found[1], 16) >> (number - 1) & 1)


def test_the_first_certificate_is_waited_for_and_then_envoy_runs(tmp_path: Path) -> None:
    settings = make_pod_folders(tmp_path)
    with run_signer(tmp_path) as signer:
        signer.refusal = (503, json.dumps({"reason": "NoIssuer", "message": "not yet"}).encode())
        with running(proxy(settings, signer.address, "--log-level=off"), **POD) as process:
            assert process.stderr is not None
            line = process.stderr.readline()
            assert line.startswith(f"meshwright proxy: the signer at {signer.address} refused (503 NoIssuer: not yet);")
            signer.refusal = None
            envoy = envoy_of(process)
            words = Path(f"/proc/{envoy}/cmdline").read_text().split("\0")
            assert words[1:-1] == [
                *("-c", f"{settings.identity_folder}/envoy.json", "--concurrency", "1", "--log-level", "off"),
                *("--disable-hot-restart", "--drain-time-s", "30", "--file-flush-interval-msec", "1000"),
            ]
            assert Path(f"/proc/{process.pid}/comm").read_text().strip() in ("sh", "dash", "meshwright-prox")
            process.terminate()
            assert process.wait(60) == 0
    bootstrap = json.loads((Path(settings.identity_folder) / "envoy.json").read_text())
    assert bootstrap["node"]["id"] == Proxy(Namespace("shop"), "web-1").node_id


def test_a_restart_uses_what_is_there_while_the_signer_is_away(tmp_path: Path) -> None:
    settings = make_pod_folders(tmp_path)
    with run_signer(tmp_path) as signer:
        assert main(["certify", *proxy(settings, signer.address)[5:]]) == 0
    with running(proxy(settings, signer.address, "--log-level=off", "--shutdown-grace-period=90s"), **POD) as process:
        envoy_of(process)
        words = Path(f"/proc/{process.pid}/cmdline").read_text().split("\0")
        assert "-m meshwright.edge.drain @meshwright-admin-4191 4143,4140 90" in words[7]
        process.terminate()
        assert process.wait(60) == 0
        end(process)  # a pause that it was about to begin may be there still, and would be waited for
        assert process.stderr is not None
        assert process.stderr.read() == ""
    assert len(signer.requests) == 1


def test_a_certificate_near_its_end_is_used_and_renewed_at_once(tmp_path: Path) -> None:
    settings = make_pod_folders(tmp_path)
    with run_signer(tmp_path) as signer:
        signer.leaf.since, signer.leaf.until = timedelta(hours=-23), timedelta(hours=1)
        assert main(["certify", *proxy(settings, signer.address)[5:]]) == 0
        signer.signed.clear()
        with running(proxy(settings, signer.address, "--log-level=off"), **POD) as process:
            envoy_of(process)
            assert signer.signed.wait(60)
            eventually((Path(settings.identity_folder) / "tls-2.crt").exists)
            process.terminate()
            assert process.wait(60) == 0


def test_sigterm_ends_the_wait_for_a_first_certificate(tmp_path: Path) -> None:
    settings = make_pod_folders(tmp_path)
    with running(proxy(settings, "127.0.0.1:1"), **POD) as process:
        assert process.stderr is not None
        assert "cannot be reached: Connection refused" in process.stderr.readline()
        process.terminate()
        assert process.wait(60) == 0


@pytest.mark.parametrize(
    ("words", "environment", "complaint"),
    [
        ((), {"POD_NAME": ""}, "POD_NAME and POD_NAMESPACE must be set"),
        (("--concurrency=0",), {}, "found 0; write 1 or more"),
        (("--signing=nowhere",), {}, "'nowhere' is not host:port"),
        (("--xds=nowhere",), {}, "'nowhere' is not host:port"),
        (("--identity-folder=/proc/none",), {}, "cannot write into --identity-folder /proc/none"),
        ((), {"MESHWRIGHT_ENVOY": "/nowhere/envoy"}, "/nowhere/envoy, which cannot be run"),
        (("--log-level=loud",), {}, "invalid choice: 'loud'"),
        (("--shutdown-grace-period=soon",), {}, "found 'soon'; write one whole number and one unit"),
    ],
)
def test_what_can_never_work_ends_at_once(
    words: tuple[str, ...],
    environment: dict[str, str],
    complaint: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in {**POD, **environment}.items():
        monkeypatch.setenv(name, value)
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert main([*proxy(make_pod_folders(tmp_path), "127.0.0.1:1", *words)[3:]]) == 2
    finally:
        signal.signal(signal.SIGTERM, before)
    assert complaint in capsys.readouterr().err
