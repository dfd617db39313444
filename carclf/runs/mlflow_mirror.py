"""Mirror runs to MLflow: everything comes from the run record, the artifacts and ``champion.json``."""

import copy
import csv
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from carclf.artifacts import Artifact, Metrics, Model
from carclf.champion import read_state
from carclf.champion_history import Event
from carclf.config import flatten
from carclf.config.sources import parse_source
from carclf.errors import StageSkipped
from carclf.progress import log, progress_listener
from carclf.runs.record import Record, read_record
from carclf.services.mlflow import (
    BackgroundQueue,
    MlflowRun,
    ModelDescription,
    RunDescription,
    import_mlflow,
    mlflow_configured,
    mlflow_enabled,
    raising_service_errors,
    register_champion,
    set_champion_alias,
)
from carclf.services.storage import Store
from carclf.stages.chain import STAGES
from carclf.temporary import temporary_folder

# Files for people. Models, features and predictions stay in the store; the metrics contain their keys.
UPLOADED_FILES = ("report.html", "report.json", "history.csv", "curves.png", "trials.csv", "batch_size.png",
                  "ensemble.json", "evaluation.json", "decision.json", "leaks.json")
MAX_FILE_BYTES = 30_000_000  # reports contain their images
EPOCH_END_METRICS = ("val_accuracy", "step")  # a refit has no validation, and train_head reports no step
AIRFLOW_RUN_URL_ENV_VAR = "CARCLF_AIRFLOW_RUN_URL"


@contextmanager
def mirror_to_mlflow(record: Callable[[], Record], store: Store, stage: str) -> Iterator[None]:
    """Mirror a stage to MLflow while it runs and when it ends. Do nothing without MLFLOW_TRACKING_URI.

    ``record`` returns the current record of the run.
    """
    if not mlflow_enabled():
        yield
        return
    mirror = _RunMirror(copy.deepcopy(record()), store)
    queue = BackgroundQueue()

    def on_progress(activity: str, done: int, total: int, metrics: Mapping[str, float]) -> None:
        if activity == stage and "epoch" in metrics and not metrics.keys().isdisjoint(EPOCH_END_METRICS):
            # The meter adds the rate of the activity, which is not a column of history.csv.
            row = {name: value for name, value in metrics.items() if name != "per_second"}
            queue.submit(partial(mirror.log_epoch, stage, row))

    queue.submit(mirror.log_start)
    try:
        with progress_listener(on_progress):
            yield
        queue.submit(partial(mirror.log_end, copy.deepcopy(record()), stage))
    except BaseException as error:
        queue.submit(partial(mirror.log_error, stage, error))
        raise
    finally:
        queue.close()


def sync_champion_alias(store: Store) -> None:
    """Point MLflow's alias ``champion`` at the store's champion. Do nothing without MLFLOW_TRACKING_URI."""
    if mlflow_enabled():
        queue = BackgroundQueue()
        queue.submit(partial(_sync_champion, store))
        queue.close()


def publish_to_mlflow(store: Store) -> tuple[str, bool]:
    """Register the champion and set the alias; return the registered model's URI, and if it was registered before.

    Unlike ``sync_champion_alias``, raise errors: StageSkipped if MLFLOW_TRACKING_URI is not set, there is no champion
    or the record of its run is missing; ConfigError if MLflow is not installed; ServiceError if MLflow fails.
    """
    if not mlflow_configured():
        raise StageSkipped("MLFLOW_TRACKING_URI is not set")
    import_mlflow()
    with raising_service_errors():
        uri, is_registered = _sync_champion(store)
    if not uri:
        raise StageSkipped(f"{store.url} has no champion, or its files or the record of its run are missing")
    return uri, is_registered


class _RunMirror:
    """Brings an MLflow run up to date with a run's record; a single thread calls its methods."""

    def __init__(self, record: Record, store: Store) -> None:
        self.record = record
        self.store = store
        self._run: MlflowRun | None = None

    @property
    def run(self) -> MlflowRun:
        """Return the MLflow run; find or create it on first use, because MLflow may be unreachable earlier."""
        if self._run is None:
            self._run = MlflowRun(_describe_run(self.record, self.store))
            log.info("MLflow: %s", self._run.url)
        return self._run

    def log_start(self) -> None:
        if url := os.environ.get(AIRFLOW_RUN_URL_ENV_VAR):
            self.run.log_tags({"airflow_run_url": url})
        self.run.set_status("RUNNING")

    def log_epoch(self, stage: str, row: Mapping[str, float]) -> None:
        self.run.log_epochs(stage, [row])

    def log_error(self, stage: str, error: BaseException) -> None:
        self.run.log_tags({"error": f"{stage}: {type(error).__name__}: {error}"})
        self.run.set_status("FAILED" if isinstance(error, Exception) else "KILLED")

    def log_end(self, record: Record, stage: str) -> None:
        """Log the data of finished stages that MLflow lacks and, after promote, the champion."""
        self.record = record
        self._run = self.run.deduplicated()
        if self.run.tags.get("error"):
            self.run.log_tags({"error": ""})
        bring_up_to_date(self.run, record, self.store)
        if stage == "promote":
            _sync_champion(self.store)
        is_skipped = any(attempt.get("state") == "skipped" for attempt in record["attempts"].values()) or any(
            result.get("skip_reason") for result in record["stages"].values())
        self.run.set_status("FINISHED" if is_skipped or "score" in record["stages"] else "RUNNING")


