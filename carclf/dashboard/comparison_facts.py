"""Facts of a comparison of two runs, A and B. Differences are B minus A."""

from typing import Any

from carclf.dashboard.run_reader import Facts


class ComparedRun(Facts):
    """One of the two runs; ``model`` is the model's key."""

    run: str
    recipe: str
    created: str
    model: str
    champion: bool


class Difference(Facts):
    """A setting or metric of both runs, None where it is missing; only metrics can have a ``difference``."""

    name: str
    a: Any
    b: Any
    difference: float | None = None


class PairedResult(Facts):
    """Both models on their common images; None if there are no common images, or if their metrics differ.

    ``a``, ``b``, ``difference``, ``interval`` and ``p_value`` are of the metric: of McNemar's exact test for accuracy,
    of a paired bootstrap for others.

    Excluded: ``num_trained_on`` images that one of the models was trained on, ``num_mismatched`` images whose label or
    content differs, and ``num_same_members`` images that the same ensemble members predict for both models.
    """

    num_images: int
    only_a_correct: int
    only_b_correct: int
    both_correct: int
    both_incorrect: int
    num_trained_on: int
    num_mismatched: int
    num_same_members: int
    accuracy_a: float | None = None
    accuracy_b: float | None = None
    metric: str = "accuracy"
    a: float | None = None
    b: float | None = None
    difference: float | None = None
    interval: tuple[float, float] | None = None  # 95%, of the difference
    p_value: float | None = None  # two-sided


class ClassDifference(Facts):
    """The recall of a class by both models, on ``num_images`` common images."""

    label: str
    num_images: int
    a: float
    b: float
    difference: float


class ChangedPrediction(Facts):
    """An image with different predictions; probabilities are calibrated, ``image`` is a data URI or ""."""

    id: str
    path: str
    label: str
    a: str
    a_probability: float | None
    b: str
    b_probability: float | None
    kind: str  # gained: only b is correct; lost: only a is correct; both_incorrect
    image: str = ""


class RunComparison(Facts):
    """The differences of two runs. ``conclusion`` is about B: better, worse, inconclusive or not_comparable."""

    a: ComparedRun
    b: ComparedRun
    settings: tuple[Difference, ...]  # only those that differ
    metrics: tuple[Difference, ...]
    paired: PairedResult
    classes: tuple[ClassDifference, ...]  # the largest loss first
    changed_predictions: tuple[ChangedPrediction, ...]  # the most confident of b first, limited in number
    num_changed: int
    conclusion: str
    summary: str
