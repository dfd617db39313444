"""The model card of an exported model, in Markdown (after Mitchell et al. 2019, arXiv:1810.03993)."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2

from carclf.artifacts import Classifier, Dataset, Evaluation, Model, Split
from carclf.ensembles.members import read_members
from carclf.formatting import format_count
from carclf.runs.model_selection import SelectedModel
from carclf.runs.record import training_machine
from carclf.services.storage import Store
from carclf.training.warm_start import weights_license

SPECIAL = re.compile(r"([\\`*_\[\]<>#|~!&$]|(?<=:)/(?=/)|(?<=www)\.)")  # starts Markdown, HTML or an automatic link
NON_COMMERCIAL = re.compile(r"\bnc\b|non-?commercial|academic|research")  # in the name of a license
UNKNOWN_LICENSES = ("unknown", "other")
WEAK_RECALL = 0.8  # classes below it are listed among the limits
NUM_WEAK = 5


def write_model_card(
    path: Path, selected: SelectedModel, split: Split, facts: Mapping[str, Any], store: Store
) -> None:
    """Write the model card of a model that was trained on this split. ``facts`` are the content of ``export.json``."""
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, autoescape=False, finalize=escape_markdown, trim_blocks=True,
        lstrip_blocks=True, keep_trailing_newline=True,
    )
    template = (Path(__file__).parent / "model_card.md").read_text().replace("\\\n", "")  # joins continued lines
    values = _template_values(selected, split, store)
    text = environment.from_string(template).render(**values, facts=facts)
    path.write_text(text, encoding="utf-8", errors="backslashreplace")


def escape_markdown(value: object) -> str:
    """Return a value as one line of text without Markdown or HTML."""
    return SPECIAL.sub(r"\\\1", " ".join(str(value).split()))


def _template_values(selected: SelectedModel, split: Split, store: Store) -> dict[str, Any]:
    model = selected.model
    evaluation = selected.evaluation
    record = selected.record
    measured = json.loads(evaluation.path(store, "evaluation.json").read_text()) if evaluation else {}
    recall = _recall(measured)
    return {
        "title": f"Image classifier {record['run'] if record else model.key}",
        "model": model,
        "record": record,
        "source": record["config"]["data"]["source"] if record else "",
        "evaluation": evaluation,
        "measured": measured,
        "calibration": _calibration(evaluation),
        "recall": recall,
        "weak_classes": _weak_classes(recall),
        "views": _views(evaluation),
        "scores": [score for score in selected.scores if score.get("public_score", "") != ""],
        "decision": selected.decision,
        "data": _rows(_data(split, store)),
        "members": read_members(model, store) if isinstance(model, Model) and model.is_ensemble else [],
        "settings": _rows(_settings(selected, store)),
        "license_warnings": _license_warnings(model, store),
        "keys": _rows(_keys(selected, split)),
    }


def _rows(values: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{"name": name, "value": value} for name, value in values.items() if value not in (None, "")]


def _recall(measured: dict[str, Any]) -> list[dict[str, Any]]:
    columns = (measured.get(name, []) for name in ("class_names", "recall", "confusion"))
    return [
        {"name": name, "recall": "no images" if value is None else f"{value:.3f}", "num": sum(counts), "value": value}
        for name, value, counts in zip(*columns, strict=True)
    ]


def _weak_classes(recall: list[dict[str, Any]]) -> str:
    weak = [row for row in recall if row["value"] is not None and row["value"] < WEAK_RECALL]
    weak = sorted(weak, key=lambda row: float(row["value"]))[:NUM_WEAK]
    return ", ".join(f"{row['name']} (recall {row['recall']} on {format_count(row['num'], 'image')})" for row in weak)


def _calibration(evaluation: Evaluation | None) -> list[dict[str, Any]]:
    metrics = evaluation.metrics if evaluation else {}
    formats = {
        "calibration_error": ("calibration error after calibration", "{:.4f}"),
        "temperature": ("temperature", "{:.4f}"),
        "latency_ms": ("prediction time per image, ms", "{:.1f}"),
        "model_mb": ("model size, MB", "{:.1f}"),
    }
    return _rows({label: form.format(metrics[name]) for name, (label, form) in formats.items() if name in metrics})


def _views(evaluation: Evaluation | None) -> str:
    settings = evaluation.settings if evaluation else {}
    corners = " in five crops" if settings.get("crops") == "corners" else ""
    flip = " and its horizontal flip" if settings.get("flip_tta") else ""
    return f"the image at zoom {settings.get('zooms', '1')}{corners}{flip}"


def _data(split: Split, store: Store) -> dict[str, Any]:
    dataset = Dataset.require(store, split.input("dataset"))
    report = json.loads(dataset.path(store, "report.json").read_text())
    counts = report.get("class_counts", {})
    return {
        "training images": split.metrics.get("num_train"),
        "validation images": split.metrics.get("num_val"),
        "usable labeled images": dataset.metrics.get("num_train"),
        "of these, extra data": dataset.metrics.get("num_extra"),
        "images per class": ", ".join(f"{name}: {num}" for name, num in counts.items()),
        "label fixes applied": len(report.get("label_fixes", [])),
        "unusable images, excluded": dataset.metrics.get("num_unusable"),
    }


def _settings(selected: SelectedModel, store: Store) -> dict[str, Any]:
    start = Model.find(store, selected.model.inputs.get("model", "none"))
    network = start.settings.get("model", {}) if start else {}
    settings = selected.model.settings
    height, width = selected.model.image_size
    return {
        "recipe": selected.record.get("recipe") if selected.record else None,
        **{name: network.get(name) for name in ("backbone", "weights")},
        "input": f"{height}x{width} px",
        **{name: network.get(name) for name in ("hidden_units", "dropout", "batch_norm", "precision")},
        "seed": settings.get("seed"),
        **{f"fine_tune.{name}": value for name, value in settings.get("fine_tune", {}).items()},
        **{f"augment.{name}": value for name, value in settings.get("augment", {}).items()},
    }


def _license_warnings(model: Classifier, store: Store) -> list[str]:
    """Return a warning for each license of starting weights that may not permit commercial use."""
    measured = model if isinstance(model, Model) else Model.require(store, model.measured_key)
    members = read_members(measured, store) if measured.is_ensemble else []
    networks = [Model.require(store, member.model) for member in members] or [measured]
    warnings = []
    for name in sorted({weights_license(network, store) for network in networks}):
        if NON_COMMERCIAL.search(name):
            warnings.append(f"The training started from weights under the license {name}, which does not permit "
                            "commercial use.")
        elif name in UNKNOWN_LICENSES:
            warnings.append("The training started from weights whose license is unknown: find out whether it permits "
                            "your use.")
    return warnings


def _keys(selected: SelectedModel, split: Split) -> dict[str, Any]:
    record: Mapping[str, Any] = selected.record or {}
    machine = training_machine(record)
    return {
        "model": selected.model.key,
        **{f"input {name}": key for name, key in selected.model.inputs.items()},
        "dataset": split.input("dataset"),
        "run": record.get("run"),
        "started": record.get("created"),
        "versions": ", ".join(f"{name} {number}" for name, number in record.get("versions", {}).items()),
        "machine": record.get("machine"),
        **{f"trained on {name}": machine[name] for name in ("processor", "gpu", "backend") if machine.get(name)},
    }
