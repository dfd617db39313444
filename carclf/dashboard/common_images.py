"""The images that two runs' models answered and that neither was trained on, with both answers."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from carclf.artifacts import Evaluation, Model, Split
from carclf.ensembles.members import ids_predicted_identically
from carclf.gate.comparison import ids_trained_on
from carclf.inference.calibration import apply_temperature
from carclf.services.storage import Store
from carclf.stats import PairedCounts

MAX_CHANGED = 200


@dataclass(frozen=True)
class EvaluatedRun:
    """A run's model, the split that it was trained on, and its answers on that split's validation images."""

    model: Model
    split: Split
    evaluation: Evaluation


@dataclass(frozen=True)
class CommonImages:
    """``rows``: id, path ("" where unknown), label, a, b (answers), a_probability, b_probability (calibrated, NaN where unknown).

    ``num_trained_on``, ``num_mismatched`` and ``num_same_members`` were left out: one model was trained on them or on copies, they
    have another label or content now, the same members answer for both models.
    """

    rows: pd.DataFrame
    num_trained_on: int
    num_mismatched: int
    num_same_members: int

    def paired(self) -> dict[str, Any]:
        """Both models' right answers, McNemar's exact test and the difference (b - a) with its interval."""
        right_a, right_b = (self.rows[side] == self.rows["label"] for side in ("a", "b"))
        table = PairedCounts(len(self.rows), int((right_b & ~right_a).sum()), int((right_a & ~right_b).sum()))
        found: dict[str, Any] = {
            "num_images": table.num_images, "only_a_correct": table.champion_only_correct, "only_b_correct": table.candidate_only_correct,
            "both_right": int((right_a & right_b).sum()), "both_wrong": int((~right_a & ~right_b).sum()),
            "num_trained_on": self.num_trained_on, "num_mismatched": self.num_mismatched, "num_same_members": self.num_same_members,
        }
        if self.rows.empty:
            return found
        return found | {
            "accuracy_a": float(right_a.mean()), "accuracy_b": float(right_b.mean()), "difference": table.difference,
            "interval": list(table.interval()), "p_value": table.p_different,
        }

    def classes(self) -> list[dict[str, Any]]:
        """Each class's recalls, that first which b loses most of."""
        right = self.rows.assign(**{side: self.rows[side] == self.rows["label"] for side in ("a", "b")})
        table = right.groupby("label").agg(num=("id", "size"), a=("a", "mean"), b=("b", "mean"))
        table = table.assign(difference=table["b"] - table["a"]).reset_index()
        found = table.sort_values(["difference", "label"]).to_dict("records")
        return [{str(name): value for name, value in row.items()} for row in found]

    @property
    def num_changed(self) -> int:
        """How many are answered otherwise."""
        return int((self.rows["a"] != self.rows["b"]).sum())

    def changed(self) -> list[dict[str, Any]]:
        """Those answered otherwise, the surest of b first, MAX_CHANGED at most."""
        rows = self.rows[self.rows["a"].ne(self.rows["b"])]
        rows = rows.sort_values(["b_probability", "id"], ascending=[False, True]).head(MAX_CHANGED)
        return [{
            "id": row.id, "path": row.path, "label": row.label, "a": row.a, "a_probability": row.a_probability, "b": row.b,
            "b_probability": row.b_probability,
            "kind": _kind(row),
        } for row in rows.itertuples(index=False)]


def _kind(row: Any) -> str:
    """Whether b is right where a was wrong, the other way, or both are wrong in their ways."""
    if row.b == row.label:
        return "gained"
    return "lost" if row.a == row.label else "other"


def find_common_images(one: EvaluatedRun, other: EvaluatedRun, store: Store) -> CommonImages:
    """The images that both answered, that are the same for both, and that none knows from its training."""
    rows_a, rows_b = (_validated(answered, store) for answered in (one, other))
    known: set[str] = set()
    if one.split.key != other.split.key:
        known = ids_trained_on(rows_a, other.split.history(store)) | ids_trained_on(rows_b, one.split.history(store))
    both = rows_a.merge(rows_b, on="id", suffixes=("_a", "_b"), validate="one_to_one")
    alike = both["label_a"].eq(both["label_b"]) & both["sha256_a"].eq(both["sha256_b"])
    own = both[alike & ~both["id"].isin(known)].reset_index(drop=True)
    columns = rows_a[rows_a["id"].isin(own["id"])].reset_index(drop=True)
    shared = ids_predicted_identically(columns, one.model, other.model, store)
    own = own[~own["id"].isin(shared)].reset_index(drop=True)
    rows = pd.DataFrame({
        "id": own["id"], "path": own["path_a"], "label": own["label_a"], "a": own["predicted_a"],
        "b": own["predicted_b"], "a_probability": own["sure_a"], "b_probability": own["sure_b"],
    })
    return CommonImages(rows, int(both["id"].isin(known).sum()), int((~alike & ~both["id"].isin(known)).sum()), len(shared))


def _validated(one: EvaluatedRun, store: Store) -> pd.DataFrame:
    """The split's rows of the images that a model answered, with ``predicted`` and ``sure``."""
    answers = pd.read_parquet(one.evaluation.path(store, "predictions.parquet"))
    rows = pd.read_parquet(one.split.path(store, "split.parquet"))
    if "path" not in rows:
        rows = rows.assign(path="")
    told = answers[["id", "predicted"]].assign(sure=_sure(answers, one.evaluation))
    return rows[rows["subset"] == "val"].merge(told, on="id", validate="one_to_one")


def _sure(answers: pd.DataFrame, evaluation: Evaluation) -> Any:
    shares = answers.filter(regex=r"^p\d+$").to_numpy(float)
    if not shares.size:
        return np.full(len(answers), np.nan)
    return apply_temperature(shares, float(evaluation.metrics.get("temperature", 1.0))).max(1)

