"""The validation images that two runs have in common and that neither model was trained on, with both predictions."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from carclf.artifacts import Evaluation, Model, Split
from carclf.dashboard.comparison_facts import ChangedPrediction, ClassDifference, PairedResult
from carclf.ensembles.members import ids_predicted_identically
from carclf.evaluation.assessment import dependent_images
from carclf.gate.comparison import ids_trained_on
from carclf.inference.calibration import apply_temperature
from carclf.metrics import METRICS, Metric
from carclf.natural_order import sort_naturally
from carclf.paired_bootstrap import Examples, compare_models
from carclf.services.storage import Store
from carclf.stats import FloatArray, PairedCounts, class_positions, probability_columns

MAX_CHANGED = 200


@dataclass(frozen=True)
class EvaluatedRun:
    """A run's model, the split that it was trained on, and its evaluation on that split's validation images."""

    model: Model
    split: Split
    evaluation: Evaluation


@dataclass(frozen=True)
class CommonImages:
    """The common images and how many were excluded for each reason, as in ``PairedResult``.

    The columns of ``rows`` are id, path ("" if unknown), group, label, a and b (the predicted classes), a_probability
    and b_probability (calibrated; NaN if unknown). ``probabilities`` are those of both models, calibrated, of shape
    (images, classes), if the metric is not accuracy.
    """

    rows: pd.DataFrame
    metric: Metric
    class_names: Sequence[str]
    probabilities: tuple[FloatArray, FloatArray] | None
    num_trained_on: int
    num_mismatched: int
    num_same_members: int

    def paired(self) -> PairedResult:
        """Count the correct predictions of both models and test their difference."""
        a = self.rows["a"] == self.rows["label"]
        b = self.rows["b"] == self.rows["label"]
        counts = PairedCounts(len(self.rows), int((b & ~a).sum()), int((a & ~b).sum()))
        statistics: dict[str, Any] = {}
        if counts.num_images:
            statistics = {"accuracy_a": float(a.mean()), "accuracy_b": float(b.mean())} | self._test(counts)
        return PairedResult(
            num_images=counts.num_images,
            only_a_correct=counts.champion_only_correct, only_b_correct=counts.candidate_only_correct,
            both_correct=int((a & b).sum()), both_incorrect=int((~a & ~b).sum()), num_trained_on=self.num_trained_on,
            num_mismatched=self.num_mismatched, num_same_members=self.num_same_members, **statistics,
        )

    def _test(self, counts: PairedCounts) -> dict[str, Any]:
        """Return the metric of both models and the test of their difference."""
        if self.probabilities is None:
            a, b = ((self.rows[run] == self.rows["label"]).mean() for run in ("a", "b"))
            return {"a": float(a), "b": float(b), "difference": counts.difference, "interval": counts.interval(),
                    "p_value": counts.p_different}
        labels = class_positions(self.rows["label"].to_numpy(), self.class_names)
        examples = Examples(labels, self.class_names, self.rows["group"].tolist())
        first, second = self.probabilities
        test = compare_models(self.metric, examples, second, first)
        a, b = (self.metric.compute(labels, probabilities, self.class_names) for probabilities in (first, second))
        return {"metric": self.metric.name, "a": a, "b": b, "difference": test.difference, "interval": test.interval,
                "p_value": test.p_different}

    def classes(self) -> tuple[ClassDifference, ...]:
        """Return the recalls of each class, the largest loss of b first."""
        correct = self.rows.assign(**{run: self.rows[run] == self.rows["label"] for run in ("a", "b")})
        table = correct.groupby("label").agg(num_images=("id", "size"), a=("a", "mean"), b=("b", "mean"))
        table = table.loc[sort_naturally(table.index)].reset_index()
        table = table.assign(difference=table["b"] - table["a"]).sort_values("difference", kind="stable")
        return tuple(ClassDifference.model_validate(row) for row in table.to_dict("records"))

    def changed_predictions(self, max_per_kind: int | None = None) -> list[ChangedPrediction]:
        """Return the images with different predictions, the most confident of b first, at most MAX_CHANGED."""
        rows = self.rows[self.rows["a"] != self.rows["b"]]
        rows = rows.sort_values(["b_probability", "id"], ascending=[False, True])
        gained, lost = rows["b"] == rows["label"], rows["a"] == rows["label"]
        rows = rows.assign(kind=np.select([gained, lost], ["gained", "lost"], "both_incorrect"))
        rows = (rows if max_per_kind is None else rows.groupby("kind").head(max_per_kind)).head(MAX_CHANGED)
        rows = rows.astype(object).where(rows.notna(), None)
        return [ChangedPrediction.model_validate(row) for row in rows.to_dict("records")]


def find_common_images(a: EvaluatedRun, b: EvaluatedRun, store: Store) -> CommonImages:
    """Return the images that both runs validated on and on which their models can be compared fairly."""
    rows_a = _validation_rows(a, store)
    rows_b = _validation_rows(b, store)
    trained_on: set[str] = set()
    if a.split.key != b.split.key:
        trained_on = ids_trained_on(rows_a, b.split.history(store)) | ids_trained_on(rows_b, a.split.history(store))
    both = rows_a.add_suffix("_a").merge(
        rows_b.add_suffix("_b"), left_on="id_a", right_on="id_b", validate="one_to_one")
    is_trained_on = both["id_a"].isin(trained_on)
    matches = both["label_a"].eq(both["label_b"]) & both["sha256_a"].eq(both["sha256_b"])
    common = both[matches & ~is_trained_on]
    candidates = rows_a[rows_a["id"].isin(common["id_a"])].reset_index(drop=True)
    identical = ids_predicted_identically(candidates, a.model, b.model, store)
    common = common[~common["id_a"].isin(identical)].reset_index(drop=True)
    columns = {"id_a": "id", "path_a": "path", "group_a": "group", "label_a": "label", "predicted_a": "a",
               "predicted_b": "b", "probability_a": "a_probability", "probability_b": "b_probability"}
    rows = common[list(columns)].rename(columns=columns)
    num_mismatched = int((~matches & ~is_trained_on).sum())
    metric = METRICS[b.split.metric_name]
    names = sort_naturally({*a.model.class_names, *b.model.class_names, *rows["label"]})
    probabilities = None
    if not metric.is_accuracy:
        probabilities = _probabilities(common, "a", a, names), _probabilities(common, "b", b, names)
    return CommonImages(rows, metric, names, probabilities, int(is_trained_on.sum()), num_mismatched, len(identical))


def _probabilities(common: pd.DataFrame, letter: str, run: EvaluatedRun, names: Sequence[str]) -> FloatArray:
    """Return calibrated probabilities of the common images; 0 for classes that the model was not trained on."""
    columns = [f"{column}_{letter}" for column in probability_columns(run.model.class_names)]
    table = common[columns].to_numpy(float)
    aligned = np.zeros((len(table), len(names)))
    aligned[:, class_positions(run.model.class_names, names)] = table
    return aligned


def _validation_rows(run: EvaluatedRun, store: Store) -> pd.DataFrame:
    """Return the split's rows of the evaluated images, with ``predicted`` and its calibrated ``probability``."""
    predictions = run.evaluation.table(store, "predictions.parquet")
    rows = run.split.rows(store)
    if "path" not in rows:
        rows = rows.assign(path="")
    rows = rows.assign(group=dependent_images(rows))
    predicted = predictions[["id", "predicted"]].assign(probability=np.nan)
    probabilities = predictions.filter(regex="^p_")
    if probabilities.size:
        calibrated = apply_temperature(probabilities.to_numpy(float), predictions["temperature"].to_numpy(float))
        predicted = predicted.assign(probability=calibrated.max(1))
        if not METRICS[run.split.metric_name].is_accuracy:  # not needed for accuracy, and large for many classes
            predicted = predicted.join(pd.DataFrame(calibrated, predicted.index, probabilities.columns))
    return rows[rows["subset"] == "val"].merge(predicted, on="id", validate="one_to_one")
