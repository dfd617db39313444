"""Measure past champions on the same new labeled images, so that their metrics can be compared."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from carclf.artifacts import Archive, Dataset, Evaluation, Model, Split, StageContext
from carclf.champion import load_event_model, load_training_split
from carclf.champion_history import Event, State, promotions
from carclf.dataset.archives import extract_images
from carclf.dataset.champion_split import EXCLUDED, TRAIN, previous_values, without_excluded_copies
from carclf.ensembles.members import read_members
from carclf.errors import ConfigError, DataError, NotFoundError
from carclf.evaluation.assessment import Predictions, compute_evaluation
from carclf.evaluation.evaluate import LabeledImages, evaluate_test_set, with_champion_tta
from carclf.metrics import METRICS, Metric
from carclf.progress import log
from carclf.services.storage import Store
from carclf.stages.download import download
from carclf.stages.validate import validate

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class LabeledSet:
    """The files of a source and their index. ``rows`` are the usable labeled images without extra data."""

    archive: Archive
    dataset: Dataset
    rows: pd.DataFrame


@dataclass(frozen=True)
class _Champion:
    """A past champion, the event that promoted it, and which images of the test set it was trained on."""

    model: Model
    event: Event
    trained_on: Mask

    @cached_property
    def validation(self) -> str:
        """The key of the evaluation that the promotion was based on."""
        return str(self.event["evaluation"])


def prepare_test_set(context: StageContext) -> LabeledSet:
    """Download and validate ``data.source``. Raise DataError if it has no labeled images."""
    archive, _ = download(context, of_run=False)
    dataset, _ = validate(archive, context)
    index = dataset.index(context.store)
    is_usable = (index["label"] != "") & (index["problem"] == "") & (index["source"] != "extra")
    if not is_usable.any():
        raise DataError(f"{context.config.data.source} has no labeled images. Give class folders, or a table of "
                        "labels.")
    return LabeledSet(archive, dataset, index[is_usable].reset_index(drop=True))


def reevaluate(test_set: LabeledSet, state: State, context: StageContext, last: int = 0) -> list[dict[str, Any]]:
    """Return one row for each champion, in the order of the promotions; ``last`` limits them to the newest.

    All are measured on the same images: those that none of them, and no champion before them, was trained on. The
    evaluation of a model is kept in the store and covers all images that the model itself was not trained on. The
    metric is that of the stored threshold, or accuracy if it is not defined for the images.

    Raises:
        ConfigError: There is no champion, or one of them has no class in common with the images.
        DataError: Every image was used to train a champion.
    """
    champions = [_champion(event, test_set, context.store) for event in _measured_promotions(state)[-last:]]
    if not champions:
        raise NotFoundError(f"There is no champion in {context.store.url}.")
    is_common = ~np.any([champion.trained_on for champion in champions], axis=0)
    log.info("reevaluate: num_labeled=%d num_trained_on=%d num_common=%d", len(is_common), (~is_common).sum(),
             is_common.sum())
    if not is_common.any():
        raise DataError(f"A champion was trained on each of the {len(is_common)} images. Give images that are new, or "
                        "measure fewer champions with --last.")
    metric = METRICS[state["metric"]]
    metric = metric if metric.is_defined(test_set.rows["label"][is_common].tolist()) else METRICS["accuracy"]
    current = (state["champion"] or {}).get("model")
    return [_row(champion, test_set, is_common, metric, context) | {"champion": champion.model.key == current}
            for champion in champions]


def _measured_promotions(state: State) -> list[Event]:
    return [event for event in promotions(state) if event.get("evaluation")]


def _champion(event: Event, test_set: LabeledSet, store: Store) -> _Champion:
    model = load_event_model(store, event)
    labels = set(test_set.rows["label"])
    if labels.isdisjoint(model.class_names):
        raise ConfigError(f"The champion {model.key} has no class in common with the images: it predicts "
                          f"{', '.join(model.class_names[:5])}, and their labels are {', '.join(sorted(labels)[:5])}. "
                          "Name the classes alike, for example with --set data.class_names=0=NAME,1=NAME.")
    return _Champion(model, event, trained_on(test_set.rows, model, store))


def trained_on(rows: pd.DataFrame, model: Model, store: Store) -> Mask:
    """Return whether the model, a member of it or a champion before it was trained on each image or a copy of it."""
    splits = [load_training_split(store, model)]
    if model.is_ensemble:
        splits += [Split.require(store, member.split) for member in read_members(model, store)]
    mask = np.zeros(len(rows), bool)
    for history in (split.history(store) for split in splits):
        subsets = previous_values(rows, without_excluded_copies(history), "subset")
        mask |= subsets.isin([TRAIN, EXCLUDED]).to_numpy()
    return mask


def _row(
    champion: _Champion, test_set: LabeledSet, is_common: Mask, metric: Metric, context: StageContext
) -> dict[str, Any]:
    store, is_new = context.store, ~champion.trained_on
    context = replace(context, config=with_champion_tta(context.config, champion.event, store))
    rows = test_set.rows[is_new].reset_index(drop=True)
    images = LabeledImages(rows, extract_images(test_set.archive, store), metric)
    validation = Evaluation.require(store, champion.validation)
    evaluation, reused = evaluate_test_set(test_set.dataset, images, validation, context)
    measured = compute_evaluation(_predictions(evaluation, champion.model, images, is_common[is_new], store))
    low, high = measured["interval"]
    log.info("reevaluate: model=%s evaluation=%s reused=%s", champion.model.key, evaluation.key, reused)
    return {
        "model": champion.model.key, "run": champion.event.get("run", ""), "promoted": champion.event["time"],
        "metric": metric.name, "value": measured["val_metric"], "low": measured["val_metric_low"],
        "high": measured["val_metric_high"], "accuracy": measured["accuracy"], "accuracy_low": low,
        "accuracy_high": high, "num_images": int(is_common.sum()), "num_trained_on": int(champion.trained_on.sum()),
        "evaluation": evaluation.key,
    }


def _predictions(
    evaluation: Evaluation, model: Model, images: LabeledImages, chosen: Mask, store: Store
) -> Predictions:
    """Return the stored predictions of the chosen images."""
    table = evaluation.table(store, "predictions.parquet")
    return Predictions(
        images.rows[chosen].reset_index(drop=True), model.class_names,
        table.filter(regex="^p_").to_numpy(float)[chosen], images.metric, evaluation.number("temperature"))
