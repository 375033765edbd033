"""`meshwright redirect` with the real iptables of this machine, each test in a network namespace of its own."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from meshwright.cli import main
from meshwright.edge.redirect_command import MODES

ROOT = Path(__file__).parents[2]
IS_ROOT = os.getuid() == 0 and all(shutil.which(tool) for tool in ("unshare", "ip"))
REDIRECT = shlex.join((sys.executable, "-m", "meshwright.cli", "redirect"))
OURS = "iptables-{mode}-save -t nat; ip6tables-{mode}-save -t nat"


def works(mode: str) -> bool:
    """Whether a back end is there, and this kernel has what it needs."""
    program = f"iptables-{mode}"
    if not IS_ROOT or not shutil.which(program):
        return False
    words = ("unshare", "-n", program, "-t", "nat", "-A", "OUTPUT", "-p", "tcp", "-j", "REDIRECT", "--to-ports", "1")
    return subprocess.run(words, capture_output=True, check=False).returncode == 0


WORKING = {mode: works(mode) for mode in MODES}
each_mode = pytest.mark.parametrize(
    "mode",
    [
        pytest.param(
            mode,
            marks=pytest.mark.skipif(
                not WORKING[mode], reason=f"needs root, unshare, ip, iptables-{mode}, and a kernel for it"
            ),
        )
        for mode in MODES
    ],
)
needs_both = pytest.mark.skipif(not all(WORKING.values()), reason="needs root and both back ends of iptables")
needs_root = pytest.mark.skipif(not any(WORKING.values()), reason="needs root, unshare, ip and iptables")


def in_network(script: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a shell script in a network of its own, with loopback up."""
    return subprocess.run(
        (*words, "unshare", "-n", "sh", "-c", f"ip link set lo up; {script}"),
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(("operator", "."))},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def rules(text: str) -> list[str]:
    return [line.replace(" -m tcp ", " ") for line in text.splitlines() if line.startswith(("-A", ":MESH"))]


def wished(words: Sequence[str], capsys: pytest.CaptureFixture[str]) -> list[str]:
    assert main(["redirect", "--dry-run", *words]) == 0
    return rules(capsys.readouterr().out)


@each_mode
def test_connections_are_captured_in_both_directions_but_those_that_are_skipped(mode: str) -> None:
    done = in_network(f"exec {shlex.quote(sys.executable)} -m tests.edge.redirecting {mode}")
    assert done.returncode == 0, done.stderr
    expected = {
        "from the pod: a Service": "outbound",
        "from the pod: the peer": "outbound",
        "from the pod: the peer, skipped port": "the peer",
        "from the pod: a skipped subnet": "the peer",
        "from the pod: loopback": "the application",
        "from the pod: the pod itself": "the application",
        "from the proxy: the peer": "the peer",
        "from outside: 80": "inbound",
        "from outside: 4191": "the application",
        "from outside: 4567": "the application",
        "from outside: 4568": "inbound",
        "from outside: 9001": "the application",
        "from outside: a skipped subnet": "the application",
    }
    both = expected | {f"{name}, IPv6": who for name, who in expected.items()}
    assert json.loads(done.stdout) == both | {"from the proxy: the pod itself": "the application"}


