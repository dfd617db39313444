"""The tasks of car_predict and car_reevaluate; each runs a command of carclf as a child process."""

from collections.abc import Sequence
from typing import Any

from airflow.sdk import get_current_context

from carclf_airflow.deployment import max_predict_tasks
from carclf_airflow.stage_process import child_environment, raise_for_status, run_command


def plan_predictions() -> dict[str, Any]:
    """Plan the images that the champion has not predicted; return its key and the groups of unfinished shards."""
    planned = _run_step("plan", "--max-groups", str(max_predict_tasks()))
    return {"model": planned["model"], "groups": [",".join(group) for group in planned["groups"]]}


def predict_shards(shards: str, model: str) -> Any:
    """Predict the images of shards, whose ids are separated by commas; return counts."""
    return _run_step("shard", shards, "--model", model)


def measure_drift(model: str) -> Any:
    """Compare the predictions with those of the validation images; return the drift as one number."""
    return _run_step("drift", "--model", model)


def reevaluate_champions() -> Any:
    """Measure past champions on the labeled images of a source; return a row for each."""
    source = get_current_context()["params"]["source"]
    ended = run_command("champion reevaluate", [source], child_environment("download"))
    raise_for_status("reevaluate", ended.status, ended.error)
    return ended.result


def _run_step(step: str, *arguments: str) -> Any:
    source: Sequence[str] = ["--source", get_current_context()["params"]["source"]]
    ended = run_command(f"predictions {step}", [*arguments, *source], child_environment("evaluate"))
    raise_for_status(step, ended.status, ended.error)
    return ended.result
