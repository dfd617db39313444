"""What a decision holds: the gate's verdict on a candidate, beside the champion on the same images."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from carclf.artifacts import Evaluation, Metrics, Model, Split
from carclf.champion import load_training_split
from carclf.config import Gate
from carclf.ensembles.members import ids_predicted_identically
from carclf.gate.comparison import count_pairs, ids_trained_on, pair_predictions, summarize_comparison
from carclf.gate.rules import evaluate_rules, format_reason, validate_class_floors
from carclf.reports.decision_report import render_decision
from carclf.reports.render import write_page
from carclf.services.storage import Store


@dataclass(frozen=True)
class EvaluatedModel:
    """A model and its evaluation."""

    model: Model
    evaluation: Evaluation


def decide(
    candidate: EvaluatedModel, champion: EvaluatedModel | None, split: Split, threshold: float, gate: Gate, store: Store
) -> dict[str, Any]:
    """The content of ``decision.json``; both were measured on the validation images of ``split``."""
    metrics = candidate.evaluation.metrics
    found = json.loads(candidate.evaluation.path(store, "evaluation.json").read_text())
    validate_class_floors(gate, found["class_names"])
    compared, paired = None, None
    if champion:
        pairs, num_trained_on, num_same_members = _pairs(candidate, champion, split, store)
        compared = count_pairs(champion.model.key, pairs, num_trained_on, num_same_members)
        paired = summarize_comparison(pairs, compared, gate.significance)
    rules = evaluate_rules(metrics, found, compared, threshold, gate)
    return {
        "decision": "promoted" if all(rule.passed for rule in rules) else "rejected", "reason": format_reason(rules),
        "rules": [rule.row() for rule in rules], "champion": champion.model.key if champion else None,
        "threshold": threshold, "model": candidate.model.key, "evaluation": candidate.evaluation.key,
        "paired": paired,
    }


def write_decision(folder: Path, decision: dict[str, Any]) -> Metrics:
    """Write ``decision.json`` and its page; the metrics are those that it has."""
    (folder / "decision.json").write_text(json.dumps(decision, indent=1, allow_nan=False))
    write_page(folder / "report.html", render_decision(decision))
    values = {row["rule"]: row["value"] for row in decision["rules"]}
    metrics = {name: decision[name] for name in ("decision", "threshold", "reason", "champion")} | {
        "val_accuracy": values["accuracy"], "p_value": values["champion"],
        "minimum_detectable_difference": (decision["paired"] or {}).get("minimum_detectable_difference"),
        "override": decision.get("override"), "rejection": decision.get("rejection"),
    }
    return {name: value for name, value in metrics.items() if value is not None}


def _pairs(candidate: EvaluatedModel, champion: EvaluatedModel, split: Split, store: Store) -> tuple[pd.DataFrame, int, int]:
    """The images on which both are compared; how many more trained the champion, and how many it answers for both."""
    own, other = (pd.read_parquet(one.evaluation.path(store, "predictions.parquet")) for one in (candidate, champion))
    rows = pd.read_parquet(split.path(store, "split.parquet"))
    known_ids: set[str] = set()
    if (champions := load_training_split(store, champion.model)).key != split.key:
        known_ids = ids_trained_on(rows, champions.history(store)) & set(own["id"])
    both = rows[rows["id"].isin(set(own["id"]) & set(other["id"]) - known_ids)]
    # Of those a candidate that has the champion as a member says what the champion says: they can tell nothing.
    shared = ids_predicted_identically(both.reset_index(drop=True), candidate.model, champion.model, store)
    return pair_predictions(own, other, known_ids | shared), len(known_ids), len(shared)
