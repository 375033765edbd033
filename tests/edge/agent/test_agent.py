"""The agent, as a program of its own, against a registrar that a test can bend. Its Envoy is a stand-in."""

import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from meshwright import __version__
from meshwright.edge.agent.following import write_bundle
from meshwright.edge.agent.own_leaf import OwnLeaf
from meshwright.edge.agent.redirecting import make_redirect, note_redirected
from meshwright.edge.agent.resident import open_state
from meshwright.edge.agent.settings import parse_settings
from meshwright.edge.agent.wire import split_pem
from meshwright.edge.certify import encode_key
from meshwright.link.enroll import make_workload_name
from tests.edge.agent.machine import Machine, machine
from tests.edge.agent.nursery import NURSERY
from tests.edge.agent.office import PROBE, TOKEN, TRUST, Answer, Call, Office, open_office
from tests.edge.authority import SHOP, make_csr
from tests.edge.authority import Root as Authority


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    with open_office(tmp_path) as running:
        yield running


@pytest.fixture
def vm(tmp_path: Path, office: Office) -> Iterator[Machine]:
    with machine(tmp_path / "vm", office.address, office.pin) as made:
        made.give_token()
        yield made


@pytest.fixture
def member(tmp_path: Path, office: Office) -> Iterator[Machine]:
    """A machine that has joined before: for what comes after that."""
    with machine(tmp_path / "vm", office.address, office.pin) as made:
        join_before(made, office)
        yield made


def join_before(vm: Machine, office: Office) -> None:
    settings = parse_settings(vm.settings)
    kept = open_state(vm.places, settings)
    assert kept.state is not None
    key = ec.generate_private_key(ec.SECP256R1())
    write_bundle(vm.places.bundle, office.bundle)
    leaf = OwnLeaf(settings, vm.places, kept)
    leaf.store(office.sign(kept.state.uid, make_csr(key))["chain"], encode_key(key))


@contextmanager
def application(status: int = 200) -> Iterator[dict[str, Any]]:
    """Run an application; ``status`` of what is yielded is what it answers."""
    seen: dict[str, Any] = {"status": status, "port": 0}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen["headers"] = dict(self.headers)
            self.send_response(seen["status"])
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    seen["port"] = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield seen
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def probe_of(port: int, **more: Any) -> dict[str, Any]:
    return {**PROBE, "httpGet": {**PROBE["httpGet"], "port": port}, **more}  # type: ignore[dict-item]


def refuse(word: str, status: int, reason: str, *, times: int = 1) -> Any:
    left = [times]

    def bend(call: Call) -> Answer | None:
        if call.word != word or not left[0]:
            return None
        left[0] -= 1
        return status, {"reason": reason, "message": "as the test wants it"}

    return bend


def ask_agent(vm: Machine, *words: str) -> subprocess.CompletedProcess[str]:
    files = vm.folder / "stdout", vm.folder / "stderr"
    for file in files:
        file.write_text("")
    status = NURSERY.start(["agent", *words, *vm.flags], *files, vm.environment).wait(60)
    stdout, stderr = (file.read_text() for file in files)
    return subprocess.CompletedProcess(words, status, stdout, stderr)