def bring_up_to_date(run: MlflowRun, record: Record, store: Store) -> None:
    """Log metrics, epochs and files of the record's stages; the tag ``carclf.<stage>`` marks a complete stage."""
    run.log_metrics(_stage_metrics(record, run.metrics))
    for stage, result in record["stages"].items():
        if run.tags.get(f"carclf.{stage}") == result["key"]:
            continue
        if (artifact := STAGES[stage].artifact.find(store, result["key"])) is None:
            continue
        run.log_epochs(stage, _read_history(artifact, store))
        for name in UPLOADED_FILES:
            if name in artifact.files and artifact.files[name].num_bytes <= MAX_FILE_BYTES:
                run.log_artifact(stage, artifact.path(store, name))
        report = str(result.get("metrics", {}).get("report", ""))
        if report and report not in {file.key for file in artifact.files.values()}:  # the report of the audit
            _log_file(run, stage, report, store)
        run.log_tags({f"carclf.{stage}": result["key"]})


def _stage_metrics(record: Record, logged: Mapping[str, float]) -> Metrics:
    """Return ``<stage>.<metric>`` of all stages, and the seconds that each took to create its artifact."""
    metrics: Metrics = {}
    for stage, result in record["stages"].items():
        metrics |= {f"{stage}.{name}": value for name, value in result.get("metrics", {}).items()}
        duration = f"{stage}.stage_seconds"
        if not (result.get("reused") and duration in logged):
            metrics[duration] = result.get("seconds", 0.0)
    return metrics


def _read_history(artifact: Artifact, store: Store) -> list[dict[str, float]]:
    if "history.csv" not in artifact.files:
        return []
    with artifact.path(store, "history.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row.get("epoch")]
    return [{name: float(text) for name, text in row.items() if text} for row in rows]


def _log_file(run: MlflowRun, stage: str, key: str, store: Store) -> None:
    with temporary_folder() as folder:
        path = folder / Path(key).name
        store.download(key, path)
        run.log_artifact(stage, path)


def _describe_run(record: Record, store: Store) -> RunDescription:
    recipe = record["recipe"]
    tags = {"carclf.store": store.url, "carclf.recipe": recipe, "carclf.members": " ".join(record.get("members", []))}
    tags |= {f"version.{name}": version for name, version in record.get("versions", {}).items()}
    tags = {name: text for name, text in tags.items() if text}
    params = {"recipe": recipe} | flatten(record["config"])
    return RunDescription(_experiment_name(record), record["run"], record["created"], params, tags)


def _experiment_name(record: Record) -> str:
    """Return the name of the experiment and the registered model: MLFLOW_EXPERIMENT_NAME, or the source's title."""
    return os.environ.get("MLFLOW_EXPERIMENT_NAME") or parse_source(str(record["config"]["data"]["source"])).title


def _sync_champion(store: Store) -> tuple[str, bool]:
    """Register the champion, and again if it changed meanwhile, so that MLflow ends with the latest champion.

    Return the URI of the registered model, and whether it was registered before.
    """
    registered = None
    outcome = ("", True)
    while (state := read_state(store)) and (event := state["champion"]) and event["model"] != registered:
        outcome = _register_champion(event, store)
        registered = event["model"]
    return outcome


def _register_champion(event: Event, store: Store) -> tuple[str, bool]:
    record = read_record(store, event["run"]) if event.get("run") else None
    if record is None:
        log.warning('MLflow: champion not registered model=%s reason="the record of its run is missing"',
                    event["model"])
        return "", True
    name = _experiment_name(record)
    uri = f"models:/{name}@champion"
    if set_champion_alias(name, event["model"]):
        return uri, True
    run = MlflowRun(_describe_run(record, store))
    bring_up_to_date(run, record, store)
    if (model := Model.find(store, event["model"])) is None:
        return "", True
    _log_file(run, "model", f"models/{model.key}/manifest.json", store)
    reason = str(record["stages"].get("promote", {}).get("metrics", {}).get("reason", ""))
    register_champion(name, run, ModelDescription(model.key, f"{store.url}/models/{model.key}", reason))
    return uri, False
