"""The DAG: its shape, its form, its child processes, and one whole run of it."""

import itertools
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from carclf.config import fields
from carclf.demo.competition import open_competition
from carclf.demo.render import render_competition
from carclf.demo.server import DemoServer

ROOT = Path(__file__).resolve().parents[2]
STAGES = ["download", "validate", "split", "train_head", "fine_tune", "evaluate", "promote", "submit", "score"]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    home = tmp_path_factory.mktemp("airflow")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "CARCLF", "KAGGLE"))}
    return kept | {
        "AIRFLOW_HOME": str(home), "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"), "CARCLF_SCHEDULE": "none",
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False", "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/a.db",
        "PYTHONPATH": f"{ROOT}:{ROOT / 'dags'}", "CARCLF_STORE": str(home / "store"),
        "CARCLF_CACHE": str(home / "cache"), "CARCLF_POKE_SECONDS": "1", "CARCLF_RETRY_SECONDS": "1",
    }


def python(code: str, environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", textwrap.dedent(code), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def described(environment: dict[str, str]) -> dict[str, object]:
    done = python(
        """
        import json, sys, time
        import airflow.sdk  # what every DAG file needs
        start = time.process_time()
        import car_retrain
        seconds = time.process_time() - start
        dag = car_retrain.car_retrain()
        print(json.dumps({
            "seconds": seconds, "heavy": [name for name in ("tensorflow", "keras") if name in sys.modules],
            "chain": {task.task_id: sorted(task.downstream_task_ids) for task in dag.tasks},
            "queues": sorted({task.queue for task in dag.tasks}),
            "timeouts": all(task.execution_timeout for task in dag.tasks),
            "params": {name: param.schema | {"description": param.description}
                       for name, param in dag.params._ParamsDict__dict.items()},
            "active": dag.max_active_runs, "catchup": dag.catchup, "mode": dag.get_task("score").mode,
        }))
        """,
        environment,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_the_chain_is_the_nine_stages_on_the_gpu_queue(described) -> None:
    assert described["chain"] == {name: [after] for name, after in itertools.pairwise(STAGES)} | {"score": []}
    assert described["queues"] == ["gpu"] and described["timeouts"]
    assert (described["active"], described["catchup"], described["mode"]) == (1, False, "reschedule")


def test_parsing_takes_less_than_a_second_and_imports_neither_tensorflow_nor_keras(described) -> None:
    assert described["heavy"] == []
    assert described["seconds"] < 1  # of the processor, not of the clock: other work does not count


def test_the_form_has_every_setting_with_its_type_limits_and_description(described) -> None:
    params = described["params"]
    assert list(params) == ["recipe", *(name for name, _ in fields() if not name.startswith("score."))]
    epochs = params["fine_tune.epochs"]
    assert (epochs["type"], epochs["minimum"], epochs["maximum"]) == (["integer", "null"], 0, 500)
    assert epochs["description"].endswith("(gpu: 12)") and epochs["section"] == "Fine tune"
    assert params["fine_tune.schedule"]["enum"] == ["cosine", "plateau", None]
    assert params["submit.enabled"]["type"] == ["boolean", "null"]


def test_no_secret_of_airflow_reaches_a_child_and_kaggles_key_only_three_stages(environment: dict[str, str]) -> None:
    secrets = {"AIRFLOW__CORE__FERNET_KEY": "f", "KAGGLE_KEY": "k", "CARCLF_KAGGLE_ENDPOINT": "e", "SOME_TOKEN": "t"}
    done = python(
        "import json, carclf_task as t; print(json.dumps({s: sorted(t.child_environment(s)) for s in "
        f"{STAGES}}}))", environment | secrets,
    )
    seen = json.loads(done.stdout.splitlines()[-1])
    assert {stage for stage in STAGES if "KAGGLE_KEY" in seen[stage]} == {"download", "submit", "score"}
    assert {stage for stage in STAGES if "CARCLF_KAGGLE_ENDPOINT" in seen[stage]} == {"download", "submit", "score"}
    assert not [name for stage in STAGES for name in seen[stage] if name.startswith("AIRFLOW") or name == "SOME_TOKEN"]
    assert all({"CARCLF_STORE", "PATH"} <= set(seen[stage]) for stage in STAGES)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_ending_the_task_ends_the_child_and_its_children(
    environment: dict[str, str], tmp_path: Path, number: signal.Signals
) -> None:
    child = (
        "import subprocess, sys, time; p = subprocess.Popen(['sleep', '60']); "
        f"open({str(tmp_path / 'pids')!r}, 'w').write(f'{{p.pid}} done'); time.sleep(60)"
    )
    code = (  # a suite that a shell started in the background inherits an ignored SIGINT
        "import os, signal, sys, carclf_task; signal.signal(signal.SIGINT, signal.default_int_handler); "
        f"carclf_task.run_child([sys.executable, '-c', {child!r}], dict(os.environ))"
    )
    task = subprocess.Popen([sys.executable, "-c", code], env=environment, stderr=subprocess.DEVNULL)
    limit = time.monotonic() + 60
    while not (tmp_path / "pids").exists() or "done" not in (tmp_path / "pids").read_text():
        assert time.monotonic() < limit and task.poll() is None
        time.sleep(0.1)
    grandchild = int((tmp_path / "pids").read_text().split()[0])
    assert alive(grandchild)
    task.send_signal(number)
    task.wait(30)
    assert not alive(grandchild)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DemoServer]:
    folder = tmp_path_factory.mktemp("cars")
    render_competition(folder, num_train=120, num_test=20)
    competition = open_competition(folder, slug="demo-cars", work=folder / "work", truth=folder / "truth.csv")
    with DemoServer(competition) as running:
        yield running


def test_a_whole_run_of_the_dag_promotes_and_submits_or_says_why_not(
    environment: dict[str, str], server: DemoServer
) -> None:
    kaggle = {"CARCLF_KAGGLE_ENDPOINT": server.url, "KAGGLE_USERNAME": "demo", "KAGGLE_KEY": "demo-key",
              "KAGGLE_CONFIG_DIR": environment["AIRFLOW_HOME"]}
    migrated = subprocess.run([sys.executable, "-m", "airflow", "db", "migrate"], env=environment | kaggle,
                              capture_output=True, text=True)
    assert migrated.returncode == 0, migrated.stderr[-2000:]
    code = """
        import json, sys
        import car_retrain
        run = car_retrain.car_retrain().test(run_conf=json.loads(sys.argv[1]))
        print(json.dumps({"state": run.state, "tasks": {ti.task_id: ti.state for ti in run.get_task_instances()}}))
    """
    conf = {"recipe": "demo", "competition": "demo-cars", "validation.min_images_per_class": 5,
            "validation.max_unusable_fraction": 0.2, "fine_tune.epochs": 1, "head.epochs": 2, "gate.threshold": 0.0,
            "gate.min_recall": 0.0, "gate.max_calibration_error": 1.0}
    done = python(code, environment | kaggle, json.dumps(conf))
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    assert json.loads(done.stdout.splitlines()[-1]) == {"state": "success", "tasks": dict.fromkeys(STAGES, "success")}
    assert len(server.submissions) == 1
    wrong = python(code, environment | kaggle, json.dumps({"recipe": "demo", "fine_tune.epoch": 1}))
    assert "Unknown configuration key 'fine_tune.epoch'" in wrong.stdout + wrong.stderr
    assert json.loads(wrong.stdout.splitlines()[-1])["state"] == "failed"


def test_a_refused_model_skips_what_follows_and_says_why(environment: dict[str, str]) -> None:
    code = """
        import carclf_task, sys
        from types import SimpleNamespace as N
        from airflow.sdk.exceptions import DownstreamTasksSkipped
        pushed = {}
        context = {"dag_run": N(run_id="manual__2026"), "params": {},
                   "ti": N(xcom_push=lambda key, value: pushed.update({key: value})),
                   "task": N(get_flat_relative_ids=lambda upstream: {"submit", "score"})}
        carclf_task.run_child = lambda command, env: open(command[-1], "w").write('{"skip": "refused: weak"}') and 99
        try:
            carclf_task.run_stage("promote", context)
        except DownstreamTasksSkipped as skipped:
            print(skipped.tasks, pushed)
    """
    done = python(code, environment)
    expected = "['score', 'submit'] {'return_value': {'skip': 'refused: weak'}}"
    assert done.stdout.splitlines()[-1] == expected, done.stderr[-2000:]


def test_run_ids_of_airflow_become_keys_of_the_store(environment: dict[str, str]) -> None:
    done = python("import carclf_task; print(carclf_task.run_id_of('manual__2026-11-23T18:00:00+00:00'))", environment)
    assert done.stdout.splitlines()[-1] == "manual__2026-11-23T18-00-00-00-00"


def test_executors_and_providers_in_use_import() -> None:
    code = """
        import airflow.providers.celery.executors.celery_executor
        import airflow.providers.amazon.aws.log.s3_task_handler
        import airflow.executors.local_executor
        import airflow.providers.standard.operators.hitl
        import airflow.providers.postgres.hooks.postgres
    """
    done = python(code, dict(os.environ))
    assert done.returncode == 0, done.stderr[-2000:]


