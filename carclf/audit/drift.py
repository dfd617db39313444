"""Measure the drift between two datasets: effect sizes from 0 to 1, and p-values.

With fifteen thousand images every p-value is small; with a hundred every effect is large. A measure therefore counts as
drift only if its effect exceeds the limit and chance is an unlikely explanation.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.linalg import solve
from scipy.stats import chi2_contingency, ks_2samp, mannwhitneyu

from carclf.audit.label_errors import normalize_features
from carclf.config import Audit
from carclf.natural_order import sort_naturally

SIGNIFICANCE = 0.01  # the probability that any measure reports drift if there is none
STATISTICS = ("width", "height", "brightness", "contrast", "sharpness", "confidence")
MAX_COMPARED = 2000  # images of each dataset whose features are compared
RIDGE = 0.3
MIN_TRACE = 1e-9
VERDICTS = ("ok", "warn", "stop")  # in order of severity
MIN_CLASS_SIZE = 5  # a class with fewer images may be missing by chance

Features = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Sample:
    """The images of a dataset and their features, shape (images, features).

    ``rows`` have the column label and those of ``STATISTICS`` that are known. Images with the same sha256 are the same
    image. Without features, features are not compared.
    """

    rows: pd.DataFrame
    features: Features | None

    def identities(self, prefix: str) -> npt.NDArray[np.object_]:
        """Return an identifier of each image; images without a hash are all different."""
        rows = self.rows
        return (rows["sha256"] if "sha256" in rows else prefix + rows.index.astype(str)).to_numpy(object)


@dataclass(frozen=True)
class Effect:
    """The difference between two samples: 0 if they are the same, 1 if they have nothing in common."""

    name: str
    value: float
    p_value: float
    note: str


@dataclass(frozen=True)
class Measure(Effect):
    """An effect with its limits and its verdict: ok, warn or stop."""

    warn_above: float
    stop_above: float
    verdict: str


@dataclass(frozen=True)
class Drift:
    """All measures, and the name, value and verdict of the worst."""

    verdict: str
    worst: str
    value: float
    measures: list[Measure]


def measure_drift(
    sample: Sample, reference: Sample, settings: Audit, seed: int, *, needs_all_classes: bool = True
) -> Drift:
    """Return the drift of a sample from a reference; ``seed`` selects the images whose features are compared.

    With ``needs_all_classes``, a class of the reference without images in the sample is at least a warning.
    """
    effects = [_class_distribution(sample.rows["label"], reference.rows["label"])]
    effects += _statistics(sample.rows, reference.rows)
    if sample.features is not None and reference.features is not None:
        effects.append(_features(sample, reference, seed))
    # Bonferroni: the measures together have the significance of one test.
    measures = [_measure(effect, effect.p_value * len(effects) < SIGNIFICANCE, settings) for effect in effects]
    if needs_all_classes and (missing := _missing_classes(sample.rows["label"], reference.rows["label"])):
        # However small the class was, a new model could not predict it.
        verdict = max(measures[0].verdict, "warn", key=VERDICTS.index)
        measures[0] = replace(measures[0], verdict=verdict, note=f"class {missing[0]} no longer has images")
    worst = max(measures, key=lambda measure: (VERDICTS.index(measure.verdict), measure.value))
    return Drift(worst.verdict, worst.name, worst.value, measures)


def _measure(effect: Effect, is_significant: bool, settings: Audit) -> Measure:
    limits = settings.drift_warn, settings.drift_stop
    verdict = VERDICTS[sum(effect.value > limit for limit in limits)] if is_significant else "ok"
    return Measure(effect.name, round(effect.value, 4), effect.p_value, effect.note, *limits, verdict)


def _missing_classes(labels: "pd.Series[Any]", reference: "pd.Series[Any]") -> list[Any]:
    counts = reference.value_counts()
    return sort_naturally(set(counts.index[counts >= MIN_CLASS_SIZE]) - set(labels))


def _class_distribution(labels: "pd.Series[Any]", reference: "pd.Series[Any]") -> Effect:
    """Total variation distance: the fraction of images that would have to change class; chi-squared p-value."""
    counts = pd.DataFrame({"sample": labels.value_counts(), "reference": reference.value_counts()})
    counts = counts.fillna(0).sort_index()
    fractions = counts / counts.sum()
    change = fractions["sample"] - fractions["reference"]
    position = int(change.abs().to_numpy().argmax())
    before, after = fractions["reference"].iloc[position], fractions["sample"].iloc[position]
    note = f"class {fractions.index[position]}: {before:.1%} → {after:.1%}"
    p_value = float(chi2_contingency(counts.to_numpy()).pvalue) if len(counts) > 1 else 1.0
    return Effect("class distribution", float(change.abs().sum() / 2), p_value, note)


def _statistics(rows: pd.DataFrame, reference: pd.DataFrame) -> Iterator[Effect]:
    """Yield the Kolmogorov-Smirnov distance of each image statistic that both datasets have."""
    for name in STATISTICS:
        if name in rows and name in reference:
            values, reference_values = rows[name].to_numpy(float), reference[name].to_numpy(float)
            test = ks_2samp(values, reference_values, method="asymp")
            note = f"median {np.median(reference_values):.4g} → {np.median(values):.4g}"
            yield Effect(name, float(test.statistic), float(test.pvalue), note)


def _features(sample: Sample, reference: Sample, seed: int) -> Effect:
    """Classifier two-sample test (Lopez-Paz and Oquab 2017) with Somers' D = 2 AUC - 1 on held-out images."""
    assert sample.features is not None
    assert reference.features is not None
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(len(sample.features))[:MAX_COMPARED]
    chosen_reference = rng.permutation(len(reference.features))[:MAX_COMPARED]
    vectors = normalize_features(np.concatenate([sample.features[chosen], reference.features[chosen_reference]]))
    in_sample = np.arange(len(vectors)) < len(chosen)
    # An image that is in both samples is either trained on in both or held out in both. Otherwise the
    # classifier would learn it as an image of one sample and fail on it in the other, which hides what is new.
    identities = sample.identities("sample")[chosen], reference.identities("reference")[chosen_reference]
    codes = pd.factorize(np.concatenate(identities))[0]
    train = rng.permutation(codes.max() + 1)[codes] % 2 == 0
    scores = _ridge_scores(vectors, in_sample, train)
    held_out = in_sample[~train]
    test = mannwhitneyu(scores[held_out], scores[~held_out], alternative="greater")
    auc = float(test.statistic) / (held_out.sum() * (~held_out).sum())
    note = f"a classifier separates the datasets with AUC {auc:.3f}"
    return Effect("features", max(0.0, 2 * auc - 1), float(test.pvalue), note)


def _ridge_scores(vectors: Features, in_sample: Mask, train: Mask) -> npt.NDArray[np.float64]:
    """Return the held-out images' scores from a ridge regression of membership in the sample."""
    x = vectors[train]
    target = in_sample[train] - in_sample[train].mean()
    gram = x.T @ x
    gram[np.diag_indices_from(gram)] += RIDGE * max(np.trace(gram), MIN_TRACE) / len(gram)
    return np.asarray(vectors[~train] @ solve(gram, x.T @ target, assume_a="pos"))
