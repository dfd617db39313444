"""Confidence intervals and the paired test of two classifiers on the same images."""


import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

POWER = 0.8


def wilson_interval(successes: int, total: int, z: float = 1.959963984540054) -> tuple[float, float]:
    """The 95% score interval of a proportion (Wilson 1927)."""
    if total == 0:
        return 0.0, 1.0
    p, zz = successes / total, z * z
    centre = (p + zz / (2 * total)) / (1 + zz / total)
    half = z / (1 + zz / total) * math.sqrt(p * (1 - p) / total + zz / (4 * total * total))
    return max(0.0, centre - half), min(1.0, centre + half)


@dataclass(frozen=True)
class PairedCounts:
    """The answers of a candidate and a champion on the same images.

    ``gained``: only the candidate is right; ``lost``: only the champion is.
    """

    num_images: int
    gained: int
    lost: int

    @property
    def difference(self) -> float:
        """The candidate's accuracy less the champion's."""
        return (self.gained - self.lost) / self.num_images

    @property
    def p_worse(self) -> float:
        """McNemar's exact test: chance of as many lost or more where both are equally good."""
        return _upper_tail(self.lost, self.gained + self.lost)

    @property
    def p_better(self) -> float:
        """McNemar's exact test: chance of as many gained or more where both are equally good."""
        return _upper_tail(self.gained, self.gained + self.lost)

    @property
    def p_different(self) -> float:
        """McNemar's exact test, two-sided: twice the smaller tail."""
        return min(1.0, 2 * min(self.p_worse, self.p_better))

    def interval(self, z: float = 1.959963984540054) -> tuple[float, float]:
        """The 95% score interval of the difference (Tango 1998, Statistics in Medicine 17, 891)."""
        from scipy.optimize import brentq

        def end(edge: float) -> float:
            if self._score(edge) ** 2 <= z * z:  # the whole way to the edge is within
                return edge
            return float(brentq(lambda delta: abs(self._score(delta)) - z, self.difference, edge, xtol=1e-10))

        return end(-1.0), end(1.0)

    def _score(self, delta: float) -> float:
        """Standardized distance of the observed difference from ``delta``."""
        n, gained, lost = self.num_images, self.gained, self.lost
        # p_lost where it fits the counts best while p_gained - p_lost = delta: a quadratic's larger root
        half = -gained - lost + (2 * n - gained + lost) * delta
        root = math.sqrt(max(0.0, half * half + 8 * n * lost * delta * (1 - delta)))
        p_lost = (root - half) / (4 * n)
        variance = n * (2 * p_lost + delta * (1 - delta))
        distance = gained - lost - n * delta
        if variance <= 1e-12 * n:
            return 0.0 if abs(distance) < 1e-9 * n else math.copysign(math.inf, distance)
        return distance / math.sqrt(variance)

    def minimum_detectable_difference(self, level: float) -> float | None:
        """The smallest difference that the one-sided exact test at ``level`` would find four times of five.

        On as many images, as many of which are answered differently, or so many more as the difference needs. None
        where they are too few for any.
        """
        from scipy.optimize import brentq

        differing = (self.gained + self.lost) / self.num_images

        def power(delta: float) -> float:
            return mcnemar_power(self.num_images, max(differing, delta), delta, level)

        if power(1.0) < POWER:
            return None
        return float(brentq(lambda delta: power(delta) - POWER, 0.0, 1.0, xtol=1e-6))


def mcnemar_power(num_images: int, differing: float, difference: float, level: float) -> float:
    """How often the one-sided exact McNemar test finds a difference, where that share is answered differently."""
    import numpy as np
    from scipy.stats import binom

    if not differing:
        return 0.0
    # all but one in a billion of the numbers of images that may be answered differently
    low, high = (int(binom.ppf(share, num_images, differing)) for share in (5e-10, 1 - 5e-10))
    num_differing = np.arange(low, high + 1)
    needed = binom.isf(level, num_differing, 0.5) + 1  # the fewest of them that are significant
    found = binom.sf(needed - 1, num_differing, (1 + difference / differing) / 2)
    return float(binom.pmf(num_differing, num_images, differing) @ found)


def _upper_tail(successes: int, total: int) -> float:
    from scipy.stats import binomtest

    return float(binomtest(successes, total, alternative="greater").pvalue) if total else 1.0

Proportion = tuple[float, float, float]  # the share, and the bounds of its interval


def newcombe_interval(first: Proportion, second: Proportion) -> tuple[float, float]:
    """The interval of the difference of two independent shares from their Wilson intervals.

    Newcombe, Interval estimation for the difference between independent proportions, Statistics in Medicine 17
    (1998), method 10.
    """
    (p, low, high), (q, lower, upper) = first, second
    return p - q - math.hypot(p - low, upper - q), p - q + math.hypot(high - p, q - lower)


def accuracy_gap_warning(validation: Proportion, public: float, num_test: int) -> str:
    """A warning where the two accuracies differ by more than their joint 95% interval allows; else ""."""
    low, high = newcombe_interval(validation, (public, *wilson_interval(round(public * num_test), num_test)))
    if low <= 0 <= high:
        return ""
    gap = validation[0] - public
    cause = ("leakage from training to validation, or drift between the training and the test pictures" if gap > 0
             else "drift: the test pictures are easier than those of validation")
    return (f"validation accuracy {validation[0]:.4f} and public score {public:.4f} differ by {gap:+.4f} (95%: "
            f"{low:+.4f} to {high:+.4f}), more than chance explains: look for {cause}")

FloatArray = npt.NDArray[np.float64]


def equal_frequency_bins(values: FloatArray, num_groups: int) -> npt.NDArray[np.int64]:
    """The group of each value, from 0: as many in each as can be, equal values together, no group empty."""
    edges = np.unique(np.quantile(values, np.linspace(0, 1, num_groups + 1)[1:-1]))
    found: npt.NDArray[Any] = np.searchsorted(edges, values, side="right")
    return np.unique(found, return_inverse=True)[1]
