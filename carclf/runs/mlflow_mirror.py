"""What MLflow is told of a run, out of the run's record, the artifacts and ``champion.json``."""

import copy
import csv
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from carclf.artifacts import MADE, Artifact, Figures, Model
from carclf.champion import Event, read_state
from carclf.config import flat
from carclf.progress import heard_by, log
from carclf.runs.record import Record, read_record
from carclf.services.mlflow import (
    Aside,
    FollowedRun,
    ModelFacts,
    RunFacts,
    champion_version,
    name_champion,
    switched_on,
)
from carclf.services.storage import Store

# What a person looks at. Models, features and predictions stay in the store: the figures name their keys.
SHOWN = ("report.html", "report.json", "history.csv", "curves.png", "trials.csv", "learning_rate.png",
         "batch_size.png", "ensemble.json", "evaluation.json", "decision.json", "leaks.json")
MAX_BYTES = 30_000_000  # of a file: a report has its pictures in it
AIRFLOW_RUN = "CARCLF_AIRFLOW_RUN"  # the address of the Airflow run that a stage belongs to


@contextmanager
def tracked(record: Callable[[], Record], store: Store, stage: str) -> Iterator[None]:
    """While this holds, MLflow follows a stage of the run whose record this tells, where MLFLOW_TRACKING_URI is set."""
    if not switched_on():
        yield
        return
    follower, aside = _Follower(copy.deepcopy(record()), store), Aside()

    def listen(what: str, done: int, total: int, figures: Mapping[str, float]) -> None:
        if what == stage and "epoch" in figures and "val_accuracy" in figures:  # the end of an epoch
            aside.later(partial(follower.tell_epoch, what, dict(figures)))

    aside.later(follower.tell_begin)
    try:
        with heard_by(listen):
            yield
        aside.later(partial(follower.tell_all, copy.deepcopy(record()), stage))
    except BaseException as error:
        aside.later(partial(follower.tell_error, stage, error))
        raise
    finally:
        aside.end()


def tell_champion(store: Store) -> None:
    """Let MLflow's alias ``champion`` name the store's champion, where MLFLOW_TRACKING_URI is set."""
    if switched_on():
        aside = Aside()
        aside.later(partial(_tell_champion, store))
        aside.end()


class _Follower:
    """Brings one MLflow run up to what is known of the run; its methods are called by one thread."""

    def __init__(self, record: Record, store: Store) -> None:
        self.record, self.store = record, store
        self._run: FollowedRun | None = None

    @property
    def run(self) -> FollowedRun:
        """Found or made when it is first needed: MLflow may have been away before."""
        if self._run is None:
            self._run = FollowedRun(_facts(self.record, self.store))
            log.info("MLflow: %s", self._run.url)
        return self._run

    def tell_begin(self) -> None:
        if address := os.environ.get(AIRFLOW_RUN):
            self.run.log_tags({"airflow_run": address})
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
        skipped = any(done.get("skip") for done in record["stages"].values())
        self.run.set_status("FINISHED" if skipped or "score" in record["stages"] else "RUNNING")


def bring_up_to_date(run: FollowedRun, record: Record, store: Store) -> None:
    """Log figures, epochs and files of the record's stages; the tag ``carclf.<stage>`` says that MLflow has all."""
    run.log_figures(_figures(record, run.metrics))
    for stage, done in record["stages"].items():
        known = run.tags.get(f"carclf.{stage}") == done["key"]
        if known or (artifact := MADE[stage].find(store, done["key"])) is None:
            continue
        run.log_epochs(stage, _history(artifact, store))
        for name in SHOWN:
            if name in artifact.files and artifact.files[name].num_bytes <= MAX_BYTES:
                run.log_file(stage, artifact.path(store, name))
        _log_report(run, stage, artifact, done, store)
        run.log_tags({f"carclf.{stage}": done["key"]})


def _figures(record: Record, known: Mapping[str, float]) -> Figures:
    """``<stage>.<figure>`` of all stages, and of each how many seconds it took to make what it left."""
    found: Figures = {}
    for stage, done in record["stages"].items():
        found |= {f"{stage}.{name}": value for name, value in done.get("figures", {}).items()}
        if not (done.get("reused") and f"{stage}.stage_seconds" in known):
            found[f"{stage}.stage_seconds"] = done.get("seconds", 0.0)
    return found


def _history(artifact: Artifact, store: Store) -> list[dict[str, float]]:
    if "history.csv" not in artifact.files:
        return []
    with artifact.path(store, "history.csv").open(newline="") as file:
        return [{name: float(text) for name, text in row.items() if text} for row in csv.DictReader(file)
                if row.get("epoch")]


def _log_report(run: FollowedRun, stage: str, artifact: Artifact, done: Record, store: Store) -> None:
    """The report that a stage's figures name by its key, where it is no file of the stage's artifact: the audit's."""
    key = str(done.get("figures", {}).get("report", ""))
    if not key or key in {file.key for file in artifact.files.values()}:
        return
    with tempfile.TemporaryDirectory(prefix="carclf-") as folder:
        path = Path(folder) / Path(key).name
        store.download(key, path)
        run.log_file(stage, path)


def _facts(record: Record, store: Store) -> RunFacts:
    tags = {"carclf.store": store.url, "carclf.recipe": record["recipe"],
            "carclf.members": " ".join(record.get("members", []))}
    tags |= {f"version.{name}": version for name, version in record.get("versions", {}).items()}
    return RunFacts(_name(record), record["run"], record["created"], {"recipe": record["recipe"]} | flat(
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
    if champion_version(_name(record), event["model"]):
        return
    run = FollowedRun(_facts(record, store))
    bring_up_to_date(run, record, store)
    model = Model.find(store, event["model"])
    if model is None:
        return
    with tempfile.TemporaryDirectory(prefix="carclf-") as folder:
        manifest = Path(folder) / "manifest.json"
        manifest.write_text(model.model_dump_json(indent=1))
        run.log_file("model", manifest)
    reason = str(record["stages"].get("promote", {}).get("figures", {}).get("reason", ""))
    name_champion(_name(record), run, ModelFacts(model.key, f"{store.url}/models/{model.key}", reason))
