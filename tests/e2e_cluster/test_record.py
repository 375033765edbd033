"""Is a recorded cluster there, whole, or a leftover?"""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest

from e2e.cluster.record import (
    Program,
    Record,
    decode_record,
    encode_record,
    find_fault,
    is_alive,
    read_record,
    read_start_ticks,
    write_record,
)

ALIVE = {10: 100, 11: 110}
RECORD = Record(
    boot="b1",
    began=1.5,
    ready=True,
    join="/sys/fs/cgroup/pids/x/cgroup.procs",
    programs={
        "etcd": Program(argv=("etcd", "--a"), pid=10, start_ticks=100, began=1.0),
        "kubelet": Program(argv=("kubelet",), pid=11, start_ticks=110, began=2.0),
    },
    sysctls={"kernel/panic": "1"},
    made=["/var/lib/cni"],
    versions={"etcd": "v3.6.16"},
)


def test_a_record_reads_back_as_itself(tmp_path: Path) -> None:
    assert decode_record(encode_record(RECORD)) == RECORD
    write_record(tmp_path / "state" / "record.json", RECORD)
    assert read_record(tmp_path / "state" / "record.json") == RECORD
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["record.json"]


def test_no_file_is_no_record(tmp_path: Path) -> None:
    assert read_record(tmp_path / "record.json") is None


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"programs": {}}', '{"programs": {"a": {"pid": 1}}}', "{}{}"])
def test_a_damaged_record_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError):
        decode_record(text)


def test_a_whole_cluster_has_no_fault() -> None:
    assert find_fault(RECORD, boot="b1", start_ticks_of=ALIVE.get) == ""


def test_a_restarted_machine_has_no_cluster() -> None:
    assert "restarted" in find_fault(RECORD, boot="b2", start_ticks_of=ALIVE.get)


def test_a_start_that_did_not_end_is_a_leftover_even_if_all_lives() -> None:
    half = dataclasses.replace(RECORD, ready=False)
    assert "interrupted" in find_fault(half, boot="b1", start_ticks_of=ALIVE.get)


def test_a_dead_program_is_named() -> None:
    assert find_fault(RECORD, boot="b1", start_ticks_of={10: 100}.get) == "not running any more: kubelet"


def test_another_program_with_the_same_pid_is_not_ours() -> None:
    assert find_fault(RECORD, boot="b1", start_ticks_of={10: 100, 11: 999}.get) == "not running any more: kubelet"


def test_a_stopped_program_is_not_alive() -> None:
    assert not is_alive(Program(argv=("a",)), {0: 0}.get)


def test_a_real_process_is_known_until_it_ends() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    ticks = read_start_ticks(child.pid)
    assert ticks is not None
    assert is_alive(Program(argv=(), pid=child.pid, start_ticks=ticks))
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert read_start_ticks(child.pid) is None, "a zombie is dead"
    child.communicate()
    assert read_start_ticks(child.pid) is None


def test_a_process_lives_while_one_of_its_threads_does() -> None:
    """Its state is a zombie's then. A server that is killed has its port until the last thread has ended, too."""
    script = (
        "import ctypes, threading, time\n"
        "threading.Thread(target=time.sleep, args=(60,)).start()\n"
        "ctypes.CDLL(None).pthread_exit(None)"
    )
    child = subprocess.Popen([sys.executable, "-c", script])
    try:
        while Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
            assert child.poll() is None
        assert read_start_ticks(child.pid) is not None
    finally:
        child.kill()
        child.wait()
    assert read_start_ticks(child.pid) is None