def test_a_machine_joins_registers_beats_drains_and_keeps_no_token(office: Office, vm: Machine) -> None:
    vm.start(is_alone=True)
    standing = vm.await_ready()
    uid = vm.state["uid"]
    workload = make_workload_name(SHOP, "ledger", uid)
    assert (standing["registered"], standing["workload"], standing["epoch"]) == (True, workload, 1)
    assert standing["certificate"]["identity"] == TRUST.machine_uri(SHOP, "ledger", uid)
    (join,) = office.of("join")
    assert (join.body["uid"], join.body["token"], join.identity) == (uid, TOKEN, "")
    (registration,) = office.of("register")
    assert registration.path == f"/v1/ns/shop/groups/ledger/instances/{uid}"
    assert registration.identity == registration.body.pop("identity") == TRUST.machine_uri(SHOP, "ledger", uid)
    assert len(registration.body.pop("nonce")) == 32
    assert registration.body == {
        "epoch": 1,
        "addresses": [{"ip": "192.0.2.10", "if": ""}],
        "labels": {},
        "versions": {"agent": __version__, "envoy": "1.40.0"},
        "loaded": {"config": "", "bundle": ""},
    }
    office.await_call("beat", lambda call: call.body["loaded"]["config"] == office.config["hash"])
    seqs = [call.body["seq"] for call in office.of("beat")]
    assert seqs == list(range(1, len(seqs) + 1))
    assert not vm.token.exists()
    assert not vm.places.pending_key.exists()
    for path in vm.places.state.rglob("*"):
        if path.is_file() and path.suffix in (".json", ".key", ""):
            assert path.stat().st_mode & 0o077 == 0 or path.parent.name == "identity", path
    done = ask_agent(vm, "status")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"yes, as {workload}, epoch 1; last beat" in done.stdout
    pid = standing["proxy"]["pid"]
    assert vm.stop() == 0
    assert not Path(f"/proc/{pid}").exists()
    assert office.of("leave") == []
    assert TOKEN not in vm.log
    assert "PRIVATE" not in vm.log
    assert ask_agent(vm, "status", "--json").returncode == 3


def test_a_stop_drains_first(office: Office, member: Machine) -> None:
    member.settings["drainSeconds"] = 0.3
    member.start()
    member.await_ready()
    began = time.monotonic()
    assert member.stop() == 0
    (drain,) = office.of("drain")
    assert drain.body == {"epoch": 1, "drainMs": 300}
    assert time.monotonic() - began > 0.3
    assert not [call for call in office.of("beat") if call.at > drain.at + 0.2]


def test_a_lost_answer_to_a_joining_is_had_again_with_the_same_key(office: Office, vm: Machine) -> None:
    office.losses["join"] = 1
    vm.start()
    vm.await_ready()
    first, second = office.of("join")
    assert first.body["uid"] == second.body["uid"]
    assert len(office.redeemed) == 1
    assert not vm.token.exists()


def test_killed_while_the_answer_to_a_joining_is_under_way_it_has_it_again(office: Office, vm: Machine) -> None:
    office.losses["join"] = 1_000_000
    vm.start()
    office.await_call("join")
    vm.kill()
    assert vm.token.exists()
    office.losses["join"] = 0
    vm.start()
    vm.await_ready()
    assert {call.body["uid"] for call in office.of("join")} == {vm.state["uid"]}
    assert not vm.token.exists()


def test_killed_at_any_moment_it_is_who_it_was_and_raises_its_epoch(office: Office, member: Machine) -> None:
    member.start()
    uid = member.await_ready()["uid"]
    epochs = [1]
    for _ in range(3):
        member.kill()
        count = len(office.calls)
        member.start()
        epochs.append(office.await_call("register", after=count).body["epoch"])
    member.await_ready()
    assert epochs == [1, 2, 3, 4]
    assert member.state["uid"] == uid
    assert office.of("join") == []
    assert len({call.body["nonce"] for call in office.of("register")}) == 4


@pytest.mark.parametrize("at", ["pending.key", "tls-1.key", "identity.json", "config.json"])
def test_killed_when_a_file_appears_it_joins_without_a_new_token(at: str, office: Office, vm: Machine) -> None:
    vm.start()
    path = vm.places.state / at if not at.startswith(("tls", "identity")) else vm.places.identity / at
    end = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < end, vm.log
        time.sleep(0.0002)
    vm.kill()
    vm.start()
    vm.await_ready()
    assert len(office.redeemed) == 1
    assert not vm.token.exists()


def test_an_envoy_outlives_its_agent_and_is_found_by_the_next_one(office: Office, member: Machine) -> None:
    member.start()
    pid = member.await_ready()["proxy"]["pid"]
    member.kill()
    member.start()
    member.await_log(f"Envoy of the agent before, process {pid}, goes on")
    assert member.await_ready()["proxy"]["pid"] == pid
    office.tell(delivery="127.0.0.1:2")
    member.await_log("Envoy must be started anew")
    assert member.await_standing(lambda found: found["proxy"]["ready"] and found["proxy"]["pid"] != pid)


