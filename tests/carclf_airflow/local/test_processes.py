"""The launcher leaves no process behind."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from carclf_airflow.local.processes import ProcessGroup

STUBBORN = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; print('ready', flush=True); time.sleep(600)"],
                         start_new_session=True)
print(child.pid, flush=True)
time.sleep(600)
"""


def wait_for(path: Path, text: str) -> str:
    limit = time.monotonic() + 20
    while text not in path.read_text():
        assert time.monotonic() < limit, path.read_text()
        time.sleep(0.05)
    return path.read_text()


def alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists() and "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()


def test_a_process_that_ignores_sigterm_and_its_child_in_another_session_both_end(tmp_path, monkeypatch):
    monkeypatch.setattr("carclf_airflow.local.processes.GRACE_SECONDS", 0.5)
    with ProcessGroup(tmp_path) as processes:
        path = processes.start("stubborn", [sys.executable, "-c", STUBBORN], dict(os.environ))
        grandchild = int(wait_for(path, "ready").split()[0])
        pids = [processes.running["stubborn"].pid, grandchild]
        assert all(map(alive, pids))
    assert not any(map(alive, pids))


TITLED = """
import os, setproctitle, time
if os.fork():
    os._exit(0)
setproctitle.setproctitle("a title longer than the command line " * 50)
print("ready", flush=True)
time.sleep(600)
"""


def test_a_process_that_overwrote_its_environment_by_a_title_ends_though_its_parent_is_gone(tmp_path):
    with ProcessGroup(tmp_path) as processes:
        path = processes.start("titled", [sys.executable, "-c", TITLED], dict(os.environ))
        wait_for(path, "ready")
        (pid,) = processes._left() - {processes.running["titled"].pid}
    assert not alive(pid)


def test_processes_of_others_are_left_alone(tmp_path):
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as other:
        with ProcessGroup(tmp_path) as processes:
            processes.start("one", [sys.executable, "-c", "import time; time.sleep(600)"], dict(os.environ))
        assert alive(other.pid)
        other.kill()


def test_a_process_that_ended_by_itself_is_named(tmp_path):
    with ProcessGroup(tmp_path) as processes:
        processes.start("brief", [sys.executable, "-c", ""], dict(os.environ))
        limit = time.monotonic() + 20
        while processes.ended() != "brief":
            assert time.monotonic() < limit
            time.sleep(0.05)


def test_everything_ends_when_the_block_is_left_by_an_error(tmp_path):
    with pytest.raises(KeyboardInterrupt), ProcessGroup(tmp_path) as processes:
        processes.start("one", [sys.executable, "-c", "import time; time.sleep(600)"], dict(os.environ))
        pid = processes.running["one"].pid
        raise KeyboardInterrupt
    assert not alive(pid)
