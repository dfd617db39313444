"""One MLflow run for each run of carclf: found again by its tags, and told nothing twice."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from carclf.services.mlflow.background import redact_credentials

if TYPE_CHECKING:
    from mlflow.entities import Metric, Run

MAX_METRICS, MAX_TEXTS = 900, 100  # in one request
MAX_LENGTH = 5000  # of a text
KIND = {"mlflow.experimentKind": "custom_model_development"}  # how MLflow's UI shows it: not as a language model
Row = Mapping[str, float]
T = TypeVar("T")


@dataclass(frozen=True)
class RunDescription:
    """What a run is known by (its id, and when it was begun, since two stores may have one id), and what it is."""

    experiment: str
    run_id: str
    created: str
    params: Mapping[str, Any]
    tags: Mapping[str, str]


class MlflowRun:
    """The MLflow run of a run, made where there is none; ``tags`` and ``metrics`` are what MLflow has of it."""

    def __init__(self, facts: RunDescription) -> None:
        from mlflow import MlflowClient

        self.client, self.facts = MlflowClient(), facts
        experiment = self._experiment()
        run = self._first(experiment) or self._begun(experiment)
        self.id, self.status = run.info.run_id, run.info.status
        self.tags, self.metrics = dict(run.data.tags), dict(run.data.metrics)
        self._epochs: dict[str, set[int]] = {}
        self._log_params({name: value for name, value in facts.params.items() if name not in run.data.params})
        self.log_tags(facts.tags)
        self.url = f"{redact_credentials(self.client.tracking_uri)}/#/experiments/{experiment}/runs/{self.id}"

    def _experiment(self) -> str:
        from mlflow.exceptions import MlflowException

        name = self.facts.experiment
        if found := self.client.get_experiment_by_name(name):
            return str(found.experiment_id)
        try:
            return str(self.client.create_experiment(name, tags=KIND))
        except MlflowException:
            if found := self.client.get_experiment_by_name(name):  # another worker was first
                return str(found.experiment_id)
            raise

    def _first(self, experiment: str) -> "Run | None":
        wanted = f"tags.`carclf.run` = '{self.facts.run_id}' and tags.`carclf.created` = '{self.facts.created}'"
        found = self.client.search_runs([experiment], wanted)
        return min(found, key=lambda run: (run.info.start_time, run.info.run_id), default=None)

    def _begun(self, experiment: str) -> "Run":
        return self.client.create_run(experiment, run_name=self.facts.run_id, tags={
            "carclf.run": self.facts.run_id, "carclf.created": self.facts.created, "mlflow.source.name": "carclf",
            "mlflow.source.type": "JOB",
        })

    def settled(self) -> "MlflowRun":
        """This run; where two workers made one at the same moment, the first, and this one is deleted.

        Ask a while after the beginning: MLflow promises nothing at the moment itself.
        """
        first = MlflowRun(self.facts)
        if first.id == self.id:
            return self
        self.client.delete_run(self.id)
        return first

    def _log_params(self, params: Mapping[str, Any]) -> None:
        from mlflow.entities import Param
        from mlflow.exceptions import MlflowException

        for some in _in_parts(params.items(), MAX_TEXTS):
            try:
                self.client.log_batch(self.id, params=[Param(name, str(value)[:MAX_LENGTH]) for name, value in some])
            except MlflowException:
                if not dict(some).keys() <= self.client.get_run(self.id).data.params.keys():
                    raise  # else another worker was first with the same ones

    def log_tags(self, tags: Mapping[str, str]) -> None:
        """Set those that MLflow has not, or has otherwise."""
        self._log([], tags)

    def log_epochs(self, stage: str, rows: Sequence[Row]) -> None:
        """Log rows of ``history.csv`` as metrics ``<stage>/<column>`` by epoch; epochs that MLflow has are left out."""
        if not rows:
            return
        if stage not in self._epochs:
            history = self.client.get_metric_history(self.id, f"{stage}/val_accuracy")
            self._epochs[stage] = {metric.step for metric in history}
        known = self._epochs[stage]
        new = [row for row in rows if int(row["epoch"]) not in known]
        self._log([_metric(f"{stage}/{name}", value, int(row["epoch"]))
                   for row in new for name, value in row.items() if name != "epoch"], {})
        known |= {int(row["epoch"]) for row in new}

    def log_metrics(self, metrics: Mapping[str, float | int | str | list[int]]) -> None:
        """Log numbers as metrics and texts as tags, those that are new or changed."""
        numbers = {name: float(value) for name, value in metrics.items() if not isinstance(value, str)}
        self._log([_metric(name, value, 0) for name, value in numbers.items() if value != self.metrics.get(name)],
                  {name: value for name, value in metrics.items() if isinstance(value, str)})
        self.metrics |= numbers

    def log_artifact(self, folder: str, path: Path) -> None:
        """Put a file among the run's artifacts."""
        self.client.log_artifact(self.id, str(path), folder)

    def set_status(self, status: str) -> None:
        """RUNNING, FINISHED, FAILED or KILLED."""
        if status == self.status:
            return
        if status == "RUNNING":
            self.client.update_run(self.id, status)
        else:
            self.client.set_terminated(self.id, status)
        self.status = status

    def _log(self, metrics: "Sequence[Metric]", tags: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        new = {name: text[:MAX_LENGTH] for name, text in tags.items() if text[:MAX_LENGTH] != self.tags.get(name, "")}
        for some, texts in zip_longest(_in_parts(metrics, MAX_METRICS), _in_parts(new.items(), MAX_TEXTS)):
            self.client.log_batch(self.id, metrics=some or [], tags=[RunTag(*tag) for tag in texts or []])
        self.tags |= new


def _metric(name: str, value: float, step: int) -> "Metric":
    from mlflow.entities import Metric

    return Metric(name, value, int(time.time() * 1000), step)


def _in_parts(things: Iterable[T], size: int) -> Iterator[list[T]]:
    left = list(things)
    return (left[start : start + size] for start in range(0, len(left), size))
