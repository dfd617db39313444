"""A run of car_retrain in the terminal: a line per finished task, then its outcome."""

import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from carclf.formatting import finite_number
from carclf.metrics import METRICS
from carclf.runs.record import run_id_from_dag_run
from carclf.stages.chain import STAGES
from carclf_airflow.ids import (
    ANNOUNCE_TASK,
    CANDIDATE_GROUP,
    CANDIDATES_TASK,
    PROMOTE_DAG,
    REQUEST_TASK,
    RETRAIN_DAG,
)
from carclf_airflow.local.airflow_server import HEALTHY_SECONDS, Airflow, AirflowError
from carclf_airflow.local.dag_run import (
    FINISHED_STATES,
    STATE_WIDTH,
    DagRun,
    fail_active_runs,
    task_seconds,
    trigger_run,
)

POLL_SECONDS = 0.5
WAITING = " submit: waiting "  # precedes the reason in the stage's log line
OPTIONAL_TASKS = (REQUEST_TASK, ANNOUNCE_TASK, "ask", "refit")  # not shown if they are skipped
NAME_WIDTH = 1 + max(map(len, (*STAGES, *OPTIONAL_TASKS)))
QUESTION = """\
{task} waits for a person: Approve or Reject under Required Actions of {url}/dags/{dag}/runs/{run}
    or by REST: PATCH {url}/api/v2/{path} {{"chosen_options": ["Approve"], "params_input": {{}}}}"""


def run_retrain(airflow: Airflow) -> dict[str, Any]:
    """Trigger the DAG, print its progress and outcome, and return the summary."""
    for dag_id in (RETRAIN_DAG, PROMOTE_DAG):
        fail_active_runs(airflow, dag_id)
    summary = follow_run(trigger_run(airflow, RETRAIN_DAG))
    _print_outcome(summary)
    return summary


def follow_run(run: DagRun) -> dict[str, Any]:
    """Print each task as it finishes, until the decision; return the summary: state, tasks, metrics and seconds."""
    started = time.monotonic()
    progress = _Progress(CandidateTasks(run))
    progress.follow()
    if progress.is_waiting_for_approval:
        progress.source = _approval_tasks(run)
        progress.follow()
    return progress.summary(time.monotonic() - started)


@dataclass(frozen=True)
class CandidateTasks:
    """The tasks of a run, or those of one candidate in a run of car_promote."""

    run: DagRun
    group: str = ""
    map_index: int = -1

    def name(self, task: dict[str, Any]) -> str:
        """Return a task's name without its group; "" for the task of another candidate."""
        is_own = task["map_index"] == self.map_index and task["task_id"].startswith(self.group)
        return str(task["task_id"]).removeprefix(self.group) if is_own else ""

    def result(self, name: str) -> Any:
        """Return what a task returned."""
        return self.run.result(self.group + name, self.map_index)

    def has_result(self, name: str) -> bool:
        """Return whether a task returned something."""
        return self.run.has_result(self.group + name, self.map_index)

    def has_ended(self, tasks: list[dict[str, Any]]) -> bool:
        """Return whether the tasks of this candidate have finished; those of others may wait for hours."""
        states = {name: task["state"] for task in tasks if (name := self.name(task))}
        return bool(self.group) and "score" in states and FINISHED_STATES.issuperset(states.values())

    @property
    def question_path(self) -> str:
        """The path of the question in the REST API."""
        return f"{self.run.path}/taskInstances/{self.group}ask/{self.map_index}/hitlDetails"


def _approval_tasks(run: DagRun) -> CandidateTasks:
    """Wait for the run of car_promote that asks about a run; return the tasks of its candidate."""
    run_id, airflow = run_id_from_dag_run(run.run_id), run.airflow
    limit = time.monotonic() + HEALTHY_SECONDS
    while time.monotonic() < limit:
        for active in airflow.call("GET", f"dags/{PROMOTE_DAG}/dagRuns?state=running")["dag_runs"]:
            asking = DagRun(airflow, PROMOTE_DAG, active["dag_run_id"])
            candidates = asking.result(CANDIDATES_TASK) if asking.has_result(CANDIDATES_TASK) else []
            for number, candidate in enumerate(candidates):
                if candidate["run"] == run_id:
                    return CandidateTasks(asking, f"{CANDIDATE_GROUP}.", number)
        time.sleep(POLL_SECONDS)
    raise AirflowError(f"{PROMOTE_DAG} did not ask about {run_id}; see {airflow.processes.log_folder}")


