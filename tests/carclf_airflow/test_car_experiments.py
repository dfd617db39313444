"""The DAG car_experiments: its chain, its form, and its behavior if there is nothing to train."""

import re
from pathlib import Path
from typing import Any

import pytest
from airflow_process import airflow_environment, printed_json, run_python
from gate_candidates import build_candidate
from recorded_runs import record_candidate

from carclf.champion import champion_event
from carclf.experiments.plan_form import Form
from carclf.runs.approvals import waiting_candidates
from carclf.services.storage import open_store

pytestmark = pytest.mark.integration

CHOICES = ["choose_1", "choose_2", "choose_3", "choose_finalists"]
TRAININGS = ["rung_1", "rung_2", "rung_3", "finish"]


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The DAG as JSON."""
    settings = {"CARCLF_MAX_PARALLEL_TRAININGS": "2", "CARCLF_GPU_POD_TEMPLATE": "/gpu.yaml"}
    return printed_json(
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
            "parallel": {task.task_id: task.max_active_tis_per_dag for task in dag.tasks
                         if task.max_active_tis_per_dag},
            "pods": [task.task_id for task in dag.tasks if task.executor_config],
            "params": {name: param.schema | {"default": param.value}
                       for name, param in dag.params._ParamsDict__dict.items()},
        }))
        """,
        airflow_environment(tmp_path_factory.mktemp("airflow"), **settings),
    )


def test_trainings_run_between_the_data_and_the_comparison(described: dict[str, Any]) -> None:
    data = {"plan": ["prepare"], "prepare": [*CHOICES, "compare"], "compare": ["promote"], "promote": []}
    after = [["choose_2"], ["choose_3"], ["choose_finalists"], ["compare"]]
    expected = {name: [training] for name, training in zip(CHOICES, TRAININGS, strict=True)}
    assert {name: sorted(tasks) for name, tasks in described["chain"].items()} == {
        **{name: sorted(tasks) for name, tasks in data.items()}, **expected,
        **dict(zip(TRAININGS, after, strict=True))}
    assert described["mapped"] == ["prepare", *TRAININGS]
    assert described["heavy"] == []


def test_a_failed_training_does_not_stop_the_rungs_or_the_comparison(described: dict[str, Any]) -> None:
    all_done = {name for name, rule in described["rules"].items() if rule == "all_done"}
    assert all_done == {*CHOICES, "compare"}


def test_trainings_use_the_gpu_queue_up_to_the_parallel_limit(described: dict[str, Any]) -> None:
    assert described["parallel"] == dict.fromkeys(TRAININGS, 2)
    assert described["queues"] == ["gpu"]
    assert described["timeouts"]
    assert described["pods"] == [*TRAININGS, "promote"]


def test_the_form_has_the_fields_that_the_command_reads(described: dict[str, Any]) -> None:
    params = described["params"]
    assert sorted(params) == sorted(Form.model_fields)
    for pattern in (params[name]["pattern"] for name in ("seeds", "rungs")):
        assert all(re.search(pattern, text) for text in ("2,5", "0, 1 ", "7"))
        assert not any(re.search(pattern, text) for text in ("a", "1,", "1 2"))
    assert params["recipes"]["items"] == {"type": "string"}
    Form.model_validate({name: param["default"] for name, param in params.items()})


def test_if_plan_or_prepare_failed_nothing_is_trained_and_the_run_fails(tmp_path: Path) -> None:
    code = """
        import json
        import car_experiments
        dag = car_experiments.car_experiments()
        raised = {}
        for name, arguments in (("choose_1", {"prepared": [], "rung": 1}), ("compare", {"prepared": []})):
            try:
                dag.get_task(name).python_callable(**arguments)
            except Exception as error:
                raised[name] = type(error).__name__
        print(json.dumps(raised))
    """
    assert printed_json(code, airflow_environment(tmp_path)) == {
        "choose_1": "AirflowSkipException", "compare": "AirflowFailException"}


def test_an_invalid_form_fails_in_plan_and_the_log_names_the_mistake(tmp_path: Path) -> None:
    code = """
        import logging, sys
        from types import SimpleNamespace as N
        from carclf_airflow import experiment_steps
        logging.basicConfig(level="INFO", stream=sys.stdout)
        context = {"dag_run": N(dag_id="car_experiments", run_id="manual__1", triggering_user_name=None)}
        form = '{"recipe": "demo", "recipes": ["frozzen"]}'
        try:
            experiment_steps.run_experiment_step("plan", context, "--form", form)
        except Exception as error:
            print(type(error).__name__)
    """
    printed = run_python(code, airflow_environment(tmp_path)).stdout
    assert "carclf: ConfigError: " in printed
    assert "'frozzen'" in printed
    assert printed.splitlines()[-1] == "AirflowFailException"
    assert not (tmp_path / "store" / "runs").exists()


def test_the_winner_needs_the_approval_of_a_person_if_it_is_required(tmp_path: Path) -> None:
    environment = airflow_environment(tmp_path)
    store = open_store(environment["CARCLF_STORE"])
    for run_id, wrong, approval in (("weak", range(30), "none"), ("waits", [1], "required"), ("free", [0], "none")):
        candidate = build_candidate(store, run_id, wrong)
        record_candidate(store, run_id, candidate, **{"gate.approval": approval, "submit.enabled": False})
    code = """
        import json
        from types import SimpleNamespace as N
        from carclf_airflow import experiment_steps
        run = N(dag_id="car_experiments", run_id="manual__1", triggering_user_name="ada")
        experiment_steps.get_current_context = lambda: {"params": {"promote": True}, "dag_run": run}
        results = []
        for winner in ("weak", "waits", "free"):
            try:
                results.append(experiment_steps.promote_winner({"winner": winner})["metrics"]["decision"])
            except Exception as error:
                results.append([type(error).__name__, str(error)])
        print(json.dumps(results))
    """
    (weak, reason), waits, free = printed_json(code, environment)
    assert (weak, waits, free) == ("AirflowFailException", "awaiting approval", "promoted")
    assert reason.startswith("The winner is not promoted: rejected: accuracy 0.5000")
    assert [candidate["run"] for candidate in waiting_candidates(store)] == ["waits"]
    champion = champion_event(store)
    assert champion is not None
    assert (champion["run"], champion.get("approved_by")) == ("free", None)
