"""The agent's parts, each by itself."""

import json
import socket
import stat
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import grpc
import pytest

from meshwright.edge.agent.addresses import Candidate, choose_addresses, find_route_source, is_own, list_candidates
from meshwright.edge.agent.asking import Refused, Unwell, ask, describe, read_probe
from meshwright.edge.agent.backoff import Backoff, vary
from meshwright.edge.agent.disk import State, StateFile, write_durably
from meshwright.edge.agent.envoy import find_running
from meshwright.edge.agent.fingerprint import find_difference, read_first_mac, take_fingerprint
from meshwright.edge.agent.following import load_config, parse_config, write_config
from meshwright.edge.agent.probing import Counter
from meshwright.edge.agent.show import judge, write_standing
from meshwright.emit.machine_config import emit_machine_config
from meshwright.model.enrollment import MachineConfig
from meshwright.model.group import Probe, ProbeKind
from meshwright.model.units import Millis, Namespace, Port


def candidate(ip: str, interface: str = "eth0", *, is_secondary: bool = False) -> Candidate:
    return Candidate(ip=ip_address(ip), interface=interface, is_secondary=is_secondary)


HERE = (
    candidate("172.17.0.1", "docker0"),
    candidate("192.0.2.10"),
    candidate("2001:db8::dead", is_secondary=True),
    candidate("2001:db8::10"),
    candidate("10.9.0.5", "wg0"),
)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"explicit": ["203.0.113.7"]}, "203.0.113.7"),
        ({"explicit": ["2001:db8::10", "192.0.2.10"]}, "192.0.2.10 eth0, 2001:db8::10 eth0"),
        ({"interface": "wg0", "route": ["192.0.2.10"]}, "10.9.0.5 wg0"),
        ({"interface": "eth9"}, ""),
        ({"address_from": ["10.0.0.0/8", "192.0.2.0/24"]}, "10.9.0.5 wg0"),
        ({"address_from": ["2001:db8::/32", "192.0.2.0/24"]}, "192.0.2.10 eth0, 2001:db8::10 eth0"),
        ({"route": ["192.0.2.10"]}, "192.0.2.10 eth0, 2001:db8::10 eth0"),
        ({"route": ["2001:db8::dead"]}, "192.0.2.10 eth0, 2001:db8::10 eth0"),
        ({"route": ["10.9.0.5"]}, "10.9.0.5 wg0"),
        ({"route": []}, ""),
    ],
)
def test_the_address_is_the_one_that_was_said_or_the_route_s_and_never_the_first(
    said: dict[str, list[str]], expected: str
) -> None:
    chosen = choose_addresses(HERE, **said)  # type: ignore[arg-type]
    assert ", ".join(f"{each.ip} {each.interface}".strip() for each in chosen) == expected


def test_the_kernel_s_addresses_are_listed_without_loopback() -> None:
    shown = json.loads(subprocess.run(("ip", "-j", "address"), capture_output=True, text=True, check=True).stdout)
    expected = {
        (one["local"], link["ifname"])
        for link in shown
        for one in link["addr_info"]
        if one["scope"] == "global" and "tentative" not in one and not ip_address(one["local"]).is_loopback
    }
    assert {(str(each.ip), each.interface) for each in list_candidates()} == expected
    assert is_own("127.0.0.1")
    assert not is_own("192.0.2.1")
    assert not is_own("localhost.example")
    assert find_route_source("127.0.0.1", 1) == ("127.0.0.1",)


def test_a_back_off_is_anything_up_to_a_bound_that_doubles_to_a_minute() -> None:
    bounds = []
    for failures in range(10):
        draws = []
        for _ in range(200):
            backoff = Backoff()
            backoff.failures = failures
            draws.append(backoff.wait())
        bounds.append(2.0**failures)
        assert 0.1 <= min(draws) <= max(draws) <= min(60.0, bounds[-1])
        assert max(draws) > min(60.0, bounds[-1]) * 0.8
    assert 5.0 <= Backoff().wait(5.0) <= 5.5
    assert Backoff().wait(0.0) >= 0.1
    assert all(9.0 <= vary(10.0) <= 11.0 for _ in range(200))


def test_a_state_is_as_it_was_written_and_nobody_else_s_to_read(tmp_path: Path) -> None:
    kept = StateFile(tmp_path / "state")
    assert kept.state is None
    state = State(uid="u" * 32, epoch=7, fingerprint=(("mac", "1"),), identity="spiffe://x", fenced="so")
    kept.write(state)
    path = tmp_path / "state" / "state.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    again = StateFile(tmp_path / "state")
    assert again.state == state
    assert again.change(epoch=8) == replace(state, epoch=8) == StateFile(tmp_path / "state").state


