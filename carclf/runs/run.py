"""A run: its record in the store, and the table that says what each stage is given."""

import json
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

from pydantic import ValidationError

from carclf.artifacts import (
    STAGE_ARTIFACTS,
    Archive,
    Artifact,
    Dataset,
    Evaluation,
    Metrics,
    MetricValue,
    Model,
    Split,
    StageContext,
    Submission,
)
from carclf.champion import champion_split
from carclf.config import NAMED_WEIGHTS, Config, flatten, require_weights
from carclf.errors import CarclfError, ConfigError, DataError, StageWaiting
from carclf.hardware import describe_machine, package_versions
from carclf.progress import STAGE_END_COLOR, STAGE_START_COLOR, log, printable
from carclf.runs.index import update_index
from carclf.runs.live import record_progress
from carclf.runs.mlflow_mirror import mirror_to_mlflow
from carclf.runs.record import Record, change_record, parse_record, read_record, record_key
from carclf.services.storage import Store, format_command
from carclf.services.telemetry import export_stage_metrics
from carclf.stages.download import download
from carclf.stages.evaluate import evaluate
from carclf.stages.fine_tune import find_setting as try_setting
from carclf.stages.fine_tune import fine_tune
from carclf.stages.promote import promote
from carclf.stages.score import score
from carclf.stages.split import split
from carclf.stages.submit import submit
from carclf.stages.train_head import train_head
from carclf.stages.validate import validate

A = TypeVar("A", bound=Artifact)
OF_MEMBERS = ("download", "validate", "split", "train_head", "fine_tune")  # what an ensemble's run never does itself
OF_THE_MAKING = ("reused", "seconds", "ended", "gpu", "machine")  # what a stage's first result says of how it came
MAX_REASON = 2000  # characters of an error's words in the record


@dataclass(frozen=True)
class Result:
    """How a stage ended; ``skip_reason`` says why what follows is skipped, ``waiting`` that it must be run again.

    ``until`` is the time, in ISO format, before which that is of no use; "" where any time will do.
    """

    stage: str
    key: str
    reused: bool
    seconds: float
    metrics: Metrics
    summary: str
    skip_reason: str = ""
    waiting: bool = False
    until: str = ""

    def line(self) -> str:
        """How a terminal shows it."""
        return f"{self.stage:<12}{self.seconds:8.1f} s  {'reused, ' if self.reused else ''}{printable(self.summary)}"


