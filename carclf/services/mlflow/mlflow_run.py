"""One MLflow run per carclf run: found again by its tags, and never sent the same data twice."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from carclf.redaction import redact
from carclf.services.mlflow.background import redact_credentials

if TYPE_CHECKING:
    from mlflow.entities import Metric, Run

# MLflow's limits for a request and for a text.
MAX_METRICS = 900
MAX_TEXTS = 100
MAX_TEXT_LENGTH = 5000
EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}  # else the UI shows a language model's
T = TypeVar("T")


@dataclass(frozen=True)
class RunDescription:
    """A run as MLflow shows it. Id and creation time identify the run: two stores may contain the same id."""

    experiment: str
    run_id: str
    created: str
    params: Mapping[str, Any]
    tags: Mapping[str, str]


class MlflowRun:
    """The MLflow run of a carclf run, created if missing; ``tags`` and ``metrics`` are those that MLflow has."""

    def __init__(self, description: RunDescription) -> None:
        from mlflow import MlflowClient

        self.client = MlflowClient()
        self.description = description
        experiment = self._experiment()
        run = self._find(experiment) or self._create(experiment)
        self.id = run.info.run_id
        self.status = run.info.status
        self.tags = dict(run.data.tags)
        self.metrics = dict(run.data.metrics)
        self.url = f"{redact_credentials(self.client.tracking_uri)}/#/experiments/{experiment}/runs/{self.id}"
        self._epochs: dict[str, set[int]] = {}
        self._log_params({name: value for name, value in description.params.items() if name not in run.data.params})
        self.log_tags(description.tags)

    def _experiment(self) -> str:
        from mlflow.exceptions import MlflowException

        name = self.description.experiment
        if experiment := self.client.get_experiment_by_name(name):
            return str(experiment.experiment_id)
        try:
            return str(self.client.create_experiment(name, tags=EXPERIMENT_TAGS))
        except MlflowException:
            if experiment := self.client.get_experiment_by_name(name):  # another worker was faster
                return str(experiment.experiment_id)
            raise

    def _find(self, experiment: str) -> "Run | None":
        query = (f"tags.`carclf.run` = '{self.description.run_id}' and "
                 f"tags.`carclf.created` = '{self.description.created}'")
        runs = self.client.search_runs([experiment], query)
        return min(runs, key=lambda run: (run.info.start_time, run.info.run_id), default=None)

    def _create(self, experiment: str) -> "Run":
        return self.client.create_run(experiment, run_name=self.description.run_id, tags={
            "carclf.run": self.description.run_id, "carclf.created": self.description.created,
            "mlflow.source.name": "carclf", "mlflow.source.type": "JOB",
        })

    def deduplicated(self) -> "MlflowRun":
        """Return the first of several runs that workers created simultaneously; delete this run if it is a later one.

        Call this some time after the creation: MLflow does not guarantee immediate consistency.
        """
        first = MlflowRun(self.description)
        if first.id == self.id:
            return self
        self.client.delete_run(self.id)
        return first

    def _log_params(self, params: Mapping[str, Any]) -> None:
        from mlflow.entities import Param
        from mlflow.exceptions import MlflowException

        for batch in _batches(params.items(), MAX_TEXTS):
            entities = [Param(name, str(value)[:MAX_TEXT_LENGTH]) for name, value in batch]
            try:
                self.client.log_batch(self.id, params=entities)
            except MlflowException:
                if not dict(batch).keys() <= self.client.get_run(self.id).data.params.keys():
                    raise  # otherwise another worker logged the same parameters

    def log_tags(self, tags: Mapping[str, str]) -> None:
        """Set the tags that are new or changed."""
        self._log([], tags)

    def log_epochs(self, stage: str, rows: Sequence[Mapping[str, float]]) -> None:
        """Log rows of ``history.csv`` as metrics ``<stage>/<column>``, except for epochs that MLflow has."""
        if not rows:
            return
        if stage not in self._epochs:
            history = self.client.get_metric_history(self.id, f"{stage}/val_accuracy")
            self._epochs[stage] = {metric.step for metric in history}
        logged = self._epochs[stage]
        rows = [row for row in rows if int(row["epoch"]) not in logged]
        self._log([_metric(f"{stage}/{name}", value, int(row["epoch"]))
                   for row in rows for name, value in row.items() if name != "epoch"], {})
        logged |= {int(row["epoch"]) for row in rows}

    def log_metrics(self, metrics: Mapping[str, float | int | str | list[str]]) -> None:
        """Log the numbers as metrics and the texts as tags, if they are new or changed."""
        numbers = {name: float(value) for name, value in metrics.items() if isinstance(value, (int, float))}
        self._log([_metric(name, value, 0) for name, value in numbers.items() if value != self.metrics.get(name)],
                  {name: value for name, value in metrics.items() if isinstance(value, str)})
        self.metrics |= numbers

    def log_artifact(self, folder: str, path: Path) -> None:
        """Upload a file to the run's artifacts."""
        self.client.log_artifact(self.id, str(path), folder)

    def set_status(self, status: str) -> None:
        """Set the status to RUNNING, FINISHED, FAILED or KILLED."""
        if status == self.status:
            return
        if status == "RUNNING":
            self.client.update_run(self.id, status)
        else:
            self.client.set_terminated(self.id, status)
        self.status = status

    def _log(self, metrics: "Sequence[Metric]", tags: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        texts = {name: redact(text)[:MAX_TEXT_LENGTH] for name, text in tags.items()}
        changed = {name: text for name, text in texts.items() if text != self.tags.get(name, "")}
        batches = zip_longest(_batches(metrics, MAX_METRICS), _batches(changed.items(), MAX_TEXTS))
        for metric_batch, tag_batch in batches:
            run_tags = [RunTag(name, text) for name, text in tag_batch or []]
            self.client.log_batch(self.id, metrics=metric_batch or [], tags=run_tags)
        self.tags |= changed


def _metric(name: str, value: float, step: int) -> "Metric":
    from mlflow.entities import Metric

    return Metric(name, value, int(time.time() * 1000), step)


def _batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    remaining = list(items)
    return (remaining[start : start + size] for start in range(0, len(remaining), size))
