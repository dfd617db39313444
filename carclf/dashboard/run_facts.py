"""Everything that a run's page shows, read from the run's record and its artifacts."""

import csv
import io
from functools import partial
from itertools import chain, repeat
from typing import Any

from carclf.artifacts import File
from carclf.champion import champion_event
from carclf.dashboard.run_reader import AUDIT, Facts, Problem, RunReader, open_run
from carclf.dashboard.stage_facts import (
    ChangedSetting,
    StageFacts,
    all_stage_facts,
    as_overrides,
    changed_settings,
    new_run_command,
)
from carclf.formatting import finite_number
from carclf.reports.evaluation_report import class_rows
from carclf.runs.index import TRAINING, Row
from carclf.runs.live import LiveProgress, read_live_progress
from carclf.runs.record import training_machine
from carclf.services.storage import Store
from carclf.stages.chain import STAGES

MAX_LISTED = 100  # findings, and unusable images
FILES = {  # by stage, the files that the facts are read from
    "validate": ("report.json",), "train_head": ("history.csv",), "fine_tune": ("history.csv",),
    "evaluate": ("evaluation.json", "error_images.json"), "promote": ("decision.json",),
    "refit": ("history.csv",),
}
IMAGE_KINDS = ("image", "overlay")
JPEG_URI = "data:image/jpeg;base64,"
VIEWABLE_SUFFIXES = (".html", ".json", ".csv", ".png", ".md")  # of the files that the pages serve
MAX_VIEWABLE_BYTES = 32_000_000
EMPTY: tuple[Any, ...] = ()
Epoch = dict[str, float | None]  # a row of history.csv: epoch (from 1), loss, accuracy, val_loss, ...


class RunHeader(Facts):
    """The origin of a run. ``members`` are the runs of an ensemble; ``settings`` differ from the recipe's.

    ``command`` starts another run with the same settings, which are ``overrides`` as ``--set`` accepts them. Both are
    empty for an ensemble.
    """

    recipe: str
    created: str
    versions: dict[str, Any]  # by package
    machine: str
    gpu: str
    members: tuple[str, ...]
    settings: tuple[ChangedSetting, ...]
    overrides: tuple[str, ...]
    command: str


class DataFinding(Facts):
    """A finding of the validate stage; ``path`` is "" if it concerns the whole dataset."""

    severity: str
    kind: str
    path: str
    message: str


class UnusableImage(Facts):
    """An excluded image, and the reason."""

    path: str
    problem: str


class DataFacts(Facts):
    """Metrics of dataset, split and audit ({} if they have not run), and the findings of validation."""

    metrics: dict[str, Any]
    split: dict[str, Any]
    audit: dict[str, Any]
    audit_reports: tuple[str, ...]  # file names
    num_images_by_class: dict[str, int]  # usable images, the smallest class first
    findings: tuple[DataFinding, ...]
    problems: tuple[UnusableImage, ...]  # of training images
    test_problems: tuple[UnusableImage, ...]


class ClassRecall(Facts):
    """Recall of a class with its 95% interval; ``num_predicted`` images were predicted to be of the class."""

    label: str
    num_images: int
    recall: float
    low: float
    high: float
    num_predicted: int


class ReliabilityBin(Facts):
    """Mean confidence of a group of images, and their accuracy with its 95% interval."""

    confidence: float
    accuracy: float
    low: float
    high: float
    num_images: int


class EvaluationFacts(Facts):
    """``evaluation.json``: classes by increasing recall, reliability by increasing confidence; None: not measured."""

    accuracy: float
    interval: tuple[float, float]  # 95%
    num_images: int
    num_correct: int
    temperature: float | None = None
    calibration_error: float | None = None
    uncalibrated_calibration_error: float | None = None
    latency_ms: float | None = None
    model_mb: float | None = None
    class_names: tuple[str, ...]
    confusion: tuple[tuple[int, ...], ...]  # rows are labels, columns predictions
    classes: tuple[ClassRecall, ...]
    reliability: tuple[ReliabilityBin, ...] = ()
    slices: tuple[dict[str, Any], ...] = ()  # as in ``carclf.evaluation.slices``


class ErrorFacts(Facts):
    """A misclassified image with its calibrated probability; images are data URIs, "" if missing."""

    number: int
    id: str
    path: str
    label: str
    predicted: str
    probability: float | None
    image: str = ""
    overlay: str = ""


