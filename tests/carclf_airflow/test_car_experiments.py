"""The experiments' DAG: its shape, its form, and what it does where nothing can be trained."""

import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from carclf.experiments.experiment_form import Form

ROOT = Path(__file__).resolve().parents[2]
CHOICES = ["choose_1", "choose_2", "choose_3", "choose_finalists"]
TRAININGS = ["rung_1", "rung_2", "rung_3", "finish"]


def python(code: str, home: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "CARCLF", "KAGGLE"))}
    environment = kept | {
        "AIRFLOW_HOME": str(home), "AIRFLOW__CORE__LOAD_EXAMPLES": "False", "PYTHONPATH": f"{ROOT}:{ROOT / 'dags'}",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/a.db", "CARCLF_STORE": str(home / "store"),
    } | settings
    return subprocess.run([sys.executable, "-c", textwrap.dedent(code)], env=environment, capture_output=True,
                          text=True, timeout=300)


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    done = python(
        """
        import json, sys
        import car_experiments
        dag = car_experiments.car_experiments()
        print(json.dumps({
            "chain": {task.task_id: sorted(task.downstream_task_ids) for task in dag.tasks},
            "heavy": [name for name in ("tensorflow", "keras", "pandas", "optuna") if name in sys.modules],
            "mapped": [task.task_id for task in dag.tasks if task.is_mapped],
            "rules": {task.task_id: task.trigger_rule for task in dag.tasks},
            "queues": sorted({task.queue for task in dag.tasks}),
            "timeouts": all(task.execution_timeout for task in dag.tasks),
            "width": {task.task_id: task.max_active_tis_per_dag for task in dag.tasks if task.max_active_tis_per_dag},
            "pods": [task.task_id for task in dag.tasks if task.executor_config],
            "params": {name: param.schema | {"default": param.value}
                       for name, param in dag.params._ParamsDict__dict.items()},
        }))
        """,
        tmp_path_factory.mktemp("airflow"), CARCLF_MAX_PARALLEL_TRAININGS="2", CARCLF_GPU_POD_TEMPLATE="/gpu.yaml",
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_all_members_train_between_the_data_and_the_comparison(described) -> None:
    data = {"plan": ["prepare"], "prepare": [*CHOICES, "compare"], "compare": ["promote"], "promote": []}
    after = [["choose_2"], ["choose_3"], ["choose_finalists"], ["compare"]]
    expected = {name: [training] for name, training in zip(CHOICES, TRAININGS, strict=True)}
    expected["choose_1"] = ["rung_1"]
    assert {name: sorted(tasks) for name, tasks in described["chain"].items()} == {
        **{name: sorted(tasks) for name, tasks in data.items()}, **expected,
        **dict(zip(TRAININGS, after, strict=True))}
    assert described["mapped"] == ["prepare", *TRAININGS]
    assert described["heavy"] == []


def test_a_failed_training_stops_neither_the_next_rung_nor_the_comparison(described) -> None:
    waiting = {name for name, rule in described["rules"].items() if rule == "all_done"}
    assert waiting == {*CHOICES, "compare"}


def test_trainings_are_as_many_at_once_as_the_deployment_says_and_on_the_gpu(described) -> None:
    assert described["width"] == dict.fromkeys(TRAININGS, 2)
    assert described["queues"] == ["gpu"] and described["timeouts"]
    assert described["pods"] == [*TRAININGS, "promote"]


def test_the_form_has_the_fields_that_the_command_reads(described) -> None:
    params = described["params"]
    assert sorted(params) == sorted(Form.model_fields)
    for pattern in (params[name]["pattern"] for name in ("seeds", "rungs")):
        assert all(re.search(pattern, text) for text in ("2,5", "0, 1 ", "7"))
        assert not any(re.search(pattern, text) for text in ("a", "1,", "1 2"))
    assert params["recipes"]["items"] == {"type": "string"}
    Form.model_validate({name: param["default"] for name, param in params.items()})


def test_where_plan_or_data_failed_nothing_is_trained_and_the_run_fails(tmp_path: Path) -> None:
    done = python(
        """
        import car_experiments
        dag = car_experiments.car_experiments()
        for name in ("choose_1", "compare"):
            arguments = {"prepared": []} | ({"rung": 1} if name == "choose_1" else {})
            try:
                dag.get_task(name).python_callable(**arguments)
            except Exception as error:
                print(name, type(error).__name__, error)
        """, tmp_path)
    assert done.stdout.splitlines()[-2:] == [
        "choose_1 AirflowSkipException There is nothing to train on: look at plan and prepare",
        "compare AirflowFailException There is nothing to compare: look at plan and prepare"], done.stderr[-2000:]


def test_a_form_that_cannot_be_carried_out_fails_in_plan_and_says_how_to_mend_it(tmp_path: Path) -> None:
    done = python(
        """
        import logging, sys
        from carclf_airflow import experiment_steps
        from types import SimpleNamespace as N
        logging.basicConfig(level="INFO", stream=sys.stdout)
        context = {"dag_run": N(dag_id="car_experiments", run_id="manual__1")}
        try:
            experiment_steps.run_experiment("plan", context, "--form", '{"recipe": "demo", "recipes": ["frozzen"]}')
        except Exception as error:
            print(type(error).__name__)
        """, tmp_path)
    assert "carclf: ConfigError: 'frozzen' is no shipped ablation, no recipe and no key=value." in done.stdout
    assert done.stdout.splitlines()[-1] == "AirflowFailException"
    assert not (tmp_path / "store" / "runs").exists()
