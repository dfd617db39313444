"""Out-of-memory kills: they are counted, explained, and hit the stage and not the worker."""

import json
from pathlib import Path

import pytest
from airflow_process import airflow_environment, printed_json, run_python

from carclf_airflow.oom import OOM_COUNT_FILES, OOM_HINT, count_oom_kills, explain_kill, find_cgroup

pytestmark = pytest.mark.integration


@pytest.fixture
def cgroup(tmp_path: Path) -> Path:
    """The kernel's files of a container in which one process was killed earlier."""
    (tmp_path / "memory.events").write_text("low 0\nhigh 0\nmax 812\noom 3\noom_kill 1\noom_group_kill 0\n")
    (tmp_path / "memory.max").write_text("536870912\n")
    return tmp_path


@pytest.mark.parametrize("status", [-9, 137, 1])
def test_an_oom_kill_is_explained_with_the_memory_limit(cgroup: Path, status: int) -> None:
    """Status 1: the kernel killed a data worker, and the stage ended with an error."""
    assert count_oom_kills(cgroup) == 1
    (cgroup / "memory.events").write_text("oom 4\noom_kill 2\n")
    reason = explain_kill(status, 1, cgroup)
    assert reason.startswith("out of memory: ")
    assert "537 MB" in reason
    assert reason.endswith(OOM_HINT)


def test_the_file_names_of_cgroup_v1_are_supported(tmp_path: Path) -> None:
    (tmp_path / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n")
    (tmp_path / "memory.limit_in_bytes").write_text("4294967296\n")
    assert count_oom_kills(tmp_path) == 3
    reason = explain_kill(-9, 2, tmp_path)
    assert reason.startswith("out of memory: ")
    assert "4295 MB" in reason


def test_the_cgroup_of_this_process_has_a_counter() -> None:
    assert any((find_cgroup() / name).is_file() for name in OOM_COUNT_FILES)


def test_a_kill_without_an_oom_count_is_not_blamed_on_the_container(cgroup: Path, tmp_path: Path) -> None:
    reason = explain_kill(-9, 1, cgroup)
    assert reason.startswith("killed by SIGKILL")
    assert reason.endswith(OOM_HINT)
    assert explain_kill(137, 0, tmp_path / "no such kernel") == reason
    assert [explain_kill(status, 1, cgroup) for status in (1, 65, 75, 78, -15)] == [""] * 5


def test_the_kernel_prefers_to_kill_the_stage(tmp_path: Path) -> None:
    code = """
        import json, sys
        from carclf_airflow import stage_process
        read = "import time; time.sleep(1); print('carclf: score', open('/proc/self/oom_score_adj').read())"
        print(json.dumps(stage_process.run_child([sys.executable, "-c", read], {})))
    """
    assert printed_json(code, airflow_environment(tmp_path)) == [0, "score 500"]


def test_a_killed_child_is_logged_and_retried(tmp_path: Path) -> None:
    code = """
        import json, logging, sys
        from types import SimpleNamespace as N
        from airflow.sdk.exceptions import AirflowException
        from carclf_airflow import stage_process
        stage_process.log.addHandler(logging.StreamHandler(sys.stderr))
        pushed = {}
        push = lambda key, value: pushed.update({key: value})
        run = N(dag_id="car_retrain", run_id="r", triggering_user_name=None)
        context = {"dag_run": run, "params": {}, "ti": N(xcom_push=push)}
        run_child = stage_process.run_child
        die = "import os, pathlib; pathlib.Path(os.environ['TMPDIR'], 'half').write_text('x'); os.kill(os.getpid(), 9)"
        stage_process.run_child = lambda command, environment: run_child([sys.executable, "-c", die], environment)
        try:
            stage_process.run_stage("fine_tune", context)
        except AirflowException as error:
            print(json.dumps([type(error).__name__, str(error), pushed["error"]]))
    """
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    done = run_python(code, airflow_environment(tmp_path / "home", TMPDIR=str(scratch)))
    name, text, pushed = json.loads(done.stdout.splitlines()[-1])
    assert name == "AirflowException"
    assert text.startswith(f"fine_tune exited with status -9 ({pushed})")
    assert pushed.startswith("killed by SIGKILL")
    assert pushed in done.stderr
    assert not list(scratch.rglob("half"))