# The gate's models of rules and decisions would import pandas, which the api-server does not need.
class GateRule(Facts):
    """A rule of the gate with its result."""

    name: str
    value: float | None
    limit: float | None
    passed: bool
    summary: str
    detail: str = ""
    applied: bool = True


class DecisionFacts(Facts):
    """``decision.json``; ``decision`` may also be "awaiting approval", "declined" or "expired".

    ``champion`` is a model's key. ``response`` is the person's response, or the new champion if it has changed since
    the request for approval.
    """

    decision: str
    reason: str
    threshold: float
    champion: str | None
    rules: tuple[GateRule, ...]
    champion_comparison: dict[str, Any] | None = None
    response: str = ""

    @property
    def explanation(self) -> str:
        """The gate's reason without the decision that it starts with, which a person may have changed."""
        return self.reason.removeprefix("promoted: ").removeprefix("rejected: ")


class RunFacts(Facts):
    """All facts of a run. A section that has not run yet, or cannot be read, is None or empty."""

    run: str
    store: str  # URL
    row: dict[str, Any]  # the run's row in the index, with state "stale" if the process was probably killed
    header: RunHeader
    stages: tuple[StageFacts, ...]
    live: dict[str, LiveProgress]  # by stage
    curves: dict[str, tuple[Epoch, ...]]  # by training stage
    data: DataFacts | None
    evaluation: EvaluationFacts | None
    errors: tuple[ErrorFacts, ...]  # the most confident first
    decision: DecisionFacts | None
    problems: tuple[Problem, ...] = ()  # without repeated texts
    unreadable: tuple[str, ...] = ()  # the sections of all problems


def run_facts(store: Store, run_id: str) -> RunFacts:
    """Return the facts of a run. Damaged and missing artifacts are reported in ``problems``.

    ConfigError if the run does not exist, DataError if its record is damaged.
    """
    reader = open_run(store, run_id)
    reader.prefetch(FILES)
    live: dict[str, LiveProgress] = reader.try_section("live", lambda: read_live_progress(store, run_id), {})
    settings = reader.try_section("settings", lambda: changed_settings(reader), EMPTY)
    stages = all_stage_facts(reader, settings, live)
    facts = RunFacts(
        run=run_id, store=store.url, row=_row(reader, stages), header=_header(reader, settings), stages=stages,
        curves={stage: reader.try_section(stage, partial(read_epochs, reader, stage), EMPTY) for stage in TRAINING},
        data=reader.try_section("data", lambda: _data(reader), None),
        evaluation=reader.try_section("evaluation", lambda: _evaluation(reader), None),
        errors=reader.try_section("errors", lambda: _errors(reader), EMPTY),
        decision=reader.try_section("decision", lambda: read_decision(reader), None), live=live,
    )
    by_text = {problem.text: problem for problem in reversed(reader.problems)}
    unreadable = tuple(sorted({problem.section for problem in reader.problems}))
    return facts.model_copy(update={"problems": tuple(by_text.values())[::-1], "unreadable": unreadable})


def artifact_file(store: Store, run_id: str, stage: str, name: str) -> bytes | None:
    """Return a page, table or image of a stage's artifact or of the audit; None for other files.

    ConfigError if the run does not exist, DataError if the file is damaged.
    """
    reader = open_run(store, run_id)
    artifact = reader.artifact(stage) if stage in (*STAGES, AUDIT) else None
    file = artifact.files.get(name) if artifact else None
    return reader.read_file(stage, name) if file and is_viewable(name, file) else None


def is_viewable(name: str, file: File) -> bool:
    """Return whether the pages serve a file of an artifact."""
    return name.endswith(VIEWABLE_SUFFIXES) and file.num_bytes <= MAX_VIEWABLE_BYTES


def _row(reader: RunReader, stages: tuple[StageFacts, ...]) -> Row:
    row = reader.index_row()
    is_stale = any(stage.state == "stale" and stage.name == row["stage"] for stage in stages)
    return row | {"state": "stale"} if is_stale else row


def _header(reader: RunReader, settings: tuple[ChangedSetting, ...]) -> RunHeader:
    record = reader.record
    machine = str(record.get("machine", ""))  # the machine that started the run, if no model has been trained
    if trained_on := training_machine(record):
        size = f"{trained_on.get('cores')} cores, {trained_on.get('memory_gb')} GB"
        parts = (trained_on.get("processor"), size, trained_on.get("system"), trained_on.get("backend"))
        machine = ", ".join(str(part) for part in parts if part)
    gpus = (result.get("gpu") for result in record["stages"].values())
    return RunHeader(
        recipe=record.get("recipe", ""), created=record.get("created", ""), versions=record.get("versions", {}),
        machine=machine, gpu=next(filter(None, gpus), ""), members=record.get("members", ()), settings=settings,
        overrides=() if record.get("members") else as_overrides(settings), command=new_run_command(reader, settings),
    )


