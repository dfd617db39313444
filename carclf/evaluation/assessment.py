"""Compute the content of ``evaluation.json`` from a model's predictions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from carclf.evaluation.classification import classification_metrics
from carclf.evaluation.slices import compute_slices
from carclf.inference.calibration import (
    apply_temperature,
    cross_fitted_temperatures,
    expected_calibration_error,
    fit_temperature,
    reliability_bins,
)
from carclf.metrics import METRICS, Metric
from carclf.natural_order import sort_naturally
from carclf.paired_bootstrap import Examples, cluster_numbers, metric_interval
from carclf.stats import FloatArray, class_positions, probability_columns, row_chunks

MAX_ERRORS = 24


@dataclass(frozen=True)
class Predictions:
    """Uncalibrated probabilities of validation images, shape (images, classes), with the names of these classes.

    ``rows`` have the columns id, path and label, and optionally width, height, brightness, cluster and group.
    ``metric`` is measured next to accuracy. If ``temperature`` is None, it is fitted to the labels, and the metrics use
    cross-fitted temperatures.
    """

    rows: pd.DataFrame
    class_names: list[str]
    probabilities: FloatArray
    metric: Metric = METRICS["accuracy"]
    temperature: float | None = None

    @cached_property
    def temperatures(self) -> FloatArray:
        """The temperature of each image, which is fitted to the images of other folds unless it is given."""
        if self.temperature is not None:
            return np.full(len(self.rows), self.temperature)
        units = cluster_numbers(dependent_images(self.rows), len(self.rows))
        return cross_fitted_temperatures(self._label_positions(), self.probabilities, units)

    def deployed_temperature(self) -> float:
        """Return the given temperature, or the temperature that is fitted to all images."""
        if self.temperature is not None:
            return self.temperature
        return fit_temperature(self._label_positions(), self.probabilities)

    def _label_positions(self) -> npt.NDArray[np.int64]:
        return class_positions(self.rows["label"].to_numpy(), self.class_names)

    def calibrated(self, temperature: float | FloatArray, class_names: Sequence[str]) -> FloatArray:
        """Return calibrated probabilities of these classes: 0 for those that the model was not trained on."""
        aligned = np.zeros((len(self.probabilities), len(class_names)))
        temperatures = np.broadcast_to(temperature, len(aligned))
        columns = class_positions(self.class_names, class_names)
        for rows in row_chunks(self.probabilities.shape):
            aligned[rows][:, columns] = apply_temperature(self.probabilities[rows], temperatures[rows])
        return aligned

    def predicted(self, rows: slice = slice(None)) -> npt.NDArray[np.object_]:
        """Return the most probable class of each image, or of some rows."""
        return np.asarray(np.array(self.class_names, object)[self.probabilities[rows].argmax(1)])

    def correct(self) -> npt.NDArray[np.bool_]:
        """Return for each image whether the most probable class is its label."""
        return np.asarray(self.predicted() == self.rows["label"].to_numpy())

    def table(self, rows: slice = slice(None)) -> pd.DataFrame:
        """Return rows of ``predictions.parquet``: id, label, predicted, temperature, and p_<class>.

        ``temperature`` are the ``temperatures``, and the probabilities of the classes are uncalibrated.
        """
        probabilities = pd.DataFrame(self.probabilities[rows], columns=probability_columns(self.class_names))
        images = self.rows[["id", "label"]].iloc[rows].reset_index(drop=True)
        images = images.assign(predicted=self.predicted(rows), temperature=self.temperatures[rows])
        return pd.concat([images, probabilities], axis="columns")

    def write_table(self, path: Path) -> None:
        """Write ``predictions.parquet`` in chunks, because a table of all rows would copy the probabilities twice."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        chunks = row_chunks(self.probabilities.shape)
        schema = pa.Schema.from_pandas(self.table(chunks[0]), preserve_index=False)
        with pq.ParquetWriter(path, schema) as writer:
            for rows in chunks:
                writer.write_table(pa.Table.from_pandas(self.table(rows), schema, preserve_index=False))


def compute_evaluation(predictions: Predictions) -> dict[str, Any]:
    """Return metrics, calibration, slices and the most confident errors of the predictions.

    Labels that the model was not trained on are in ``unknown_classes`` and also in ``class_names``. Their
    images count as errors and are not used to fit the temperature. The recall of a class without images is None.
    ``temperature`` is fitted to all images. The other values use the cross-fitted temperatures: otherwise calibration
    error and log loss would be measured on the images that they were minimized on.
    """
    temperature = predictions.deployed_temperature()  # first: it needs as much memory as the calibrated probabilities
    labels = predictions.rows["label"].to_numpy()
    names = sort_naturally([*predictions.class_names, *labels])
    probabilities = predictions.calibrated(predictions.temperatures, names)
    metrics = classification_metrics(class_positions(labels, names), probabilities)
    calibration = _calibration(predictions, probabilities.max(1))
    metrics |= _metric(predictions, probabilities, names, metrics)
    return metrics | {"temperature": temperature} | calibration | {
        "class_names": names,
        "unknown_classes": sort_naturally(set(labels) - set(predictions.class_names)),
        "slices": compute_slices(predictions.rows, predictions.correct()),
    }


def dependent_images(rows: pd.DataFrame) -> list[str]:
    """Return a name for each image that those of its group share, else those of its cluster of near-duplicates."""
    names = np.full(len(rows), "", object)
    if "cluster" in rows:
        names = ("cluster " + rows["cluster"].astype(str)).to_numpy(object)
    if "group" in rows:
        names = np.where(rows["group"] != "", "group " + rows["group"], names)
    return [str(name) for name in names]


def _metric(
    predictions: Predictions, probabilities: FloatArray, names: Sequence[str], metrics: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the name, the value and the 95% interval of the metric of calibrated probabilities."""
    metric, value = predictions.metric, metrics["accuracy"]
    low, high = metrics["interval"]
    if not metric.is_accuracy:
        labels = class_positions(predictions.rows["label"].to_numpy(), names)
        value = metric.compute(labels, probabilities, names)
        low, high = metric_interval(metric, Examples(labels, names, dependent_images(predictions.rows)), probabilities)
    return {"metric": metric.name, "val_metric": value, "val_metric_low": low, "val_metric_high": high}


def _calibration(predictions: Predictions, confidence: FloatArray) -> dict[str, Any]:
    correct = predictions.correct()
    bins = reliability_bins(confidence, correct)
    uncalibrated_bins = reliability_bins(predictions.probabilities.max(1), correct)
    return {
        "calibration_error": expected_calibration_error(bins),
        "uncalibrated_calibration_error": expected_calibration_error(uncalibrated_bins),
        "reliability": bins, "errors": _most_confident_errors(predictions, confidence),
    }


def _most_confident_errors(predictions: Predictions, confidence: FloatArray) -> list[dict[str, Any]]:
    """Return id, path, label, predicted and calibrated probability of errors, the most confident first."""
    images = predictions.rows[["id", "path", "label"]].reset_index(drop=True)
    images = images.assign(predicted=predictions.predicted(), probability=confidence)
    errors = images[~predictions.correct()].sort_values(["probability", "path"], ascending=[False, True])
    return [{str(name): value for name, value in row.items()} for row in errors.head(MAX_ERRORS).to_dict("records")]
