"""A process group ends all of its processes, and only those."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from carclf_airflow.local.processes import ProcessGroup

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]
STUBBORN = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; print('ready', flush=True); time.sleep(600)"],
                         start_new_session=True)
print(child.pid, flush=True)
time.sleep(600)
"""
TITLED = """
import os, setproctitle, time
if os.fork():
    os._exit(0)
setproctitle.setproctitle("a title longer than the command line " * 50)
print("ready", flush=True)
time.sleep(600)
"""


def wait_for(path: Path, text: str) -> str:
    limit = time.monotonic() + 300
    while text not in path.read_text():
        assert time.monotonic() < limit, path.read_text()
        time.sleep(0.05)
    return path.read_text()


def is_alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists() and "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()


def test_a_process_that_ignores_sigterm_ends_with_its_child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The child has a session of its own."""
    monkeypatch.setattr("carclf_airflow.local.processes.GRACE_SECONDS", 0.5)
    with ProcessGroup(tmp_path) as processes:
        path = processes.start("stubborn", [sys.executable, "-c", STUBBORN], dict(os.environ))
        grandchild = int(wait_for(path, "ready").split()[0])
        pids = [processes.running["stubborn"].pid, grandchild]
        assert all(map(is_alive, pids))
    assert not any(map(is_alive, pids))


def test_an_orphan_whose_title_overwrote_its_environment_ends(tmp_path: Path) -> None:
    with ProcessGroup(tmp_path) as processes:
        path = processes.start("titled", [sys.executable, "-c", TITLED], dict(os.environ))
        wait_for(path, "ready")
        (pid,) = processes.find_alive() - {processes.running["titled"].pid}
    assert not is_alive(pid)


def test_unrelated_processes_are_not_ended(tmp_path: Path) -> None:
    with subprocess.Popen(SLEEP) as other:
        with ProcessGroup(tmp_path) as processes:
            processes.start("sleep", SLEEP, dict(os.environ))
        assert is_alive(other.pid)
        other.kill()


def test_a_process_that_exits_is_reported_by_name(tmp_path: Path) -> None:
    with ProcessGroup(tmp_path) as processes:
        processes.start("brief", [sys.executable, "-c", ""], dict(os.environ))
        limit = time.monotonic() + 300
        while processes.find_exited() != "brief":
            assert time.monotonic() < limit
            time.sleep(0.05)


def test_all_processes_end_when_the_block_raises(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), ProcessGroup(tmp_path) as processes:
        processes.start("sleep", SLEEP, dict(os.environ))
        pid = processes.running["sleep"].pid
        raise KeyboardInterrupt
    assert not is_alive(pid)