def read_epochs(reader: RunReader, stage: str) -> tuple[Epoch, ...]:
    """Return the rows of a stage's ``history.csv``, with epochs from 1; empty if it has none."""
    text = (reader.read_file(stage, "history.csv") or b"").decode()
    epochs: list[Epoch] = [
        {name: finite_number(float(value)) if value else None for name, value in row.items()}
        for row in csv.DictReader(io.StringIO(text))
    ]
    if epochs and epochs[0].get("epoch") == 0:  # Keras counts from 0
        return tuple(epoch | {"epoch": (epoch["epoch"] or 0) + 1} for epoch in epochs)
    return tuple(epochs)


def _data(reader: RunReader) -> DataFacts | None:
    if (report := reader.read_json("validate", "report.json")) is None:
        return None
    head = reader.try_section("train_head", lambda: reader.artifact("train_head"), None)
    split = reader.try_section("split", lambda: reader.artifact("split"), None)
    audit = reader.try_section(AUDIT, lambda: reader.artifact(AUDIT), None)
    head_metrics = reader.result("train_head").get("metrics", {})  # of the head and of the audit
    return DataFacts(
        metrics={name: value for name, value in report.items() if isinstance(value, int | float | str)},
        split=split.metrics if split else {},
        audit={name: value for name, value in head_metrics.items() if head and name not in head.metrics},
        audit_reports=tuple(name for name in (audit.files if audit else ()) if name.endswith(".html")),
        num_images_by_class=dict(sorted(report.get("class_counts", {}).items(), key=lambda item: int(item[1]))),
        findings=report.get("findings", {}).get("reported", [])[:MAX_LISTED],
        problems=report.get("problems", [])[:MAX_LISTED],
        test_problems=report.get("test_problems", [])[:MAX_LISTED],
    )


def _evaluation(reader: RunReader) -> EvaluationFacts | None:
    if (content := reader.read_json("evaluate", "evaluation.json")) is None:
        return None
    classes = class_rows(content["class_names"], content["confusion"])
    return EvaluationFacts.model_validate(content | {"classes": classes})


def _errors(reader: RunReader) -> tuple[ErrorFacts, ...]:
    errors = (reader.read_json("evaluate", "evaluation.json") or {}).get("errors", [])
    images = reader.try_section("images", lambda: _error_images(reader), EMPTY) if errors else EMPTY
    pairs = zip(errors, chain(images, repeat({})), strict=False)
    return tuple(ErrorFacts.model_validate({"number": i} | error | uris) for i, (error, uris) in enumerate(pairs))


def _error_images(reader: RunReader) -> tuple[dict[str, str], ...]:
    """Return the data URIs of each error's JPEG images; other URIs are dropped."""
    images = reader.read_json("evaluate", "error_images.json") or []
    return tuple(
        {kind: uris[kind] for kind in IMAGE_KINDS if uris.get(kind, "").startswith(JPEG_URI)} for uris in images
    )


def read_decision(reader: RunReader) -> DecisionFacts | None:
    """Return the gate's decision with a person's response; None if there is none."""
    content = reader.read_json("promote", "decision.json")
    if content is None:
        return None
    # A candidate that passed the gate may wait for approval, or may have been declined.
    attempt, result = reader.attempt("promote"), reader.result("promote").get("metrics", {})
    state = attempt.get("metrics", {}).get("decision") or result.get("decision") or content.get("decision")
    response = attempt.get("text", "") if state in ("declined", "expired") else ""
    if state == "awaiting approval":
        response = reader.try_section("champion", lambda: _changed_champion(reader.store, content["champion"]), "")
    reason = result.get("reason") or content.get("reason")  # a declined model stays declined if another run has it
    return DecisionFacts.model_validate(content | {"decision": state, "reason": reason, "response": response})


def _changed_champion(store: Store, champion: str | None) -> str:
    """Return a sentence if another model has become the champion, else ""."""
    event = champion_event(store)
    if event is None or event["model"] == champion:
        return ""
    return (f"The champion has changed since the request: it is now {event['model']} of run "
            f"{event.get('run') or 'unknown'}. An approval compares the candidate with it")