@pytest.mark.parametrize("text", ["", "{", "[]", '{"version": 2}', '{"version": 1, "uid": "x", "epoch": -1}'])
def test_a_state_that_cannot_be_read_is_set_aside(text: str, tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text(text)
    kept = StateFile(tmp_path)
    assert (kept.state, kept.was_corrupt) == (None, True)
    (aside,) = tmp_path.iterdir()
    assert aside.name.startswith("state.json.corrupt-")
    assert aside.read_text() == text


def test_a_file_that_was_half_written_is_replaced(tmp_path: Path) -> None:
    (tmp_path / ".x.new").write_text("half")
    write_durably(tmp_path / "x", b"whole")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"x": "whole"}


def test_a_machine_is_told_from_its_copy(tmp_path: Path) -> None:
    machine_id, uuid, noted = tmp_path / "machine-id", tmp_path / "product_uuid", tmp_path / "redirected.json"
    machine_id.write_text("0123\n")
    noted.write_text(json.dumps({"productUuid": "as root saw it"}))
    before = take_fingerprint(noted, machine_id=machine_id, product_uuid=uuid)
    assert dict(before)["productUuid"] == "as root saw it"
    assert ("mac" in dict(before)) is bool(read_first_mac())
    assert "0123" not in str(before)
    assert find_difference(before, before) == ()
    machine_id.write_text("4567\n")
    uuid.write_text("another\n")
    after = take_fingerprint(noted, machine_id=machine_id, product_uuid=uuid)
    assert find_difference(before, after) == ("machineId", "productUuid")
    assert find_difference(before[:1], after[1:]) == ()


def test_a_probe_counts_failures_and_successes_in_a_row() -> None:
    counter = Counter(Probe(port=Port(1), failure_threshold=3, success_threshold=2))
    words = {True: "+", False: "-"}
    seen = [f"{words[is_well]}{counter.take(is_well).value[0]}" for is_well in map("+".__eq__, "++-+---+-++")]
    assert seen == ["+U", "+P", "-P", "+P", "-P", "-P", "-F", "+F", "-F", "+F", "+P"]


def test_a_configuration_is_read_as_the_registrar_writes_it(tmp_path: Path) -> None:
    config = MachineConfig(
        hash="sha256:1",
        bundle_hash="sha256:2",
        bundle="PEM",
        workload="w",
        identity="spiffe://x",
        delivery="d:1",
        trust_domain="x",
        control_plane=Namespace("m"),
        probe={"tcpSocket": {"host": "127.0.0.1", "port": 1}},
        skip_inbound_ports="1",
        skip_outbound_ports="2",
        skip_subnets="10.0.0.0/8",
        address_from=("10.0.0.0/8",),
    )
    assert parse_config(emit_machine_config(config)) == config
    assert parse_config(write_config(config)) == config
    with pytest.raises(ValueError, match="it lacks delivery"):
        parse_config({**emit_machine_config(config), "delivery": ""})
    assert load_config(tmp_path / "none") is None


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (
            {"httpGet": {"port": 80, "httpHeaders": [{"name": "a", "value": "b"}]}, "timeoutSeconds": 0.5},
            Probe(port=Port(80), headers=(("a", "b"),), timeout_ms=Millis(500)),
        ),
        ({"tcpSocket": {"port": 1, "host": "::1"}}, Probe(kind=ProbeKind.TCP, port=Port(1), host="::1")),
        ({"grpc": {"port": 1, "service": "s"}}, Probe(kind=ProbeKind.GRPC, port=Port(1), service="s")),
    ],
)
def test_a_probe_is_read_as_the_registrar_writes_it(raw: dict[str, object], expected: Probe) -> None:
    assert read_probe(raw) == expected


@pytest.mark.parametrize("raw", [{}, {"exec": {}}, {"httpGet": {}}, {"httpGet": {"port": 1}, "grpc": {"port": 1}}])
def test_a_probe_of_another_version_is_not_guessed(raw: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="the probe"):
        read_probe(raw)


def test_what_is_asked_is_told_without_headers() -> None:
    probe = Probe(port=Port(80), host="::1", headers=(("Authorization", "secret"),))
    assert describe(probe) == "httpGet http://[::1]:80/"


