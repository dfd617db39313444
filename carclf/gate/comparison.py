"""Compare a candidate with the champion on the same images."""

from dataclasses import asdict
from typing import Any, Self

import pandas as pd
from pydantic import BaseModel, ConfigDict

from carclf.dataset.champion_split import EXCLUDED, TRAIN, VAL, previous_values, without_excluded_copies
from carclf.formatting import format_count
from carclf.metrics import Metric
from carclf.natural_order import sort_naturally
from carclf.paired_bootstrap import PairedBootstrap
from carclf.stats import PairedCounts

MAX_IDS = 200  # in each list


class ClassComparison(BaseModel):
    """The recall of both models on the images of a class."""

    label: str
    num_images: int
    candidate: float
    champion: float


class ChampionComparison(BaseModel):
    """``champion_comparison`` in ``decision.json``.

    ``num_images`` is the number of compared images, which both models predicted. Not compared are ``num_trained_on``
    more, which the champion was trained on, and ``num_same_members`` more, which the same ensemble members predict for
    both models. ``difference`` is the candidate's ``metric`` minus the champion's, with its 95% ``interval``. The
    p-values are those of McNemar's exact test for accuracy, of a paired bootstrap for other metrics. Without compared
    images all statistics are None; with too few, ``minimum_detectable_difference`` is None, with too few groups
    ``interval`` too.
    """

    model_config = ConfigDict(frozen=True)

    num_images: int
    num_trained_on: int = 0
    num_same_members: int = 0
    candidate_only_correct: int
    champion_only_correct: int
    both_correct: int = 0
    both_incorrect: int = 0
    metric: str = "accuracy"
    difference: float | None = None
    interval: tuple[float, float] | None = None
    p_worse: float | None = None
    p_better: float | None = None
    p_different: float | None = None
    minimum_detectable_difference: float | None = None
    classes: list[ClassComparison] = []
    candidate_only_correct_ids: list[str] = []
    champion_only_correct_ids: list[str] = []

    @classmethod
    def from_counts(cls, counts: PairedCounts, significance: float, **details: Any) -> Self:
        """Return a comparison with statistics of the counts at a significance level; ``details`` are further fields."""
        statistics = paired_statistics(counts, counts.interval(), significance) if counts.num_images else {}
        return cls.model_validate(asdict(counts) | statistics | details)

    def describe_largest_change(self) -> str | None:
        """Return the class whose recall differs most from the champion's, as text; None if none differs."""
        change = max(self.classes, key=lambda row: abs(row.candidate - row.champion), default=None)
        if change is None or change.candidate == change.champion:
            return None
        return (f"{change.label}: recall {change.candidate:.3f}, the champion's {change.champion:.3f} "
                f"({format_count(change.num_images, 'image')})")

    def by_metric(self, metric: Metric, bootstrap: PairedBootstrap, significance: float) -> Self:
        """Return the comparison with the statistics of another metric than accuracy."""
        statistics = paired_statistics(bootstrap, bootstrap.interval, significance)
        return self.model_copy(update={"metric": metric.name} | statistics)


def paired_statistics(
    test: PairedCounts | PairedBootstrap, interval: tuple[float, float] | None, significance: float
) -> dict[str, Any]:
    """Return the fields of ``ChampionComparison`` that a paired test fills in at a significance level."""
    return {
        "difference": test.difference, "interval": interval, "p_worse": test.p_worse, "p_better": test.p_better,
        "p_different": test.p_different,
        "minimum_detectable_difference": test.minimum_detectable_difference(significance),
    }


def ids_trained_on(rows: pd.DataFrame, other_rows: pd.DataFrame) -> set[str]:
    """Return the ids of validation images that are, or have copies, among the training images of another split.

    Images that the other split excluded count too, because they have copies among its training images. The exception
    is excluded extra data, which are copies of validation images. ``rows`` are the rows of the split with the
    validation images, ``other_rows`` those of the other split.
    """
    val = rows[rows["subset"] == VAL]
    subsets = previous_values(val, without_excluded_copies(other_rows), "subset")
    return set(val.loc[subsets.isin([TRAIN, EXCLUDED]), "id"])


def pair_predictions(candidate: pd.DataFrame, champion: pd.DataFrame) -> pd.DataFrame:
    """Return id, label, candidate and champion of each image that both predicted; the last two are True if correct.

    The arguments have the columns of ``predictions.parquet``.
    """
    candidate = candidate[["id", "label", "predicted"]]
    both = candidate.merge(champion[["id", "predicted"]], on="id", suffixes=("", "_champion"), validate="one_to_one")
    champion_correct = both["predicted_champion"] == both["label"]
    return both[["id", "label"]].assign(candidate=both["predicted"] == both["label"], champion=champion_correct)


def compare_pairs(pairs: pd.DataFrame, significance: float) -> ChampionComparison:
    """Return the comparison of the rows of ``pair_predictions`` at a significance level."""
    candidate_only = pairs["candidate"] & ~pairs["champion"]
    champion_only = pairs["champion"] & ~pairs["candidate"]
    counts = PairedCounts(len(pairs), int(candidate_only.sum()), int(champion_only.sum()))
    classes = pairs.groupby("label").agg(
        num_images=("id", "size"), candidate=("candidate", "mean"), champion=("champion", "mean")
    )
    return ChampionComparison.from_counts(
        counts, significance,
        both_correct=int((pairs["candidate"] & pairs["champion"]).sum()),
        both_incorrect=int((~pairs["candidate"] & ~pairs["champion"]).sum()),
        classes=classes.loc[sort_naturally(classes.index)].reset_index().to_dict("records"),
        candidate_only_correct_ids=pairs.loc[candidate_only, "id"].head(MAX_IDS).tolist(),
        champion_only_correct_ids=pairs.loc[champion_only, "id"].head(MAX_IDS).tolist(),
    )