def test_an_envoy_that_refuses_its_listeners_or_dies_is_told_at_once(office: Office, member: Machine) -> None:
    office.beat_ms = 30_000
    refused = member.places.identity / "refused"
    refused.write_text("no such path")
    member.start()
    beat = office.await_call("beat", lambda call: call.body["health"].get("trouble") == "ProxyRefused")
    assert beat.body["health"]["state"] == "Failing"
    message = "the proxy refuses its configuration: inbound: no such path"
    assert beat.body["health"]["message"] == member.standing()["proxy"]["message"] == message
    assert not member.standing()["proxy"]["ready"]
    refused.unlink()
    standing = member.await_ready()
    pid = standing["proxy"]["pid"]
    assert "--component-log-level\0config:error" in Path(f"/proc/{pid}/cmdline").read_text()
    count = len(office.calls)
    os.kill(pid, signal.SIGKILL)
    died = office.await_call("beat", lambda call: call.body["health"]["state"] == "Failing", after=count)
    assert died.body["health"]["trouble"] == "ProxyDown"
    assert died.body["health"]["message"] == "the proxy (Envoy) has ended by signal SIGKILL"
    office.await_call("beat", lambda call: call.body["health"]["state"] == "Passing", after=count)
    assert member.await_ready()["proxy"]["pid"] != pid


def test_what_the_probe_finds_is_told_within_50_ms(office: Office, member: Machine) -> None:
    office.beat_ms = 30_000
    with application() as seen:
        headers = [{"name": "X-Asked", "value": "secret"}]
        probe = probe_of(seen["port"])
        probe["httpGet"] = {**probe["httpGet"], "httpHeaders": headers}
        office.tell(probe=probe)
        member.start()
        member.await_ready()
        assert seen["headers"]["X-Asked"] == "secret"
        count = len(office.calls)
        seen["status"], changed = 503, time.monotonic()
        fell = office.await_call("beat", after=count)
        assert fell.body["health"]["state"] == "Failing"
        place = f"httpGet http://127.0.0.1:{seen['port']}/ready"
        assert fell.body["health"]["message"] == f"{place}: it answers 503"
        assert fell.at - changed < 0.05 + 0.05 + 0.05  # a period, the time to tell, and that of a busy machine
        count = len(office.calls)
        seen["status"] = 204
        assert office.await_call("beat", after=count).body["health"]["state"] == "Passing"
        done = ask_agent(member, "status")
        assert f"Passing, 0.0 s ago: {place}" in done.stdout
        assert "secret" not in member.log + done.stdout


def test_a_probe_of_another_host_is_not_asked(office: Office, member: Machine) -> None:
    probe = probe_of(80)
    probe["httpGet"] = {**probe["httpGet"], "host": "192.0.2.99"}
    office.tell(probe=probe)
    member.start()
    beat = office.await_call("beat", lambda call: "192.0.2.99" in call.body["health"]["message"])
    assert beat.body["health"]["state"] == "Failing"
    assert "allowedProbeHosts" in beat.body["health"]["message"]


def test_a_group_that_is_missing_is_waited_for(office: Office, member: Machine) -> None:
    office.retry_after, office.bend = "1", refuse("register", 404, "GroupMissing")
    member.start()
    member.await_ready()
    first, second = office.of("register")
    assert first.body["epoch"] == second.body["epoch"] == 1
    assert first.body["nonce"] == second.body["nonce"]
    assert second.at - first.at >= 1
    assert "create the ExternalGroup" in member.log


def test_a_registrar_that_has_forgotten_it_is_told_again_with_the_next_epoch(office: Office, member: Machine) -> None:
    office.bend = refuse("beat", 410, "NotRegistered")
    member.start()
    member.await_ready()
    assert [call.body["epoch"] for call in office.of("register")] == [1, 2]


