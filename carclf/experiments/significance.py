"""Compare recipes with a baseline on the same images, when each recipe was trained with several seeds.

A measured difference is random in two ways: it depends on the images and on the seeds. The first variance is that of
the paired differences over the images, which includes the effect of a seed on single images. The second, that of a
seed's effect common to all images, is estimated from all recipes together, because the two or three seeds of one recipe
are too few.

For accuracy, both follow from the correct predictions. For another metric, the first is that of a paired bootstrap of
one seed of each recipe, and the second is the whole variance between seeds: both are upper bounds.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import cycle
from typing import Protocol

import numpy as np
import numpy.typing as npt

from carclf.metrics import METRICS, Metric
from carclf.paired_bootstrap import Examples, compare_models
from carclf.stats import POWER, FloatArray

CorrectMatrix = npt.NDArray[np.bool_]  # (seeds, images): which predictions are correct


@dataclass(frozen=True)
class RecipeComparison:
    """A recipe against the baseline.

    ``value`` is the mean metric over the seeds, ``value_std`` its standard deviation, None with one seed. A difference
    is the recipe's value minus the baseline's: of log loss, a negative one is an improvement. The p-value and the
    interval from ``low`` to ``high`` are corrected for the number of recipes. The design detects
    ``minimum_detectable_difference`` with a probability of POWER.
    """

    metric: str
    recipe: str
    num_seeds: int
    value: float
    value_std: float | None
    difference: float
    low: float
    high: float
    p_value: float
    minimum_detectable_difference: float

    @property
    def conclusion(self) -> str:
        """``better``, ``worse`` or ``inconclusive``."""
        if self.low <= 0 <= self.high:
            return "inconclusive"
        return "better" if METRICS[self.metric].is_better(self.difference, 0) else "worse"

    def summary(self, relative_cost: float | None = None) -> str:
        """Return the conclusion as text; ``relative_cost`` is the recipe's cost divided by the baseline's."""
        cost = "" if relative_cost is None else f", at {relative_cost:.2g} times the cost"
        form = METRICS[self.metric].format_difference
        unit = " points" if METRICS[self.metric].higher_is_better else ""
        if self.conclusion == "inconclusive":
            difference, low, high = (form(value, "+") for value in (self.difference, self.low, self.high))
            return (f"no significant difference: {difference}{unit} ({low} to {high}; detectable: "
                    f"{form(self.minimum_detectable_difference)}){cost}")
        low, high = map(form, sorted((abs(self.low), abs(self.high))))
        return f"{self.conclusion} by {form(abs(self.difference))}{unit} ({low} to {high}){cost}"


class Results(Protocol):
    """The results of all recipes on the same images, measured by one metric."""

    @property
    def metric(self) -> Metric:
        """The metric."""

    @property
    def values(self) -> Mapping[str, FloatArray]:
        """The metric of each seed, by recipe."""

    @property
    def num_images(self) -> int:
        """The number of images."""

    def image_variance(self, recipe: str, baseline: str) -> float:
        """Return the variance of the difference of two recipes over the images."""

    def image_effects(self, recipe: str) -> float:
        """Return the part of the variance between a recipe's seeds that independent effects on images explain."""


@dataclass(frozen=True)
class AccuracyResults:
    """The correct predictions of each recipe."""

    correct: Mapping[str, CorrectMatrix]
    metric: Metric = METRICS["accuracy"]

    @cached_property
    def values(self) -> Mapping[str, FloatArray]:
        """The accuracy of each seed, by recipe."""
        return {name: correct.mean(1) for name, correct in self.correct.items()}

    @property
    def num_images(self) -> int:
        """The number of images."""
        return int(next(iter(self.correct.values())).shape[1])

    def image_variance(self, recipe: str, baseline: str) -> float:
        """Return the variance of the mean paired difference."""
        differences = self.correct[recipe].mean(0) - self.correct[baseline].mean(0)
        num = len(differences)
        # Add an image in favor of each recipe: equal predictions of few images do not prove that the recipes are equal
        # (Agresti and Min 2005).
        return (float(((differences - differences.mean()) ** 2).sum()) + 1) / (num * (num - 1))

    def image_effects(self, recipe: str) -> float:
        """Return the contribution of independent effects on single images."""
        correct = self.correct[recipe]
        return float(correct.var(0, ddof=1).mean() / correct.shape[1])


