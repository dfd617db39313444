"""An experiment in the terminal: a line per finished task, and what was found."""

import re
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

from carclf_airflow.local.retrain_run import (
    FINISHED_STATES,
    fail_active_runs,
    print_log_tail,
    task_seconds,
    trigger_run,
)
from carclf_airflow.local.server import Airflow

DAG = "car_experiments"
PAGE = 100  # task instances that one answer holds at most


def experiment_name(form: str) -> str:
    """The name of the experiment of a file of its form, in characters that Airflow and the store take."""
    stem = "" if form.lstrip().startswith("{") else Path(form).stem
    return re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("._-")[:80] or "experiment"


def run_experiment(airflow: Airflow, conf: dict[str, Any], name: str) -> dict[str, Any]:
    """Trigger the DAG under that name, or that and the time where there was one, and follow it to its end."""
    fail_active_runs(airflow, DAG)
    runs = airflow.call("GET", f"dags/{DAG}/dagRuns?dag_run_id_pattern={quote(name)}")["dag_runs"]
    taken = any(run["dag_run_id"] == name for run in runs)
    run_id = f"{name}-{time.strftime('%Y%m%dT%H%M%S')}" if taken else name
    return follow_experiment(airflow, trigger_run(airflow, DAG, conf=conf, dag_run_id=run_id))


def follow_experiment(airflow: Airflow, run_id: str) -> dict[str, Any]:
    """Print each task as it finishes, and the comparison; return the summary: state, tasks, sentences, seconds."""
    started, shown = time.monotonic(), dict[str, dict[str, Any]]()
    while True:
        state = airflow.call("GET", f"dags/{DAG}/dagRuns/{run_id}")["state"]
        tasks = list_task_instances(airflow, run_id)
        for task in sorted(tasks, key=lambda task: str(task["end_date"])):
            name = task["task_id"] + (f"[{task['map_index']}]" if task["map_index"] >= 0 else "")
            if task["state"] in FINISHED_STATES and name not in shown:
                shown[name] = {"state": task["state"], "seconds": task_seconds(task)}
                _show(airflow, run_id, task, name)
        if state in ("success", "failed") and all(task["state"] in FINISHED_STATES for task in tasks):
            return {"state": state, "tasks": shown, "seconds": round(time.monotonic() - started, 1),
                    "found": _found(airflow, run_id) if shown.get("compare", {}).get("state") == "success" else {}}
        time.sleep(1)


def list_task_instances(airflow: Airflow, run_id: str) -> list[dict[str, Any]]:
    """Every task of the run, a mapped one once for each of its members, as Airflow's REST API tells it."""
    found: list[dict[str, Any]] = []
    while True:
        path = f"dags/{DAG}/dagRuns/{run_id}/taskInstances?limit={PAGE}&offset={len(found)}&order_by=id"
        answer = airflow.call("GET", path)
        found += answer["task_instances"]
        if len(found) >= answer["total_entries"] or not answer["task_instances"]:
            return found


def _show(airflow: Airflow, run_id: str, task: dict[str, Any], name: str) -> None:
    if task["state"] in ("skipped", "removed"):
        return
    print(f"{name:<17}{task['state']:<16}{task_seconds(task):7.1f} s", flush=True)
    if task["state"] == "failed":
        print_log_tail(airflow.home, DAG, run_id, task["task_id"], task["map_index"])


def _found(airflow: Airflow, run_id: str) -> dict[str, str]:
    path = f"dags/{DAG}/dagRuns/{quote(run_id)}/taskInstances/compare/xcomEntries/return_value?deserialize=true"
    found = dict[str, str](airflow.call("GET", path)["value"]["summaries"])
    for name, sentence in found.items():
        print(f"{name:<28}{sentence}", flush=True)
    return found
