"""A run of car_retrain in the terminal: a line per finished task, then its outcome."""

import time
from typing import Any
from urllib.parse import quote

from carclf.formatting import finite_number
from carclf.metrics import METRICS
from carclf_airflow.ids import ASK_TASK, PROMOTE_TASK, RETRAIN_DAG
from carclf_airflow.local.airflow_server import Airflow
from carclf_airflow.local.dag_run import FINISHED_STATES, DagRun, fail_active_runs, task_seconds, trigger_run

POLL_SECONDS = 0.5
WAITING = " submit: waiting "  # precedes the reason in the stage's log line
QUESTION = """\
{task} waits for a person: Approve or Reject at {url}/dags/{dag}/runs/{run}/tasks/{task}/required_actions
    or by REST: PATCH {url}/api/v2/{path} {{"chosen_options": ["Approve"], "params_input": {{}}}}"""


def run_retrain(airflow: Airflow) -> dict[str, Any]:
    """Trigger the DAG, print its progress and outcome, and return the summary."""
    fail_active_runs(airflow, RETRAIN_DAG)
    summary = follow_run(trigger_run(airflow, RETRAIN_DAG))
    _print_outcome(summary)
    return summary


def follow_run(run: DagRun) -> dict[str, Any]:
    """Print each task as it finishes; return the summary: state, tasks, metrics and seconds."""
    started = time.monotonic()
    progress = _Progress(run)
    for tasks in run.poll(POLL_SECONDS):
        for task in tasks:
            progress.update(task)
    return progress.summary(time.monotonic() - started)


class _Progress:
    """The lines of a run that were printed, and the results of its tasks."""

    def __init__(self, run: DagRun) -> None:
        self.run = run
        self.waiting: set[str] = set()  # tasks whose reason to wait has been printed
        self.tasks: dict[str, dict[str, Any]] = {}
        self.results: dict[str, dict[str, Any]] = {}

    def update(self, task: dict[str, Any]) -> None:
        """Print the task if it started to wait or has finished since the last call."""
        name = task["task_id"]
        if name not in self.waiting and (reason := _waiting_reason(self.run, task)):
            self.waiting.add(name)
            print(reason, flush=True)
        if task["state"] in FINISHED_STATES and name not in self.tasks:
            self._finish(name, task)

    def _finish(self, name: str, task: dict[str, Any]) -> None:
        self.tasks[name] = {"state": task["state"], "seconds": task_seconds(task)}
        if task["state"] == "success" or (name == "submit" and self.run.has_result(name)):
            self.results[name] = _task_result(self.run, name)
        _print_task(name, self.tasks[name], self.results.get(name, {}))
        if task["state"] == "failed":
            self.run.print_log_tail(name)

    def summary(self, seconds: float) -> dict[str, Any]:
        metrics = {name: result.get("metrics", {}) for name, result in self.results.items()}
        promote = metrics.get("promote", {}) | metrics.get(PROMOTE_TASK, {})
        if ASK_TASK in self.results and self.tasks[PROMOTE_TASK]["state"] == "skipped":
            promote |= {"decision": "declined", "reason": self.results[ASK_TASK]["summary"]}
        evaluated, score = metrics.get("evaluate", {}), metrics.get("score", {})
        stages = [name for name in ("promote", "refit", "submit") if name in self.results]
        reasons = [self.results[name].get("skip_reason") for name in stages]
        return {
            "state": self.run.state(), "tasks": self.tasks,
            "val_accuracy": evaluated.get("val_accuracy"), "metric": evaluated.get("metric", "accuracy"),
            "val_metric": evaluated.get("val_metric", evaluated.get("val_accuracy")),
            "threshold": promote.get("threshold"), "decision": promote.get("decision"), "reason": promote.get("reason"),
            "skip_reason": next(filter(None, reasons), ""),
            "public_score": finite_number(score.get("public_score")), "rank": finite_number(score.get("rank")),
            "warning": score.get("warning", ""), "seconds": round(seconds, 1),
            "submission": metrics.get("submit", {}).get("submission"),
        }


def _waiting_reason(run: DagRun, task: dict[str, Any]) -> str:
    """Return the reason why a task waits if the user should know it, else ""."""
    name = task["task_id"]
    if name == ASK_TASK and task["state"] in ("awaiting_input", "deferred"):
        run_id = quote(run.run_id)
        return QUESTION.format(task=name, dag=RETRAIN_DAG, run=run_id, url=run.airflow.url, path=_question_path(run))
    if name == "submit" and task["state"] == "up_for_reschedule":
        events = [event for event in run.log_events(name) if WAITING in event]
        return f"{name} waits: {events[-1].partition(WAITING)[2]}" if events else ""
    return ""


def _question_path(run: DagRun) -> str:
    return f"{run.path}/taskInstances/{ASK_TASK}/-1/hitlDetails"


def _approval_summary(run: DagRun) -> str:
    """Return the response to the approval question."""
    details = run.airflow.call("GET", _question_path(run))
    user = details["responded_by_user"]
    actor = f"by {user['name']}" if user else "because no one responded in time"
    if details["chosen_options"] == ["Approve"]:
        return f"approved {actor}"
    return f"declined {actor}: nothing is promoted or submitted"


def _task_result(run: DagRun, name: str) -> dict[str, Any]:
    if name == ASK_TASK:
        return {"summary": _approval_summary(run)}
    value = run.result(name)
    return value if isinstance(value, dict) else {}


def _print_task(name: str, end: dict[str, Any], result: dict[str, Any]) -> None:
    if name in (ASK_TASK, PROMOTE_TASK, "refit") and end["state"] == "skipped":
        return  # no approval or no refit is required
    reused = "reused, " if result.get("reused") else ""
    print(f"{name:<17}{end['state']:<10}{end['seconds']:7.1f} s  {reused}{result.get('summary', '')}", flush=True)


def _print_outcome(summary: dict[str, Any]) -> None:
    print(f"\nrun          {summary['state']} in {summary['seconds']:.0f} s")
    if summary["val_accuracy"] is not None:
        print(f"accuracy     {summary['val_accuracy']:.4f} on the validation images")
    if summary["metric"] != "accuracy" and summary["val_metric"] is not None:
        print(f"metric       {summary['val_metric']:.4f}, {METRICS[summary['metric']].label}")
    print(f"gate         {summary['reason'] or 'not reached'}")
    if summary["skip_reason"] and summary["skip_reason"] != summary["reason"]:  # the gate's reason is printed above
        print(f"submission   none: {summary['skip_reason']}")
    score = "none" if summary["public_score"] is None else summary["public_score"]
    rank = f" (rank {summary['rank']} on the public leaderboard)" if summary["rank"] else ""
    print(f"public score {score}{rank}")
    if summary["warning"]:
        print(f"warning      {summary['warning']}")