def test_asked_to_register_again_it_does(office: Office, member: Machine) -> None:
    asked: list[Call] = []

    def bend(call: Call) -> Answer | None:
        if call.word == "beat" and not asked:
            asked.append(call)
            return 200, {"ready": False, "nextMs": 30_000, "mustRegister": True}
        return None

    office.bend = bend
    member.start()
    member.await_ready()
    assert [call.body["epoch"] for call in office.of("register")] == [1, 2]


def test_an_old_copy_that_may_go_on_does_and_says_so(office: Office, member: Machine) -> None:
    office.retry_after, office.bend = "1", refuse("register", 409, "StaleEpoch")
    member.start()
    member.await_ready()
    first, second = (call.body["epoch"] for call in office.of("register"))
    assert first == 1
    assert second >= int(time.time()) - 60
    assert "another copy of this machine has registered since" in member.log


def test_a_leader_that_changes_costs_no_registration(office: Office, member: Machine) -> None:
    member.start()
    member.await_ready()
    office.retry_after, office.bend = "1", refuse("beat", 503, "NotLeader", times=2)
    count = len(office.calls)
    office.await_call("beat", after=count + 2)
    member.await_standing(lambda found: found["registered"] and found["beatenSecondsAgo"] < 1)
    assert len(office.of("register")) == 1


def test_an_address_change_is_told_with_the_next_beat(office: Office, member: Machine) -> None:
    member.start()
    member.await_ready()
    member.kill()
    member.settings["address"] = ["192.0.2.11", "2001:db8::11"]
    member.start()
    beat = office.await_call("beat", lambda call: len(call.body["addresses"]) == 2)
    assert [each["ip"] for each in beat.body["addresses"]] == ["192.0.2.11", "2001:db8::11"]


@pytest.mark.parametrize("reason", ["BadToken", "TokenUsed"])
def test_a_token_that_is_refused_for_good_ends_it_and_is_never_sent_again(
    reason: str, office: Office, vm: Machine
) -> None:
    office.bend = refuse("join", 401, reason)
    vm.start()
    assert vm.wait() == 1
    assert f"refuses this machine's token (401 {reason}" in vm.log
    vm.start()
    assert vm.wait() == 1
    assert "the token was refused before" in vm.log
    assert "meshwright group token create ledger -n shop" in vm.log
    assert len(office.of("join")) == 1
    assert TOKEN not in vm.log
    done = ask_agent(vm, "status")
    assert done.returncode == 3
    assert "it last ended because: the token was refused before" in done.stdout


def test_without_token_and_certificate_it_ends_at_once(office: Office, vm: Machine) -> None:
    vm.token.unlink()
    vm.start()
    assert vm.wait() == 1
    assert "this machine has not joined yet, and there is no token" in vm.log
    assert office.calls == []


def test_a_group_that_does_not_let_it_in_yet_is_asked_again(office: Office, vm: Machine) -> None:
    office.retry_after, office.bend = "1", refuse("join", 403, "NotAllowed")
    vm.start()
    vm.await_ready()
    assert len(office.of("join")) == 2


def test_a_copy_of_a_machine_forgets_who_that_was(office: Office, vm: Machine) -> None:
    vm.start()
    uid = vm.await_ready()["uid"]
    vm.kill()
    path = vm.places.state / "state.json"
    state = json.loads(path.read_text())
    state["fingerprint"] = [[name, "another"] for name, _ in state["fingerprint"]]
    path.write_text(json.dumps(state))
    key = (vm.places.identity / "tls-1.key").read_bytes()
    office.redeemed.clear()
    vm.give_token()
    vm.start()
    assert vm.await_ready()["uid"] != uid
    assert vm.state["epoch"] == 1
    assert "this is a copy of another machine" in vm.log
    assert key not in {path.read_bytes() for path in vm.places.state.rglob("*.key")}


