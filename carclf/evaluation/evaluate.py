"""Measure a model on a split's validation images, or a champion on the labeled test images; write its evaluation.

The training framework is imported inside functions, so that reusing an evaluation does not load it.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from carclf.artifacts import Archive, Dataset, Evaluation, Metrics, Model, Provenance, Split, StageContext, build
from carclf.champion import load_event_model
from carclf.champion_history import Event
from carclf.config import Config, Evaluate
from carclf.dataset.archives import extract_images
from carclf.errors import QualityError
from carclf.metrics import METRICS, Metric
from carclf.progress import log
from carclf.reports.evaluation_report import render_evaluation
from carclf.reports.render import write_page
from carclf.services.storage import Store

if TYPE_CHECKING:
    import keras
    import pandas as pd

    from carclf.evaluation.assessment import Predictions
    from carclf.reports.error_images import ExplainFunction

VERSION = 8
METRIC_FIELDS = ("metric", "val_metric", "val_metric_low", "val_metric_high")


def evaluate_model(archive: Archive, split: Split, model: Model, context: StageContext) -> tuple[Evaluation, bool]:
    """Return the model's evaluation on the split's validation images, and whether it was reused.

    Raises:
        QualityError: The model predicts NaN or infinity.
    """

    def make(folder: Path) -> Metrics:
        return _measure(folder, archive, split, model, context)

    inputs = {"archive": archive.key, "split": split.key, "model": model.key}
    settings = context.config.evaluate.model_dump(exclude={"batch_size"}) | {"salt": context.salt}
    return build(Evaluation, make, Provenance(VERSION, inputs, settings), context.store)


def evaluate_holdout(
    archive: Archive, split: Split, validation: Evaluation, context: StageContext
) -> tuple[Evaluation, bool]:
    """Return the evaluation on the split's labeled test images of a validated model, and whether it was reused.

    The temperature is that of the validation, so that nothing is fitted to these images. The metrics are named
    holdout_accuracy and so on; without holdout_metric if the metric is undefined for the images.
    """
    model = Model.require(context.store, validation.input("model"))

    def make(folder: Path) -> Metrics:
        return _measure_holdout(folder, archive, split, validation, context)

    inputs = {"archive": archive.key, "split": split.key, "model": model.key, "validation": validation.key}
    settings = context.config.evaluate.model_dump(exclude={"batch_size"}) | {"salt": context.salt, "subset": "holdout"}
    return build(Evaluation, make, Provenance(VERSION, inputs, settings), context.store)


@dataclass(frozen=True)
class LabeledImages:
    """Labeled images: ``rows`` of an index, the folder with their files, and the metric to measure."""

    rows: "pd.DataFrame"
    folder: Path
    metric: Metric


def evaluate_test_set(
    dataset: Dataset, images: LabeledImages, validation: Evaluation, context: StageContext
) -> tuple[Evaluation, bool]:
    """Return the evaluation of a validated model on images of another dataset, and whether it was reused.

    ``images.rows`` are all usable labeled images of the dataset that the model was not trained on. As for the labeled
    test images of a split, nothing is fitted. The metrics are named test_accuracy and so on.
    """

    def make(folder: Path) -> Metrics:
        metrics = _measure_test(folder, images, validation, context)
        return {name.replace("val_", "test_", 1): value for name, value in metrics.items()} | {"subset": "test"}

    inputs = {"dataset": dataset.key, "model": validation.input("model"), "validation": validation.key}
    settings = context.config.evaluate.model_dump(exclude={"batch_size"}) | {"salt": context.salt, "subset": "test"}
    settings |= {"metric": images.metric.name}
    return build(Evaluation, make, Provenance(VERSION, inputs, settings), context.store)


def tta_settings(evaluation: Evaluation | None) -> Evaluate:
    """Return the settings of test-time augmentation that an evaluation was made with; the defaults for None."""
    settings = evaluation.settings if evaluation else {}
    return Evaluate.model_validate({name: settings[name] for name in Evaluate.model_fields if name in settings})


def with_champion_tta(config: Config, event: Event, store: Store) -> Config:
    """Return the configuration with the test-time augmentation that a champion was promoted with.

    The champion keeps its own settings. Otherwise a candidate's settings that harm every model would let a worse
    candidate pass as not worse.
    """
    evaluate = tta_settings(Evaluation.require(store, event["evaluation"]))
    evaluate = evaluate.model_copy(update={"batch_size": config.evaluate.batch_size})
    return config.model_copy(update={"evaluate": evaluate})


def evaluate_champion(archive: Archive, split: Split, event: Event, context: StageContext) -> tuple[Evaluation, bool]:
    """Return the champion's evaluation on the split's validation images, with its own test-time augmentation."""
    champion_context = replace(context, config=with_champion_tta(context.config, event, context.store))
    return evaluate_model(archive, split, load_event_model(context.store, event), champion_context)


def write_evaluation(
    folder: Path, predictions: "Predictions", images: Path, *, measurements: Metrics,
    explain: "ExplainFunction | None" = None,
) -> Metrics:
    """Write the files of an evaluation to a folder and return its metrics.

    ``images`` is the unpacked archive. ``measurements`` are further metrics: latency_ms, model_mb and, if known,
    reload_difference. ``explain`` computes heatmaps of misclassified images for the report.
    """
    from carclf.evaluation.assessment import compute_evaluation
    from carclf.reports.error_images import error_images

    evaluation = compute_evaluation(predictions) | measurements
    images_of_errors = error_images(evaluation["errors"], images, explain)
    predictions.write_table(folder / "predictions.parquet")
    (folder / "evaluation.json").write_text(json.dumps(evaluation, indent=1))
    (folder / "error_images.json").write_text(json.dumps(images_of_errors))
    write_page(folder / "report.html", render_evaluation(evaluation, images_of_errors))
    return _metrics(evaluation) | measurements


def _metrics(evaluation: dict[str, Any]) -> Metrics:
    pairs = zip(evaluation["class_names"], evaluation["recall"], strict=True)
    recall = {name: value for name, value in pairs if value is not None}
    weakest = min(recall, key=lambda name: recall[name])
    low, high = evaluation["interval"]
    of_metric = {name: evaluation[name] for name in METRIC_FIELDS}
    return of_metric | {
        "val_accuracy": evaluation["accuracy"], "val_accuracy_low": low, "val_accuracy_high": high,
        "num_images": evaluation["num_images"], "weakest_class": weakest, "weakest_recall": recall[weakest],
        "temperature": evaluation["temperature"], "calibration_error": evaluation["calibration_error"],
    }


def _measure(folder: Path, archive: Archive, split: Split, model: Model, context: StageContext) -> Metrics:
    from carclf.evaluation.reload_check import reload_difference
    from carclf.inference.tta import milliseconds_per_image
    from carclf.pipeline.batches import Examples, LetterboxedSource

    store = context.store
    network = model.network(store)
    images = extract_images(archive, store)
    predictions, explain = _predict(network, split, model, images, context)
    _require_finite(predictions, model)
    measurements: Metrics = {}
    if (difference := reload_difference(model, split.rows(store), images, store)) is not None:
        measurements["reload_difference"] = difference
    source = LetterboxedSource(Examples.from_index(predictions.rows, images, model.image_size), model.image_size)
    measurements["latency_ms"] = milliseconds_per_image(network, source, context.config.evaluate)
    measurements["model_mb"] = model.file("model.keras").num_bytes / 1e6
    return write_evaluation(folder, predictions, images, measurements=measurements, explain=explain)


def _measure_holdout(
    folder: Path, archive: Archive, split: Split, validation: Evaluation, context: StageContext
) -> Metrics:
    from carclf.dataset.champion_split import HOLDOUT

    rows = split.rows(context.store).query("subset == @HOLDOUT").reset_index(drop=True)
    metric = METRICS[split.metric_name]
    if not (is_defined := metric.is_defined(rows["label"].tolist())):
        log.warning("promote: the labeled test images have too few classes for %s: only the accuracy is measured",
                    metric.noun)
    images = LabeledImages(rows, extract_images(archive, context.store), metric if is_defined else METRICS["accuracy"])
    metrics = _measure_test(folder, images, validation, context)
    return {
        name.replace("val_", "holdout_", 1): value for name, value in (metrics | {"subset": HOLDOUT}).items()
        if is_defined or not name.startswith("val_metric")
    }


def _measure_test(folder: Path, images: "LabeledImages", validation: Evaluation, context: StageContext) -> Metrics:
    """Measure a validated model on images that it was not trained on, with the temperature of its validation."""
    model = Model.require(context.store, validation.input("model"))
    network = model.network(context.store)
    predictions, explain = _predict_rows(network, images.rows, model, images.folder, context.config.evaluate)
    _require_finite(predictions, model)
    predictions = replace(predictions, metric=images.metric, temperature=validation.number("temperature"))
    measurements: Metrics = {name: validation.number(name) for name in ("latency_ms", "model_mb")}
    return write_evaluation(folder, predictions, images.folder, measurements=measurements, explain=explain)


def _require_finite(predictions: "Predictions", model: Model) -> None:
    import numpy as np

    if not np.isfinite(predictions.probabilities).all():
        raise QualityError(
            f"The model {model.key} predicts NaN or infinity. Train again with --set force=true and a lower "
            "fine_tune.learning_rate."
        )


def _predict(
    network: "keras.Model", split: Split, model: Model, images: Path, context: StageContext
) -> "tuple[Predictions, ExplainFunction | None]":
    """Return predictions of the validation images and, unless the model is an ensemble, a function for heatmaps."""
    from carclf.dataset.champion_split import VAL
    from carclf.evaluation.assessment import Predictions

    metric = METRICS[split.metric_name]
    if model.is_ensemble:
        from carclf.ensembles.network import out_of_sample_predictions

        rows, probabilities = out_of_sample_predictions(network, model, split, images, context)
        return Predictions(rows, model.class_names, probabilities, metric), None
    rows = split.rows(context.store)
    rows = rows[rows["subset"] == VAL].reset_index(drop=True)
    predictions, explain = _predict_rows(network, rows, model, images, context.config.evaluate)
    return replace(predictions, metric=metric), explain


def _predict_rows(
    network: "keras.Model", rows: "pd.DataFrame", model: Model, images: Path, settings: Evaluate
) -> "tuple[Predictions, ExplainFunction | None]":
    """Return predictions of images that no member was trained on and, unless it is an ensemble, a heatmap function."""
    from carclf.evaluation.assessment import Predictions
    from carclf.inference.gradcam import Explainer
    from carclf.inference.tta import predict
    from carclf.pipeline.batches import Examples, LetterboxedSource

    source = LetterboxedSource(Examples.from_index(rows, images, model.image_size), model.image_size)
    probabilities = predict(network, source, settings)
    explain = None if model.is_ensemble else Explainer(network, images, model.image_size, model.class_names)
    return Predictions(rows, model.class_names, probabilities), explain
