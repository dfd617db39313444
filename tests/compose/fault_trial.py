"""A run of the cluster that meets a fault, and its outcome."""

import json
import re
import subprocess
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cluster import Cluster

from carclf.champion import read_state
from carclf.errors import ServiceError
from carclf.services.storage import FolderStore, copy_store

# Long enough to be hit in the middle, with a checkpoint every few seconds; any model passes the gate.
LONG = {"fine_tune.epochs": 45, "fine_tune.checkpoint_minutes": 0.05, "gate.threshold": 0.0,
        "gate.min_recall": 0.0, "gate.max_calibration_error": 1.0}
STEP = re.compile(r"^(\S+ \S+) fine_tune: (\d+)/\d+, ([\d.]+)/s")
RESUMED = re.compile(r"resumed step=(\d+)")


@dataclass(frozen=True)
class TrialResult:
    """A row of the table; None if there is nothing to measure."""

    fault: str
    outcome: str
    seconds_lost: float | None
    steps_lost: int | None
    submissions: int


class FaultTrial:
    """A run with settings that no other run has, so that it reuses no model."""

    def __init__(self, cluster: Cluster, number: int, folder: Path) -> None:
        self.cluster = cluster
        self.store = cluster.store()
        self.folder = folder
        self.submitted_before = self.count_submissions()
        self.trained_before = {key for key in self.store.list_keys("checkpoints/") if key.endswith("latest.json")}
        self.conf = LONG | {"fine_tune.learning_rate": 1.5e-3 + number * 1e-10}
        self.run_id = cluster.trigger(**self.conf)
        self.step = 0
        self.started = 0.0

    def count_submissions(self) -> int:
        """Return how many submissions the demo server has counted."""
        code = ("from carclf.services.kaggle.client import KaggleClient; "
                "limits = KaggleClient('demo-cars').submission_limits(); "
                "print('counted', limits.num_total if limits else 0)")
        key = self.cluster.secrets["DEMO_KEY"]
        environment = ["-e", "CARCLF_KAGGLE_ENDPOINT=http://demo:8000", "-e", f"KAGGLE_API_TOKEN={key}"]
        demo = self.cluster.containers("demo")[0]
        command = ["docker", "exec", *environment, demo, "python", "-c", code]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])

    def checkpoint_step(self) -> int:
        """Return the step of this run's latest checkpoint; 0 if there is none or the store is down."""
        try:
            keys = {key for key in self.store.list_keys("checkpoints/") if key.endswith("latest.json")}
            objects = [self.store.read(key) for key in keys - self.trained_before]
        except ServiceError:
            return 0
        return max((json.loads(stored.data)["state"]["step"] for stored in objects if stored), default=0)

    def wait_until_mid_training(self) -> dict[str, Any]:
        """Wait until fine-tuning has made checkpoints, and return its task instance."""
        self._wait_for_checkpoint(20, 400)
        task = self.cluster.wait_for_task(self.run_id, "fine_tune", {"running"}, 10)
        lines = self.cluster.log(self.run_id, "fine_tune", task["try_number"])
        logged = [match.groups() for line in lines if (match := STEP.search(line))]
        self.step = max([*(_estimate_step(*groups) for groups in logged[-1:]), self.checkpoint_step()])
        self.started = time.monotonic()
        return task

    def seconds_lost(self) -> float:
        """Return the seconds from the fault to the next checkpoint."""
        self._wait_for_checkpoint(self.step, 900)
        return time.monotonic() - self.started

    def _wait_for_checkpoint(self, step: int, seconds: float) -> None:
        self.cluster.wait(lambda: self.checkpoint_step() > step or self.fine_tune_finished(), seconds,
                          f"fine_tune has a checkpoint after step {step}")

    def fine_tune_finished(self) -> bool:
        """Return whether fine-tuning has ended."""
        return self.cluster.tasks(self.run_id)["fine_tune"]["state"] in ("success", "failed")

    def steps_lost(self) -> int:
        """Return the number of steps that were trained before the fault and had to be repeated."""
        number = self.cluster.tasks(self.run_id)["fine_tune"]["try_number"]
        logs = [self.cluster.log(self.run_id, "fine_tune", attempt) for attempt in range(1, number + 1)]
        done = max([self.step, *(int(match[2]) for line in logs[0] if (match := STEP.search(line)))])
        resumed = [int(match[1]) for lines in logs[1:] for line in lines if (match := RESUMED.search(line))]
        return max(done - resumed[0], 0) if resumed else 0

    def reason(self, task: str = "fine_tune") -> str:
        """Return the error of the task's last failed attempt."""
        path = f"dags/car_retrain/dagRuns/{self.run_id}/taskInstances/{task}/xcomEntries/error"
        return str(self.cluster.call("GET", path)["value"])

    def check_store_is_consistent(self) -> None:
        """Check all files against their manifests, and that the champion's model exists."""
        copied = copy_store(self.store, FolderStore(self.folder))
        assert copied.damaged == []
        state = read_state(self.store)
        if state and state["champion"]:
            assert f"models/{state['champion']['model']}/manifest.json" in set(self.store.list_keys("models/"))

    def row(self, fault: str, outcome: str, seconds: float | None = None, steps: int | None = None) -> TrialResult:
        """Return the run's row, after a check that nothing is damaged."""
        self.check_store_is_consistent()
        counted = self.count_submissions() - self.submitted_before
        assert counted <= 1
        return TrialResult(fault, outcome, seconds, steps, counted)


def _estimate_step(written: str, step: str, rate: str) -> int:
    """Return the present step of a training that logged this line some seconds ago."""
    age = datetime.now(UTC) - datetime.strptime(f"{written} +0000", "%Y-%m-%d %H:%M:%S,%f %z")
    return int(int(step) + float(rate) * age.total_seconds())
