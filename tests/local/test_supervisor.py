import os
import signal
import socket
from pathlib import Path

import pytest

from tests.local.conftest import Start, alive, eventually

SLEEP = "exec sleep 1000"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_everything(start: Start, number: int) -> None:
    running = start(SLEEP, SLEEP)
    pids = [running.pid("child0"), running.pid("child1")]
    status, _ = running.end(number)
    assert status == 0
    assert not any(alive(pid) for pid in pids)
    assert not (running.folder / "run.json").exists()


def test_a_child_that_ignores_the_signal_is_killed(start: Start) -> None:
    running = start(SLEEP, "trap '' TERM; while :; do sleep 0.1; done")
    pid = running.pid("child1")
    _, output = running.end()
    assert not alive(pid)
    assert "child1 did not stop within 1 s: killed" in output


def test_what_a_child_started_itself_ends_too(start: Start, tmp_path: Path) -> None:
    running = start(SLEEP, f"sleep 1000 & echo $! > {tmp_path}/grandchild; exec sleep 1000")
    assert eventually(lambda: _number(tmp_path / "grandchild"))
    grandchild = _number(tmp_path / "grandchild")
    running.end()
    assert eventually(lambda: not alive(grandchild))


def test_a_killed_supervisor_leaves_nothing_behind(start: Start, tmp_path: Path) -> None:
    running = start(SLEEP, f"sleep 1000 & echo $! > {tmp_path}/grandchild; exec sleep 1000")
    assert eventually(lambda: _number(tmp_path / "grandchild"))
    pids = [running.pid("child0"), running.pid("child1"), _number(tmp_path / "grandchild")]
    running.end(signal.SIGKILL)
    assert eventually(lambda: not any(alive(pid) for pid in pids))


def test_a_killed_child_starts_again(start: Start) -> None:
    running = start(SLEEP, SLEEP)
    before = running.pid("child1")
    assert eventually(lambda: alive(before))
    os.kill(before, signal.SIGKILL)
    assert eventually(lambda: running.pid("child1") != before)
    assert alive(running.pid("child1"))
    _, output = running.end()
    assert "child1 was killed by signal 9; starting it again" in output


def test_a_child_that_keeps_crashing_starts_less_and_less_often(start: Start) -> None:
    running = start(SLEEP, "echo the reason; exit 3")
    log = running.folder / "log" / "child1.log"
    assert eventually(lambda: log.read_text().count("--- ") >= 3)
    _, output = running.end()
    assert "child1 ended with status 3; starting it again in 0.5 s" in output
    assert "child1 | the reason" in output


def test_it_refuses_to_start_twice_on_one_folder(start: Start) -> None:
    first = start(SLEEP)
    second = start(SLEEP, wait=False)
    output, _ = second.process.communicate(timeout=20)
    assert second.process.returncode == 1
    assert f"already runs on {first.folder} (pid {first.process.pid}, http://127.0.0.1:{first.port})" in output
    assert alive(first.pid("child0"))


def test_it_refuses_a_port_that_is_taken(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        running = start(SLEEP, port=port, wait=False)
        output, _ = running.process.communicate(timeout=20)
    assert running.process.returncode == 1
    assert f"port {port} on 127.0.0.1 is taken" in output
    assert "SHIORI_PORT=" in output


def _number(path: Path) -> int:
    text = path.read_text().strip() if path.exists() else ""
    return int(text or 0)
