"""A run: its configuration, its record in the store, and the execution of its stages."""

import getpass
import json
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from itertools import takewhile
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import ValidationError

from carclf.artifacts import Archive, Artifact, Classifier, Metrics, Model, Split, StageContext, remove_leftovers
from carclf.config import NAMED_WEIGHTS, Config, build_config, flatten, load_policy
from carclf.errors import CarclfError, ConfigError, NotFoundError, StageSkipped, StageWaiting
from carclf.formatting import format_pairs, printable
from carclf.hardware import code_fingerprint, describe_machine, package_versions
from carclf.progress import STAGE_END_COLOR, STAGE_START_COLOR, TASK_LOG_VARIABLE, log
from carclf.redaction import redact, redact_values
from carclf.runs.index import update_index
from carclf.runs.live import record_progress
from carclf.runs.mlflow_mirror import mirror_to_mlflow
from carclf.runs.record import (
    CLAIM_FIELDS,
    STARTED_BY_VARIABLE,
    Attempt,
    Record,
    change_record,
    missing_run_error,
    parse_record,
    read_record,
    record_key,
)
from carclf.runs.repair import with_repair
from carclf.services.storage import Store, format_command
from carclf.services.telemetry import export_stage_metrics
from carclf.stages import fine_tune as fine_tune_stage
from carclf.stages.chain import NO_OPTIONS, STAGES, StageCall, StageOptions, StageSpec, stages_of
from carclf.training.weights import local_weights

if TYPE_CHECKING:
    import pandas as pd

A = TypeVar("A", bound=Artifact)
DATA_STAGES = ("download", "validate", "split")
MEMBER_STAGES = (*DATA_STAGES, "train_head", "fine_tune")  # an ensemble's run takes these from its members
CREATION_FIELDS = ("reused", "seconds", "ended", "gpu", "machine")  # of a result: the creation of its artifact
REPORT_FILES = {  # by stage: the metric with the key of a file that a person will open, and the file's name
    "evaluate": ("report", "report.html"),
    "promote": ("report", "report.html"),
    "submit": ("submission", "submission.csv"),
}
UNLOGGED_METRICS = ("reason", "class_names")
MAX_REASON = 2000  # characters of an error's message in the record