@each_mode
def test_twice_is_as_once(mode: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = (
        f"--mode={mode}",
        "--skip-inbound-ports=1,3,5,7,9,11,13,15,17,19,21,23,25-30,40",
        "--skip-subnets=0.0.0.0/0,10.1.2.3/8,1.2.3.4,fd00::/8,::1,::/0",
        "--skip-outbound-ports=4567-4568",
        "--proxy-uid=7",
        "--inbound-port=1111",
        "--outbound-port=2222",
    )
    command = f"{REDIRECT} {' '.join(words)}"
    done = in_network(f"{command}; {command}; {OURS.format(mode=mode)}")
    assert done.stderr.splitlines() == [
        f"meshwright redirect: IPv4 is redirected ({mode}); IPv6 is redirected ({mode})",
        f"meshwright redirect: IPv4 is redirected already ({mode}); IPv6 is redirected already ({mode})",
    ]
    assert sorted(rules(done.stdout)) == sorted(wished(words, capsys))


HALVES = {
    "a chain without rules": "{p} -N MESHWRIGHT_INBOUND",
    "a rule that leads to an empty chain": "{p} -N MESHWRIGHT_OUTBOUND; {p} -A OUTPUT -j MESHWRIGHT_OUTBOUND",
    "rules twice": "{r}; {p} -A OUTPUT -p tcp -j MESHWRIGHT_OUTBOUND; {p} -A MESHWRIGHT_INBOUND -p tcp -j RETURN",
    "a rule lost": "{r}; {p} -D PREROUTING -p tcp -j MESHWRIGHT_INBOUND; {p} -D MESHWRIGHT_OUTBOUND -o lo -j RETURN",
    "other ports": "{r} --inbound-port 99 --skip-inbound-ports 7 --proxy-uid 5",
}


@each_mode
@pytest.mark.parametrize("half", HALVES.values(), ids=HALVES)
def test_a_run_after_half_a_run_repairs(half: str, mode: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = half.format(p=f"iptables-{mode} -t nat", r=f"{REDIRECT} --mode={mode}")
    done = in_network(f"set -e; {before}; {REDIRECT} --mode={mode}; {OURS.format(mode=mode)}")
    assert done.returncode == 0, done.stderr
    assert f"IPv4 is redirected ({mode})" in done.stderr.splitlines()[-1]
    assert sorted(rules(done.stdout)) == sorted(wished((), capsys))


@each_mode
def test_rules_of_others_stay(mode: str, capsys: pytest.CaptureFixture[str]) -> None:
    theirs = "-A OUTPUT -d 10.9.9.9/32 -p tcp -j RETURN"
    done = in_network(
        f"iptables-{mode} -t nat {theirs}; {REDIRECT}; {REDIRECT} --skip-outbound-ports=1; iptables-{mode}-save -t nat"
    )
    assert f"IPv4 is redirected ({mode})" in done.stderr
    assert rules(done.stdout).count(theirs) == 1
    assert len(rules(done.stdout)) == 1 + len(wished(("--skip-outbound-ports=1",), capsys)) / 2


@needs_both
@pytest.mark.parametrize("first", MODES)
def test_auto_stays_with_the_back_end_that_has_rules(first: str) -> None:
    done = in_network(f"{REDIRECT} --mode={first}; {REDIRECT} --skip-inbound-ports=7")
    assert done.stderr.count(f"IPv4 is redirected ({first}); IPv6 is redirected ({first})") == 2


@needs_both
@pytest.mark.parametrize(("first", "then"), [MODES, MODES[::-1]])
def test_the_other_back_end_is_cleared(first: str, then: str) -> None:
    done = in_network(f"{REDIRECT} --mode={first}; {REDIRECT} --mode={then}; {OURS.format(mode=first)}")
    assert f"IPv4 is redirected ({then})" in done.stderr
    assert rules(done.stdout) == []


@needs_root
def test_a_pod_without_ipv6_is_fine() -> None:
    done = in_network(f"sysctl -qw net.ipv6.conf.all.disable_ipv6=1; {REDIRECT}")
    assert done.returncode == 0
    assert done.stderr.endswith("; no IPv6 here\n")


@needs_root
@pytest.mark.parametrize(
    ("addresses", "status", "said"),
    [
        ("", 0, "IPv6 is not used here, and not redirected (ip6tables-nft is not installed; "),
        ("ip link add v0 type veth; ip address add fd00::9/64 dev v0;", 1, "IPv6 is not redirected: ip6tables-nft is"),
    ],
    ids=["loopback only", "an address"],
)
def test_ipv6_that_cannot_be_redirected_matters_when_it_is_used(
    addresses: str, status: int, said: str, tmp_path: Path
) -> None:
    for name in ("iptables-nft", "iptables-legacy"):
        for verb in ("save", "restore"):
            if found := shutil.which(f"{name}-{verb}"):
                (tmp_path / f"{name}-{verb}").symlink_to(found)
    done = in_network(f"{addresses} PATH={tmp_path} {REDIRECT}")
    assert done.returncode == status
    assert said in done.stderr


@pytest.mark.skipif(not (IS_ROOT and shutil.which("setpriv")), reason="needs root and setpriv")
def test_a_missing_capability_is_named() -> None:
    done = in_network(f"setpriv --bounding-set=-net_admin --inh-caps=-net_admin {REDIRECT}")
    assert done.returncode == 1
    assert done.stderr.startswith("meshwright redirect: the capability NET_ADMIN is missing; give it to this container")
    assert done.stderr.count("\n") == 1


@needs_root
def test_no_iptables_at_all_is_told(tmp_path: Path) -> None:
    done = in_network(f"PATH={tmp_path} {REDIRECT}")
    assert done.returncode == 1
    assert done.stderr == (
        "meshwright redirect: IPv4 is not redirected: iptables-nft is not installed; iptables-legacy is not installed\n"
    )


@needs_root
def test_a_back_end_that_does_not_work_is_passed_over(tmp_path: Path) -> None:
    for name in ("iptables", "ip6tables"):
        for verb in ("save", "restore"):
            broken = tmp_path / f"{name}-nft-{verb}"
            broken.write_text("#!/bin/sh\necho 'Could not fetch rule set generation id' >&2; exit 4\n")
            broken.chmod(0o755)
    done = in_network(f'PATH="{tmp_path}:$PATH" {REDIRECT}')
    if WORKING["legacy"]:
        assert done.stderr == "meshwright redirect: IPv4 is redirected (legacy); IPv6 is redirected (legacy)\n"
    done = in_network(f'PATH="{tmp_path}:$PATH" {REDIRECT} --mode=nft')
    assert done.returncode == 1
    assert "IPv4 is not redirected: iptables-nft-save: Could not fetch rule set generation id" in done.stderr


@needs_root
def test_what_only_claims_to_have_worked_is_found_out(tmp_path: Path) -> None:
    for name in ("iptables", "ip6tables"):
        for verb in ("save", "restore"):
            idle = tmp_path / f"{name}-nft-{verb}"
            idle.write_text("#!/bin/sh\ncat >/dev/null\n")
            idle.chmod(0o755)
    done = in_network(f'PATH="{tmp_path}:$PATH" {REDIRECT} --mode=nft')
    assert done.returncode == 1
    assert "iptables-nft said it had put the rules in place, and has not" in done.stderr


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("--inbound-port=0",), "found '0'; write a port, 1 to 65535"),
        (("--outbound-port=http",), "found 'http'"),
        (("--skip-inbound-ports=80,http",), "found 'http'; write ports and ranges"),
        (("--skip-outbound-ports=9-1",), "found '9-1'; write ports and ranges"),
        (("--skip-subnets=10.0.0.0/33",), "found '10.0.0.0/33'; write ranges like"),
        (("--mode=ebpf",), "invalid choice: 'ebpf'"),
    ],
)
def test_bad_usage_is_2_and_says_what_is_right(
    words: tuple[str, ...], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["redirect", *words]) == 2
    assert complaint in capsys.readouterr().err


def test_a_dry_run_shows_both_families(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["redirect", "--dry-run", "--skip-subnets=fd00::1"]) == 0
    shown = capsys.readouterr().out
    assert shown.count("COMMIT\n") == 2
    assert shown.count("-s fd00::1/128 -j RETURN") == 1
    assert shown.count("--dports 4191 -j RETURN") == 2