@dataclass(frozen=True)
class MetricResults:
    """The probabilities of each recipe, of shape (seeds, images, classes), and the labels of the images."""

    metric: Metric
    examples: Examples
    probabilities: Mapping[str, FloatArray]

    @cached_property
    def values(self) -> Mapping[str, FloatArray]:
        """The metric of each seed, by recipe."""
        labels, names = self.examples.labels, self.examples.class_names
        return {
            recipe: np.array([self.metric.compute(labels, probabilities, names) for probabilities in by_seed])
            for recipe, by_seed in self.probabilities.items()
        }

    @property
    def num_images(self) -> int:
        """The number of images."""
        return len(self.examples.labels)

    def image_variance(self, recipe: str, baseline: str) -> float:
        """Return the mean variance of the paired bootstraps of a seed of the recipe with a seed of the baseline."""
        by_seed, base = self.probabilities[recipe], self.probabilities[baseline]
        comparisons = [compare_models(self.metric, self.examples, *pair) for pair in zip(by_seed, cycle(base))]
        # Equal predictions of few images do not prove that the recipes are equal: see ``AccuracyResults``.
        smallest = 1 / (self.num_images * (self.num_images - 1))
        return float(np.mean([comparison.standard_error**2 for comparison in comparisons])) + smallest

    def image_effects(self, recipe: str) -> float:
        """Return 0, because the part is unknown."""
        return 0.0


def compare_recipes(
    results: Results, baseline: str, *, significance_level: float = 0.05, num_prior_recipes: int = 0
) -> tuple[list[RecipeComparison], float | None]:
    """Compare every recipe with the baseline, by their predictions of the same images.

    ``significance_level`` is the probability that an experiment without any real difference has a conclusion other than
    inconclusive (Bonferroni). ``num_prior_recipes`` were eliminated by a race or a study; they count as comparisons,
    because the remaining recipes may be the luckiest of many.

    Return the comparisons, and the standard deviation of a seed's effect on all images. The latter is None if no recipe
    has two seeds; then the conclusions hold for these models only, not for other seeds.
    """
    num_comparisons = len(results.values) - 1 + num_prior_recipes
    design = _Design(*_seed_variances(results), significance_level, num_comparisons)
    comparisons = [_compare(name, results, baseline, design) for name in results.values if name != baseline]
    return comparisons, math.sqrt(design.seed_variance) if design.seed_degrees else None


@dataclass(frozen=True)
class _Design:
    """Statistics shared by all comparisons; the first three are the result of ``_seed_variances``."""

    seed_variance: float
    total_variance: float
    seed_degrees: int
    significance_level: float
    num_comparisons: int


def _seed_variances(results: Results) -> tuple[float, float, int]:
    """Return the variance of the part of a seed's effect common to all images, the total variance, and its degrees.

    The total variance is pooled over the recipes. Its degrees of freedom are 0 if no recipe has two seeds.
    """
    several = {name: values for name, values in results.values.items() if len(values) > 1}
    degrees = sum(len(values) - 1 for values in several.values())
    if not degrees:
        return 0.0, 0.0, 0
    weights = {name: (len(values) - 1) / degrees for name, values in several.items()}
    total = float(sum(weights[name] * values.var(ddof=1) for name, values in several.items()))
    by_image = sum(weight * results.image_effects(name) for name, weight in weights.items())
    return max(0.0, total - by_image), total, degrees


def _compare(name: str, results: Results, baseline: str, design: _Design) -> RecipeComparison:
    from scipy.stats import t

    values, base = results.values[name], results.values[baseline]
    difference = float(values.mean() - base.mean())
    image_variance, seed_weight = results.image_variance(name, baseline), 1 / len(values) + 1 / len(base)
    error, degrees = _standard_error(image_variance, results.num_images, seed_weight, design)
    half_width = float(t.isf(design.significance_level / 2 / design.num_comparisons, degrees)) * error
    p_value = float(2 * t.sf(abs(difference) / error, degrees)) * design.num_comparisons
    largest = 1.0 if results.metric.is_accuracy else math.inf
    return RecipeComparison(
        metric=results.metric.name, recipe=name, num_seeds=len(values), value=float(values.mean()),
        value_std=seed_std(values), difference=difference, low=max(-largest, difference - half_width),
        high=min(largest, difference + half_width), p_value=min(1.0, p_value),
        minimum_detectable_difference=min(largest, half_width + float(t.isf(1 - POWER, degrees)) * error),
    )


def _standard_error(
    image_variance: float, num_images: int, seed_weight: float, design: _Design
) -> tuple[float, float]:
    """Return the standard error of the mean difference and its degrees of freedom (Satterthwaite 1946)."""
    variance = image_variance + design.seed_variance * seed_weight
    seed_degrees = design.seed_degrees
    uncertainty = (design.total_variance * seed_weight) ** 2 / seed_degrees if seed_degrees else 0.0
    degrees = variance**2 / (image_variance**2 / (num_images - 1) + uncertainty)
    # Satterthwaite's formula is for sums, but the seed variance is a difference: use at least the seeds' degrees.
    return math.sqrt(variance), max(degrees, seed_degrees)


def seed_std(values: FloatArray) -> float | None:
    """Return the standard deviation of the metric over the seeds, or None with one seed."""
    return float(values.std(ddof=1)) if len(values) > 1 else None
