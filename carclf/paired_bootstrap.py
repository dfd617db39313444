"""A paired bootstrap of any metric: the difference of two models on the same images, and the interval of one model.

Images are drawn in clusters (groups, such as patients) and within strata (classes). A stratum of m clusters is
resampled by m - 1 draws with weight m / (m - 1), because m draws would underestimate its variance by (m - 1) / m: with
three images of each class by a third (Rao and Wu 1988, Journal of the American Statistical Association 83, 231).
Decision 22 compares this test with others.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from carclf.metrics import Metric, class_ranks
from carclf.stats import POWER, FloatArray, wilson_interval

NUM_RESAMPLES = 2000  # so that the smallest p-value is 0.0005
SEED = 0
ROUNDING = 1e-9
MIN_CLUSTERS = 6  # with five, even if all agree, the sign test has p = 1/32, and their variance is hardly known
MAX_EXACT_AREAS = 50_000  # images times classes; 2,000 resamples of as many take 3 seconds for each model
CHUNK = 2**22  # weights in memory at a time: 32 MB
TAILS_95 = (0.025, 0.975)
LEAST_PROBABILITY = float(np.finfo(float).eps)  # as in scikit-learn's log loss

Labels = npt.NDArray[np.integer]
# Weights of the images, shape (resamples, images), to the metric of each resample.
Statistic = Callable[[FloatArray], FloatArray]


@dataclass(frozen=True)
class Examples:
    """Labeled images that are resampled.

    Attributes:
        labels: Positions of the classes, of shape (n,).
        class_names: The names of all classes, in order.
        groups: A name for each image; images with the same name are drawn together, those with "" alone.
    """

    labels: Labels
    class_names: Sequence[str]
    groups: Sequence[str] = ()

    @cached_property
    def clusters(self) -> npt.NDArray[np.int64]:
        """The cluster of each image, from 0; an image without a group is a cluster of its own."""
        return cluster_numbers(self.groups, len(self.labels))

    @property
    def num_clusters(self) -> int:
        """Number of clusters."""
        return int(self.clusters.max()) + 1


@dataclass(frozen=True)
class PairedBootstrap:
    """The difference of a metric, candidate minus champion, on the same images.

    Attributes:
        difference: In the metric's own direction: a negative difference of log loss is an improvement.
        interval: Its 95% interval; None if there are too few clusters.
        p_worse: P-value of the one-sided test that the candidate is worse.
        p_better: P-value of the one-sided test that the candidate is better.
        standard_error: Of the difference; 1 if there are too few clusters to know it.
    """

    difference: float
    interval: tuple[float, float] | None
    p_worse: float
    p_better: float
    standard_error: float

    @property
    def p_different(self) -> float:
        """P-value of the two-sided test: twice the smaller tail."""
        return min(1.0, 2 * min(self.p_worse, self.p_better))

    def minimum_detectable_difference(self, significance: float) -> float | None:
        """Return the smallest improvement that the one-sided test detects with a probability of ``POWER``.

        None if the models predict the same or there are too few clusters: the error of the difference is unknown.
        """
        from scipy.stats import norm

        if self.interval is None:
            return None
        return float(norm.isf(significance) + norm.ppf(POWER)) * self.standard_error or None


def compare_models(
    metric: Metric, examples: Examples, candidate: FloatArray, champion: FloatArray
) -> PairedBootstrap:
    """Return the difference of two models' probabilities, each of shape (images, classes).

    The p-values are the fractions of resamples that contradict the hypothesis, so ties count against both. With fewer
    than ``MIN_CLUSTERS`` clusters both are 1: the resamples of one group would all be equal.

    Raises:
        DataError: The metric is undefined, because there are no images or all have the same class.
    """
    values = [metric.compute(examples.labels, model, examples.class_names) for model in (candidate, champion)]
    if examples.num_clusters < MIN_CLUSTERS:
        return PairedBootstrap(values[0] - values[1], None, p_worse=1.0, p_better=1.0, standard_error=1.0)
    first = _statistic(metric, examples, candidate)
    second = _statistic(metric, examples, champion)
    resampled = np.concatenate([first(weights) - second(weights) for weights in _resamples(examples)])
    low, high = (float(bound) for bound in np.quantile(resampled, TAILS_95))
    improvements = resampled if metric.higher_is_better else -resampled
    return PairedBootstrap(
        values[0] - values[1], (low, high), p_worse=_tail(improvements >= 0), p_better=_tail(improvements <= 0),
        standard_error=float(resampled.std()),
    )


def selection_optimism(metric: Metric, examples: Examples, models: Sequence[FloatArray]) -> float:
    """Return how much better the best of several models is expected to be on these images than on others.

    The images select the best model and measure it. In each resample the best model is selected and measured again; the
    optimism is the mean of its metric there minus its metric on all images (Efron and Tibshirani 1993, chapter 17).
    The images outside a resample would double it: their mean falls as that of the resample rises. Of equally good
    models, the estimate is about two thirds of the true optimism. It has the metric's own direction: for log loss, it
    is at most 0.
    """
    statistics = [_statistic(metric, examples, model) for model in models]
    values = np.array([metric.compute(examples.labels, model, examples.class_names) for model in models])
    resampled = np.concatenate(
        [np.stack([statistic(weights) for statistic in statistics], axis=1) for weights in _resamples(examples)])
    best = resampled.argmax(axis=1) if metric.higher_is_better else resampled.argmin(axis=1)
    optimism = float((resampled[np.arange(len(best)), best] - values[best]).mean())
    return max(0.0, optimism) if metric.higher_is_better else min(0.0, optimism)


def metric_interval(metric: Metric, examples: Examples, probabilities: FloatArray) -> tuple[float, float]:
    """Return the 95% interval of one model's metric.

    A bootstrap cannot see the errors that did not occur. If every resample is perfect, the lower bound is Wilson's for
    as many correct images, p; the upper bound of a loss is at least -log(p).
    """
    statistic = _statistic(metric, examples, probabilities)
    resampled = np.concatenate([statistic(weights) for weights in _resamples(examples)])
    low, high = (float(bound) for bound in np.quantile(resampled, TAILS_95).clip(*metric.limits))
    least_correct = wilson_interval(examples.num_clusters, examples.num_clusters)[0]
    if not metric.higher_is_better:
        return low, max(high, -math.log(least_correct))
    return (least_correct if low > 1 - ROUNDING else low), high


def _tail(contradicting: npt.NDArray[np.bool_]) -> float:
    return float((1 + contradicting.sum()) / (1 + len(contradicting)))


def _resamples(examples: Examples) -> Iterator[FloatArray]:
    """Yield the weights of the images in chunks of resamples, the same in every call."""
    clusters = examples.clusters
    strata = _strata(examples.labels, clusters)
    rng = np.random.default_rng(SEED)
    rows = max(1, CHUNK // len(clusters))
    for start in range(0, NUM_RESAMPLES, rows):
        weights = np.ones((min(rows, NUM_RESAMPLES - start), examples.num_clusters))
        for members in strata:
            weights[:, members] = _draw(rng, len(weights), len(members))
        yield weights[:, clusters]


def _draw(rng: np.random.Generator, num_resamples: int, size: int) -> FloatArray:
    if size == 1:  # the only stratum
        return np.ones((num_resamples, 1))
    drawn = rng.integers(size, size=(num_resamples, size - 1)) + size * np.arange(num_resamples)[:, None]
    counts = np.bincount(drawn.ravel(), minlength=num_resamples * size).reshape(num_resamples, size)
    return np.asarray(counts * (size / (size - 1)), float)


def cluster_numbers(groups: Sequence[str], num_images: int) -> npt.NDArray[np.int64]:
    """Return the cluster of each image, from 0; an image without a group is a cluster of its own."""
    names = [group or f"\0{row}" for row, group in enumerate(groups or [""] * num_images)]
    return np.unique(names, return_inverse=True)[1]


def _strata(labels: Labels, clusters: npt.NDArray[np.int64]) -> list[npt.NDArray[np.int64]]:
    """Return the clusters of each stratum: of each most frequent class. Classes with one cluster share a stratum."""
    pairs, counts = np.unique(np.stack([clusters, labels], axis=1), axis=0, return_counts=True)
    order = np.lexsort((-counts, pairs[:, 0]))  # by cluster, the most frequent class first
    stratum = pairs[order[np.unique(pairs[order, 0], return_index=True)[1]], 1]
    sizes = np.bincount(stratum)
    stratum = np.where(sizes[stratum] == 1, -1, stratum)
    return [np.flatnonzero(stratum == number) for number in np.unique(stratum)]


def _statistic(metric: Metric, examples: Examples, probabilities: FloatArray) -> Statistic:
    return _STATISTICS[metric.name](examples, np.asarray(probabilities, float))


def _mean(values: FloatArray) -> Statistic:
    return lambda weights: weights @ values / weights.sum(axis=1)


def _accuracy(examples: Examples, probabilities: FloatArray) -> Statistic:
    return _mean((probabilities.argmax(axis=1) == examples.labels).astype(float))


def _log_loss(examples: Examples, probabilities: FloatArray) -> Statistic:
    of_label = probabilities[np.arange(len(probabilities)), examples.labels] / probabilities.sum(axis=1)
    return _mean(-np.log(of_label.clip(LEAST_PROBABILITY)))


def _balanced_accuracy(examples: Examples, probabilities: FloatArray) -> Statistic:
    labels, num_classes = examples.labels, probabilities.shape[1]
    is_correct = probabilities.argmax(axis=1) == labels
    return lambda weights: _mean_ratio(
        weights @ _one_hot(labels, num_classes, is_correct), weights @ _one_hot(labels, num_classes))


def _macro_f1(examples: Examples, probabilities: FloatArray) -> Statistic:
    labels, num_classes = examples.labels, probabilities.shape[1]
    predicted = probabilities.argmax(axis=1)

    def labels_and_predictions() -> FloatArray:
        counts = _one_hot(labels, num_classes)
        counts[np.arange(len(labels)), predicted] += 1
        return counts

    return lambda weights: _mean_ratio(
        2 * (weights @ _one_hot(labels, num_classes, labels == predicted)), weights @ labels_and_predictions())


def _one_hot(labels: Labels, num_classes: int, values: npt.NDArray[np.bool_] | float = 1.0) -> FloatArray:
    """Return a matrix, shape (images, classes), with each image's value at its label.

    The callers do not keep it: it is as large as the probabilities.
    """
    matrix = np.zeros((len(labels), num_classes))
    matrix[np.arange(len(labels)), labels] = values
    return matrix


def _mean_ratio(numerators: FloatArray, denominators: FloatArray) -> FloatArray:
    """Return for each row the mean ratio of the columns whose denominator is not 0."""
    ratios = np.divide(numerators, denominators, out=np.zeros_like(numerators), where=denominators > 0)
    return np.asarray(ratios.sum(axis=1) / (denominators > 0).sum(axis=1).clip(1))


def _quadratic_weighted_kappa(examples: Examples, probabilities: FloatArray) -> Statistic:
    ranks = class_ranks(examples.class_names, probabilities.shape[1])
    actual, predicted = ranks[examples.labels], ranks[probabilities.argmax(axis=1)]
    moments = np.stack([actual, predicted, actual**2, predicted**2, (actual - predicted) ** 2], axis=1)

    def kappa(weights: FloatArray) -> FloatArray:
        mean, other_mean, square, other_square, observed = (weights @ moments / weights.sum(axis=1, keepdims=True)).T
        # The variances plus the squared difference of the means: the expected disagreement of independent ratings.
        expected = square + other_square - 2 * mean * other_mean
        return np.asarray(1 - np.divide(observed, expected, out=np.zeros_like(observed), where=expected > 0))

    return kappa


def _roc_auc(examples: Examples, probabilities: FloatArray) -> Statistic:
    columns = [1] if probabilities.shape[1] == 2 else np.unique(examples.labels)  # noqa: PLR2004
    if len(columns) * len(probabilities) > MAX_EXACT_AREAS:
        changes = np.zeros(1 + len(probabilities))
        for column in columns:
            changes += _linear_area(examples.labels == column, probabilities[:, column]) / len(columns)
        return lambda weights: changes[0] + weights @ changes[1:]
    pairs = [_ordered_pairs(examples.labels == column, probabilities[:, column]) for column in columns]

    def mean_area(weights: FloatArray) -> FloatArray:
        ordered, total = np.stack([count(weights) for count in pairs], axis=-1)
        return _mean_ratio(ordered, total)

    return mean_area


def _linear_area(positive: npt.NDArray[np.bool_], scores: FloatArray) -> FloatArray:
    """Return the area, and the change per weight of each image (DeLong, DeLong and Clarke-Pearson 1988).

    The sum of the changes is 0. What is not linear in the weights is smaller by the square root of the number of
    negative images.
    """
    from scipy.stats import rankdata

    num_positive, num_negative = positive.sum(), (~positive).sum()
    ranks = rankdata(scores)  # ties have the mean of their ranks
    placements = np.empty_like(ranks)
    placements[positive] = (ranks[positive] - rankdata(scores[positive])) / num_negative
    placements[~positive] = 1 - (ranks[~positive] - rankdata(scores[~positive])) / num_positive
    area = float(placements[positive].mean())
    return np.append(area, (placements - area) / np.where(positive, num_positive, num_negative))


def _ordered_pairs(
    positive: npt.NDArray[np.bool_], scores: FloatArray
) -> Callable[[FloatArray], tuple[FloatArray, FloatArray]]:
    """Return the weight of the pairs in which the positive image has the higher score, and of all pairs.

    Ties count half.
    """
    order = np.argsort(scores)
    negative = ~positive[order]
    below, up_to = (np.searchsorted(scores[order], scores[positive], side) for side in ("left", "right"))

    def count(weights: FloatArray) -> tuple[FloatArray, FloatArray]:
        cumulative = np.zeros((len(weights), len(order) + 1))
        np.cumsum(weights[:, order] * negative, axis=1, out=cumulative[:, 1:])
        of_positives = weights[:, positive]
        ordered = (of_positives * (cumulative[:, below] + cumulative[:, up_to])).sum(axis=1) / 2
        return ordered, of_positives.sum(axis=1) * cumulative[:, -1]

    return count


_STATISTICS: dict[str, Callable[[Examples, FloatArray], Statistic]] = {
    "accuracy": _accuracy, "balanced_accuracy": _balanced_accuracy, "macro_f1": _macro_f1, "micro_f1": _accuracy,
    "log_loss": _log_loss, "roc_auc": _roc_auc, "quadratic_weighted_kappa": _quadratic_weighted_kappa,
}