@contextmanager
def listening(answer: bytes) -> Iterator[int]:
    """Run a server that answers whatever is sent with ``answer``."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            try:
                while True:
                    connection, _ = server.accept()
                    with connection:
                        connection.recv(4096)
                        connection.sendall(answer)
            except OSError:
                return

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", ""),
        (b"HTTP/1.1 399 Fine\r\n\r\n", ""),
        (b"HTTP/1.1 400 Bad\r\n\r\n", "it answers 400"),
        (b"SSH-2.0\r\n", "no HTTP: BadStatusLine"),
        (b"", "no HTTP: RemoteDisconnected"),
    ],
)
def test_an_application_is_well_from_200_to_399(answer: bytes, expected: str) -> None:
    with listening(answer) as port:
        assert found_of(Probe(port=Port(port))) == expected


def found_of(probe: Probe) -> str:
    try:
        ask(probe, ())
    except Unwell as error:
        return str(error)
    return ""


def test_an_application_has_its_time_and_no_more() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port, began = Port(silent.getsockname()[1]), time.monotonic()
        for kind in (ProbeKind.HTTP, ProbeKind.GRPC):
            assert found_of(Probe(kind=kind, port=port, timeout_ms=Millis(50))) == "no answer within 50 ms"
        assert time.monotonic() - began < 2
        assert found_of(Probe(kind=ProbeKind.TCP, port=port)) == ""
    assert found_of(Probe(kind=ProbeKind.TCP, port=port)) == "Connection refused"


def test_only_this_machine_is_asked() -> None:
    with pytest.raises(Refused, match=r"names db\.example, which is not this machine"):
        ask(Probe(port=Port(1), host="db.example"), ())
    with pytest.raises(Unwell):
        ask(Probe(port=Port(1), host="localhost.invalid"), ("localhost.invalid",))


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (b"\x08\x01", ""),
        (b"\x08\x02", "it says NOT_SERVING"),
        (b"", "it says UNKNOWN"),
        (grpc.StatusCode.NOT_FOUND, "it does not know this service"),
        (None, "it does not implement grpc.health.v1.Health"),
    ],
)
def test_a_real_grpc_server_is_asked_without_grpc(status: bytes | grpc.StatusCode | None, expected: str) -> None:
    asked = []

    def check(request: bytes, context: grpc.ServicerContext) -> bytes:
        asked.append(request)
        if isinstance(status, grpc.StatusCode):
            context.abort(status, "as the test wants it")
        return status if isinstance(status, bytes) else b""

    server = grpc.server(ThreadPoolExecutor(1))
    if status is not None:
        handlers = {"Check": grpc.unary_unary_rpc_method_handler(check)}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("grpc.health.v1.Health", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        assert found_of(Probe(kind=ProbeKind.GRPC, port=Port(port), service="shop.Ledger")) == expected
    finally:
        server.stop(None).wait()
    assert asked == ([b"\x0a\x0bshop.Ledger"] if status is not None else [])


def test_grpc_is_asked_of_grpc_only() -> None:
    with listening(b"HTTP/1.1 400 Bad Request\r\n\r\n") as port:
        assert found_of(Probe(kind=ProbeKind.GRPC, port=Port(port))) in (
            "no gRPC: it does not speak HTTP/2",
            "it ended the connection",
        )


def test_a_process_is_not_another_with_the_same_number() -> None:
    assert find_running({"pid": 1, "began": "not when it began"}) == 0
    assert find_running({"pid": 2**22, "began": "-"}) == 0
    assert find_running({}) == 0
    words = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    assert find_running({"pid": int(Path("/proc/self").readlink().name), "began": words[19]}) > 0


STANDING = {
    "version": "0.1.0",
    "pid": 7,
    "group": "shop/ledger",
    "mode": "JoinToken",
    "registrar": "r:15013",
    "uid": "u",
    "epoch": 3,
    "fenced": "",
    "registered": True,
    "workload": "ledger-x",
    "ready": True,
    "leaseSeconds": 31.0,
    "beatenSecondsAgo": 4.0,
    "health": "Passing",
    "healthMessage": "",
    "probe": None,
    "proxy": {"ready": True, "message": "", "pid": 8},
    "certificate": {"identity": "spiffe://x", "from": "a", "until": "2026-01-01T00:00:00Z", "seconds": 7260},
    "addresses": [{"ip": "192.0.2.10", "interface": "eth0"}],
    "candidates": [{"ip": "192.0.2.10", "interface": "eth0"}, {"ip": "10.0.0.1", "interface": "wg0"}],
    "loaded": {"config": "sha256:1", "bundle": ""},
    "faults": [{"at": "2026-01-01T00:00:00Z", "what": "beat", "message": "no"}],
}


def test_a_status_reads_well() -> None:
    assert (
        write_standing(STANDING)
        == """\
group:       shop/ledger (registrar r:15013, mode JoinToken)
registered:  yes, as ledger-x, epoch 3; last beat 4.0 s ago, lease for 31.0 s more
traffic:     the cluster sends it here
health:      Passing
probe:       the group has none
proxy:       ready, process 8
certificate: spiffe://x, until 2026-01-01T00:00:00Z (2 h 1 min left)
addresses:   192.0.2.10 (eth0)
of:          192.0.2.10 (eth0), 10.0.0.1 (wg0)
loaded:      configuration sha256:1, trust none
agent:       0.1.0, process 7, uid u

lately:
  2026-01-01T00:00:00Z beat: no"""
    )


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({}, 0),
        ({"registered": False}, 1),
        ({"certificate": None}, 1),
        ({"health": "Unknown"}, 1),
        ({"proxy": {"ready": False, "message": "it is gone", "pid": None}}, 1),
    ],
)
def test_a_status_is_good_when_everything_is(change: dict[str, object], status: int) -> None:
    assert judge({**STANDING, **change}) == status
    write_standing({**STANDING, **change})
