"""A DAG run of the local Airflow: trigger it, poll its tasks, read their results and logs."""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from carclf_airflow.local.airflow_server import Airflow

FINISHED_STATES = {"success", "failed", "skipped", "upstream_failed", "removed"}
STATE_WIDTH = 1 + max(map(len, FINISHED_STATES))
PAGE_SIZE = 100  # the REST API's maximum
TAIL_LINES = 12
MAX_LINE_CHARS = 1000


def fail_active_runs(airflow: Airflow, dag_id: str) -> None:
    """Fail the active runs of an interrupted demo: only one run is active at a time, so a new run would wait."""
    airflow.wait_for_dag(dag_id)
    for run in airflow.call("GET", f"dags/{dag_id}/dagRuns?state=running&state=queued")["dag_runs"]:
        airflow.call("PATCH", f"dags/{dag_id}/dagRuns/{run['dag_run_id']}", {"state": "failed"})


def trigger_run(airflow: Airflow, dag_id: str, **body: Any) -> "DagRun":
    """Unpause the DAG and start a run; ``body`` may hold its ``conf`` and its ``dag_run_id``."""
    airflow.call("PATCH", f"dags/{dag_id}", {"is_paused": False})
    run = airflow.call("POST", f"dags/{dag_id}/dagRuns", {"logical_date": None} | body)
    return DagRun(airflow, dag_id, str(run["dag_run_id"]))


@dataclass(frozen=True)
class DagRun:
    """A DAG run, identified by its ids."""

    airflow: Airflow
    dag_id: str
    run_id: str

    @property
    def path(self) -> str:
        """The run's path in the REST API."""
        return f"dags/{self.dag_id}/dagRuns/{quote(self.run_id)}"

    def state(self) -> str:
        """Return Airflow's state of the run."""
        return str(self.airflow.call("GET", self.path)["state"])

    def task_instances(self) -> list[dict[str, Any]]:
        """Return all task instances, by the time of their end; a mapped task has one for each of its values."""
        tasks: list[dict[str, Any]] = []
        while True:
            query = f"limit={PAGE_SIZE}&offset={len(tasks)}&order_by=id"
            page = self.airflow.call("GET", f"{self.path}/taskInstances?{query}")
            tasks += page["task_instances"]
            if len(tasks) >= page["total_entries"] or not page["task_instances"]:
                return sorted(tasks, key=lambda task: str(task["end_date"]))

    def poll(self, seconds: float) -> Iterator[list[dict[str, Any]]]:
        """Yield all task instances every ``seconds`` until they and the run have finished."""
        while True:
            state = self.state()
            tasks = self.task_instances()
            yield tasks
            if state in ("success", "failed") and all(task["state"] in FINISHED_STATES for task in tasks):
                return
            time.sleep(seconds)

    def result(self, task_id: str, map_index: int = -1) -> Any:
        """Return what a task returned."""
        path = f"{self.path}/taskInstances/{task_id}/xcomEntries/return_value?deserialize=true&map_index={map_index}"
        return self.airflow.call("GET", path)["value"]

    def has_result(self, task_id: str, map_index: int = -1) -> bool:
        """Return whether a task returned something, which a skipped one may not have."""
        path = f"{self.path}/taskInstances/{task_id}/xcomEntries?map_index={map_index}"
        entries = self.airflow.call("GET", path)["xcom_entries"]
        return any(entry["key"] == "return_value" for entry in entries)

    def log_events(self, task_id: str, map_index: int = -1) -> list[str]:
        """Return the lines of a task's newest log, without Airflow's JSON around them."""
        folder = self.airflow.home / "logs" / f"dag_id={self.dag_id}" / f"run_id={self.run_id}" / f"task_id={task_id}"
        logs = sorted((folder / f"map_index={map_index}" if map_index >= 0 else folder).glob("attempt=*.log"))
        return _read_events(logs[-1]) if logs else []

    def print_log_tail(self, task_id: str, map_index: int = -1) -> None:
        """Print the line in which carclf reports an error, or the last lines of the task's newest log."""
        events = self.log_events(task_id, map_index)
        errors = [event for event in events if event.startswith("carclf: ")]
        for event in errors[-1:] or events[-TAIL_LINES:]:
            print(f"    {event[:MAX_LINE_CHARS]}", flush=True)


def task_seconds(task: dict[str, Any]) -> float:
    """Return the duration of a finished task instance."""
    if not task["start_date"] or not task["end_date"]:
        return 0.0
    start, end = (datetime.fromisoformat(task[name]) for name in ("start_date", "end_date"))
    return round((end - start).total_seconds(), 1)


def _read_events(path: Path) -> list[str]:
    return [_parse_event(line) for line in path.read_text().splitlines()]


def _parse_event(line: str) -> str:
    try:
        return str(json.loads(line)["event"])
    except (ValueError, KeyError, TypeError):
        return line
