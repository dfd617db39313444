"""An experiment in the terminal: a line per finished task, then a summary of each recipe."""

import re
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

from carclf_airflow.ids import EXPERIMENTS_DAG
from carclf_airflow.local.airflow_server import Airflow
from carclf_airflow.local.dag_run import (
    FINISHED_STATES,
    STATE_WIDTH,
    DagRun,
    fail_active_runs,
    task_seconds,
    trigger_run,
)

MAX_NAME_CHARS = 80
POLL_SECONDS = 1.0


def experiment_name(form: str) -> str:
    """Return a name for the experiment of a form's file, in characters that Airflow and the store allow."""
    stem = "" if form.lstrip().startswith("{") else Path(form).stem
    return re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("._-")[:MAX_NAME_CHARS] or "experiment"


def run_experiment(airflow: Airflow, conf: dict[str, Any], name: str) -> dict[str, Any]:
    """Trigger the DAG under that name, with the time appended if the name is taken, and follow it to its end."""
    fail_active_runs(airflow, EXPERIMENTS_DAG)
    runs = airflow.call("GET", f"dags/{EXPERIMENTS_DAG}/dagRuns?dag_run_id_pattern={quote(name)}")["dag_runs"]
    is_taken = any(run["dag_run_id"] == name for run in runs)
    run_id = f"{name}-{time.strftime('%Y%m%dT%H%M%S')}" if is_taken else name
    return follow_experiment(trigger_run(airflow, EXPERIMENTS_DAG, conf=conf, dag_run_id=run_id))


def follow_experiment(run: DagRun) -> dict[str, Any]:
    """Print each task as it finishes, and the comparison; return the state, tasks, summaries and seconds."""
    started = time.monotonic()
    shown: dict[str, dict[str, Any]] = {}
    for tasks in run.poll(POLL_SECONDS):
        for task in tasks:
            name = task["task_id"] + (f"[{task['map_index']}]" if task["map_index"] >= 0 else "")
            if task["state"] in FINISHED_STATES and name not in shown:
                shown[name] = {"state": task["state"], "seconds": task_seconds(task)}
                _print_task(run, task, name)
    compared = shown.get("compare", {}).get("state") == "success"
    return {"state": run.state(), "tasks": shown, "seconds": round(time.monotonic() - started, 1),
            "summaries": _print_summaries(run) if compared else {}}


def _print_task(run: DagRun, task: dict[str, Any], name: str) -> None:
    if task["state"] in ("skipped", "removed"):
        return
    print(f"{name:<17}{task['state']:<{STATE_WIDTH}}{task_seconds(task):7.1f} s", flush=True)
    if task["state"] == "failed":
        run.print_log_tail(task["task_id"], task["map_index"])


def _print_summaries(run: DagRun) -> dict[str, str]:
    summaries = dict[str, str](run.result("compare")["summaries"])
    for name, sentence in summaries.items():
        print(f"{name:<28}{sentence}", flush=True)
    return summaries
