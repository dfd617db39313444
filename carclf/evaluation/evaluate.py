"""A model measured on a split's validation images, and what an evaluation leaves.

Nothing here imports the training framework unless there is something to measure.
"""


import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from carclf.artifacts import Archive, Evaluation, Metrics, Model, Provenance, Split, StageContext, build
from carclf.champion import Event
from carclf.config import Config, Evaluate
from carclf.errors import QualityError
from carclf.services.storage import Store

if TYPE_CHECKING:
    from carclf.evaluation.assessment import Predictions
    from carclf.reports.error_images import ExplainFunction




VERSION = 4


def evaluate_model(
    archive: Archive, split: Split, model: Model, context: StageContext
) -> tuple[Evaluation, bool]:
    """The model's evaluation on the split's validation images, and whether it was reused."""
    config, store, salt = context.config, context.store, context.salt

    def make(folder: Path) -> Metrics:
        return _measure(folder, archive, split, model, config, store)

    return build(Evaluation, make, Provenance(VERSION, {"archive": archive.key, "split": split.key, "model": model.key}, config.evaluate.model_dump(exclude={"batch_size"}) | {"salt": salt}), store)


def tta_settings(evaluation: Evaluation | None) -> Evaluate:
    """The looks that an evaluation was made with; the default for what it is too old to tell."""
    told = evaluation.settings if evaluation else {}
    return Evaluate.model_validate({name: told[name] for name in Evaluate.model_fields if name in told})


def with_champion_tta(config: Config, event: Event, store: Store) -> Config:
    """The configuration with the looks that the event's model was promoted with, where they are known.

    It answers by those. By a candidate's that spoil every model's answers, a worse one would pass for no worse.
    """
    key = event.get("evaluation")  # a champion of an early version has none
    if not key or (promoted := Evaluation.find(store, key)) is None:
        return config
    looks = tta_settings(promoted).model_copy(update={"batch_size": config.evaluate.batch_size})
    return config.model_copy(update={"evaluate": looks})



def write_evaluation(
    folder: Path, answers: "Predictions", images: Path, *, measures: Metrics, explain: "ExplainFunction | None" = None
) -> Metrics:
    """Write an evaluation's files from a model's, or an ensemble's, answers; returns the artifact's metrics.

    ``images`` is the unpacked archive. ``measures`` become metrics as they are: milliseconds, model_mb and, where it
    is known, reload_difference. ``explain`` says where a network looked; without it the errors are shown alone.
    """
    from carclf.evaluation.assessment import compute_evaluation
    from carclf.reports.error_images import error_images
    from carclf.reports.evaluation_report import render_evaluation
    from carclf.reports.render import write_page

    found = compute_evaluation(answers) | measures
    pictures = error_images(found["errors"], images, explain)
    answers.table().to_parquet(folder / "predictions.parquet", index=False)
    (folder / "evaluation.json").write_text(json.dumps(found, indent=1))
    (folder / "error_images.json").write_text(json.dumps(pictures))
    write_page(folder / "report.html", render_evaluation(found, pictures))
    return _figures(found) | measures


def _figures(found: dict[str, Any]) -> Metrics:
    recall = {name: value for name, value in zip(found["class_names"], found["recall"], strict=True)
              if value is not None}
    weakest = min(recall, key=lambda name: recall[name])
    return {
        "val_accuracy": found["accuracy"], "val_accuracy_low": found["interval"][0], "val_accuracy_high": found["interval"][1],
        "num_images": found["num_images"], "weakest_class": weakest, "weakest_recall": recall[weakest],
        "temperature": found["temperature"], "calibration_error": found["calibration_error"],
    }


def _measure(folder: Path, archive: Archive, split: Split, model: Model, config: Config, store: Store) -> Metrics:
    import keras
    import numpy as np
    import pandas as pd

    from carclf.dataset.archives import extract_images
    from carclf.evaluation.assessment import Predictions
    from carclf.inference.tta import milliseconds_per_image
    from carclf.pipeline.batches import Examples, LetterboxedSource

    rows = pd.read_parquet(split.path(store, "split.parquet"))
    network = keras.models.load_model(model.path(store, "model.keras"), compile=False)
    images = extract_images(archive, store)
    size = model.image_size
    ask = _ask_members if model.is_ensemble else _ask
    val, probabilities, explain = ask(network, split, model, images, config, store)
    if not np.isfinite(probabilities).all():
        raise QualityError(f"The model {model.key} answers what is no number. Train again with force and with a lower "
                           "fine_tune.learning_rate.")
    measures = _reloaded(rows, images, model, store)
    pictures = LetterboxedSource(Examples.from_index(val, images, size), size)
    measures["latency_ms"] = milliseconds_per_image(network, pictures, config.evaluate)
    measures["model_mb"] = model.files["model.keras"].num_bytes / 1e6
    answers = Predictions(val, model.class_names, probabilities)
    return write_evaluation(folder, answers, images, measures=measures, explain=explain)


def _ask(
    network: Any, split: Split, model: Model, images: Path, config: Config, store: Store
) -> tuple[Any, Any, "ExplainFunction | None"]:
    """The validation pictures' rows, the network's probabilities of them, and who says where it looked."""
    import pandas as pd

    from carclf.inference.gradcam import Explainer
    from carclf.inference.tta import predict
    from carclf.pipeline.batches import Examples, LetterboxedSource

    rows = pd.read_parquet(split.path(store, "split.parquet"))
    val = rows[rows["subset"] == "val"].reset_index(drop=True)
    size = model.image_size
    probabilities = predict(network, LetterboxedSource(Examples.from_index(val, images, size), size), config.evaluate)
    return val, probabilities, Explainer(network, images, size, model.class_names)


def _ask_members(
    network: Any, split: Split, model: Model, images: Path, config: Config, store: Store
) -> tuple[Any, Any, None]:
    """The same of an ensemble, each picture by members that were not trained on it; nobody says where they looked."""
    from carclf.ensembles.network import out_of_sample_predictions

    return *out_of_sample_predictions(network, split, model, images, config.evaluate, store), None


def _reloaded(rows: Any, images: Path, model: Model, store: Store) -> Metrics:
    """``reload_difference``; nothing for a model from before there were probes."""
    import pandas as pd

    from carclf.evaluation.reload_check import reload_difference


    if "reference_logits.parquet" not in model.files:
        return {}
    probe = pd.read_parquet(model.path(store, "reference_logits.parquet"))
    size = model.image_size
    found = reload_difference(model.path(store, "model.keras"), probe, rows, images, size)
    return {} if found is None else {"reload_difference": found}
