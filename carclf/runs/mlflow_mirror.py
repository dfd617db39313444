"""What MLflow is told of a run, out of the run's record, the artifacts and ``champion.json``."""

import copy
import csv
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from carclf.artifacts import Artifact, Metrics, Model
from carclf.champion import Event, read_state
from carclf.config import flatten
from carclf.progress import log, progress_listener
from carclf.runs.record import Record, read_record
from carclf.services.mlflow import (
    BackgroundQueue,
    MlflowRun,
    ModelDescription,
    RunDescription,
    mlflow_enabled,
    register_champion,
    set_champion_alias,
)
from carclf.services.storage import Store
from carclf.stages.chain import STAGES

# What a person looks at. Models, features and predictions stay in the store: the metrics name their keys.
SHOWN = ("report.html", "report.json", "history.csv", "curves.png", "trials.csv", "learning_rate.png",
         "batch_size.png", "ensemble.json", "evaluation.json", "decision.json", "leaks.json")
MAX_BYTES = 30_000_000  # of a file: a report has its pictures in it
AIRFLOW_RUN_URL = "CARCLF_AIRFLOW_RUN_URL"  # the address of the Airflow run that a stage belongs to


@contextmanager
def mirror_to_mlflow(record: Callable[[], Record], store: Store, stage: str) -> Iterator[None]:
    """While this holds, MLflow follows a stage of the run whose record this tells, where MLFLOW_TRACKING_URI is set."""
    if not mlflow_enabled():
        yield
        return
    follower, aside = _Follower(copy.deepcopy(record()), store), BackgroundQueue()

    def listen(what: str, done: int, total: int, metrics: Mapping[str, float]) -> None:
        if what == stage and "epoch" in metrics and "val_accuracy" in metrics:  # the end of an epoch
            aside.later(partial(follower.tell_epoch, what, dict(metrics)))

    aside.later(follower.tell_begin)
    try:
        with progress_listener(listen):
            yield
        aside.later(partial(follower.tell_all, copy.deepcopy(record()), stage))
    except BaseException as error:
        aside.later(partial(follower.tell_error, stage, error))
        raise
    finally:
        aside.end()


def sync_champion_alias(store: Store) -> None:
    """Let MLflow's alias ``champion`` name the store's champion, where MLFLOW_TRACKING_URI is set."""
    if mlflow_enabled():
        aside = BackgroundQueue()
        aside.later(partial(_tell_champion, store))
        aside.end()


class _Follower:
    """Brings one MLflow run up to what is known of the run; its methods are called by one thread."""

    def __init__(self, record: Record, store: Store) -> None:
        self.record, self.store = record, store
        self._run: MlflowRun | None = None

    @property
    def run(self) -> MlflowRun:
        """Found or made when it is first needed: MLflow may have been away before."""
        if self._run is None:
            self._run = MlflowRun(_facts(self.record, self.store))
            log.info("MLflow: %s", self._run.url)
        return self._run

    def tell_begin(self) -> None:
        if address := os.environ.get(AIRFLOW_RUN_URL):
            self.run.log_tags({"airflow_run_url": address})
        self.run.set_status("RUNNING")

    def tell_epoch(self, stage: str, row: Mapping[str, float]) -> None:
        self.run.log_epochs(stage, [row])

    def tell_error(self, stage: str, error: BaseException) -> None:
        self.run.log_tags({"error": f"{stage}: {type(error).__name__}: {error}"})
        self.run.set_status("FAILED" if isinstance(error, Exception) else "KILLED")

    def tell_all(self, record: Record, stage: str) -> None:
        """Whatever MLflow does not have yet of the stages that are done, and after promote who the champion is."""
        self.record, self._run = record, self.run.settled()
        self.run.log_tags({"error": ""} if self.run.tags.get("error") else {})
        bring_up_to_date(self.run, record, self.store)
        if stage == "promote":
            _tell_champion(self.store)
        skipped = any(done.get("skip_reason") for done in record["stages"].values())
        self.run.set_status("FINISHED" if skipped or "score" in record["stages"] else "RUNNING")