class _Progress:
    """The lines of a run that were printed, and the results of its tasks."""

    def __init__(self, source: CandidateTasks) -> None:
        self.source = source
        self.waiting: set[str] = set()  # tasks whose reason to wait has been printed
        self.tasks: dict[str, dict[str, Any]] = {}
        self.results: dict[str, dict[str, Any]] = {}

    def follow(self) -> None:
        """Print each task of the source that starts to wait or finishes, until they have finished."""
        finished: set[str] = set()
        for tasks in self.source.run.poll(POLL_SECONDS):
            for task in tasks:
                name = self.source.name(task)
                if name and name not in self.waiting and (reason := _waiting_reason(self.source, name, task)):
                    self.waiting.add(name)
                    print(reason, flush=True)
                if name and task["state"] in FINISHED_STATES and name not in finished:
                    finished.add(name)
                    self._finish(name, task)
            if self.source.has_ended(tasks):
                return

    @property
    def is_waiting_for_approval(self) -> bool:
        """Return whether the run has ended with a request for approval."""
        return self.tasks.get(REQUEST_TASK, {}).get("state") == "success"

    def _finish(self, name: str, task: dict[str, Any]) -> None:
        self.tasks[name] = {"state": task["state"], "seconds": task_seconds(task)}
        if task["state"] == "success" or (name == "submit" and self.source.has_result(name)):
            self.results[name] = _task_result(self.source, name)
        _print_task(name, self.tasks[name], self.results.get(name, {}))
        if task["state"] == "failed":
            self.source.run.print_log_tail(self.source.group + name, self.source.map_index)

    def _state(self) -> str:
        if not self.source.group:
            return self.source.run.state()
        is_failed = any(task["state"] in ("failed", "upstream_failed") for task in self.tasks.values())
        return "failed" if is_failed else "success"

    def summary(self, seconds: float) -> dict[str, Any]:
        metrics = {name: result.get("metrics", {}) for name, result in self.results.items()}
        promote, evaluated, score = (metrics.get(stage, {}) for stage in ("promote", "evaluate", "score"))
        stages = [name for name in ("promote", "refit", "submit") if name in self.results]
        reasons = [self.results[name].get("skip_reason") for name in stages]
        return {
            "state": self._state(), "tasks": self.tasks,
            "val_accuracy": evaluated.get("val_accuracy"), "metric": evaluated.get("metric", "accuracy"),
            "val_metric": evaluated.get("val_metric", evaluated.get("val_accuracy")),
            "threshold": promote.get("threshold"), "decision": promote.get("decision"), "reason": promote.get("reason"),
            "skip_reason": next(filter(None, reasons), ""),
            "public_score": finite_number(score.get("public_score")), "rank": finite_number(score.get("rank")),
            "warning": score.get("warning", ""), "seconds": round(seconds, 1),
            "submission": metrics.get("submit", {}).get("submission"),
        }


def _waiting_reason(source: CandidateTasks, name: str, task: dict[str, Any]) -> str:
    """Return the reason why a task waits if the user should know it, else ""."""
    run = source.run
    if name == "ask" and task["state"] in ("awaiting_input", "deferred"):
        return QUESTION.format(task=task["task_id"], dag=run.dag_id, run=quote(run.run_id), url=run.airflow.url,
                               path=source.question_path)
    if name == "submit" and task["state"] == "up_for_reschedule":
        events = [event for event in run.log_events(task["task_id"], source.map_index) if WAITING in event]
        return f"{name} waits: {events[-1].partition(WAITING)[2]}" if events else ""
    return ""


def _task_result(source: CandidateTasks, name: str) -> dict[str, Any]:
    if name == "ask":
        details = source.run.airflow.call("GET", source.question_path)
        user = details["responded_by_user"]
        actor = f"by {user['name']}" if user else "because no one responded in time"
        return {"summary": f"{'approved' if details['chosen_options'] == ['Approve'] else 'declined'} {actor}"}
    if not source.has_result(name):
        return {}
    value = source.result(name)
    return value if isinstance(value, dict) else {}


def _print_task(name: str, end: dict[str, Any], result: dict[str, Any]) -> None:
    if name in OPTIONAL_TASKS and end["state"] == "skipped":
        return
    reused = "reused, " if result.get("reused") else ""
    print(f"{name:<{NAME_WIDTH}}{end['state']:<{STATE_WIDTH}}{end['seconds']:7.1f} s  {reused}"
          f"{result.get('summary', '')}", flush=True)


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