@dataclass(frozen=True)
class Result:
    """The result of a stage.

    ``skip_reason`` is not empty if the remaining stages are skipped; without a ``key``, this stage is skipped too.
    A ``waiting`` stage must run again, not before ``until`` (ISO 8601; empty: at any time). ``omitted`` are the stages
    before the next one that this run does not have.
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
    omitted: list[str] = field(default_factory=list)

    @property
    def outcome(self) -> str:
        """The outcome as logs and telemetry name it: created, reused, waiting or skipped."""
        if self.waiting or not self.key:
            return "waiting" if self.waiting else "skipped"
        return "reused" if self.reused else "created"

    def format_line(self) -> str:
        """Return the line that a terminal shows."""
        return f"{self.stage:<12}{self.seconds:8.1f} s  {'reused, ' if self.reused else ''}{printable(self.summary)}"


class Run:
    """One run's configuration and results, kept in ``runs/<run id>.json``."""

    def __init__(self, run_id: str, store: Store, record: Record) -> None:
        if record.get("rejected"):
            raise ConfigError(f"The settings of the run {run_id!r} were rejected: "
                              f"{record['attempts']['download']['text']} Start it again with valid settings.")
        try:
            config = Config.model_validate(record["config"])
        except ValidationError as error:
            raise ConfigError(f"The run {run_id!r} has settings that this version of carclf does not have. Start a new "
                              "run.") from error
        self.config = load_policy().tighten(config)  # the policy may be stricter than when the run started
        self.run_id = run_id
        self.store = store
        self.record = record
        self.context = StageContext(store, self.config, run_id if self.config.force else "")

    @classmethod
    def start_or_resume(cls, run_id: str, store: Store, recipe: str, config: Config) -> "Run":
        """Write a new record, or resume the run with this id. The record of rejected settings is replaced.

        Raise ConfigError if the run exists with other settings, or if model.weights names a missing file.
        """
        record_key(run_id)  # an invalid run id is reported first
        if "://" not in config.model.weights and config.model.weights not in NAMED_WEIGHTS:
            local_weights(config.model.weights)  # fail now and not after the download
        record = _new_record(run_id, recipe, config.model_dump())
        if tightened := _tightened_settings(recipe, config):
            record["tightened"] = tightened
        if _write_new(store, record):
            _log_tightened(record)
            _remove_leftovers(store)
            return cls(run_id, store, record)
        run = cls.load(run_id, store)
        if run.config != config:
            raise ConfigError(f"The run {run_id!r} exists in {store.url} with other settings. Use another --run, or "
                              "repeat the settings of this run.")
        return run

    @classmethod
    def load(cls, run_id: str, store: Store) -> "Run":
        """Read the record; raise NotFoundError if there is no such run."""
        if (record := read_record(store, run_id)) is None:
            error = missing_run_error(store, run_id)
            raise NotFoundError(f"{error}. Start it: {format_command(store, f'download --run {run_id}')}")
        return cls(run_id, store, record)

    @property
    def stages(self) -> list[str]:
        """The names of the run's stages, in order."""
        return stages_of(self.config.model_dump())

    def artifact(self, kind: type[A], stage: str) -> A:
        """Return a stage's artifact; raise ConfigError if it has not run, DataError if the artifact is missing."""
        result = self.record["stages"].get(stage)
        if result is None or result.get("waiting"):
            command = format_command(self.store, f"{stage} --run {self.run_id}")
            raise ConfigError(f"{stage} has not run in {self.run_id!r} yet. Run it first: {command}")
        return kind.require(self.store, result["key"])

    def run_stage(self, stage: str, options: StageOptions = NO_OPTIONS) -> Result:
        """Run a stage and write its result to the record. Update telemetry, MLflow and the live progress.

        Raise ConfigError if the policy does not allow the run's recipe or source, the stage, or the approver.
        """
        person = options.promotion
        load_policy().require_approver(self.record.get("started_by", ""), person.approved_by, person.override_reason)
        telemetry = export_stage_metrics(stage, self.record["recipe"], self.record["created"])
        with mirror_to_mlflow(lambda: self.record, self.store, stage), telemetry as report_outcome:
            result = self._run_stage(STAGES[stage], options)
            report_outcome(result.outcome, result.metrics)
        return result

    def _run_stage(self, spec: StageSpec, options: StageOptions) -> Result:
        stage = spec.name
        if "members" in self.record and stage in MEMBER_STAGES:
            raise ConfigError(f"The run {self.run_id!r} is an ensemble of {', '.join(self.record['members'])}, which "
                              f"ran {stage}. Build it again with carclf ensemble.")
        if stage not in self.stages:
            raise ConfigError(f"{spec.switch} is off in the run {self.run_id!r}, so it has no stage {stage}. Start "
                              f"another run with --set {spec.switch}=true: it reuses everything that is unchanged.")
        self._log_start(spec)
        started = time.monotonic()
        try:
            with self._attempt(stage), record_progress(self.store, self.run_id, stage):
                # Other stages have shorter limits and may have no GPU.
                can_train = issubclass(spec.artifact, Classifier)
                artifact, reused = with_repair(self.store, lambda: self._call_stage(spec, options), can_train=can_train)
        except StageWaiting as waiting:
            log.info("%s: waiting %s", stage, waiting)
            until = _format_until(waiting)
            return Result(stage, "", False, 0.0, waiting.metrics, redact(str(waiting)), waiting=True, until=until)
        except StageSkipped as skipped:
            reason = redact(str(skipped))
            log.info("%s: skipped, and the stages after it: %s", stage, reason, extra={"color": STAGE_END_COLOR})
            return Result(stage, "", False, 0.0, {}, "", skip_reason=reason)
        result = _result(stage, artifact, reused, time.monotonic() - started, self.config)
        self.record_result(result)
        self._log_end(result)
        return result

    def _call_stage(self, spec: StageSpec, options: StageOptions) -> tuple[Artifact, bool]:
        policy = load_policy()
        policy.require_allowed(self.record["recipe"], self.config)
        policy.require_stage(spec.name)
        inputs = {name: self.artifact(STAGES[name].artifact, name) for name in spec.inputs if name in self.stages}
        return spec.run(StageCall(inputs, self.context, options, self.run_id))

    def skip_remaining(self, result: Result, reason: str) -> Result:
        """Write to the record that the stages after this result are skipped, and return the result with the reason."""
        skipping = replace(result, skip_reason=redact(reason))
        self.record_result(skipping)
        log.info("%s: %s; the stages after it are skipped", result.stage, skipping.skip_reason)
        return skipping

    def record_result(self, result: Result) -> None:
        """Write a stage's result to the record and remove its attempt.

        A reused result with the same key keeps the time and the machine of its creation.
        """
        machine = describe_machine()  # of this stage: another stage may run elsewhere
        entry = asdict(result) | {"ended": _now(), "gpu": machine["gpu"], "machine": machine}
        self._change(lambda record: _with_result(record, result, entry))

    def end_attempt(self, stage: str, state: str, text: str, metrics: Metrics) -> None:
        """Write the end of a stage's waiting attempt to the record."""
        end: Any = {"state": state, "text": text, "metrics": metrics, "ended": _now()}
        self._change(lambda record: {
            **record, "attempts": {**record["attempts"], stage: {**record["attempts"].get(stage, {}), **end}}})

    def add_members(self, members: "list[Run]") -> None:
        """Make this new run the run of an ensemble, with the data and the split of its first member.

        Raise ConfigError if the run exists already and is not an ensemble of these members.
        """
        names = [member.run_id for member in members]
        if self.record.get("members", names) != names or (self.record["stages"] and "members" not in self.record):
            raise ConfigError(f"The run {self.run_id!r} exists in {self.store.url}. Use another --name.")
        self._change(lambda record: record | {"members": names})
        self.reuse_data_from(members[0])

    def reuse_data_from(self, other: "Run") -> None:
        """Take over the data and the split of another run, unless this run has them already."""
        stages = {stage: other.record["stages"][stage] for stage in DATA_STAGES if stage in other.record["stages"]}
        self._change(lambda record: record | {"stages": stages | record["stages"]})

    @contextmanager
    def _attempt(self, stage: str) -> Iterator[None]:
        """Record that the stage is running, and afterwards why it failed, waits or is skipped."""
        since = _now()
        self._record_attempt(stage, since, state="running")
        try:
            yield
        except StageWaiting as waiting:
            attempt = {"text": redact(str(waiting)), "until": _format_until(waiting), "metrics": waiting.metrics}
            self._record_attempt(stage, since, state="waiting", **attempt)
            raise
        except StageSkipped as skipped:
            self._record_attempt(stage, since, state="skipped", text=redact(str(skipped)), ended=_now())
            raise
        except BaseException as error:
            reason = redact(printable(f"{type(error).__name__}: {error}"))[:MAX_REASON]
            if isinstance(error, KeyboardInterrupt):
                log.warning("%s: interrupted; run the same command to continue", stage)
                reason = "interrupted"
            self._record_attempt(stage, since, state="failed", text=reason, ended=_now())
            raise

    def _record_attempt(self, stage: str, since: str, *, state: str, **fields: Any) -> None:
        """Write the state of an attempt to the record. The state is only informative, so an error is only logged."""
        attempt: Any = {"stage": stage, "since": since, "state": state} | fields
        try:
            self._change(lambda record: {**record, "attempts": {
                **record["attempts"], stage: _claim_of(record["attempts"].get(stage), state) | attempt}})
        except CarclfError as error:
            log.warning("%s: the state %s was not written to the record: %s", stage, state, error)

    def _log_start(self, spec: StageSpec) -> None:
        """Log the input artifacts and the settings in the stage's key that differ from the defaults."""
        results = self.record["stages"]
        inputs = [f"{STAGES[name].artifact.folder}/{results[name]['key']}" for name in spec.inputs if name in results]
        defaults = flatten(Config().model_dump())
        changed = {name: value for name, value in spec.settings(self.config).items() if value != defaults[name]}
        pairs: dict[str, object] = {"run": self.run_id, "store": self.store.url, "inputs": ",".join(inputs) or "none"}
        log.info("%s: started %s", spec.name, format_pairs(pairs | changed), extra={"color": STAGE_START_COLOR})

    def _log_end(self, result: Result) -> None:
        stage = result.stage
        pairs = {"artifact": f"{STAGES[stage].artifact.folder}/{result.key}", "seconds": result.seconds}
        ended = f"{result.outcome} {format_pairs(pairs)} {result.summary}"
        log.info("%s: %s", stage, ended, extra={"color": STAGE_END_COLOR})
        if result.skip_reason:
            log.info("%s: %s; the stages after it are skipped", stage, result.skip_reason)
        if result.metrics.get("num_suspects"):
            command = format_command(self.store, f"label-fixes --run {self.run_id}")
            pairs = {name: result.metrics[name] for name in ("num_suspects", "report")}
            log.info("%s: %s: some labels are probably correct. Check them in the report, then fix the wrong ones: "
                     "%s --id ID", stage, format_pairs(pairs), command)

    def _change(self, change: Callable[[Record], Record]) -> None:
        self.record = change_record(self.store, self.run_id, lambda record: change(record) | {"updated": _now()})
        update_index(self.store, self.run_id)