def test_a_state_that_is_corrupt_is_set_aside_and_the_certificate_says_who_it_was(
    office: Office, member: Machine
) -> None:
    member.start()
    uid = member.await_ready()["uid"]
    member.kill()
    (member.places.state / "state.json").write_text('{"uid": "')
    member.start()
    assert member.await_ready()["uid"] == uid
    assert member.state["epoch"] > 1_700_000_000
    assert len(list(member.places.state.glob("state.json.corrupt-*"))) == 1
    assert "cannot be read" in member.log


def test_a_certificate_is_renewed_at_half_its_life_over_itself(office: Office, vm: Machine) -> None:
    office.lifetime = timedelta(seconds=15)  # it began 20 s ago, so that half of its life is over
    vm.start()
    vm.await_log("certificate renewed; it is good until")
    (renewal,) = office.of("renew")
    assert renewal.identity == TRUST.machine_uri(SHOP, "ledger", vm.state["uid"])
    vm.await_ready()
    assert (vm.places.identity / "tls-2.crt").exists()
    assert len(office.of("join")) == 1


def test_a_certificate_that_ended_while_it_slept_needs_a_token_and_both_clocks_are_told(
    office: Office, vm: Machine
) -> None:
    vm.token.unlink()
    office.lifetime = timedelta(seconds=3)
    join_before(vm, office)
    uid, office.lifetime = vm.state["uid"], timedelta(hours=24)
    time.sleep(3.1)
    vm.start()
    assert vm.wait() == 1
    assert "after it ended; this machine's clock says 2" in vm.log
    assert ", the registrar's 2" in vm.log
    vm.give_token()
    vm.start()
    assert vm.await_ready()["uid"] == uid
    assert len(office.of("join")) == 1


def test_a_removed_machine_stays_away_until_it_has_a_new_token(office: Office, member: Machine) -> None:
    office.bend = refuse("beat", 403, "Removed")
    member.start()
    assert member.wait() == 1
    uid = member.state["uid"]
    assert "somebody has removed this machine from its group" in member.log
    count = len(office.calls)
    member.start()
    assert member.wait() == 1
    assert len(office.calls) == count
    office.redeemed.clear()
    member.give_token()
    member.start()
    assert member.await_ready()["uid"] != uid


def test_a_server_with_another_anchor_is_told_nothing(tmp_path: Path, vm: Machine, office: Office) -> None:
    vm.settings["caHashes"] = ["sha256:" + "0" * 64]
    vm.start()
    vm.await_log("has other trust anchors than caHashes says")
    assert {call.word for call in office.calls} == {"bundle"}


def test_a_server_of_the_mesh_that_is_not_the_registrar_is_told_nothing(tmp_path: Path) -> None:
    with (
        open_office(tmp_path, account=TRUST.delivery) as office,
        machine(tmp_path / "vm", office.address, office.pin) as vm,
    ):
        vm.give_token()
        vm.start()
        vm.await_log(
            "is not the registrar: its certificate names spiffe://cluster.local/ns/meshwright/sa/meshwright-xds"
        )
        assert {call.word for call in office.calls} == {"bundle"}


def test_trust_anchors_are_taken_as_the_registrar_has_them(office: Office, member: Machine) -> None:
    member.start()
    member.await_ready()
    both = office.bundle + Authority(number=2).anchor.pem
    office.tell(bundle=both, bundleHash="sha256:00000000000000b2")
    office.await_call("beat", lambda call: call.body["loaded"]["bundle"] == "sha256:00000000000000b2")
    assert member.places.bundle.read_text() == both
    office.tell(bundle="nonsense", bundleHash="sha256:00000000000000b3")
    member.await_log("those of before stay in force")
    assert member.places.bundle.read_text() == both


def test_an_anchor_that_was_replaced_while_it_slept_is_found_by_its_hash(tmp_path: Path, member: Machine) -> None:
    member.start()
    member.await_ready()
    member.kill()
    root = Authority(number=2)
    pin = split_pem(root.anchor.pem)[0][0]
    (tmp_path / "other").mkdir()
    with open_office(tmp_path / "other", root=root) as office:
        member.settings |= {"registrar": office.address, "caHashes": [*member.settings["caHashes"], pin]}
        member.start()
        member.await_log("the registrar has another trust anchor than this machine had; caHashes names it")
    assert [fingerprint for fingerprint, _ in split_pem(member.places.bundle.read_text())] == member.settings[
        "caHashes"
    ]


