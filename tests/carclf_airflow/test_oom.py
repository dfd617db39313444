"""A child that the kernel killed: the task's log says why, in words."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "dags"))

from carclf_airflow.oom import OOM_COUNT_FILES, OOM_HINT, count_oom_kills, explain_kill, find_cgroup  # noqa: E402


@pytest.fixture
def cgroup(tmp_path: Path) -> Path:
    """What the kernel shows of a container in which one process was killed before."""
    (tmp_path / "memory.events").write_text("low 0\nhigh 0\nmax 812\noom 3\noom_kill 1\noom_group_kill 0\n")
    (tmp_path / "memory.max").write_text("536870912\n")
    return tmp_path


def test_a_kill_for_want_of_memory_is_told_with_the_limit(cgroup: Path) -> None:
    before = count_oom_kills(cgroup)
    (cgroup / "memory.events").write_text("oom 4\noom_kill 2\n")
    said = f"out of memory: the kernel's OOM killer ended a process of the stage (the limit is 537 MB). {OOM_HINT}"
    # A data worker may have been killed instead: then the stage itself ends with an error of its own.
    assert [before, *(explain_kill(status, before, cgroup) for status in (-9, 137, 1))] == [1, said, said, said]


def test_older_kernels_count_under_other_names(tmp_path: Path) -> None:
    (tmp_path / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n")
    (tmp_path / "memory.limit_in_bytes").write_text("4294967296\n")
    assert count_oom_kills(tmp_path) == 3
    assert explain_kill(-9, 2, tmp_path).startswith(
        "out of memory: the kernel's OOM killer ended a process of the stage (the limit is 4295 MB). ")


def test_this_process_is_counted_somewhere() -> None:
    assert any((find_cgroup() / name).is_file() for name in OOM_COUNT_FILES)


def test_any_other_kill_is_not_called_a_want_of_memory_of_the_container(cgroup: Path, tmp_path: Path) -> None:
    said = explain_kill(-9, 1, cgroup)
    assert said == ("killed by SIGKILL, and not by this container's own memory limit: the machine may have run out of "
                    f"memory (its kernel log says so), or somebody ended it. {OOM_HINT}")
    assert explain_kill(137, 0, tmp_path / "no such kernel") == said
    assert [explain_kill(status, 1, cgroup) for status in (1, 65, 75, 78, -15)] == [""] * 5


def test_a_stage_is_what_the_kernel_kills_first_and_not_the_worker_that_tells_of_it(tmp_path: Path) -> None:
    code = """
        import sys, stage_process
        read = "import time; time.sleep(1); print('carclf: score', open('/proc/self/oom_score_adj').read())"
        print(stage_process.run_child([sys.executable, "-c", read], {}))
    """
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'dags'}", "AIRFLOW_HOME": str(tmp_path / "home")}
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100)
    assert done.stdout.splitlines()[-1] == "(0, 'score 500')", done.stderr[-2000:]


def test_a_killed_child_is_told_in_the_tasks_log_and_tried_again(tmp_path: Path) -> None:
    code = """
        import json, logging, os, sys
        from types import SimpleNamespace as N
        from carclf_airflow import stage_process
        stage_process.log.addHandler(logging.StreamHandler(sys.stderr))
        from airflow.sdk.exceptions import AirflowException
        pushed = {}
        push = lambda key, value: pushed.update({key: value})
        context = {"dag_run": N(run_id="r"), "params": {}, "ti": N(xcom_push=push)}
        real = stage_process.run_child
        die = "import os, pathlib; pathlib.Path(os.environ['TMPDIR'], 'half').write_text('x'); os.kill(os.getpid(), 9)"
        stage_process.run_child = lambda command, environment: real([sys.executable, "-c", die], environment)
        try:
            stage_process.run_stage("fine_tune", context)
        except AirflowException as error:
            print(json.dumps([type(error).__name__, str(error), pushed["error"]]))
    """
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'dags'}", "AIRFLOW_HOME": str(tmp_path / "home"),
                                "TMPDIR": str(tmp_path / "scratch")}
    (tmp_path / "scratch").mkdir()
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr[-2000:]
    name, text, pushed = json.loads(done.stdout.splitlines()[-1])
    assert name == "AirflowException" and text == f"fine_tune ended with status -9 ({pushed}); it is tried again"
    assert pushed.startswith("killed by SIGKILL") and pushed in done.stderr
    assert not [path for path in (tmp_path / "scratch").rglob("*") if path.name == "half"]
