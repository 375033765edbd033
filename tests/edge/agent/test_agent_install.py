"""`meshwright agent install`: what it would do, and what it does not do."""

import os
import stat
import subprocess
from io import StringIO
from pathlib import Path

import pytest

from meshwright.cli import main
from meshwright.edge.agent.installing import InstallError, Step, describe_steps, plan_steps, take_steps
from meshwright.edge.agent.settings import Places, parse_settings, read_settings
from meshwright.model.pod import PROXY_UID

PIN = f"sha256:{'0a' * 32}"
TOKEN = "abcd2345.a-secret"
FLAGS = ("--registrar", "registrar.example:15013", "--ca-hash", PIN, "-n", "shop", "-g", "ledger")
GOLDEN = Path(__file__).parent / "install.txt"
PLACES = Places()


def plan(*, starts: bool = True, user: str = "", **more: object) -> tuple[Step, ...]:
    raw = {"registrar": "registrar.example:15013", "caHashes": [PIN], "namespace": "shop", "group": "ledger"}
    return plan_steps(
        parse_settings({**raw, "skipInboundPorts": "22", **more}),
        PLACES,
        token=TOKEN,
        user=user,
        spire_unit="spire-agent.service",
        starts=starts,
        program="/opt/meshwright/bin/meshwright",
    )


def test_a_dry_run_shows_everything_but_the_token() -> None:
    shown = describe_steps(plan())
    if os.environ.get("UPDATE_GOLDEN"):
        GOLDEN.write_text(shown)
    assert shown == GOLDEN.read_text()
    assert TOKEN not in shown
    assert TOKEN not in repr(plan())


def test_with_spiffe_it_starts_after_the_spire_agent() -> None:
    shown = describe_steps(plan(mode="SPIFFE", starts=False, user="envoy"))
    assert "After=network-online.target nss-lookup.target spire-agent.service\n" in shown
    assert "Wants=network-online.target spire-agent.service\n" in shown
    assert "User=envoy\n" in shown
    assert "useradd" not in shown
    assert "systemctl" not in shown.replace("`journalctl", "")


def test_the_unit_is_one_that_systemd_understands(tmp_path: Path) -> None:
    unit = next(step.content for step in plan() if step.path and step.path.suffix == ".service")
    assert unit is not None
    here = tmp_path / "meshwright-agent.service"
    here.write_text(unit.replace("/opt/meshwright/bin/meshwright", "/bin/true").replace("User=meshwright", "User=root"))
    done = subprocess.run(("systemd-analyze", "verify", str(here)), capture_output=True, text=True, check=False)
    ours = [line for line in done.stderr.splitlines() if "meshwright-agent" in line]
    assert [line for line in ours if "Unknown" in line or "Failed to parse" in line or "ignoring" in line] == []


def test_flags_become_settings(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", StringIO(f"{TOKEN}\n"))
    more = ("--address", "203.0.113.7", "--label", "tier=gold", "--drain-seconds", "5", "--trust-domain", "example.org")
    assert main(["agent", "install", *FLAGS, *more, "--token-file", "-", "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert '"trustDomain": "example.org"' in shown
    assert '"tier": "gold"' in shown
    assert '"skipInboundPorts": "22"' in shown
    assert "skipOutboundPorts" not in shown
    assert "TimeoutStopSec=25" in shown
    assert TOKEN not in shown


def test_a_machine_that_has_joined_needs_no_token_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "identity").mkdir()
    (tmp_path / "identity" / "identity.json").write_text("{}")
    assert main(["agent", "install", *FLAGS, "--state-folder", str(tmp_path), "--dry-run"]) == 0
    assert "/token" not in capsys.readouterr().out


def test_a_spire_agent_s_way_to_its_server_does_not_pass_the_proxy(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["agent", "install", *FLAGS, "--mode", "SPIFFE", "--dry-run"]) == 0
    assert '"skipOutboundPorts": "8081"' in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ((), "a token is missing; give one with --token-file"),
        (("--token-file", "/nowhere"), "No such file"),
        (("--token", "x", "--token-file", "-"), "not allowed with"),
        (("--token", "x", "--address", "here"), "address: found"),
        (("--token", "x", "--mode", "ClientCertificate"), "certificateFile, keyFile"),
        (("--token", "x", "--skip-inbound-ports", "ssh"), "skipInboundPorts"),
    ],
)
def test_bad_flags_change_nothing(
    words: tuple[str, ...], complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = ("--state-folder", str(tmp_path / "state"), "--settings", str(tmp_path / "agent.json"))
    assert main(["agent", "install", *FLAGS, *words, *folder]) == 2
    assert complaint in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_steps_are_done_in_order_and_may_be_done_again(tmp_path: Path) -> None:
    steps = (
        Step(path=tmp_path / "etc", mode=0o755),
        Step(path=tmp_path / "etc" / "agent.json", content="{}\n"),
        Step(path=tmp_path / "etc" / "token", content=f"{TOKEN}\n", mode=0o600, is_secret=True),
        Step(command=("test", "-f", str(tmp_path / "etc" / "agent.json"))),
    )
    for _ in range(2):
        said: list[str] = []
        take_steps(steps, said.append)
        assert len(said) == 4
        assert TOKEN not in str(said)
    assert stat.S_IMODE((tmp_path / "etc" / "token").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "etc" / "agent.json").stat().st_mode) == 0o644


def test_a_step_that_fails_is_named(tmp_path: Path) -> None:
    with pytest.raises(InstallError, match=r"^false: status 1$"):
        take_steps((Step(command=("false",)), Step(path=tmp_path / "x", mode=0o755)), lambda _: None)
    assert list(tmp_path.iterdir()) == []


def test_the_settings_that_install_writes_are_those_that_run_reads(tmp_path: Path) -> None:
    content = next(step.content for step in plan() if step.path == PLACES.settings)
    assert content is not None
    (tmp_path / "agent.json").write_text(content)
    assert read_settings(tmp_path / "agent.json").skip_inbound_ports == "22"


@pytest.mark.parametrize("task", ["install", "run", "redirect", "status", "leave"])
def test_every_subcommand_says_what_its_exit_status_means(task: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["agent", task, "--help"]) == 0
    assert "exit status: 0" in capsys.readouterr().out


def test_the_proxy_s_user_is_the_one_that_redirect_lets_pass(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = next(step.content for step in plan() if step.path == PLACES.settings)
    assert content is not None
    (tmp_path / "agent.json").write_text(content)
    flags = ("--settings", str(tmp_path / "agent.json"), "--state-folder", str(tmp_path), "--run-folder", str(tmp_path))
    assert main(["agent", "redirect", "--dry-run", *flags]) == 0
    shown = capsys.readouterr().out
    assert f"--uid-owner {PROXY_UID} -j RETURN" in shown
    assert "--dports 22,4191 -j RETURN" in shown
