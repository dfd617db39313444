"""The rules that a candidate must pass to be promoted.

A rule is a function from ``Evidence`` to ``RuleResult``. A new rule needs its function and an entry in ``RULES`` in
this module, its limit in ``Gate`` in config/settings.py, a higher VERSION of promote, its description in docs/gate.md,
and a test. A new metric also needs a change to evaluation/assessment.py and a higher VERSION of evaluate. Missing or
non-finite values fail.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from carclf.artifacts import Metrics
from carclf.config import Gate
from carclf.formatting import finite_number, format_count
from carclf.gate.comparison import ChampionComparison
from carclf.metrics import METRICS, Metric

MAX_CLASSES = 5  # in the summary of a rule
MIN_DIGITS, MAX_DIGITS = 4, 17
ALWAYS_REPORTED = ("threshold", "champion")


@dataclass(frozen=True)
class Evidence:
    """The input of the rules: the metrics of the candidate's evaluation, and its ``evaluation.json``.

    ``comparison`` is None if there is no champion; ``threshold`` is the stored threshold of the metric.
    """

    metrics: Metrics
    evaluation: Mapping[str, Any]
    comparison: ChampionComparison | None
    threshold: float
    gate: Gate

    @property
    def metric(self) -> Metric:
        """The metric that the threshold and the comparison with the champion use."""
        return METRICS[str(self.metrics.get("metric", "accuracy"))]


@dataclass(frozen=True)
class RuleResult:
    """The result of a rule. ``summary`` is part of the decision's reason; ``detail`` is shown in tables only.

    A rule that is not ``applied`` passes: it is off, or there is no champion to compare with.
    """

    name: str
    value: float | None
    limit: float | None
    passed: bool
    summary: str
    detail: str = ""
    applied: bool = True


def threshold(evidence: Evidence) -> RuleResult:
    """The metric on the validation images must reach the stored threshold: at least, or at most for log loss."""
    value, limit, metric = finite_number(evidence.metrics.get("val_metric")), evidence.threshold, evidence.metric
    if value is None:
        return _not_measured("threshold", metric.noun, limit)
    shown_value, shown_limit = _format_distinct(value, limit)
    passed = not metric.is_better(limit, value)
    verb = "reaches" if passed else "is below" if metric.higher_is_better else "is above"
    summary = f"{metric.noun} {shown_value} {verb} the threshold {shown_limit}"
    return RuleResult("threshold", value, limit, passed, summary)


def champion(evidence: Evidence) -> RuleResult:
    """By ``gate.champion_rule``, the candidate must be significantly better or not significantly worse.

    If the champion was trained on more than half of the images, the candidate must not be worse at all.
    """
    comparison, gate = evidence.comparison, evidence.gate
    limit = gate.significance
    if gate.champion_rule == "off":
        detail = "gate.champion_rule is off"
        return RuleResult("champion", None, None, True, "not compared with the champion", detail, applied=False)
    if comparison is None:
        return RuleResult("champion", None, limit, True, "there is no champion yet", applied=False)
    must_be_better = gate.champion_rule == "better"
    p_value = comparison.p_better if must_be_better else comparison.p_worse
    if p_value is None:
        detail = _explain_no_images(comparison)
        return RuleResult("champion", None, limit, False, "cannot be compared with the champion", detail)
    passed = p_value <= limit if must_be_better else p_value > limit
    summary = _summarize(comparison, limit)
    if passed and _is_worse_on_few(comparison):
        passed = False
        summary = (f"worse than the champion on the {comparison.num_images} images that can be compared, of "
                   f"{comparison.num_images + comparison.num_trained_on}")
    return RuleResult("champion", p_value, limit, passed, summary, _describe(comparison))


def _is_worse_on_few(comparison: ChampionComparison) -> bool:
    """Return True if the candidate is worse and the champion was trained on most images: few images prove nothing."""
    return comparison.num_trained_on > comparison.num_images and METRICS[comparison.metric].is_better(
        0, comparison.difference or 0)


def class_floor(evidence: Evidence) -> RuleResult:
    """The recall of no class may be significantly below its floor.

    The binomial test is exact. Each of n classes is tested at ``gate.significance`` / n, so that a model whose true
    recalls reach the floors fails with a probability of at most ``gate.significance``.
    """
    gate = evidence.gate
    recalls = sorted(_class_recalls(evidence.evaluation, gate), key=lambda row: row.p_value)
    if not recalls:
        return _not_measured("class_floor", "recall of each class", gate.min_recall)
    nearest, level = recalls[0], gate.significance / len(recalls)
    detail = f"a class fails if p is at most {level:.2g}, which is {gate.significance:g} / {len(recalls)} classes"
    if low := [row for row in recalls if row.p_value <= level]:
        more = f" and {len(low) - MAX_CLASSES} more" if len(low) > MAX_CLASSES else ""
        summary = ", ".join(map(_describe_low_recall, low[:MAX_CLASSES])) + more
    else:
        summary = "no class is significantly below its floor"
        detail = (f"closest is class {nearest.name} with recall {nearest.recall:.4f} of {nearest.num_images} images, "
                  f"floor {nearest.floor:.4f} (p = {nearest.p_value:.2g}); {detail}")
    return RuleResult("class_floor", nearest.recall, nearest.floor, not low, summary, detail)


def calibration(evidence: Evidence) -> RuleResult:
    """The expected calibration error must not exceed its limit."""
    value = evidence.metrics.get("calibration_error")
    return _at_most("calibration", "calibration error {}", value, evidence.gate.max_calibration_error)


def prediction_time(evidence: Evidence) -> RuleResult:
    """The time to predict an image must not exceed its limit."""
    value = evidence.metrics.get("latency_ms")
    return _at_most("prediction_time", "prediction time {} ms", value, evidence.gate.max_latency_ms)


def model_size(evidence: Evidence) -> RuleResult:
    """The size of the model file must not exceed its limit."""
    return _at_most("model_size", "model size {} MB", evidence.metrics.get("model_mb"), evidence.gate.max_model_mb)


def reload(evidence: Evidence) -> RuleResult:
    """The saved model must predict what the model predicted before it was saved."""
    value = evidence.metrics.get("reload_difference")
    return _at_most("reload", "difference after reloading {}", value, evidence.gate.max_reload_difference)


RULES: tuple[Callable[[Evidence], RuleResult], ...] = (
    threshold, champion, class_floor, calibration, prediction_time, model_size, reload,
)


def evaluate_rules(evidence: Evidence) -> list[RuleResult]:
    """Return the result of each rule."""
    return [rule(evidence) for rule in RULES]


def format_reason(rules: Sequence[RuleResult]) -> str:
    """Return the decision and its reason: failed rules first, then threshold and champion."""
    failed = [rule.summary for rule in rules if not rule.passed]
    passed = [rule.summary for rule in rules if rule.passed and rule.name in ALWAYS_REPORTED]
    return f"{'rejected' if failed else 'promoted'}: {'; '.join(failed + passed)}"


class _ClassRecall(NamedTuple):
    """A recall, None without images, and the p-value of the hypothesis that the true recall reaches the floor."""

    name: str
    recall: float | None
    num_images: int
    floor: float
    p_value: float


def _class_recalls(evaluation: Mapping[str, Any], gate: Gate) -> list[_ClassRecall]:
    if not evaluation.get("recall"):
        return []
    floors = gate.min_recalls
    rows = zip(evaluation["class_names"], evaluation["recall"], evaluation["confusion"], strict=True)
    return [
        _class_recall(name, recall, sum(counts), floors.get(name, gate.min_recall)) for name, recall, counts in rows
    ]


def _class_recall(name: str, measured: object, num_images: int, floor: float) -> _ClassRecall:
    from scipy.stats import binomtest

    recall = finite_number(measured) if num_images else None
    if recall is None:
        return _ClassRecall(name, None, 0, floor, 0.0)  # fails
    p_value = float(binomtest(round(recall * num_images), num_images, floor, alternative="less").pvalue)
    return _ClassRecall(name, recall, num_images, floor, p_value)


def _describe_low_recall(row: _ClassRecall) -> str:
    if row.recall is None:
        return f"class {row.name} has no validation images"
    recall, floor = _format_distinct(row.recall, row.floor)
    return (f"class {row.name} has recall {recall} of {row.num_images} images, significantly below its floor {floor} "
            f"(p = {row.p_value:.2g})")


def _explain_no_images(comparison: ChampionComparison) -> str:
    if not comparison.num_same_members:
        return (f"the champion was trained on all images ({comparison.num_trained_on}). Validate on the champion's "
                "fold or on a holdout, or set gate.champion_rule=off")
    return (f"the same members predict {format_count(comparison.num_same_members, 'image')} for both models"
            f"{_describe_trained_on(comparison)}. Use other members with the champion's fold or holdout, or set "
            "gate.champion_rule=off")


def _summarize(comparison: ChampionComparison, significance: float) -> str:
    """Describe the observed difference with the p-value of its own direction."""
    metric = METRICS[comparison.metric]
    if not comparison.difference:
        return "as accurate as the champion" if metric.is_accuracy else f"the champion has the same {metric.noun}"
    better = metric.is_better(comparison.difference, 0)
    p_value = comparison.p_better if better else comparison.p_worse
    assert p_value is not None
    summary = f"{'better' if better else 'worse'} than the champion"
    if p_value <= significance:
        return f"significantly {summary} (p = {p_value:.2g})"
    return f"{summary}, but not significantly (p = {p_value:.2g})"


def _describe(comparison: ChampionComparison) -> str:
    assert comparison.difference is not None
    metric, scale = METRICS[comparison.metric], ".4f"
    if metric.is_accuracy:
        scale = ".1%"
    interval, detectable = "too few groups to compare", "too few images to detect any difference"
    if comparison.interval is not None:
        interval = "95%: {:+{scale}} to {:+{scale}}".format(*comparison.interval, scale=scale)
    if (minimum := comparison.minimum_detectable_difference) is not None:
        detectable = f"the smallest detectable one is {minimum:{scale}}"
    verb = f"{'accuracy' if metric.is_accuracy else metric.noun} differs by"
    text = (f"of {format_count(comparison.num_images, 'image')}, {comparison.candidate_only_correct} are correct only "
            f"for the candidate and {comparison.champion_only_correct} only for the champion; {verb} "
            f"{comparison.difference:+{scale}} ({interval}); {detectable}"
            f"{_describe_trained_on(comparison)}")
    if comparison.num_same_members:
        text += f"; {comparison.num_same_members} more are predicted by the same members for both models"
    return text


def _describe_trained_on(comparison: ChampionComparison) -> str:
    return f"; the champion was trained on {comparison.num_trained_on} more" if comparison.num_trained_on else ""


def _at_most(name: str, template: str, measured: object, limit: float) -> RuleResult:
    """Return the result of a rule with an upper limit; ``template`` formats the value with its unit."""
    description, _, unit = template.partition(" {}")
    value = finite_number(measured)
    if value is None:
        return _not_measured(name, description, limit)
    shown_value, shown_limit = _format_distinct(value, limit, "g")
    verb = "is within" if value <= limit else "is above"
    summary = f"{template.format(shown_value)} {verb} {shown_limit}{unit}"
    return RuleResult(name, value, limit, value <= limit, summary)


def _not_measured(name: str, description: str, limit: float) -> RuleResult:
    summary = f"{description} was not measured (evaluate again in a new run with --set force=true)"
    return RuleResult(name, None, limit, False, summary)


def _format_distinct(value: float, limit: float, kind: str = "f") -> tuple[str, str]:
    """Format both numbers with enough digits, decimal (f) or significant (g), to show that they differ."""
    for digits in range(MIN_DIGITS, MAX_DIGITS):
        texts = f"{value:.{digits}{kind}}", f"{limit:.{digits}{kind}}"
        if texts[0] != texts[1] or value == limit:
            return texts
    return repr(value), repr(limit)
