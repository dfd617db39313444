"""The gate's decision on a candidate, and its files."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict

from carclf.artifacts import Evaluation, Metrics, Model, Split, StageContext
from carclf.champion import load_training_split
from carclf.ensembles.members import ids_predicted_identically
from carclf.evaluation.assessment import Predictions, dependent_images
from carclf.formatting import finite_number
from carclf.gate.comparison import ChampionComparison, compare_pairs, ids_trained_on, pair_predictions
from carclf.gate.rules import Evidence, RuleResult, evaluate_rules, format_reason
from carclf.metrics import METRICS
from carclf.natural_order import sort_naturally
from carclf.paired_bootstrap import Examples, compare_models
from carclf.reports.decision_report import render_decision
from carclf.reports.render import write_page
from carclf.services.storage import Store
from carclf.stats import FloatArray, class_positions, probability_columns


@dataclass(frozen=True)
class EvaluatedModel:
    """A model and its evaluation."""

    model: Model
    evaluation: Evaluation

    def predictions(self, store: Store) -> pd.DataFrame:
        """Return id, label and predicted of the rows of ``predictions.parquet``."""
        return self.evaluation.table(store, "predictions.parquet", ["id", "label", "predicted"])

    def probabilities(self, ids: Sequence[str], class_names: Sequence[str], store: Store) -> FloatArray:
        """Return calibrated probabilities of images, shape (ids, classes), by cross-fitted temperatures."""
        positions = pd.Series(np.arange(len(ids)), list(ids))
        columns = probability_columns(self.model.class_names)
        probabilities = np.empty((len(ids), len(class_names)))
        for batch in self.evaluation.table_batches(store, "predictions.parquet"):
            rows = batch[batch["id"].isin(positions.index)]
            predictions = Predictions(rows, self.model.class_names, rows[columns].to_numpy(float))
            calibrated = predictions.calibrated(rows["temperature"].to_numpy(float), class_names)
            probabilities[positions[rows["id"]]] = calibrated
        return probabilities


class GateDecision(BaseModel):
    """``decision.json``; ``override`` is a person's reason for promoting a candidate despite its ``rejection``.

    ``champion`` is the model that was the champion, even if ``gate.champion_rule`` is off.
    """

    model_config = ConfigDict(frozen=True)

    decision: Literal["promoted", "rejected"]
    reason: str
    rules: list[RuleResult]
    champion: str | None
    threshold: float
    model: str
    evaluation: str
    metric: str
    val_accuracy: float | None
    champion_comparison: ChampionComparison | None
    override: str | None = None
    rejection: str | None = None

    def overridden(self, reason: str, rejection: str) -> Self:
        """Return a decision that promotes this candidate for a person's reason, although it was rejected."""
        return self.model_copy(update={
            "decision": "promoted", "override": reason, "rejection": rejection,
            "reason": f"promoted manually ({reason}), although {rejection}",
        })

    def metrics(self) -> Metrics:
        """Return the metrics of the decision artifact."""
        values = {rule.name: rule.value for rule in self.rules}
        metrics = {
            "decision": self.decision, "threshold": self.threshold, "reason": self.reason, "champion": self.champion,
            "val_accuracy": self.val_accuracy,
            "metric": self.metric, "val_metric": values["threshold"], "p_value": values["champion"],
            **_comparison_metrics(self.champion_comparison),
            "override": self.override, "rejection": self.rejection,
        }
        return {name: value for name, value in metrics.items() if value is not None}


def _comparison_metrics(comparison: ChampionComparison | None) -> dict[str, float | str | None]:
    """Return the difference to the champion with its interval, and the class whose recall changed most."""
    if comparison is None:
        return {}
    low, high = comparison.interval or (None, None)
    return {
        "minimum_detectable_difference": comparison.minimum_detectable_difference,
        "difference": comparison.difference, "difference_low": low, "difference_high": high,
        "largest_class_change": comparison.describe_largest_change(),
    }


def decide(
    candidate: EvaluatedModel, champion: EvaluatedModel | None, split: Split, threshold: float, context: StageContext
) -> GateDecision:
    """Apply the gate's rules and the stored threshold to a candidate.

    Both models were evaluated on the images of ``split``. ``champion`` is None if there is none to compare with. Raise
    ConfigError if ``gate.min_recall_by_class`` names a class that is not in the data.
    """
    gate, store = context.config.gate, context.store
    evaluation = json.loads(candidate.evaluation.path(store, "evaluation.json").read_text())
    gate.require_classes(evaluation["class_names"])
    comparison = _compare(candidate, champion, split, context) if champion else None
    rules = evaluate_rules(Evidence(candidate.evaluation.metrics, evaluation, comparison, threshold, gate))
    return GateDecision(
        decision="promoted" if all(rule.passed for rule in rules) else "rejected", reason=format_reason(rules),
        metric=split.metric_name, val_accuracy=finite_number(candidate.evaluation.metrics.get("val_accuracy")),
        rules=rules, champion=champion.model.key if champion else None, threshold=threshold,
        model=candidate.model.key, evaluation=candidate.evaluation.key, champion_comparison=comparison,
    )


def write_decision(folder: Path, decision: GateDecision) -> Metrics:
    """Write ``decision.json`` and ``report.html``; return the metrics of the artifact."""
    (folder / "decision.json").write_text(decision.model_dump_json(indent=1))
    write_page(folder / "report.html", render_decision(decision.model_dump()))
    return decision.metrics()


def _compare(
    candidate: EvaluatedModel, champion: EvaluatedModel, split: Split, context: StageContext
) -> ChampionComparison:
    """Compare both without the images that the champion was trained on or that the same members predict."""
    store, rows = context.store, split.rows(context.store)
    predictions = candidate.predictions(store)
    pairs = pair_predictions(predictions, champion.predictions(store))
    training_split = load_training_split(store, champion.model)
    trained_on: set[str] = set()
    if training_split.key != split.key:
        trained_on = ids_trained_on(rows, training_split.history(store)) & set(predictions["id"])
    rows = rows[rows["id"].isin(set(pairs["id"]) - trained_on)].reset_index(drop=True)
    # An ensemble with the champion as a member repeats the champion's predictions where only that member may predict.
    same_members = ids_predicted_identically(rows, candidate.model, champion.model, store)
    pairs = pairs[~pairs["id"].isin(trained_on | same_members)]
    significance, metric = context.config.gate.significance, METRICS[split.metric_name]
    comparison = compare_pairs(pairs, significance)
    comparison = comparison.model_copy(
        update={"num_trained_on": len(trained_on), "num_same_members": len(same_members)})
    if metric.is_accuracy or pairs.empty:
        return comparison.model_copy(update={"metric": metric.name})
    labels, ids = pairs["label"].tolist(), pairs["id"].tolist()
    class_names = sort_naturally([*candidate.model.class_names, *champion.model.class_names, *labels])
    groups = dependent_images(rows.set_index("id").loc[ids])
    examples = Examples(class_positions(labels, class_names), class_names, groups)
    models = (model.probabilities(ids, class_names, store) for model in (candidate, champion))
    return comparison.by_metric(metric, compare_models(metric, examples, *models), significance)
