"""Stages as child processes of a task: their environment, output, exit status, results, and end."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from airflow_process import airflow_environment, printed_json, run_python

from carclf.runs.index import list_runs
from carclf.services.storage import open_store

pytestmark = pytest.mark.integration

STAGES = ["download", "validate", "split", "train_head", "fine_tune", "evaluate", "promote", "refit", "submit", "score"]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return airflow_environment(tmp_path_factory.mktemp("airflow"))


def test_children_get_no_airflow_secret_and_three_stages_get_kaggles(environment: dict[str, str]) -> None:
    secrets = {"AIRFLOW__CORE__FERNET_KEY": "f", "KAGGLE_KEY": "k", "CARCLF_KAGGLE_ENDPOINT": "e", "SOME_TOKEN": "t",
               "OTEL_EXPORTER_OTLP_ENDPOINT": "http://metrics", "NETRC": "/etc/netrc", "PYTHONUTF8": "1",
               "HF_ENDPOINT": "http://mirror", "CARCLF_AIRFLOW_TOKEN": "t"}
    code = """
        import json, sys
        from carclf_airflow.stage_process import child_environment
        print(json.dumps({stage: sorted(child_environment(stage)) for stage in json.loads(sys.argv[1])}))
    """
    names = printed_json(code, environment | secrets, json.dumps(STAGES))
    for secret in ("KAGGLE_KEY", "CARCLF_KAGGLE_ENDPOINT"):
        assert {stage for stage in STAGES if secret in names[stage]} == {"download", "submit", "score"}
    passed_on = {name for stage in STAGES for name in names[stage]}
    assert not [name for name in passed_on if name.startswith("AIRFLOW") or name.endswith("_TOKEN")]
    passed_to_all = {"CARCLF_STORE", "PATH", "OTEL_EXPORTER_OTLP_ENDPOINT", "NETRC", "PYTHONUTF8", "HF_ENDPOINT"}
    assert all(passed_to_all <= set(names[stage]) for stage in STAGES)


def test_a_child_gets_mlflows_settings_and_the_url_of_its_dag_run(environment: dict[str, str]) -> None:
    mlflow = {"MLFLOW_TRACKING_URI": "http://mlflow:5000", "MLFLOW_TRACKING_USERNAME": "ada",
              "MLFLOW_TRACKING_PASSWORD": "p"}
    code = """
        import json
        from types import SimpleNamespace
        from carclf_airflow.stage_process import airflow_run_environment, child_environment
        run = SimpleNamespace(dag_id="car_retrain", run_id="manual__2026-11-25T05:00:00+00:00",
                              triggering_user_name="ada")
        print(json.dumps([child_environment("fine_tune"), airflow_run_environment({"dag_run": run})]))
    """
    base_url = {"AIRFLOW__API__BASE_URL": "http://127.0.0.1:8080/"}
    passed_on, run_url = printed_json(code, environment | mlflow | base_url)
    assert {name: value for name, value in passed_on.items() if name.startswith("MLFLOW")} == mlflow
    assert run_url == {"CARCLF_STARTED_BY": "ada", "CARCLF_AIRFLOW_RUN_URL":
                       "http://127.0.0.1:8080/dags/car_retrain/runs/manual__2026-11-25T05%3A00%3A00%2B00%3A00"}


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_task_ends_the_child_and_its_children(
    environment: dict[str, str], tmp_path: Path, number: signal.Signals
) -> None:
    child = (
        "import subprocess, sys, time; p = subprocess.Popen(['sleep', '60']); "
        f"open({str(tmp_path / 'pids')!r}, 'w').write(f'{{p.pid}} done'); time.sleep(60)"
    )
    code = (  # a shell that starts the tests in the background makes them ignore SIGINT
        "import os, signal, sys; from carclf_airflow import stage_process; "
        "signal.signal(signal.SIGINT, signal.default_int_handler); "
        f"stage_process.run_child([sys.executable, '-c', {child!r}], dict(os.environ))"
    )
    task = subprocess.Popen([sys.executable, "-c", code], env=environment, stderr=subprocess.DEVNULL)
    limit = time.monotonic() + 300
    while not (tmp_path / "pids").exists() or "done" not in (tmp_path / "pids").read_text():
        assert time.monotonic() < limit
        assert task.poll() is None
        time.sleep(0.1)
    grandchild = int((tmp_path / "pids").read_text().split()[0])
    assert is_alive(grandchild)
    task.send_signal(number)
    task.wait(120)
    assert not is_alive(grandchild)


@pytest.mark.parametrize(("settings", "color"), [({}, "1"), ({"NO_COLOR": "1"}, "None")])
def test_the_log_shows_the_childs_colors_and_its_error(
    environment: dict[str, str], settings: dict[str, str], color: str
) -> None:
    code = """
        import json, logging, os, sys
        from carclf_airflow import stage_process
        records = []
        stage_process.log.addFilter(lambda record: records.append([record.levelname, record.getMessage()]) or False)
        child = "import os; print(os.environ.get('FORCE_COLOR')); print('carclf: DataError: empty'); exit(65)"
        status, error = stage_process.run_child([sys.executable, "-c", child], dict(os.environ))
        print(json.dumps([status, error, records[1:]]))
    """
    plain = {name: value for name, value in environment.items() if name not in ("FORCE_COLOR", "NO_COLOR")}
    records = [["INFO", color], ["ERROR", "carclf: DataError: empty"]]
    assert printed_json(code, plain | settings) == [65, "DataError: empty", records]


def test_the_childs_log_lines_keep_their_levels_and_have_no_time_of_their_own(environment: dict[str, str]) -> None:
    code = """
        import json, os, sys
        from carclf_airflow import stage_process
        records = []
        stage_process.log.addFilter(lambda record: records.append([record.levelname, record.getMessage()]) or False)
        child = '''
        import logging
        from carclf.progress import LogFormatter, log
        handler = logging.StreamHandler()
        handler.setFormatter(LogFormatter())
        log.addHandler(handler)
        log.setLevel(logging.INFO)
        log.info("validate: started")
        log.warning("validate: empty path=a.jpg")
        print("WARNING: a line of a library")
        '''
        child = "\\n".join(line.strip() for line in child.splitlines())
        stage_process.run_child([sys.executable, "-uc", child], dict(os.environ))
        print(json.dumps(records[1:]))
    """
    assert printed_json(code, environment | {"NO_COLOR": "1"}) == [
        ["INFO", "validate: started"],
        ["WARNING", "validate: empty path=a.jpg"],
        ["INFO", "WARNING: a line of a library"],
    ]


def test_an_unknown_setting_fails_the_first_task_without_a_retry_and_is_recorded(environment: dict[str, str]) -> None:
    code = """
        import json
        from types import SimpleNamespace as N
        from airflow.sdk.exceptions import AirflowFailException
        from carclf_airflow import stage_process
        pushed = {}
        run = N(dag_id="car_retrain", run_id="r", triggering_user_name=None)
        context = {"dag_run": run, "params": {"recipe": "demo", "fine_tune.epoch": 1},
                   "ti": N(xcom_push=lambda key, value: pushed.update({key: value}))}
        try:
            stage_process.run_stage("download", context)
        except AirflowFailException as error:
            print(json.dumps([pushed["error"], str(error)]))
    """
    pushed, raised = printed_json(code, environment)
    assert pushed.startswith("ConfigError: ")
    assert "'fine_tune.epoch'" in pushed
    assert "fine_tune.epochs" in pushed
    assert raised.startswith("download exited with status 78")
    assert "trigger a new run" in raised
    [row] = list_runs(open_store(environment["CARCLF_STORE"]))
    assert (row["run"], row["state"], row["text"][: len(pushed)]) == ("r", "failed", pushed[:200])


def test_a_missing_store_fails_a_task_without_a_retry(environment: dict[str, str], tmp_path: Path) -> None:
    code = """
        import json
        from airflow.sdk.exceptions import AirflowFailException
        from carclf_airflow.stage_process import child_environment, run_for_result
        try:
            run_for_result("champion current", [], child_environment("promote"))
        except AirflowFailException as error:
            print(json.dumps(str(error)))
    """
    missing = {"CARCLF_STORE": str(tmp_path / "missing")}
    assert printed_json(code, environment | missing).startswith("current exited with status 66")


@pytest.mark.parametrize(("map_index", "skipped"), [
    (-1, ["score", "submit"]), (2, [["score", 2], ["submit", 2]]),
])
def test_a_rejected_model_skips_the_downstream_stages_but_not_the_announcement(
    environment: dict[str, str], map_index: int, skipped: list[Any]
) -> None:
    code = """
        import json, sys
        from types import SimpleNamespace as N
        from airflow.sdk.exceptions import DownstreamTasksSkipped
        from carclf_airflow import stage_process
        pushed = {}
        map_index = int(sys.argv[1])
        context = {"dag_run": N(dag_id="car_retrain", run_id="manual__2026", triggering_user_name=None), "params": {},
                   "ti": N(xcom_push=lambda key, value: pushed.update({key: value}), map_index=map_index),
                   "task": N(get_flat_relative_ids=lambda upstream: {"submit", "score", "group.announce_champion"})}
        def run_child(command, env):
            open(command[-1], "w").write('{"key": "k", "skip_reason": "rejected: weak"}')
            return 99, ""
        stage_process.run_child = run_child
        try:
            stage_process.run_stage("promote", context)
        except DownstreamTasksSkipped as skipped:
            print(json.dumps([skipped.tasks, pushed]))
    """
    assert printed_json(code, environment, str(map_index)) == [
        skipped, {"return_value": {"key": "k", "skip_reason": "rejected: weak"}}]


def test_a_skipped_stage_skips_its_own_task_and_keeps_the_reason(environment: dict[str, str]) -> None:
    code = """
        import json
        from types import SimpleNamespace as N
        from airflow.sdk.exceptions import AirflowSkipException
        from carclf_airflow import stage_process
        pushed = {}
        context = {"dag_run": N(dag_id="car_retrain", run_id="manual__2026", triggering_user_name=None), "params": {},
                   "ti": N(xcom_push=lambda key, value: pushed.update({key: value})), "task": None}
        def run_child(command, env):
            open(command[-1], "w").write('{"key": "", "waiting": false, "skip_reason": "notebooks only"}')
            return 99, ""
        stage_process.run_child = run_child
        try:
            stage_process.poke_stage("submit", context)
        except AirflowSkipException as skipped:
            print(json.dumps([str(skipped), pushed["return_value"]["skip_reason"]]))
    """
    text, reason = printed_json(code, environment)
    assert "notebooks only" in text
    assert reason == "notebooks only"


def test_results_in_xcom_have_a_size_limit(environment: dict[str, str]) -> None:
    code = """
        import json
        from carclf_airflow import stage_process
        long = "x" * 100_000
        metrics = {f"metric {n} {long}": long for n in range(500)}
        huge = {"stage": "evaluate", "key": "k", "reused": False, "seconds": 1.5, "metrics": {"reason": long} | metrics,
                "summary": long, "skip_reason": long, "waiting": False, "until": ""}
        usual = huge | {"metrics": {"val_accuracy": 0.9, "class_names": ["0", "1", "2"], "reason": "r" * 600},
                        "summary": "val_accuracy 0.9", "skip_reason": ""}
        size = len(json.dumps(stage_process.truncate_result(huge)))
        print(json.dumps([size, stage_process.truncate_result(usual)]))
    """
    size, usual = printed_json(code, environment)
    assert size < 24_000
    assert usual == {
        "stage": "evaluate", "key": "k", "reused": False, "seconds": 1.5, "summary": "val_accuracy 0.9",
        "skip_reason": "", "metrics": {"val_accuracy": 0.9, "reason": "r" * 600}, "waiting": False, "until": ""}


def test_numbers_in_xcom_are_rounded(environment: dict[str, str]) -> None:
    code = """
        import json
        from types import SimpleNamespace as N
        from carclf_airflow import experiment_steps, stage_process
        context = {"dag_run": N(dag_id="car_retrain", run_id="r", triggering_user_name=None), "params": {}}
        metrics = {"val_accuracy": 0.2788461446762085, "reload_difference": 3.3306690738754696e-16,
                   "num_images": 12345678, "public_score": 0.88666}
        results = iter([{"metrics": metrics}, [{"run": "m", "val_accuracy": 1 / 3}]])
        write = lambda path: open(path, "w").write(json.dumps(next(results)))
        stage_process.run_child = lambda command, env: (write(command[-1]) and 0, "")
        print(json.dumps([stage_process.run_stage("evaluate", context)["metrics"],
                          experiment_steps.run_experiment_step("train", context)]))
    """
    assert printed_json(code, environment) == [
        {"val_accuracy": 0.278846, "reload_difference": 3.33067e-16, "num_images": 12345678, "public_score": 0.88666},
        [{"run": "m", "val_accuracy": 0.333333}]]


def test_a_waiting_stage_is_rescheduled_for_the_time_that_it_returns(environment: dict[str, str]) -> None:
    code = """
        import json
        from types import SimpleNamespace as N
        from airflow.sdk.exceptions import AirflowRescheduleException
        from carclf_airflow import stage_process
        context = {"dag_run": N(dag_id="car_retrain", run_id="r", triggering_user_name=None), "params": {}}
        for until in ("2026-11-26T00:05:00+00:00", ""):
            result = {"waiting": True, "until": until}
            stage_process.run_child = lambda command, env: (open(command[-1], "w").write(json.dumps(result)) and 75, "")
            try:
                print(stage_process.poke_stage("submit", context).is_done)
            except AirflowRescheduleException as waiting:
                print(waiting.reschedule_date.isoformat())
    """
    printed = run_python(code, environment).stdout.splitlines()
    assert printed[-2:] == ["2026-11-26T00:05:00+00:00", "False"]


def test_a_transient_error_with_the_status_of_waiting_is_raised(environment: dict[str, str]) -> None:
    code = """
        import json
        from types import SimpleNamespace as N
        from airflow.sdk.exceptions import AirflowException
        from carclf_airflow import stage_process
        pushed = {}
        context = {"dag_run": N(dag_id="car_retrain", run_id="r", triggering_user_name=None), "params": {},
                   "ti": N(xcom_push=lambda key, value: pushed.update({key: value}))}
        stage_process.run_child = lambda command, env: (75, "ServiceError: down")
        try:
            stage_process.poke_stage("submit", context)
        except AirflowException as error:
            print(json.dumps([type(error).__name__, str(error), pushed]))
    """
    name, text, pushed = printed_json(code, environment)
    assert (name, pushed) == ("AirflowException", {"error": "ServiceError: down"})
    assert text.startswith("submit exited with status 75")


def test_executors_and_providers_in_use_can_be_imported() -> None:
    code = """
        import airflow.providers.celery.executors.celery_executor
        import airflow.providers.amazon.aws.log.s3_task_handler
        import airflow.executors.local_executor
        import airflow.providers.standard.operators.hitl
        import airflow.providers.postgres.hooks.postgres
        import airflow.providers.smtp.notifications.smtp
    """
    run_python(code, dict(os.environ))
