"""The model card of an exported model, in Markdown (after Mitchell et al. 2019, arXiv:1810.03993)."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from carclf.artifacts import Dataset, Decision, Evaluation, Model, Split
from carclf.runs.record import training_machine
from carclf.services.storage import Store

SPECIAL = re.compile(r"([\\`*_\[\]<>#|~!&$]|(?<=:)/(?=/)|(?<=www)\.)")  # starts Markdown, HTML or an automatic link
WEAK_RECALL = 0.8  # classes below it are listed among the limits
NUM_WEAK = 5


@dataclass(frozen=True)
class ExportFacts:
    """The content of ``export.json``: what a program that uses the files needs to know.

    ``differences`` are the largest differences of a probability by format, measured on ``num_images`` images.
    """

    model: str
    class_names: list[int]
    input: dict[str, Any]
    output: str
    temperature: float | None
    files: dict[str, str]
    differences: dict[str, float]
    tolerance: float
    num_images: int


@dataclass(frozen=True)
class ModelCardSource:
    """A model and what the store holds about it: the record of its run, and the events of its public scores."""

    model: Model
    split: Split
    evaluation: Evaluation | None
    decision: Decision | None
    record: Mapping[str, Any]
    scores: list[dict[str, Any]]


def write_model_card(path: Path, source: ModelCardSource, facts: ExportFacts, store: Store) -> None:
    """Write the model card."""
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, autoescape=False, finalize=escape_markdown, trim_blocks=True,
        lstrip_blocks=True, keep_trailing_newline=True,
    )
    template = (Path(__file__).parent / "model_card.md").read_text().replace("\\\n", "")  # joins continued lines
    text = environment.from_string(template).render(**_template_values(source, facts, store))
    path.write_text(text, encoding="utf-8", errors="backslashreplace")


def escape_markdown(value: object) -> str:
    """Return a value as one line of text without Markdown or HTML."""
    return SPECIAL.sub(r"\\\1", " ".join(str(value).split()))


def _template_values(source: ModelCardSource, facts: ExportFacts, store: Store) -> dict[str, Any]:
    evaluation, record = source.evaluation, source.record
    measured = json.loads(evaluation.path(store, "evaluation.json").read_text()) if evaluation else {}
    recall = _recall(measured)
    return {
        "title": f"Car classifier {record.get('run', source.model.key)}", "model": source.model, "facts": facts,
        "record": record, "competition": record["config"]["competition"] if record else "", "evaluation": evaluation,
        "measured": measured, "calibration": _calibration(evaluation), "recall": recall,
        "weak_classes": _weak_classes(recall), "views": _views(evaluation),
        "scores": [score for score in source.scores if score.get("public_score", "") != ""],
        "decision": source.decision, "data": _rows(_data(source, store)), "members": _members(source.model, store),
        "settings": _rows(_settings(source, store)), "keys": _rows(_keys(source)),
    }


def _rows(values: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{"name": name, "value": value} for name, value in values.items() if value not in (None, "")]


def _recall(measured: dict[str, Any]) -> list[dict[str, Any]]:
    rows = zip(measured.get("class_names", []), measured.get("recall", []), measured.get("confusion", []), strict=True)
    return [
        {"name": name, "recall": "no images" if value is None else f"{value:.3f}", "num": sum(counts), "value": value}
        for name, value, counts in rows
    ]


def _weak_classes(recall: list[dict[str, Any]]) -> str:
    weak = [row for row in recall if row["value"] is not None and row["value"] < WEAK_RECALL]
    weak = sorted(weak, key=lambda row: float(row["value"]))[:NUM_WEAK]
    return ", ".join(f"{row['name']} (recall {row['recall']} on {row['num']} images)" for row in weak)


def _calibration(evaluation: Evaluation | None) -> list[dict[str, Any]]:
    metrics = evaluation.metrics if evaluation else {}
    formats = {
        "calibration_error": ("calibration error, calibrated", "{:.4f}"), "temperature": ("temperature", "{:.4f}"),
        "latency_ms": ("prediction time per image, ms", "{:.1f}"), "model_mb": ("model size, MB", "{:.1f}"),
    }
    return _rows({label: form.format(metrics[name]) for name, (label, form) in formats.items() if name in metrics})


def _views(evaluation: Evaluation | None) -> str:
    settings = evaluation.settings if evaluation else {}
    corners = " in five crops" if settings.get("crops") == "corners" else ""
    flip = " and its horizontal flip" if settings.get("flip_tta") else ""
    return f"the image at zoom {settings.get('zooms', '1')}{corners}{flip}"


def _data(source: ModelCardSource, store: Store) -> dict[str, Any]:
    dataset = Dataset.require(store, source.split.inputs["dataset"])
    report = json.loads(dataset.path(store, "report.json").read_text())
    counts = report.get("class_counts", {})
    return {
        "training images": source.split.metrics.get("num_train"),
        "validation images": source.split.metrics.get("num_val"),
        "usable labeled images": dataset.metrics.get("num_train"),
        "of these, added by the user": dataset.metrics.get("num_extra"),
        "images per class": ", ".join(f"{name}: {num}" for name, num in counts.items()),
        "label fixes applied": len(report.get("label_fixes", [])),
        "unusable images, excluded": dataset.metrics.get("num_unusable"),
    }


def _members(model: Model, store: Store) -> list[dict[str, Any]]:
    if not model.is_ensemble:
        return []
    return list(json.loads(model.path(store, "ensemble.json").read_text())["members"])


def _settings(source: ModelCardSource, store: Store) -> dict[str, Any]:
    start = Model.find(store, source.model.inputs.get("model", "none"))
    network = start.settings.get("model", {}) if start else {}
    settings = source.model.settings
    height, width = source.model.image_size
    return {
        "recipe": source.record.get("recipe"), "backbone": network.get("backbone"), "weights": network.get("weights"),
        "input": f"{height}x{width} px",
        **{name: network.get(name) for name in ("hidden_units", "dropout", "batch_norm", "precision")},
        "seed": settings.get("seed"),
        **{f"fine_tune.{name}": value for name, value in settings.get("fine_tune", {}).items()},
        **{f"augment.{name}": value for name, value in settings.get("augment", {}).items()},
    }


def _keys(source: ModelCardSource) -> dict[str, Any]:
    record = source.record
    machine = training_machine(record) if record else {}
    return {
        "model": source.model.key, **{f"input {name}": key for name, key in source.model.inputs.items()},
        "dataset": source.split.inputs["dataset"], "run": record.get("run"), "started": record.get("created"),
        "versions": ", ".join(f"{name} {number}" for name, number in record.get("versions", {}).items()),
        "machine": record.get("machine"),
        **{f"trained on {name}": machine[name] for name in ("processor", "gpu", "backend") if machine.get(name)},
    }