class Run:
    """One run's configuration and results, kept in ``runs/<run id>.json``."""

    def __init__(self, run_id: str, store: Store, record: Record) -> None:
        self.run_id, self.store, self.record = run_id, store, record
        self.approved_by = ""  # who agreed to this run's promotion, where gate.approval asks for somebody
        self.pause_epoch = 0  # after which fine-tuning stops for now, where recipes race
        self.override = ""  # why it is promoted though the gate refuses it
        try:
            self.config = Config.model_validate(record["config"])
        except ValidationError as error:
            raise ConfigError(f"The run {run_id!r} was begun by another version of carclf: its settings are not known "
                              "here. Begin a new run.") from error
        self.salt = run_id if self.config.force else ""
        self.context = StageContext(store, self.config, self.salt)

    @classmethod
    def start_or_resume(cls, run_id: str, store: Store, recipe: str, config: Config) -> "Run":
        """Write a new record, or go on with the run of that id; ConfigError where its configuration is another."""
        path, settings = record_key(run_id), config.model_dump()
        if "://" not in config.model.weights and config.model.weights not in NAMED_WEIGHTS:
            require_weights(config.model.weights)  # now, and not after the download
        record = {
            "run": run_id, "recipe": recipe, "config": settings, "stages": {}, "attempts": {}, "created": _now(),
            "versions": package_versions(), "machine": platform.platform(),
        }
        found = store.read(path)
        if found is None and store.write_if(path, json.dumps(record, indent=1).encode(), None):
            update_index(store, run_id)
            return cls(run_id, store, record)
        run = cls(run_id, store, parse_record(found.data, run_id, store)) if found else cls.load(run_id, store)
        if run.config != config:
            raise ConfigError(f"The run {run_id!r} is in {store.url} with other settings. Take another --run, or leave "
                              "it out for a new one.")
        return run

    @classmethod
    def load(cls, run_id: str, store: Store) -> "Run":
        """Read the record; ConfigError where there is none, DataError where it is damaged."""
        if (record := read_record(store, run_id)) is None:
            raise ConfigError(f"There is no run {run_id!r} in {store.url}. Those that are there: "
                              f"{format_command(store, 'runs list')}. To begin it: "
                              f"{format_command(store, f'download --run {run_id}')}")
        return cls(run_id, store, record)

    def artifact(self, kind: type[A], stage: str) -> A:
        """What a stage of this run left; ConfigError where it did not run yet."""
        done = self.record["stages"].get(stage)
        if done is None or done.get("waiting"):
            raise ConfigError(f"{stage} has not run in {self.run_id!r} yet. "
                              f"Run it first: {format_command(self.store, f'{stage} --run {self.run_id}')}")
        if (found := kind.find(self.store, done["key"])) is None:
            raise DataError(f"The artifact {kind.folder}/{done['key']} is gone from {self.store.url}. "
                            f"Make it again: {format_command(self.store, f'{stage} --run {self.run_id}')}")
        return found

    def run_stage(self, stage: str) -> Result:
        """Run one stage, log its begin and end, and note its result in the record; who listens does so meanwhile."""
        begun = export_stage_metrics(stage, self.record["recipe"], self.record["created"])
        with mirror_to_mlflow(lambda: self.record, self.store, stage), begun as ended:
            result = self._run_stage(stage)
            ended("waiting" if result.waiting else "reused" if result.reused else "created", result.metrics)
        return result

    def _run_stage(self, stage: str) -> Result:
        log.info("%s: run %s, store %s", stage, self.run_id, self.store.url, extra={"color": STAGE_START_COLOR})
        if "members" in self.record and stage in OF_MEMBERS:
            raise ConfigError(f"The run {self.run_id!r} is an ensemble of {', '.join(self.record['members'])}: they "
                              f"did {stage}. Join them again by carclf ensemble.")
        log.info("%s: %s", stage, self._given(stage), extra={"color": STAGE_START_COLOR})
        started = time.monotonic()
        try:
            with self._attempt(stage), record_progress(self.store, self.run_id, stage):
                artifact, reused = STAGES[stage](self)
        except StageWaiting as waiting:
            log.info("%s: %s", stage, waiting)
            return Result(stage, "", False, 0.0, waiting.metrics, str(waiting), waiting=True, until=_until(waiting))
        seconds = round(time.monotonic() - started, 2)
        metrics = _with_places(stage, artifact)
        summary = ", ".join(f"{name} {_short(value)}" for name, value in metrics.items()
                            if name not in ("reason", "class_names") and value != "")
        result = Result(stage, artifact.key, reused, seconds, metrics, summary, skip_reason=_skip(stage, self.config, metrics))
        self.record_result(result)
        how = f"reused {artifact.folder}/{artifact.key}" if reused else f"made {artifact.folder}/{artifact.key}"
        log.info("%s: %s in %.1f s: %s", stage, how, seconds, summary, extra={"color": STAGE_END_COLOR})
        if result.skip_reason:
            log.info("%s: %s; what follows is skipped", stage, result.skip_reason)
        if result.metrics.get("num_suspects"):
            log.info("%s: %d suspected labels, of which many are right: look at %s first, then name those that are "
                     "wrong: %s --id ID", stage, result.metrics["num_suspects"], result.metrics["report"],
                     format_command(self.store, f"label-fixes --run {self.run_id}"))
        return result

    def record_result(self, result: Result) -> None:
        """Keep a stage's result in the record; the attempt at it is over.

        A stage that is run again and makes nothing stays as long as it was, and where.
        """
        where = describe_machine()  # this stage's: another one may run elsewhere
        done = vars(result) | {"ended": _now(), "gpu": where["gpu"], "machine": where}

        def noted(record: Record) -> Record:
            before = record["stages"].get(result.stage, {})
            again = result.reused and before.get("key") == result.key
            kept = {name: before[name] for name in OF_THE_MAKING if again and name in before}
            attempts = record.get("attempts", {})
            return record | {"stages": record["stages"] | {result.stage: done | kept},
                             "attempts": {stage: told for stage, told in attempts.items() if stage != result.stage}}

        self._change(noted)

    @contextmanager
    def _attempt(self, stage: str) -> Iterator[None]:
        """While this holds the record says that the stage is under way, and afterwards why it failed or waits."""
        since = _now()
        self._tell(stage, since, state="running")
        try:
            yield
        except StageWaiting as waiting:
            self._tell(stage, since, state="waiting", text=str(waiting), until=_until(waiting), metrics=waiting.metrics)
            raise
        except BaseException as error:
            interrupted = isinstance(error, KeyboardInterrupt)
            if interrupted:
                log.warning("%s: interrupted; the same command goes on from here", stage)
            reason = "interrupted" if interrupted else printable(f"{type(error).__name__}: {error}")[:MAX_REASON]
            self._tell(stage, since, state="failed", text=reason, ended=_now())
            raise

    def _tell(self, stage: str, since: str, **told: Any) -> None:
        """Keep in the record how an attempt goes: for those who look on, so no stage fails where that fails."""
        attempt = {"stage": stage, "since": since} | told
        try:
            self._change(lambda record: record | {"attempts": record.get("attempts", {}) | {stage: attempt}})
        except CarclfError as error:
            log.warning("%s: that it is %s was not noted: %s", stage, told["state"], error)

    def _given(self, stage: str) -> str:
        """A line on the artifacts that a stage is given and its settings, where they are not the defaults."""
        earlier, sections = TOLD[stage]
        done = self.record["stages"]
        keys = [f"{STAGE_ARTIFACTS[name].folder}/{done[name]['key']}" for name in earlier.split() if name in done]
        default, own = flatten(Config().model_dump()), flatten(self.config.model_dump())
        changed = [f"{name}={value}" for name, value in own.items()
                   if name.partition(".")[0] in sections.split() and value != default[name]]
        return (f"from {', '.join(keys) or 'nothing earlier'}; "
                + (f"settings unlike the defaults: {', '.join(changed)}" if changed else "settings as by default"))

    def add_members(self, members: "list[Run]") -> None:
        """Make this run, which has only begun, one of an ensemble: data and split are those of its first member.

        ConfigError where it is another run already.
        """
        names = [member.run_id for member in members]
        if self.record.get("members", names) != names or (self.record["stages"] and "members" not in self.record):
            raise ConfigError(f"The run {self.run_id!r} is in {self.store.url} and is another one. Take another "
                              "--name.")
        self._change(lambda record: record | {"members": names})
        self.reuse_data_from(members[0])

    def reuse_data_from(self, other: "Run") -> None:
        """Work on the data and the split of another run, unless this one has its own."""
        stages = {stage: other.record["stages"][stage] for stage in ("download", "validate", "split")
                  if stage in other.record["stages"]}
        self._change(lambda record: record | {"stages": stages | record["stages"]})

    def _change(self, change: Callable[[Record], Record]) -> None:
        self.record = change_record(self.store, self.run_id, lambda record: change(record) | {"updated": _now()})
        update_index(self.store, self.run_id)