def _remove_leftovers(store: Store) -> None:
    try:
        num_leftovers = remove_leftovers(store)
    except CarclfError as error:  # such as a missing permission to list uploads
        log.info("store: leftovers not removed error=%s", error)
        return
    if num_leftovers:
        log.info("store: removed leftovers of killed processes num=%d", num_leftovers)


def find_setting(run: Run, name: str) -> "tuple[pd.DataFrame, float]":
    """Try values of fine-tuning's ``learning_rate`` or ``batch_size``; return the measurements and the best value."""
    archive, split = run.artifact(Archive, "download"), run.artifact(Split, "split")
    return fine_tune_stage.find_setting(archive, split, run.artifact(Model, "train_head"), run.context, name)


def record_rejection(run_id: str, store: Store, recipe: str, settings: dict[str, Any], error: ConfigError) -> None:
    """Record a run whose settings were rejected, so that lists and pages show it. An existing run stays as it is."""
    now = _now()
    text = redact(printable(f"ConfigError: {error}"))[:MAX_REASON]
    attempt = Attempt(stage="download", state="failed", since=now, ended=now, text=text)
    record = _new_record(run_id, recipe, {redact(name): redact_values(value) for name, value in settings.items()})
    try:
        _write_new(store, {**record, "attempts": {"download": attempt}, "rejected": True})
    except CarclfError as problem:
        log.warning("download: the rejected settings were not recorded: %s", problem)


