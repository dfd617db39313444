"""Statistics of classifiers: confidence intervals, McNemar's paired test and its power, and equal-frequency bins.

SciPy is imported inside the functions, because a stage that reuses its artifact does not need it.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

NUM_FOLDS = 5  # of cross-fitting
POWER = 0.8  # probability with which a detectable difference is detected
Z_95 = 1.959963984540054  # the normal quantile of a two-sided 95% interval
CHUNK_SIZE = 2**20  # numbers of a matrix that are processed at a time: 8 MB
NEGLIGIBLE_VARIANCE = 1e-12  # per image
NEGLIGIBLE_DISTANCE = 1e-9  # per image
_PROBABILITY = "p_"
TAIL = 5e-10  # ignored at either end of the distribution of the number of discordant images


class Proportion(NamedTuple):
    """A proportion, or another metric, and the bounds of its 95% interval."""

    value: float
    low: float
    high: float


def wilson_interval(successes: int, total: int, z: float = Z_95) -> tuple[float, float]:
    """Return the score interval of a proportion (Wilson 1927); (0, 1) without observations."""
    if total == 0:
        return 0.0, 1.0
    p = successes / total
    zz = z * z
    center = (p + zz / (2 * total)) / (1 + zz / total)
    half = z / (1 + zz / total) * math.sqrt(p * (1 - p) / total + zz / (4 * total * total))
    return max(0.0, center - half), min(1.0, center + half)


def newcombe_interval(first: Proportion, second: Proportion) -> tuple[float, float]:
    """Return the interval of the difference of two independent proportions from their intervals.

    Newcombe, Interval estimation for the difference between independent proportions, Statistics in Medicine 17
    (1998), method 10.
    """
    difference = first.value - second.value
    below = math.hypot(first.value - first.low, second.high - second.value)
    above = math.hypot(first.high - first.value, second.value - second.low)
    return difference - below, difference + above


def gap_warning(metric: str, validation: Proportion, public: Proportion, higher_is_better: bool = True) -> str:
    """Return a warning if validation metric and public score differ significantly, else an empty string."""
    low, high = newcombe_interval(validation, public)
    if low <= 0 <= high:
        return ""
    gap = validation.value - public.value
    cause = "drift: the test images are easier than the validation images"
    if (gap > 0) == higher_is_better:
        cause = "leakage from training to validation, or drift between training and test images"
    return (
        f"validation {metric} {validation.value:.4f} and public score {public.value:.4f} differ by {gap:+.4f} "
        f"(95%: {low:+.4f} to {high:+.4f}), more than chance explains. Check for {cause}"
    )


@dataclass(frozen=True)
class PairedCounts:
    """Numbers of images that a candidate and a champion, which predicted the same images, classify correctly."""

    num_images: int
    candidate_only_correct: int
    champion_only_correct: int

    @property
    def num_discordant(self) -> int:
        """The number of images that exactly one of the two classifies correctly."""
        return self.candidate_only_correct + self.champion_only_correct

    @property
    def difference(self) -> float:
        """The candidate's accuracy minus the champion's."""
        return (self.candidate_only_correct - self.champion_only_correct) / self.num_images

    @property
    def p_worse(self) -> float:
        """P-value of McNemar's exact one-sided test that the candidate is worse."""
        return _upper_tail(self.champion_only_correct, self.num_discordant)

    @property
    def p_better(self) -> float:
        """P-value of McNemar's exact one-sided test that the candidate is better."""
        return _upper_tail(self.candidate_only_correct, self.num_discordant)

    @property
    def p_different(self) -> float:
        """P-value of McNemar's exact two-sided test: twice the smaller tail."""
        return min(1.0, 2 * min(self.p_worse, self.p_better))

    def interval(self, z: float = Z_95) -> tuple[float, float]:
        """Return the score interval of the difference (Tango 1998, Statistics in Medicine 17, 891)."""
        from scipy.optimize import brentq

        def bound(edge: float) -> float:
            if self._score(edge) ** 2 <= z * z:  # everything up to the edge is within the interval
                return edge
            return float(brentq(lambda delta: abs(self._score(delta)) - z, self.difference, edge, xtol=1e-10))

        return bound(-1.0), bound(1.0)

    def minimum_detectable_difference(self, significance: float) -> float | None:
        """Return the smallest improvement that the one-sided exact test detects with a probability of ``POWER``.

        The calculation assumes the observed fraction of discordant images, or a larger one if the difference
        requires it. Return None if there are too few images to detect any difference.
        """
        from scipy.optimize import brentq

        discordant = self.num_discordant / self.num_images

        def power(delta: float) -> float:
            return mcnemar_power(self.num_images, max(discordant, delta), delta, significance)

        if power(1.0) < POWER:
            return None
        return float(brentq(lambda delta: power(delta) - POWER, 0.0, 1.0, xtol=1e-6))

    def _score(self, delta: float) -> float:
        """Return the standardized distance between the observed difference and ``delta``."""
        n = self.num_images
        b = self.candidate_only_correct
        c = self.champion_only_correct
        # The maximum-likelihood probability of "only the champion is correct" under the constraint that the
        # difference is delta: the larger root of a quadratic equation.
        half = -b - c + (2 * n - b + c) * delta
        root = math.sqrt(max(0.0, half * half + 8 * n * c * delta * (1 - delta)))
        p_champion_only = (root - half) / (4 * n)
        variance = n * (2 * p_champion_only + delta * (1 - delta))
        distance = b - c - n * delta
        if variance <= NEGLIGIBLE_VARIANCE * n:
            return 0.0 if abs(distance) < NEGLIGIBLE_DISTANCE * n else math.copysign(math.inf, distance)
        return distance / math.sqrt(variance)


