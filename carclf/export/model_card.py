"""The model card of an exported model, in Markdown (after Mitchell et al. 2019, arXiv:1810.03993)."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from carclf.artifacts import Dataset, Decision, Evaluation, Model, Split
from carclf.errors import DataError
from carclf.runs.record import training_machine
from carclf.services.storage import Store

MARKS = re.compile(r"([\\`*_\[\]<>#|~!&$]|(?<=:)/(?=/)|(?<=www)\.)")
WEAK = 0.8  # a recall below it is named among the limits
NUM_WEAK = 5


@dataclass(frozen=True)
class ModelCardSource:
    """A model and what the store knows of it; ``record`` is its run's, ``scores`` events of the history."""

    model: Model
    split: Split
    evaluation: Evaluation | None
    decision: Decision | None
    record: Mapping[str, Any]
    scores: list[dict[str, Any]]


def write_model_card(path: Path, story: ModelCardSource, facts: dict[str, Any], store: Store) -> None:
    """Write the card; ``facts`` are those of ``export.json``."""
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=False, finalize=escape_markdown,
                                     trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
    template = (Path(__file__).parent / "model_card.md").read_text().replace("\\\n", "")  # a line that goes on
    text = environment.from_string(template).render(**_content(story, facts, store))
    path.write_text(text, encoding="utf-8", errors="backslashreplace")


def escape_markdown(value: object) -> str:
    """A value as text in which nothing is Markdown or HTML and no line ends."""
    return MARKS.sub(r"\\\1", " ".join(str(value).split()))


def _content(story: ModelCardSource, facts: dict[str, Any], store: Store) -> dict[str, Any]:
    evaluation, found = story.evaluation, {}
    if evaluation:
        found = json.loads(evaluation.path(store, "evaluation.json").read_text())
    recall = _recall(found)
    return {
        "title": f"Car classifier {story.record.get('run', story.model.key)}", "model": story.model,
        "class_names": facts["class_names"], "facts": facts, "record": story.record,
        "config": story.record.get("config", {"competition": ""}), "evaluation": evaluation, "found": found,
        "calibration": _calibration(evaluation), "recall": recall, "weak": _weak(recall), "looks": _looks(evaluation),
        "scores": [score for score in story.scores if score.get("public_score", "") != ""],
        "decision": story.decision, "data": _rows(_data(story, store)), "members": _members(story.model, store),
        "settings": _rows(_settings(story, store)), "keys": _rows(_keys(story)),
    }


def _rows(named: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"name": name, "value": value} for name, value in named.items() if value not in (None, "")]


def _recall(found: dict[str, Any]) -> list[dict[str, Any]]:
    rows = zip(found.get("class_names", []), found.get("recall", []), found.get("confusion", []), strict=True)
    return [{"name": name, "recall": "no images" if value is None else f"{value:.3f}", "num": sum(counts),
             "value": value} for name, value, counts in rows]


def _weak(recall: list[dict[str, Any]]) -> str:
    weak = sorted((row for row in recall if row["value"] is not None and row["value"] < WEAK),
                  key=lambda row: float(row["value"]))
    return ", ".join(f"{row['name']} (recall {row['recall']} of {row['num']} images)" for row in weak[:NUM_WEAK])


def _calibration(evaluation: Evaluation | None) -> list[dict[str, Any]]:
    metrics = evaluation.metrics if evaluation else {}
    named = {
        "calibration error, calibrated": ("calibration_error", "{:.4f}"), "temperature": ("temperature", "{:.4f}"),
        "milliseconds per image": ("latency_ms", "{:.1f}"), "size of the model in MB": ("model_mb", "{:.1f}"),
    }
    return _rows({name: form.format(metrics[figure]) for name, (figure, form) in named.items() if figure in metrics})


def _looks(evaluation: Evaluation | None) -> str:
    settings = evaluation.settings if evaluation else {}
    zooms = settings.get("zooms", "1")
    corners = " in five crops" if settings.get("crops") == "corners" else ""
    return f"the picture at zoom {zooms}{corners}" + (" and its mirror image" if settings.get("flip_tta") else "")


def _data(story: ModelCardSource, store: Store) -> dict[str, Any]:
    key = story.split.inputs["dataset"]
    if (dataset := Dataset.find(store, key)) is None:
        raise DataError(f"The dataset {key} of the model is gone from {store.url}. Run validate again.")
    report = json.loads(dataset.path(store, "report.json").read_text())
    counts = report.get("class_counts", {})
    return {
        "images trained on": story.split.metrics.get("num_train"),
        "images that validate": story.split.metrics.get("num_val"),
        "images with a label, usable": dataset.metrics.get("num_train"),
        "of them added by the user": dataset.metrics.get("num_extra"),
        "images of each class": ", ".join(f"{name}: {num}" for name, num in counts.items()),
        "label fixes applied": len(report.get("label_fixes", [])),
        "unusable, left out": dataset.metrics.get("num_unusable"),
    }


def _members(model: Model, store: Store) -> list[dict[str, Any]]:
    if "ensemble.json" not in model.files:
        return []
    return list(json.loads(model.path(store, "ensemble.json").read_text())["members"])


def _settings(story: ModelCardSource, store: Store) -> dict[str, Any]:
    start = Model.find(store, story.model.inputs.get("model", "none"))
    network = start.settings.get("model", {}) if start else {}
    return {
        "recipe": story.record.get("recipe"), "backbone": network.get("backbone"), "weights": network.get("weights"),
        "input": f"{story.model.metrics['image_height']}x{story.model.metrics['image_width']} px",
        **{name: network.get(name) for name in ("hidden_units", "dropout", "batch_norm", "precision")},
        "seed": story.model.settings.get("seed"),
        **{f"fine_tune.{name}": value for name, value in story.model.settings.get("fine_tune", {}).items()},
        **{f"augment.{name}": value for name, value in story.model.settings.get("augment", {}).items()},
    }


def _keys(story: ModelCardSource) -> dict[str, Any]:
    record, where = story.record, training_machine(story.record)
    return {
        "model": story.model.key, **{f"from {name}": key for name, key in story.model.inputs.items()},
        "dataset": story.split.inputs["dataset"], "run": record.get("run"), "begun": record.get("created"),
        "versions": ", ".join(f"{name} {number}" for name, number in record.get("versions", {}).items()),
        "machine": record.get("machine"),
        **{f"trained on {name}": where[name] for name in ("processor", "gpu", "backend") if where.get(name)},
    }