def bring_up_to_date(run: MlflowRun, record: Record, store: Store) -> None:
    """Log metrics, epochs and files of the record's stages; the tag ``carclf.<stage>`` says that MLflow has all."""
    run.log_metrics(_figures(record, run.metrics))
    for stage, done in record["stages"].items():
        known = run.tags.get(f"carclf.{stage}") == done["key"]
        if known or (artifact := STAGES[stage].artifact.find(store, done["key"])) is None:
            continue
        run.log_epochs(stage, _history(artifact, store))
        for name in SHOWN:
            if name in artifact.files and artifact.files[name].num_bytes <= MAX_BYTES:
                run.log_artifact(stage, artifact.path(store, name))
        _log_report(run, stage, artifact, done, store)
        run.log_tags({f"carclf.{stage}": done["key"]})


def _figures(record: Record, known: Mapping[str, float]) -> Metrics:
    """``<stage>.<figure>`` of all stages, and of each how many seconds it took to make what it left."""
    found: Metrics = {}
    for stage, done in record["stages"].items():
        found |= {f"{stage}.{name}": value for name, value in done.get("metrics", {}).items()}
        if not (done.get("reused") and f"{stage}.stage_seconds" in known):
            found[f"{stage}.stage_seconds"] = done.get("seconds", 0.0)
    return found


def _history(artifact: Artifact, store: Store) -> list[dict[str, float]]:
    if "history.csv" not in artifact.files:
        return []
    with artifact.path(store, "history.csv").open(newline="") as file:
        return [{name: float(text) for name, text in row.items() if text} for row in csv.DictReader(file)
                if row.get("epoch")]


def _log_report(run: MlflowRun, stage: str, artifact: Artifact, done: Mapping[str, Any], store: Store) -> None:
    """The report that a stage's metrics name by its key, where it is no file of the stage's artifact: the audit's."""
    key = str(done.get("metrics", {}).get("report", ""))
    if not key or key in {file.key for file in artifact.files.values()}:
        return
    with tempfile.TemporaryDirectory(prefix="carclf-") as folder:
        path = Path(folder) / Path(key).name
        store.download(key, path)
        run.log_artifact(stage, path)


def _facts(record: Record, store: Store) -> RunDescription:
    tags = {"carclf.store": store.url, "carclf.recipe": record["recipe"],
            "carclf.members": " ".join(record.get("members", []))}
    tags |= {f"version.{name}": version for name, version in record.get("versions", {}).items()}
    return RunDescription(_name(record), record["run"], record["created"], {"recipe": record["recipe"]} | flatten(
        record["config"]), {name: text for name, text in tags.items() if text})


def _name(record: Record) -> str:
    """Of the experiment and of the registered model: MLFLOW_EXPERIMENT_NAME, or the competition's."""
    return os.environ.get("MLFLOW_EXPERIMENT_NAME") or str(record["config"]["competition"])


def _tell_champion(store: Store) -> None:
    """As often as the champion changes meanwhile: who comes last says what is so."""
    told = None
    while (state := read_state(store)) and (event := state["champion"]) and event["model"] != told:
        _name_champion(event, store)
        told = event["model"]


def _name_champion(event: Event, store: Store) -> None:
    record = read_record(store, event["run"]) if event.get("run") else None
    if record is None:
        log.warning("MLflow: the record of the run that made the champion %s is gone: it is not registered",
                    event["model"])
        return
    if set_champion_alias(_name(record), event["model"]):
        return
    run = MlflowRun(_facts(record, store))
    bring_up_to_date(run, record, store)
    model = Model.find(store, event["model"])
    if model is None:
        return
    with tempfile.TemporaryDirectory(prefix="carclf-") as folder:
        manifest = Path(folder) / "manifest.json"
        manifest.write_text(model.model_dump_json(indent=1))
        run.log_artifact("model", manifest)
    reason = str(record["stages"].get("promote", {}).get("metrics", {}).get("reason", ""))
    register_champion(_name(record), run, ModelDescription(model.key, f"{store.url}/models/{model.key}", reason))