def mcnemar_power(num_images: int, discordant: float, difference: float, significance: float) -> float:
    """Return the power of McNemar's one-sided exact test to detect a difference in accuracy.

    ``discordant`` is the expected fraction of images that exactly one of the two models classifies correctly.
    """
    from scipy.stats import binom

    if not discordant:
        return 0.0
    low, high = (int(binom.ppf(tail, num_images, discordant)) for tail in (TAIL, 1 - TAIL))
    num_discordant = np.arange(low, high + 1)
    critical = binom.isf(significance, num_discordant, 0.5) + 1  # the smallest significant count
    detected = binom.sf(critical - 1, num_discordant, (1 + difference / discordant) / 2)
    return float(binom.pmf(num_discordant, num_images, discordant) @ detected)


def cross_fitting_folds(units: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Return the fold of each row, from 0. Rows with the same unit, which depend on each other, share a fold."""
    return np.asarray(np.unique(units, return_inverse=True)[1] % NUM_FOLDS)


def class_positions(labels: Sequence[str] | npt.NDArray[Any], class_names: Sequence[str]) -> npt.NDArray[np.int64]:
    """Return the position of each label in the class names; -1 if it is not among them."""
    position = {name: number for number, name in enumerate(class_names)}
    return np.array([position.get(label, -1) for label in labels], np.int64)


def row_chunks(shape: tuple[int, ...]) -> list[slice]:
    """Return slices of similar size that divide the rows of a matrix into parts of at most ``CHUNK_SIZE`` numbers."""
    num_rows, num_columns = shape
    num_chunks = max(1, math.ceil(num_rows * num_columns / CHUNK_SIZE))
    bounds = [num_rows * number // num_chunks for number in range(num_chunks + 1)]
    return [slice(start, end) for start, end in pairwise(bounds)]


def probability_columns(class_names: Sequence[str]) -> list[str]:
    """Return the column of each class's probability in a table of predictions; no other column starts with p_."""
    return [f"{_PROBABILITY}{name}" for name in class_names]


def classes_with_probabilities(columns: Iterable[Any]) -> list[str]:
    """Return the classes of the columns that are those of probabilities."""
    return [column.removeprefix(_PROBABILITY) for column in columns if column.startswith(_PROBABILITY)]


def equal_frequency_bins(values: FloatArray, num_bins: int) -> npt.NDArray[np.int64]:
    """Return the bin of each value, from 0. Bins are as equal in size as ties allow; no bin is empty."""
    edges = np.unique(np.quantile(values, np.linspace(0, 1, num_bins + 1)[1:-1]))
    bins = np.searchsorted(edges, values, side="right")
    return np.unique(bins, return_inverse=True)[1]


def _upper_tail(successes: int, total: int) -> float:
    from scipy.stats import binomtest

    return float(binomtest(successes, total, alternative="greater").pvalue) if total else 1.0
