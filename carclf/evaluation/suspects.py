"""The ranked list of suspected labels, with the names that a label fix knows the pictures by."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from carclf.evaluation.label_errors import rank_labels


def rank_suspects(rows: pd.DataFrame, features: npt.NDArray[Any], seed: int) -> pd.DataFrame:
    """A row per picture, the least credible label first: id, path, label, suggested, score, suspect.

    ``rows`` are a split's (id, path, label, target, cluster). Where several pictures have one id, the id is the path,
    as label_fixes.csv wants it.
    """
    class_names = np.array(sorted(rows["label"].unique()))
    ranked = rank_labels(features, rows["target"].to_numpy(), rows["cluster"].to_numpy(), seed=seed)
    found = rows.iloc[ranked["position"]].reset_index(drop=True)
    several = rows["id"][rows["id"].duplicated()].unique()
    return pd.DataFrame({
        "id": found["id"].where(~found["id"].isin(several), found["path"]), "path": found["path"],
        "label": found["label"], "suggested": class_names[ranked["suggested"]],
        "score": ranked["score"].round(6), "suspect": ranked["suspect"],
    })
