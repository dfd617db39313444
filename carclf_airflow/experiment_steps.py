"""The tasks of an experiment; each runs a step of ``carclf experiment`` as a child process."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from airflow.sdk import get_current_context
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from carclf.experiments.plan_form import parse_integers
from carclf.runs.record import run_id_from_dag_run
from carclf_airflow.lineage import emit_training
from carclf_airflow.stage_process import (
    EXIT_SKIP,
    airflow_run_environment,
    child_environment,
    raise_for_status,
    run_command,
    run_for_result,
    truncate_result,
)


def plan_experiment() -> Any:
    """Plan the trainings that the trigger form asks for, and return the folds."""
    context = get_current_context()
    return run_experiment_step("plan", context, "--form", json.dumps(dict(context["params"])))["folds"]


def prepare_fold(fold: int) -> Any:
    """Download, validate and split the data of a fold, once for all trainings."""
    return run_experiment_step("prepare", get_current_context(), "--fold", str(fold))


def choose_training_runs(prepared: Sequence[Any], rung: int, max_rungs: int) -> Any:
    """Return the groups to train up to a rung; ``max_rungs + 1`` is the end of training.

    ``prepared`` is empty if plan or prepare failed; the task is then skipped.
    """
    if not len(prepared):
        raise AirflowSkipException("There is no data to train on: plan or prepare failed; see their logs")
    context = get_current_context()
    num_rungs = len(parse_integers(context["params"]["rungs"] or "", "rungs"))
    if num_rungs < rung <= max_rungs:  # the plan has no such rung
        return []
    return run_experiment_step("survivors", context, "--rung", str(min(rung - 1, num_rungs)))


def train_group(group: Sequence[int], rung: int) -> Any:
    """Train a group of the plan's trainings up to a rung; 0 trains them to the end."""
    numbers = ",".join(map(str, group))
    reports = run_experiment_step("train", get_current_context(), "--training-runs", numbers, "--rung", str(rung))
    for report in reports if rung == 0 else []:
        emit_training(report)
    return reports


def compare_recipes(prepared: Sequence[Any]) -> Any:
    """Compare the recipes, and return the winner and a summary of each."""
    if not len(prepared):
        raise AirflowFailException("There is nothing to compare: plan or prepare failed; see their logs")
    return run_experiment_step("compare", get_current_context())


def promote_winner(compared: Mapping[str, Any]) -> Any:
    """Take the winner's best run through the gate. If it needs an approval, it waits, and car_promote asks a person."""
    context = get_current_context()
    if not context["params"]["promote"]:
        raise AirflowSkipException("'Promote the winner' is off in the trigger form")
    if not compared["winner"]:
        raise AirflowSkipException("No recipe is better than the baseline")
    environment = child_environment("promote") | airflow_run_environment(context)
    ended = run_command("promote", ["--run", compared["winner"]], environment)
    result = truncate_result(ended.result or {"metrics": {}})
    if result["metrics"].get("decision") == "rejected":
        raise AirflowFailException(f"The winner is not promoted: {result['metrics']['reason']}")
    if not result.get("waiting") and ended.status != EXIT_SKIP:  # its submission is skipped
        raise_for_status("promote", ended.status, ended.error)
    return result


def run_experiment_step(step: str, context: Mapping[str, Any], *arguments: str) -> Any:
    """Run ``carclf experiment <step>`` in a child process and return its result."""
    name = run_id_from_dag_run(context["dag_run"].run_id)
    # Only prepare gets Kaggle's credentials: it downloads.
    environment = child_environment("download" if step == "prepare" else "split") | airflow_run_environment(context)
    return run_for_result(f"experiment {step}", ["--name", name, *arguments], environment)
