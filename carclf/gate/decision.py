"""What a decision holds: the gate's verdict on a candidate, beside the champion on the same images."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from carclf.artifacts import Evaluation, Figures, Model, Split
from carclf.champion import split_of
from carclf.config import Gate
from carclf.ensembles.members import answered_alike
from carclf.gate.comparison import counted, described, pair, trained_by
from carclf.gate.rules import judge, require_known_classes, sentence
from carclf.reports.decision_report import render_decision
from carclf.reports.render import write_page
from carclf.services.storage import Store


@dataclass(frozen=True)
class Measured:
    """A model and its evaluation."""

    model: Model
    evaluation: Evaluation


def decide(
    candidate: Measured, champion: Measured | None, split: Split, threshold: float, gate: Gate, store: Store
) -> dict[str, Any]:
    """The content of ``decision.json``; both were measured on the validation images of ``split``."""
    figures = candidate.evaluation.figures
    found = json.loads(candidate.evaluation.path(store, "evaluation.json").read_text())
    require_known_classes(gate, found["class_names"])
    compared, paired = None, None
    if champion:
        pairs, num_known, num_shared = _pairs(candidate, champion, split, store)
        compared = counted(champion.model.key, pairs, num_known, num_shared)
        paired = described(pairs, compared, gate.significance)
    rules = judge(figures, found, compared, threshold, gate)
    return {
        "decision": "promoted" if all(rule.passed for rule in rules) else "refused", "reason": sentence(rules),
        "rules": [rule.row() for rule in rules], "champion": champion.model.key if champion else None,
        "threshold": threshold, "model": candidate.model.key, "evaluation": candidate.evaluation.key,
        "paired": paired,
    }


def write_decision(folder: Path, decision: dict[str, Any]) -> Figures:
    """Write ``decision.json`` and its page; the figures are those that it has."""
    (folder / "decision.json").write_text(json.dumps(decision, indent=1, allow_nan=False))
    write_page(folder / "report.html", render_decision(decision))
    values = {row["rule"]: row["value"] for row in decision["rules"]}
    figures = {name: decision[name] for name in ("decision", "threshold", "reason", "champion")} | {
        "val_accuracy": values["accuracy"], "p_value": values["champion"],
        "smallest_difference": (decision["paired"] or {}).get("smallest_difference"),
        "override": decision.get("override"), "refusal": decision.get("refusal"),
    }
    return {name: value for name, value in figures.items() if value is not None}


def _pairs(candidate: Measured, champion: Measured, split: Split, store: Store) -> tuple[pd.DataFrame, int, int]:
    """The images on which both are compared; how many more trained the champion, and how many it answers for both."""
    own, other = (pd.read_parquet(one.evaluation.path(store, "predictions.parquet")) for one in (candidate, champion))
    rows = pd.read_parquet(split.path(store, "split.parquet"))
    known_ids: set[str] = set()
    if (champions := split_of(store, champion.model)).key != split.key:
        name = "known.parquet" if "known.parquet" in champions.files else "split.parquet"
        known_ids = trained_by(rows, pd.read_parquet(champions.path(store, name))) & set(own["id"])
    both = rows[rows["id"].isin(set(own["id"]) & set(other["id"]) - known_ids)]
    # Of those a candidate that has the champion as a member says what the champion says: they can tell nothing.
    shared = answered_alike(both.reset_index(drop=True), candidate.model, champion.model, store)
    return pair(own, other, known_ids | shared), len(known_ids), len(shared)
