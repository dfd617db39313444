"""Whether the public score is what the validation accuracy promised."""

import math

from carclf.evaluation.statistics import wilson

Proportion = tuple[float, float, float]  # the share, and the bounds of its interval


def difference_interval(first: Proportion, second: Proportion) -> tuple[float, float]:
    """The interval of the difference of two independent shares from their Wilson intervals.

    Newcombe, Interval estimation for the difference between independent proportions, Statistics in Medicine 17
    (1998), method 10.
    """
    (p, low, high), (q, lower, upper) = first, second
    return p - q - math.hypot(p - low, upper - q), p - q + math.hypot(high - p, q - lower)


def disagreement(validation: Proportion, public: float, num_test: int) -> str:
    """A warning where the two accuracies differ by more than their joint 95% interval allows; else ""."""
    low, high = difference_interval(validation, (public, *wilson(round(public * num_test), num_test)))
    if low <= 0 <= high:
        return ""
    gap = validation[0] - public
    cause = ("leakage from training to validation, or drift between the training and the test pictures" if gap > 0
             else "drift: the test pictures are easier than those of validation")
    return (f"validation accuracy {validation[0]:.4f} and public score {public:.4f} differ by {gap:+.4f} (95%: "
            f"{low:+.4f} to {high:+.4f}), more than chance explains: look for {cause}")
