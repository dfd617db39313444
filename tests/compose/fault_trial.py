"""One run of the cluster that something happens to, and what became of it."""

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

# Long enough to be hit in the middle, saved every few seconds; any model passes the gate.
LONG = {"fine_tune.epochs": 45, "fine_tune.patience": 100, "fine_tune.checkpoint_minutes": 0.05, "gate.threshold": 0.0,
        "gate.min_recall": 0.0, "gate.max_calibration_error": 1.0}
STEP = re.compile(r"^(\S+ \S+) fine_tune: (\d+)/\d+, ([\d.]+)/s")
RESUMED = re.compile(r"taken up at step (\d+)")


@dataclass(frozen=True)
class TrialResult:
    """A line of the table; None where there is nothing to measure."""

    fault: str
    outcome: str
    seconds_lost: float | None
    steps_lost: int | None
    submissions: int


class FaultTrial:
    """One run of its own, whose fine-tuning no other run has done; what became of it."""

    def __init__(self, cluster: Cluster, number: int, folder: Path) -> None:
        self.cluster, self.store, self.folder = cluster, cluster.store(), folder
        self.submitted_before = self.count_submissions()
        self.trained_before = {key for key in self.store.list_keys("checkpoints/") if key.endswith("latest.json")}
        self.conf = LONG | {"fine_tune.learning_rate": 1.5e-3 + number * 1e-10}
        self.run_id = cluster.trigger(**self.conf)
        self.step, self.at = 0, 0.0

    def count_submissions(self) -> int:
        """How many the demo's Kaggle has counted."""
        code = ("from carclf.services.kaggle.client import KaggleClient; left = KaggleClient('demo-cars').remaining_submissions(); "
                "print('counted', 0 if left is None else 1000 - left)")
        environment = ["-e", "CARCLF_KAGGLE_ENDPOINT=http://demo:8000", "-e", "KAGGLE_API_TOKEN=demo-key"]
        demo = self.cluster.containers("demo")[0]
        said = subprocess.run(["docker", "exec", *environment, demo, "python", "-c", code], capture_output=True,
                              text=True, check=True).stdout
        return int(said.split()[-1])

    def checkpoint_step(self) -> int:
        """The step of this run's latest checkpoint; 0 where there is none yet, or the store is away."""
        try:
            keys = {key for key in self.store.list_keys("checkpoints/") if key.endswith("latest.json")} - self.trained_before
            states = [json.loads(found.data) for key in keys if (found := self.store.read(key))]
        except ServiceError:
            return 0
        return max((state["state"]["step"] for state in states if state), default=0)

    def wait_until_mid_training(self) -> dict[str, Any]:
        """Wait until fine-tuning is well under way; its task instance."""
        self.cluster.wait(lambda: self.checkpoint_step() > 20 or self.fine_tune_finished(), 400, "fine_tune is in its middle")
        task = self.cluster.wait_for_task(self.run_id, "fine_tune", {"running"}, 10)
        lines = self.cluster.log(self.run_id, "fine_tune", task["try_number"])
        told = [found.groups() for line in lines if (found := STEP.search(line))]
        self.step, self.at = max([*(_step_now(*line) for line in told[-1:]), self.checkpoint_step()]), time.monotonic()
        return task

    def seconds_lost(self) -> float:
        """From the fault until training is further than it was then."""
        self.cluster.wait(lambda: self.checkpoint_step() > self.step or self.fine_tune_finished(), 900, "training is as far again")
        return time.monotonic() - self.at

    def fine_tune_finished(self) -> bool:
        return self.cluster.tasks(self.run_id)["fine_tune"]["state"] in ("success", "failed")

    def steps_lost(self) -> int:
        """What had been trained before the fault and had to be trained again."""
        number = self.cluster.tasks(self.run_id)["fine_tune"]["try_number"]
        logs = [self.cluster.log(self.run_id, "fine_tune", one) for one in range(1, number + 1)]
        done = max([self.step, *(int(found[2]) for line in logs[0] if (found := STEP.search(line)))])
        taken_up = [int(found[1]) for lines in logs[1:] for line in lines if (found := RESUMED.search(line))]
        return max(done - taken_up[0], 0) if taken_up else 0

    def reason(self, task: str = "fine_tune") -> str:
        """What the task's last failed attempt said is wrong."""
        path = f"dags/car_retrain/dagRuns/{self.run_id}/taskInstances/{task}/xcomEntries/error"
        return str(self.cluster.call("GET", path)["value"])

    def check_store_is_consistent(self) -> None:
        """Every file that a manifest names is in the store and is what the manifest says; the champion is one run's."""
        copied = copy_store(self.store, FolderStore(self.folder))
        assert copied.damaged == []
        state = read_state(self.store)
        if state and state["champion"]:
            assert f"models/{state['champion']['model']}/manifest.json" in set(self.store.list_keys("models/"))

    def row(self, fault: str, outcome: str, seconds: float | None = None, steps: int | None = None) -> TrialResult:
        """The run's line, once it is certain that it left nothing broken."""
        self.check_store_is_consistent()
        counted = self.count_submissions() - self.submitted_before
        assert counted <= 1
        return TrialResult(fault, outcome, seconds, steps, counted)


def _step_now(written: str, step: str, rate: str) -> int:
    """Where a training is by now that wrote this line some seconds ago."""
    age = datetime.now(UTC) - datetime.strptime(f"{written} +0000", "%Y-%m-%d %H:%M:%S,%f %z")
    return int(int(step) + float(rate) * age.total_seconds())
