"""The tasks of car_predict and car_reevaluate; each runs a command of carclf as a child process."""

from typing import Any

from airflow.sdk import get_current_context

from carclf_airflow.lineage import emit_prediction, emit_reevaluation
from carclf_airflow.predict_form import max_predict_tasks
from carclf_airflow.stage_process import child_environment, raise_for_status, run_command

MODEL_KEY = "model"  # of the XCom with the champion at the time of the plan


def plan_predictions() -> list[dict[str, str]]:
    """Plan the images that the champion has not predicted; return the arguments of each task ``predict``."""
    planned = _run_step("plan", "--max-groups", str(max_predict_tasks()))
    get_current_context()["ti"].xcom_push(key=MODEL_KEY, value=planned["model"])
    return [{"model": planned["model"], "shards": ",".join(group)} for group in planned["groups"]]


def predict_shards(shards: str, model: str) -> Any:
    """Predict the images of shards, whose ids are separated by commas; return counts."""
    counts = _run_step("shard", shards, "--model", model)
    emit_prediction(get_current_context()["params"]["source"], model, {"shards": shards, "counts": counts})
    return counts


def measure_drift() -> Any:
    """Compare the predictions with those of the planned model's validation images; return the drift as one number."""
    model = get_current_context()["ti"].xcom_pull(task_ids="plan", key=MODEL_KEY)
    return _run_step("drift", "--model", model)


def reevaluate_champions() -> Any:
    """Measure past champions on the labeled images of a source; return a row for each."""
    source = get_current_context()["params"]["source"]
    argument = f"./{source}" if source.startswith("-") else source  # a path, not an option
    ended = run_command("champion reevaluate", [argument], child_environment("download"))
    raise_for_status("reevaluate", ended.status, ended.error)
    emit_reevaluation(source, ended.result)
    return ended.result


def _run_step(step: str, *arguments: str) -> Any:
    options = [*arguments, "--source", get_current_context()["params"]["source"]]
    ended = run_command(f"predictions {step}", options, child_environment("evaluate"))
    raise_for_status(step, ended.status, ended.error)
    return ended.result