def find_setting(run: Run, name: str) -> tuple[Any, float]:
    """What was tried for fine-tuning's ``learning_rate`` or ``batch_size`` in this run, and the choice."""
    given = (run.artifact(Archive, "download"), run.artifact(Split, "split"), run.artifact(Model, "train_head"))
    return try_setting(*given, run.config, run.store, name)


def _with_places(stage: str, artifact: Artifact) -> Metrics:
    """The metrics, and where in the store lies what a person will want to see."""
    named = {"submit": ("submission", "submission.csv"), "evaluate": ("report", "report.html"),
             "promote": ("report", "report.html")}
    name, file = named.get(stage, ("", ""))
    return artifact.metrics | ({name: artifact.files[file].key} if file in artifact.files else {})


def _skip(stage: str, config: Config, metrics: Metrics) -> str:
    if stage != "promote":
        return ""
    if metrics["decision"] == "rejected":
        return str(metrics["reason"])
    return "" if config.submit.enabled else "submit.enabled is off"


def _short(value: MetricValue) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _until(waiting: StageWaiting) -> str:
    return waiting.until.isoformat(timespec="seconds") if waiting.until else ""


# The chain in its order: what each stage is given.
STAGES: dict[str, Callable[[Run], tuple[Artifact, bool]]] = {
    "download": lambda run: download(run.context),
    "validate": lambda run: validate(run.artifact(Archive, "download"), run.context),
    "split": lambda run: split(run.artifact(Dataset, "validate"), champion_split(run.store), run.context),
    "train_head": lambda run: train_head(run.artifact(Archive, "download"), run.artifact(Split, "split"), run.context),
    "fine_tune": lambda run: fine_tune(run.artifact(Archive, "download"), run.artifact(Split, "split"), run.artifact(Model, "train_head"), run.context, pause_epoch=run.pause_epoch),
    "evaluate": lambda run: evaluate(run.artifact(Archive, "download"), run.artifact(Split, "split"), run.artifact(Model, "fine_tune"), run.context),
    "promote": lambda run: promote(
        run.artifact(Archive, "download"), run.artifact(Split, "split"), run.artifact(Model, "fine_tune"),
        run.artifact(Evaluation, "evaluate"), run.config, run.store, salt=run.salt, run_id=run.run_id,
        approved_by=run.approved_by, override=run.override,
    ),
    "submit": lambda run: submit(run.artifact(Archive, "download"), run.artifact(Dataset, "validate"), run.artifact(Split, "split"), run.artifact(Model, "fine_tune"), run.context),
    "score": lambda run: score(run.artifact(Submission, "submit"), run.artifact(Evaluation, "evaluate"), run.context),
}
# Of each stage: whose artifacts and which sections of the configuration its log begins with.
TOLD = {
    "download": ("", "competition force download"), "validate": ("download", "validation duplicates"),
    "split": ("validate", "seed split"), "train_head": ("download split", "seed audit model augment head"),
    "fine_tune": ("download split train_head", "seed augment fine_tune"),
    "evaluate": ("download split fine_tune", "evaluate"), "promote": ("split fine_tune evaluate", "gate"),
    "submit": ("validate fine_tune", "competition evaluate submit"), "score": ("submit evaluate", "competition score"),
}
