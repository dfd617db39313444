"""Compare recipes with a baseline on the same images, when each recipe was trained with several seeds.

Chance makes a difference look larger in two ways: with other images the predictions would differ, and with other
seeds the models would. The first is the variance of the paired differences over the images, which includes the effect
of the seeds on single images. The second, a seed that is better or worse on all images, is estimated from all recipes
together, because the two or three seeds of one recipe are too few.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from carclf.stats import POWER

CorrectMatrix = npt.NDArray[np.bool_]  # (seeds, images): which predictions are correct


@dataclass(frozen=True)
class RecipeComparison:
    """A recipe against the baseline.

    Accuracies and differences are fractions. The p-value and the interval from ``low`` to ``high`` are corrected for
    the number of recipes. ``accuracy_std`` is the standard deviation over the seeds, None with one seed. The design
    detects ``minimum_detectable_difference`` with a probability of POWER.
    """

    recipe: str
    num_seeds: int
    accuracy: float
    accuracy_std: float | None
    difference: float
    low: float
    high: float
    p_value: float
    minimum_detectable_difference: float

    @property
    def conclusion(self) -> str:
        """``better``, ``worse`` or ``inconclusive``."""
        if self.low > 0:
            return "better"
        return "worse" if self.high < 0 else "inconclusive"

    def summary(self, relative_cost: float | None = None) -> str:
        """Return the conclusion as text; ``relative_cost`` is the recipe's cost divided by the baseline's."""
        cost = "" if relative_cost is None else f", at {relative_cost:.2g} times the cost"
        if self.conclusion == "inconclusive":
            return (f"no significant difference: {_points(self.difference)} points ({_points(self.low)} to "
                    f"{_points(self.high)}; detectable: {100 * self.minimum_detectable_difference:.1f}){cost}")
        low, high = sorted((abs(self.low), abs(self.high)))
        size = 100 * abs(self.difference)
        return f"{self.conclusion} by {size:.1f} points ({100 * low:.1f} to {100 * high:.1f}){cost}"


def compare_recipes(
    correct: Mapping[str, CorrectMatrix], baseline: str, *, significance_level: float = 0.05, num_prior_recipes: int = 0
) -> tuple[list[RecipeComparison], float | None]:
    """Compare every recipe with the baseline, by their correct predictions of the same images in the same order.

    ``significance_level`` is the probability that an experiment without any real difference has a conclusion other than
    inconclusive (Bonferroni). ``num_prior_recipes`` were eliminated by a race or a study before; they count as
    comparisons, because the remaining ones may be the luckiest of many.

    Return the comparisons, and the standard deviation of a seed's effect on all images. The latter is None if no recipe
    has two seeds; then the conclusions hold for these models only, not for other seeds.
    """
    num_comparisons = len(correct) - 1 + num_prior_recipes
    design = _Design(*_seed_variances(list(correct.values())), significance_level, num_comparisons)
    comparisons = [
        _compare(name, matrix, correct[baseline], design) for name, matrix in correct.items() if name != baseline
    ]
    return comparisons, math.sqrt(design.seed_variance) if design.seed_degrees else None


@dataclass(frozen=True)
class _Design:
    """What all comparisons of an experiment share; the first three fields are from ``_seed_variances``."""

    seed_variance: float
    total_variance: float
    seed_degrees: int
    significance_level: float
    num_comparisons: int


def _seed_variances(matrices: Sequence[CorrectMatrix]) -> tuple[float, float, int]:
    """Return the variance of a seed's effect on all images alike, that of its whole effect, and the latter's degrees.

    The whole effect is pooled over the recipes. Its degrees of freedom are 0 if no recipe has two seeds.
    """
    several = [correct for correct in matrices if len(correct) > 1]
    degrees = sum(len(correct) - 1 for correct in several)
    if not degrees:
        return 0.0, 0.0, 0
    weighted = [((len(correct) - 1) / degrees, correct) for correct in several]
    total = float(sum(weight * correct.mean(1).var(ddof=1) for weight, correct in weighted))
    # what independent effects on single images contribute
    by_image = float(sum(weight * correct.var(0, ddof=1).mean() / correct.shape[1] for weight, correct in weighted))
    return max(0.0, total - by_image), total, degrees


def _compare(name: str, correct: CorrectMatrix, base: CorrectMatrix, design: _Design) -> RecipeComparison:
    from scipy.stats import t

    differences = correct.mean(0) - base.mean(0)
    difference = float(differences.mean())
    error, degrees = _standard_error(differences, 1 / len(correct) + 1 / len(base), design)
    half_width = float(t.isf(design.significance_level / 2 / design.num_comparisons, degrees)) * error
    p_value = float(2 * t.sf(abs(difference) / error, degrees)) * design.num_comparisons
    return RecipeComparison(
        recipe=name, num_seeds=len(correct), accuracy=float(correct.mean()), accuracy_std=seed_std(correct),
        difference=difference, low=max(-1.0, difference - half_width), high=min(1.0, difference + half_width),
        p_value=min(1.0, p_value),
        minimum_detectable_difference=min(1.0, half_width + float(t.isf(1 - POWER, degrees)) * error),
    )


def _standard_error(differences: npt.NDArray[np.float64], seed_weight: float, design: _Design) -> tuple[float, float]:
    """Return the standard error of the mean difference and its degrees of freedom (Satterthwaite 1946)."""
    num = len(differences)
    # One more image for either recipe, so that equal predictions of few images do not prove that the recipes are equal
    # (Agresti and Min 2005).
    image_variance = (float(((differences - differences.mean()) ** 2).sum()) + 1) / (num * (num - 1))
    variance = image_variance + design.seed_variance * seed_weight
    seed_degrees = design.seed_degrees
    uncertainty = (design.total_variance * seed_weight) ** 2 / seed_degrees if seed_degrees else 0.0
    degrees = variance**2 / (image_variance**2 / (num - 1) + uncertainty)
    # Satterthwaite's formula is for sums, but the seed variance is a difference: use at least the seeds' degrees.
    return math.sqrt(variance), max(degrees, seed_degrees)


def seed_std(correct: CorrectMatrix) -> float | None:
    """Return the standard deviation of the accuracy over the seeds, or None with one seed."""
    return float(correct.mean(1).std(ddof=1)) if len(correct) > 1 else None


def _points(fraction: float) -> str:
    return f"{round(100 * fraction, 1) + 0:+.1f}"  # + 0 turns -0.0 into 0.0
