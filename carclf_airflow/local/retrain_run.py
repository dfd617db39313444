"""A DAG run in the terminal: a line per finished task, and its outcome."""

import json
import time
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from carclf.formatting import finite_number
from carclf.stages.chain import STAGES
from carclf_airflow.local.server import Airflow

DAG = "car_retrain"
ASK = "approval.ask"
_NAMES = list(STAGES)
_AFTER_PROMOTE = _NAMES.index("promote") + 1
TASKS = (*_NAMES[:_AFTER_PROMOTE], ASK, "approval.promote", *_NAMES[_AFTER_PROMOTE:])
FINISHED_STATES = {"success", "failed", "skipped", "upstream_failed", "removed"}


def fail_active_runs(airflow: Airflow, dag: str = DAG) -> None:
    """Give up the runs that an interrupted demo left: the DAG runs one at a time, and they would stand before ours."""
    airflow.wait_for_dag(dag)
    for run in airflow.call("GET", f"dags/{dag}/dagRuns?state=running&state=queued")["dag_runs"]:
        airflow.call("PATCH", f"dags/{dag}/dagRuns/{run['dag_run_id']}", {"state": "failed"})


def trigger_run(airflow: Airflow, dag: str = DAG, **given: Any) -> str:
    """Unpause the DAG, start a run and return its id; ``given`` is its ``conf`` and its ``dag_run_id``."""
    airflow.call("PATCH", f"dags/{dag}", {"is_paused": False})
    run = airflow.call("POST", f"dags/{dag}/dagRuns", {"logical_date": None} | given)
    return str(run["dag_run_id"])


def follow_run(airflow: Airflow, run_id: str) -> dict[str, Any]:
    """Print each task as it finishes; return the summary: state, tasks, metrics and seconds."""
    started, shown = time.monotonic(), {}
    results: dict[str, dict[str, Any]] = {}
    told: set[str] = set()
    while True:
        state = airflow.call("GET", f"dags/{DAG}/dagRuns/{run_id}")["state"]
        tasks = airflow.call("GET", f"dags/{DAG}/dagRuns/{run_id}/taskInstances")["task_instances"]
        for task in sorted(tasks, key=lambda task: TASKS.index(task["task_id"])):
            name = task["task_id"]
            if name not in told and (text := _waits_for(airflow, run_id, task)):
                told.add(name)
                print(text, flush=True)
            if task["state"] in FINISHED_STATES and name not in shown:
                shown[name] = {"state": task["state"], "seconds": task_seconds(task)}
                if task["state"] == "success":
                    results[name] = _result(airflow, run_id, name)
                _show(name, shown[name], results.get(name, {}))
                if task["state"] == "failed":
                    print_log_tail(airflow.home, DAG, run_id, name)
        if state in ("success", "failed") and len(shown) == len(TASKS):
            if ASK in results and shown["approval.promote"]["state"] == "skipped":
                results["approval.promote"] = {"metrics": {"decision": "rejected",
                                                            "reason": results[ASK]["summary"]}}
            return _summary(state, shown, results, time.monotonic() - started)
        time.sleep(0.5)


def _waits_for(airflow: Airflow, run_id: str, task: dict[str, Any]) -> str:
    """What a task waits for that a person should know; "" for the others."""
    name, state = task["task_id"], task["state"]
    if name == ASK and state in ("awaiting_input", "deferred"):
        path = f"dags/{DAG}/dagRuns/{run_id}/taskInstances/{ASK}/-1/hitlDetails"
        return (f"{name} waits for a person: Approve or Reject at "
                f"{airflow.url}/dags/{DAG}/runs/{quote(run_id)}/tasks/{ASK}/required_actions\n"
                f"    or by REST: PATCH {airflow.url}/api/v2/{quote(path)} "
                '{"chosen_options": ["Approve"], "params_input": {}}')
    if name == "submit" and state == "up_for_reschedule":
        said = [event for event in _events_of(airflow.home, DAG, run_id, name) if " submit: " in event]
        return f"{name} waits: {said[-1].partition(' submit: ')[2]}" if said else ""
    return ""


def _answer(airflow: Airflow, run_id: str) -> str:
    """What a person answered to the question for approval, or that nobody did."""
    found = airflow.call("GET", f"dags/{DAG}/dagRuns/{run_id}/taskInstances/{ASK}/-1/hitlDetails")
    user = found["responded_by_user"]
    who = f"by {user['name']}" if user else "because nobody answered in time"
    if found["chosen_options"] == ["Approve"]:
        return f"approved {who}"
    return f"rejected {who}: nothing is promoted or submitted"


def task_seconds(task: dict[str, Any]) -> float:
    """How long a finished task ran."""
    if not task["start_date"] or not task["end_date"]:
        return 0.0
    begin, end = (datetime.fromisoformat(task[name]) for name in ("start_date", "end_date"))
    return round((end - begin).total_seconds(), 1)


def _result(airflow: Airflow, run_id: str, task: str) -> dict[str, Any]:
    if task == ASK:
        return {"summary": _answer(airflow, run_id)}
    path = f"dags/{DAG}/dagRuns/{run_id}/taskInstances/{task}/xcomEntries/return_value?deserialize=true"
    value = airflow.call("GET", path)["value"]
    return value if isinstance(value, dict) else {}


def _show(name: str, end: dict[str, Any], result: dict[str, Any]) -> None:
    if name in (ASK, "approval.promote") and end["state"] == "skipped":
        return  # nobody need approve
    how = "reused, " if result.get("reused") else ""
    print(f"{name:<17}{end['state']:<10}{end['seconds']:7.1f} s  {how}{result.get('summary', '')}", flush=True)


def print_log_tail(home: Path, dag: str, run_id: str, task: str, number: int = -1) -> None:
    """The line in which carclf says what is wrong, or the last lines of the task's newest log."""
    events = _events_of(home, dag, run_id, task, number)
    reasons = [event for event in events if event.startswith("carclf: ")]
    for event in reasons[-1:] or events[-12:]:
        print(f"    {event[:1000]}", flush=True)


def _events_of(home: Path, dag: str, run_id: str, task: str, number: int = -1) -> list[str]:
    """What the newest log of a task says, line by line; ``number`` is a mapped one's."""
    folder = home / "logs" / f"dag_id={dag}" / f"run_id={run_id}" / f"task_id={task}"
    logs = sorted((folder / f"map_index={number}" if number >= 0 else folder).glob("attempt=*.log"))
    return [_event(line) for line in logs[-1].read_text().splitlines()] if logs else []


def _event(line: str) -> str:
    """What one line of Airflow's log says, without its frame."""
    try:
        return str(json.loads(line)["event"])
    except (ValueError, KeyError, TypeError):
        return line


def _summary(
    state: str, tasks: dict[str, Any], results: dict[str, dict[str, Any]], seconds: float
) -> dict[str, Any]:
    metrics = {name: result.get("metrics", {}) for name, result in results.items()}
    promote = metrics.get("promote", {}) | metrics.get("approval.promote", {})
    scored = metrics.get("score", {})
    return {
        "state": state, "tasks": tasks, "val_accuracy": metrics.get("evaluate", {}).get("val_accuracy"),
        "threshold": promote.get("threshold"), "decision": promote.get("decision"), "reason": promote.get("reason"),
        "public_score": finite_number(scored.get("public_score")), "rank": finite_number(scored.get("rank")),
        "warning": scored.get("warning", ""), "seconds": round(seconds, 1),
        "submission": metrics.get("submit", {}).get("submission"),
    }