def _tightened_settings(recipe: str, config: Config) -> dict[str, Any]:
    """Return the recipe's own values of the settings that the policy made stricter, by dotted name."""
    settings, own_settings = (flatten(tree.model_dump()) for tree in (config, build_config(recipe, {})))
    limits = load_policy().stricter_settings(own_settings)
    return {name: own_settings[name] for name, limit in limits.items() if settings[name] == limit}


def _log_tightened(record: Record) -> None:
    settings = flatten(record["config"])
    if names := record.get("tightened"):
        pairs = {name: settings[name] for name in names}
        log.info("policy: tightened the recipe %s: %s", record["recipe"], format_pairs(pairs))


def _write_new(store: Store, record: Record) -> bool:
    """Write a record unless the run exists; the record of rejected settings is replaced. Return if it was written."""
    run_id = record["run"]
    path = record_key(run_id)
    existing = store.read(path)
    if existing and not parse_record(existing.data, run_id, store).get("rejected"):
        return False
    if not store.write_if(path, json.dumps(record, indent=1).encode(), existing.version if existing else None):
        return False
    update_index(store, run_id)
    return True


def _new_record(run_id: str, recipe: str, config: dict[str, Any]) -> Record:
    return {
        "run": run_id, "recipe": recipe, "config": config, "stages": {}, "attempts": {},
        "created": _now(), "versions": package_versions(), "code": code_fingerprint(), "machine": platform.platform(),
        "started_by": os.environ.get(STARTED_BY_VARIABLE) or os.environ.get("USER", "") or _login_name(),
    }


