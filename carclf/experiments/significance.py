"""Recipes beside a baseline: what of the difference is real, where each was trained with several seeds.

Two things make a difference look larger than it is. Other images would have been answered otherwise, and other seeds
would have made other models. The first is the variance of the paired differences over the images, in which the part
of the seeds that falls on each image by itself is contained; the second, a seed that is better or worse on all images,
is estimated from all recipes together, since two or three seeds of one recipe tell too little.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from carclf.stats import POWER

CorrectMatrix = npt.NDArray[np.bool_]  # (seeds, images): which answers are right


@dataclass(frozen=True)
class RecipeComparison:
    """A recipe against the baseline: accuracies in [0, 1], the p-value and the interval corrected for all recipes."""

    recipe: str
    num_seeds: int
    accuracy: float
    accuracy_std: float | None  # standard deviation over the seeds; None with one seed
    difference: float
    low: float
    high: float
    p_value: float
    minimum_detectable_difference: float  # what this design would find four times of five

    @property
    def conclusion(self) -> str:
        """``better``, ``worse``, or ``cannot tell``."""
        if self.low > 0:
            return "better"
        return "worse" if self.high < 0 else "inconclusive"

    def summary(self, cost: float | None = None) -> str:
        """The finding in words; ``cost`` is the recipe's over the baseline's."""
        paid = "" if cost is None else f", at {cost:.2g}× the cost"
        if self.conclusion == "inconclusive":
            return (f"no difference that this experiment could see: {_points(self.difference)} points "
                    f"({_points(self.low)} to {_points(self.high)}), where it would have seen "
                    f"{100 * self.minimum_detectable_difference:.1f}{paid}")
        ends = sorted((abs(self.low), abs(self.high)))
        return (f"{self.conclusion} by {100 * abs(self.difference):.1f} points "
                f"({100 * ends[0]:.1f}–{100 * ends[1]:.1f}){paid}")


def compare_recipes(
    answers: Mapping[str, CorrectMatrix], baseline: str, *, level: float = 0.05, num_prior_recipes: int = 0
) -> tuple[list[RecipeComparison], float | None]:
    """A verdict for each recipe but the baseline, and the standard deviation of what a seed changes on all images.

    Every recipe has the same images in the same order; ``level`` is the chance that any verdict of a whole experiment
    without a real difference finds one (Bonferroni). The ``num_prior_recipes`` recipes by which these were chosen, in a race
    or a study, count too: these may be the luckiest of many. The second is None where no recipe has two seeds: then
    the verdicts tell these models apart and say nothing of other seeds.
    """
    shift, noise = _seed_variances(list(answers.values()))
    design = _Design(shift, noise, level, len(answers) - 1 + num_prior_recipes)
    verdicts = [_verdict(name, correct, answers[baseline], design)
                for name, correct in answers.items() if name != baseline]
    return verdicts, None if noise is None else math.sqrt(shift)


@dataclass(frozen=True)
class _Noise:
    """The pooled variance of a recipe's accuracy over its seeds, and its degrees of freedom."""

    variance: float
    degrees: int


@dataclass(frozen=True)
class _Design:
    """What all verdicts of an experiment share."""

    shift: float  # variance of what a seed changes on all images
    noise: _Noise | None
    level: float
    num_comparisons: int


def _seed_variances(answers: Sequence[CorrectMatrix]) -> tuple[float, _Noise | None]:
    """What a seed changes on all images alike, as a variance, and all that it changes."""
    several = [correct for correct in answers if len(correct) > 1]
    degrees = sum(len(correct) - 1 for correct in several)
    if not degrees:
        return 0.0, None
    weighted = [((len(correct) - 1) / degrees, correct) for correct in several]
    total = float(sum(weight * correct.mean(1).var(ddof=1) for weight, correct in weighted))
    # what chance on each image by itself makes of it
    alone = float(sum(weight * correct.var(0, ddof=1).mean() / correct.shape[1] for weight, correct in weighted))
    return max(0.0, total - alone), _Noise(total, degrees)


def _verdict(name: str, own: CorrectMatrix, base: CorrectMatrix, design: _Design) -> RecipeComparison:
    from scipy.stats import t

    differences = own.mean(0) - base.mean(0)
    num, difference = len(differences), float(differences.mean())
    # One image more on either side, so that agreement on few images is no proof of equality (Agresti and Min 2005).
    images = (float(((differences - difference) ** 2).sum()) + 1) / (num * (num - 1))
    both = 1 / len(own) + 1 / len(base)
    variance = images + design.shift * both
    noise = design.noise
    uncertain = 0.0 if noise is None else (noise.variance * both) ** 2 / noise.degrees
    degrees = variance**2 / (images**2 / (num - 1) + uncertain)  # Satterthwaite 1946
    # It subtracts nothing, but the shift is a difference: never fewer than the seeds' own.
    degrees = max(degrees, noise.degrees if noise else 0)
    error = math.sqrt(variance)
    reach = float(t.isf(design.level / 2 / design.num_comparisons, degrees)) * error
    p_value = min(1.0, float(2 * t.sf(abs(difference) / error, degrees)) * design.num_comparisons)
    return RecipeComparison(
        name, len(own), float(own.mean()), float(own.mean(1).std(ddof=1)) if len(own) > 1 else None,
        difference, max(-1.0, difference - reach), min(1.0, difference + reach), p_value,
        min(1.0, reach + float(t.isf(1 - POWER, degrees)) * error),
    )


def _points(share: float) -> str:
    return f"{round(100 * share, 1) + 0:+.1f}"  # + 0: no "-0.0"