def test_it_is_started_anew_when_other_ports_are_to_be_skipped(office: Office, member: Machine) -> None:
    settings = parse_settings(member.settings)
    note_redirected(member.places, make_redirect(settings, None))
    member.start()
    member.await_ready()
    office.tell(skipInboundPorts="9100")
    assert member.wait() == 75
    assert "the group wants other ports" in member.log


def test_two_agents_do_not_share_a_folder(member: Machine) -> None:
    member.start()
    member.await_ready()
    done = ask_agent(member, "run")
    assert done.returncode == 1
    assert "another agent runs with" in done.stderr


def test_leaving_stops_it_tells_the_registrar_and_removes_all(office: Office, member: Machine) -> None:
    member.start()
    standing = member.await_ready()
    done = ask_agent(member, "leave")
    assert done.returncode == 0, done.stderr
    assert member.wait() == 0
    (leave,) = office.of("leave")
    assert (leave.query, leave.identity) == ({"epoch": ["1"]}, standing["certificate"]["identity"])
    assert not member.places.state.exists()
    assert not member.places.settings.exists()
    assert not Path(f"/proc/{standing['proxy']['pid']}").exists()


def test_who_cannot_tell_the_registrar_has_not_left(office: Office, member: Machine) -> None:
    member.start()
    member.await_ready()
    member.stop()
    office.bend = refuse("leave", 503, "NotLeader", times=9)
    done = ask_agent(member, "leave")
    assert done.returncode == 1
    assert "the registrar refused (503 NotLeader" in done.stderr
    assert member.places.state.exists()
    done = ask_agent(member, "leave", "--local")
    assert (done.returncode, member.places.state.exists()) == (0, False)


@pytest.mark.parametrize("kind", ["tcpSocket", "grpc"])
def test_probes_of_every_kind_are_asked(kind: str, office: Office, member: Machine) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        office.tell(probe={**{key: value for key, value in PROBE.items() if key != "httpGet"}, kind: {"port": port}})
        member.start()
        if kind == "tcpSocket":
            member.await_ready()
        else:
            connection, _ = server.accept()
            connection.close()
            beat = office.await_call("beat", lambda call: "grpc 127.0.0.1" in call.body["health"]["message"])
            assert beat.body["health"]["state"] in ("Unknown", "Failing")


@pytest.mark.parametrize("kind", ["httpGet", "grpc"])
def test_it_is_small_and_idle(kind: str, office: Office, member: Machine) -> None:
    """Source of the bound: what a machine's owner was promised, 40 MiB beside Envoy."""
    office.beat_ms = 1000
    server = grpc.server(ThreadPoolExecutor(1))
    handlers = {"Check": grpc.unary_unary_rpc_method_handler(lambda _, __: b"\x08\x01")}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("grpc.health.v1.Health", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with application() as seen:
        http = probe_of(seen["port"], periodSeconds=1)
        office.tell(probe=http if kind == "httpGet" else {"grpc": {"port": port}, "periodSeconds": 1})
        member.start(is_alone=True)
        member.await_ready()
        assert member.program is not None
        office.await_call("beat", after=len(office.calls))
        before = _cpu(member.program.pid)
        began = time.monotonic()
        time.sleep(2)
        used = (_cpu(member.program.pid) - before) / (time.monotonic() - began)
        rss = _rss(member.program.pid)
    server.stop(None).wait()
    print(f"{kind}: RSS {rss:.1f} MiB, {used * 100:.2f} % of a core at ten times the usual rate of beats and probes")
    assert rss < 40
    assert used < 0.02


def _rss(pid: int) -> float:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Rss:"):
            return int(line.split()[1]) / 1024
    raise AssertionError("no Rss")


def _cpu(pid: int) -> float:
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")
