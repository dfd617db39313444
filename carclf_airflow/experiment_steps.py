"""A step of an experiment as a child process of an Airflow task."""

from collections.abc import Mapping
from typing import Any

from carclf_airflow.stage_process import (
    airflow_run_environment,
    child_environment,
    raise_for_status,
    run_command,
    run_id_from_dag_run,
    truncate_result,
)


def run_experiment_step(step: str, context: Mapping[str, Any], *arguments: str) -> Any:
    """Run a step of ``carclf experiment`` in a child process and return its result, small enough for XCom."""
    name = run_id_from_dag_run(context["dag_run"].run_id)
    # Only the download needs Kaggle's key.
    allowed = child_environment("download" if step == "prepare" else "split")
    return _result_of(f"experiment {step}", ["--name", name, *arguments], allowed | airflow_run_environment(context))


def promote_run(run: str, context: Mapping[str, Any]) -> Any:
    """Take a run through the gate, as approved by who triggered the experiment; its result, small enough for XCom."""
    user = context["dag_run"].triggering_user_name or ""
    environment = child_environment("promote") | airflow_run_environment(context)
    return truncate_result(_result_of("champion promote", ["--run", run, "--by", user], environment))


def _result_of(command: str, options: list[str], environment: dict[str, str]) -> Any:
    status, reason, result = run_command(command, options, environment)
    raise_for_status(command.rsplit(maxsplit=1)[-1], status, reason)
    return result
