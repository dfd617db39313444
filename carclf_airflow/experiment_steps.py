"""Run a step of an experiment as a child process of an Airflow task."""

from collections.abc import Mapping
from typing import Any

from carclf.runs.record import run_id_from_dag_run
from carclf_airflow.stage_process import (
    airflow_run_environment,
    child_environment,
    raise_for_status,
    run_command,
    truncate_result,
)


def run_experiment_step(step: str, context: Mapping[str, Any], *arguments: str) -> Any:
    """Run ``carclf experiment <step>`` in a child process and return its result, small enough for XCom."""
    name = run_id_from_dag_run(context["dag_run"].run_id)
    # Only prepare gets Kaggle's credentials: it downloads.
    environment = child_environment("download" if step == "prepare" else "split") | airflow_run_environment(context)
    return _run(f"experiment {step}", ["--name", name, *arguments], environment)


def promote_run(run_id: str, context: Mapping[str, Any]) -> Any:
    """Run the gate on a run, approved by the user who triggered the experiment; return the result for XCom."""
    user = context["dag_run"].triggering_user_name or ""
    environment = child_environment("promote") | airflow_run_environment(context)
    return truncate_result(_run("champion promote", ["--run", run_id, "--by", user], environment))


def _run(command: str, options: list[str], environment: dict[str, str]) -> Any:
    ended = run_command(command, options, environment)
    raise_for_status(command.rsplit(maxsplit=1)[-1], ended.status, ended.error)
    return ended.result
