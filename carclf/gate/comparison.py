"""The answers of two models on the same images."""

from typing import Any

import pandas as pd

from carclf.dataset.champion_split import EXCLUDED, TRAIN, VAL, previous_values
from carclf.gate.rules import ChampionComparison
from carclf.stats import PairedCounts

MAX_IDS = 200  # of a list


def ids_trained_on(rows: pd.DataFrame, memory: pd.DataFrame) -> set[str]:
    """Ids of the validation pictures among a split's rows that trained another split's model, or are copies of such.

    ``memory``: the other split's rows. Extra data that it left out lay beside validation pictures.
    """
    val = rows[rows["subset"] == VAL]
    if "source" in memory:
        memory = memory[(memory["source"] != "extra") | (memory["subset"] != EXCLUDED)]
    return set(val.loc[previous_values(val, memory, "subset").isin([TRAIN, EXCLUDED]), "id"])


def pair_predictions(candidate: pd.DataFrame, champion: pd.DataFrame, excluded_ids: set[str]) -> pd.DataFrame:
    """The images that both predicted, without those left out: id, label, candidate, champion (right?)."""
    own, other = (rows.set_index("id") for rows in (candidate, champion))
    both = own[["label", "predicted"]].join(other["predicted"].rename("other"), how="inner", validate="one_to_one")
    both = both[~both.index.isin(excluded_ids)].reset_index()
    return pd.DataFrame({"id": both["id"], "label": both["label"], "candidate": both["predicted"] == both["label"],
                         "champion": both["other"] == both["label"]})


def count_pairs(champion: str, pairs: pd.DataFrame, num_trained_on: int, num_same_members: int) -> ChampionComparison:
    """What of the pairs the gate needs."""
    gained, lost = (pairs["candidate"] & ~pairs["champion"]).sum(), (pairs["champion"] & ~pairs["candidate"]).sum()
    return ChampionComparison(champion, PairedCounts(len(pairs), int(gained), int(lost)), num_trained_on, num_same_members)


def summarize_comparison(pairs: pd.DataFrame, comparison: ChampionComparison, level: float) -> dict[str, Any]:
    """The comparison in metrics: the paired table, its tests and interval, each class, and what changed (ids)."""
    own, other, paired = pairs["candidate"], pairs["champion"], comparison.paired
    found: dict[str, Any] = {
        "num_images": len(pairs), "num_trained_on": comparison.num_trained_on, "num_same_members": comparison.num_same_members,
        "gained": paired.gained, "lost": paired.lost,
        "both_right": int((own & other).sum()), "both_wrong": int((~own & ~other).sum()),
    }
    if pairs.empty:
        return found
    classes = pairs.groupby("label").agg(num=("id", "size"), candidate=("candidate", "mean"),
                                         champion=("champion", "mean"))
    return found | {
        "difference": paired.difference, "interval": list(paired.interval()),
        "p_worse": paired.p_worse, "p_better": paired.p_better, "p_different": paired.p_different,
        "minimum_detectable_difference": paired.minimum_detectable_difference(level),
        "classes": classes.reset_index().to_dict("records"),
        "gained_ids": pairs.loc[own & ~other, "id"].head(MAX_IDS).tolist(),
        "lost_ids": pairs.loc[other & ~own, "id"].head(MAX_IDS).tolist(),
    }