def _login_name() -> str:
    """Return the name of the user on this machine, whose shell may lack USER; empty in an Airflow task."""
    if TASK_LOG_VARIABLE in os.environ:
        return ""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # the user has no entry, as in some containers
        return f"uid {os.getuid()}"


def _result(stage: str, artifact: Artifact, reused: bool, seconds: float, config: Config) -> Result:
    name, file = REPORT_FILES.get(stage, ("", ""))
    metrics = artifact.metrics | ({name: artifact.files[file].key} if file in artifact.files else {})
    logged = {name: value for name, value in metrics.items() if name not in UNLOGGED_METRICS and value != ""}
    skip = _skip_reason(stage, metrics, config)
    return Result(stage, artifact.key, reused, round(seconds, 2), metrics, format_pairs(logged), skip_reason=skip,
                  omitted=_omitted(stage, config))


def _omitted(stage: str, config: Config) -> list[str]:
    """Return the stages between this one and the next stage of the run."""
    names = list(STAGES)
    following, present = names[names.index(stage) + 1 :], stages_of(config.model_dump())
    return list(takewhile(lambda name: name not in present, following))


def _skip_reason(stage: str, metrics: Metrics, config: Config) -> str:
    if stage == "promote" and metrics["decision"] == "rejected":
        return str(metrics["reason"])
    if stage != ("refit" if config.fine_tune.refit else "promote"):  # the stage before submit
        return ""
    return config.submission_obstacle if config.submit.enabled else "submit.enabled is off"


def _with_result(record: Record, result: Result, entry: dict[str, Any]) -> Record:
    earlier: Mapping[str, Any] = record["stages"].get(result.stage, {})
    is_same = result.reused and earlier.get("key") == result.key
    stage: Any = entry | {name: earlier[name] for name in CREATION_FIELDS if is_same and name in earlier}
    attempts = {name: attempt for name, attempt in record["attempts"].items() if name != result.stage}
    stages = {**record["stages"], result.stage: stage}
    if stages.get("refit", {}).get("metrics", {}).get("measured") != stages.get("fine_tune", {}).get("key"):
        stages.pop("refit", None)  # it would predict with the calibration of another model
    return {**record, "stages": stages, "attempts": attempts}


def _claim_of(attempt: Attempt | None, state: str) -> dict[str, Any]:
    """Return the claim of an attempt if it also holds for the attempt in ``state`` that replaces it."""
    unfinished = ("waiting", "running")
    if attempt is None or attempt.get("state") not in unfinished or state not in unfinished:
        return {}
    return {name: value for name, value in attempt.items() if name in CLAIM_FIELDS}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _format_until(waiting: StageWaiting) -> str:
    return waiting.until.isoformat(timespec="seconds") if waiting.until else ""
