"""A step of an experiment as a child process of an Airflow task."""

from collections.abc import Mapping
from typing import Any

from carclf_airflow.stage_process import (
    airflow_address,
    child_environment,
    readable,
    require_done,
    run_carclf,
    run_id_of,
)


def run_experiment(step: str, context: Mapping[str, Any], *arguments: str) -> Any:
    """Run a step of ``carclf experiment`` in a child process and return its result, small enough for XCom."""
    name = run_id_of(context["dag_run"].run_id)
    # Only the download needs Kaggle's key.
    allowed = child_environment("download" if step == "prepare" else "split")
    return _result_of(f"experiment {step}", ["--name", name, *arguments], allowed | airflow_address(context))


def promote_run(run: str, context: Mapping[str, Any]) -> Any:
    """Take a run through the gate, as approved by who triggered the experiment; its result, small enough for XCom."""
    user = context["dag_run"].triggering_user_name or ""
    environment = child_environment("promote") | airflow_address(context)
    return readable(_result_of("champion promote", ["--run", run, "--by", user], environment))


def _result_of(command: str, options: list[str], environment: dict[str, str]) -> Any:
    status, reason, result = run_carclf(command, options, environment)
    require_done(command.split()[-1], status, reason)
    return result
