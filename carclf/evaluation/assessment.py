"""What ``evaluation.json`` says of a model's answers."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from carclf.evaluation.metrics import classification_metrics
from carclf.evaluation.slices import compute_slices
from carclf.inference.calibration import (
    apply_temperature,
    expected_calibration_error,
    fit_temperature,
    reliability_bins,
)
from carclf.stats import FloatArray

MAX_ERRORS = 24


@dataclass(frozen=True)
class Predictions:
    """Uncalibrated probabilities (rows, classes), in the order of the rows, by a model that knows ``class_names``.

    ``rows`` are validation images of a split: id, path and label, and where they are known width, height, brightness.
    """

    rows: pd.DataFrame
    class_names: list[int]
    probabilities: FloatArray

    def predicted(self) -> Any:
        """The likeliest class of each row."""
        return np.array(self.class_names)[self.probabilities.argmax(1)]

    def table(self) -> pd.DataFrame:
        """``predictions.parquet``: id, label, predicted and a column p<class> of each class that the model knows."""
        shares = pd.DataFrame(self.probabilities, columns=[f"p{name}" for name in self.class_names])
        known = self.rows[["id", "label"]].reset_index(drop=True)
        return pd.concat([known.assign(predicted=self.predicted()), shares], axis="columns")


def compute_evaluation(answers: Predictions) -> dict[str, Any]:
    """The metrics of the answers: right and wrong, calibration, parts of the images, the most confident errors.

    A class that the model does not know is among ``class_names`` and ``unknown_classes``: its images count as wrong,
    and say nothing of the temperature. The recall of a class without images is None.
    """
    labels = answers.rows["label"].to_numpy()
    names = np.array(sorted({*answers.class_names, *labels.tolist()}))
    own = np.searchsorted(names, answers.class_names)
    shares = np.zeros((len(labels), len(names)))
    shares[:, own] = answers.probabilities
    found = classification_metrics(np.searchsorted(names, labels), shares)
    correct = answers.predicted() == labels
    return found | _calibration(answers, correct) | {
        "class_names": names.tolist(), "slices": compute_slices(answers.rows, correct),
        "unknown_classes": sorted(set(labels.tolist()) - set(answers.class_names)),
    }


def _calibration(answers: Predictions, correct: Any) -> dict[str, Any]:
    labels = answers.rows["label"].to_numpy()
    known = np.isin(labels, answers.class_names)
    positions = np.searchsorted(answers.class_names, labels[known])
    temperature = fit_temperature(positions, answers.probabilities[known])
    sure = apply_temperature(answers.probabilities, temperature).max(1)
    table = reliability_bins(sure, correct)
    before = expected_calibration_error(reliability_bins(answers.probabilities.max(1), correct))
    return {"temperature": temperature, "calibration_error": expected_calibration_error(table), "uncalibrated_calibration_error": before,
            "reliability": table, "errors": _errors(answers, sure)}


def _errors(answers: Predictions, sure: FloatArray) -> list[dict[str, Any]]:
    """The most confident wrong answers: id, path, label, predicted, and the calibrated probability of the latter."""
    columns = answers.rows[["id", "path", "label"]].reset_index(drop=True)
    told = columns.assign(predicted=answers.predicted(), probability=sure)
    wrong = told[told["predicted"] != told["label"]]
    ranked = wrong.sort_values(["probability", "path"], ascending=[False, True]).head(MAX_ERRORS)
    return [{str(name): value for name, value in row.items()} for row in ranked.to_dict("records")]
