"""How far a dataset is from another one: effect sizes in 0..1, and whether chance could have made them.

With fifteen thousand pictures every p-value is small, with a hundred every effect is large: a measure counts only where
its effect reaches the limit and chance alone would hardly make it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.linalg import solve
from scipy.stats import chi2_contingency, ks_2samp, mannwhitneyu

from carclf.audit.label_errors import normalize_features
from carclf.config import Audit

SIGNIFICANCE = 0.01  # the share of comparisons without any drift in which something is reported, all measures together
STATISTICS = ("width", "height", "brightness", "contrast", "sharpness")
MAX_COMPARED = 2000  # pictures of each dataset whose features are compared
RIDGE = 0.3
VERDICTS = ("ok", "warn", "stop")
FEW = 5  # pictures of a class that chance may leave out
Features = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Effect:
    """How far apart two samples are: 0 the same, 1 wholly different; ``p`` of that much by chance."""

    name: str
    value: float
    p: float
    note: str


def measure_drift(
    own: tuple[pd.DataFrame, Features | None], other: tuple[pd.DataFrame, Features | None], settings: Audit, seed: int
) -> dict[str, Any]:
    """Drift of one dataset (rows, features) from the other, a row per measure, with the worst ``verdict`` of them.

    Rows have ``label`` and those of STATISTICS that are known; features may be None: they are not compared then.
    """
    effects = [_class_shares(own[0]["label"], other[0]["label"]), *_statistics(own[0], other[0])]
    if own[1] is not None and other[1] is not None:
        effects.append(_features((own[1], _contents(own[0], "own")), (other[1], _contents(other[0], "other")), seed))
    measures = [_judged(effect, effect.p * len(effects) < SIGNIFICANCE, settings) for effect in effects]
    counts = other[0]["label"].value_counts()
    if lost := sorted(set(counts.index[counts >= FEW]) - set(own[0]["label"])):
        # whatever its share was: a new model could not answer it any more
        measures[0] |= {"verdict": max(measures[0]["verdict"], "warn", key=VERDICTS.index),
                        "note": f"class {lost[0]} has no pictures any more"}
    worst = max(measures, key=lambda one: (VERDICTS.index(one["verdict"]), one["value"]))
    return {"verdict": worst["verdict"], "worst": worst["name"], "value": worst["value"], "measures": measures}


def _judged(effect: Effect, is_real: bool, settings: Audit) -> dict[str, Any]:
    reached = [name for name, limit in (("stop", settings.drift_stop), ("warn", settings.drift_warn))
               if is_real and effect.value > limit]
    return {"name": effect.name, "value": round(effect.value, 4), "p": effect.p, "warn": settings.drift_warn,
            "stop": settings.drift_stop, "verdict": reached[0] if reached else "ok", "note": effect.note}


def _class_shares(own: pd.Series, other: pd.Series) -> Effect:
    """Total variation: the share of the pictures that would have to change their class; chi-square's p."""
    counts = pd.DataFrame({"own": own.value_counts(), "other": other.value_counts()}).fillna(0).sort_index()
    shares = counts / counts.sum()
    change = shares["own"] - shares["other"]
    place = int(change.abs().to_numpy().argmax())
    note = f"class {shares.index[place]}: {shares['other'].iloc[place]:.1%} → {shares['own'].iloc[place]:.1%}"
    p = float(chi2_contingency(counts.to_numpy()).pvalue) if len(counts) > 1 else 1.0
    return Effect("class distribution", float(change.abs().sum() / 2), p, note)


def _statistics(own: pd.DataFrame, other: pd.DataFrame) -> Iterator[Effect]:
    """Kolmogorov's and Smirnov's D of each measure of the pictures that both know."""
    for name in STATISTICS:
        if name in own and name in other:
            ours, theirs = own[name].to_numpy(float), other[name].to_numpy(float)
            found = ks_2samp(ours, theirs, method="asymp")
            note = f"median {np.median(theirs):.4g} → {np.median(ours):.4g}"
            yield Effect(name, float(found.statistic), float(found.pvalue), note)


def _contents(rows: pd.DataFrame, name: str) -> npt.NDArray[Any]:
    """What the pictures are known by; without that each is a picture of its own."""
    return (rows["sha256"] if "sha256" in rows else name + rows.index.astype(str)).to_numpy(object)


def _features(
    own: tuple[Features, npt.NDArray[Any]], other: tuple[Features, npt.NDArray[Any]], seed: int
) -> Effect:
    """A classifier tells the datasets apart (Lopez-Paz and Oquab 2017): Somers' D, 2 AUC - 1, on pictures unseen."""
    rng = np.random.default_rng(seed)
    chosen = [rng.permutation(len(contents))[:MAX_COMPARED] for _, contents in (own, other)]
    vectors = normalize_features(np.concatenate([own[0][chosen[0]], other[0][chosen[1]]]))
    is_own = np.arange(len(vectors)) < len(chosen[0])
    # A picture of both datasets is learned from in both or judged in both: learned as one's own and judged as the
    # other's, it would hide what is new.
    codes = pd.factorize(np.concatenate([own[1][chosen[0]], other[1][chosen[1]]]))[0]
    learned = rng.permutation(codes.max() + 1)[codes] % 2 == 0
    x, target = vectors[learned], is_own[learned] - is_own[learned].mean()
    normal = x.T @ x
    normal[np.diag_indices_from(normal)] += RIDGE * max(np.trace(normal), 1e-9) / len(normal)
    scores = vectors[~learned] @ solve(normal, x.T @ target, assume_a="pos")
    ours, theirs = scores[is_own[~learned]], scores[~is_own[~learned]]
    found = mannwhitneyu(ours, theirs, alternative="greater")
    auc = float(found.statistic) / (len(ours) * len(theirs))
    return Effect("features", max(0.0, 2 * auc - 1), float(found.pvalue), f"told apart with an AUC of {auc:.3f}")
