"""Each rule of the gate, with a candidate that breaks only this rule."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
from gate_candidates import DEFAULT_METRICS

from carclf.config import Gate, load_config
from carclf.errors import ConfigError
from carclf.gate.comparison import ChampionComparison
from carclf.gate.rules import Evidence, RuleResult, class_floor, evaluate_rules, format_reason
from carclf.metrics import METRICS as METRICS_BY_NAME
from carclf.paired_bootstrap import PairedBootstrap
from carclf.stats import PairedCounts

GATE = Gate(threshold=0.9, min_recall=0.8)
EVALUATION = {
    "class_names": ["0", "1", "7"], "recall": [0.95, 0.94, 0.93], "confusion": [[19, 1, 0], [1, 16, 0], [0, 1, 13]],
}
METRICS: dict[str, Any] = {"val_metric": 0.95, "val_metric_low": 0.91, "val_metric_high": 0.97, **DEFAULT_METRICS}
NAMES = ["threshold", "champion", "class_floor", "calibration", "prediction_time", "model_size", "reload"]


def compare(num_images: int, candidate_only: int, champion_only: int, **excluded: int) -> ChampionComparison:
    counts = PairedCounts(num_images, candidate_only, champion_only)
    return ChampionComparison.from_counts(counts, GATE.significance, **excluded)


EQUAL = compare(286, 12, 12)
WORSE = compare(286, 2, 20)
BETTER = compare(286, 20, 2)


def apply_rules(
    metrics: dict[str, Any] | None = None,
    evaluation: dict[str, Any] | None = None,
    comparison: ChampionComparison | None = EQUAL,
    gate: Gate = GATE,
) -> dict[str, RuleResult]:
    evidence = Evidence(METRICS | (metrics or {}), EVALUATION | (evaluation or {}), comparison, 0.93, gate)
    return {rule.name: rule for rule in evaluate_rules(evidence)}


def evidence_of_counts(num_correct: Sequence[int], num_images: int, gate: Gate) -> Evidence:
    """Return the evidence of classes with as many images each, of which these are classified correctly."""
    confusion = [[int(correct), num_images - int(correct)] for correct in num_correct]
    evaluation = {"class_names": [str(n) for n in range(len(confusion))], "confusion": confusion,
                  "recall": [correct / num_images for correct, _ in confusion]}
    return Evidence(METRICS, evaluation, None, 0.93, gate)


def failed(rules: dict[str, RuleResult]) -> list[str]:
    return [name for name, rule in rules.items() if not rule.passed]


def test_too_few_groups_cannot_show_an_improvement() -> None:
    few = WORSE.by_metric(METRICS_BY_NAME["log_loss"], PairedBootstrap(0.5, None, 1, 1, 1), 0.05)
    rule = apply_rules(comparison=few)["champion"]
    assert rule.passed
    assert "too few groups" in rule.detail
    assert few.minimum_detectable_difference is None
    assert failed(apply_rules(comparison=few, gate=Gate(champion_rule="better"))) == ["champion"]


def test_a_candidate_that_passes_all_rules_is_promoted() -> None:
    rules = apply_rules()
    assert list(rules) == NAMES
    assert failed(rules) == []
    reason = format_reason(list(rules.values()))
    assert reason == f"promoted: {rules['threshold'].summary}; {rules['champion'].summary}"
    assert "0.9500" in reason
    assert "as accurate as the champion" in reason


@pytest.mark.parametrize(("name", "change", "numbers"), [
    ("threshold", {"metrics": {"val_metric": 0.921}}, ("0.9210", "0.9300")),
    ("champion", {"comparison": WORSE}, ("p = 6.1e-05",)),
    ("class_floor", {"evaluation": {"recall": [0.95, 0.94, 0.5]}}, ("class 7", "0.5000 of 14", "0.8000", "p = 0.012")),
    ("calibration", {"metrics": {"calibration_error": 0.12}}, ("0.12", "0.1")),
    ("prediction_time", {"metrics": {"latency_ms": 1500.0}}, ("1500 ms", "1000 ms")),
    ("model_size", {"metrics": {"model_mb": 2100.5}}, ("2100 MB", "2000 MB")),
    ("reload", {"metrics": {"reload_difference": 0.25}}, ("0.25", "0.01")),
])
def test_a_candidate_that_breaks_one_rule_is_rejected_by_it(
    name: str, change: dict[str, Any], numbers: tuple[str, ...]
) -> None:
    rules = apply_rules(**change)
    assert failed(rules) == [name]
    for number in numbers:
        assert number in rules[name].summary
    assert format_reason(list(rules.values())).startswith(f"rejected: {rules[name].summary}")


@pytest.mark.parametrize(("name", "metric"), [
    ("threshold", "val_metric"), ("calibration", "calibration_error"), ("prediction_time", "latency_ms"),
    ("model_size", "model_mb"), ("reload", "reload_difference"),
])
@pytest.mark.parametrize("value", [None, math.nan, math.inf, "", "0.99", True])
def test_a_missing_or_invalid_metric_never_passes(name: str, metric: str, value: Any) -> None:
    rules = apply_rules({metric: value})
    assert failed(rules) == [name]
    assert rules[name].value is None
    assert "was not measured" in rules[name].summary
    json.dumps([asdict(rule) for rule in rules.values()], allow_nan=False)


def test_without_metrics_every_rule_but_the_champion_rule_fails() -> None:
    rules = {rule.name: rule for rule in evaluate_rules(Evidence({}, {}, None, 0.5, GATE))}
    assert failed(rules) == [name for name in NAMES if name != "champion"]


@pytest.mark.parametrize(("evaluation", "value"), [
    ({"recall": [0.95, None, 0.93]}, None),
    ({"recall": [0.95, math.nan, 0.93]}, None),
    ({"confusion": [[19, 1, 0], [0, 0, 0], [0, 1, 13]]}, None),
])
def test_a_class_without_images_or_recall_fails(evaluation: dict[str, Any], value: None) -> None:
    rule = apply_rules(evaluation=evaluation)["class_floor"]
    assert (rule.passed, rule.value) == (False, value)
    assert "class 1" in rule.summary


def test_failed_rules_come_first_in_the_reason() -> None:
    rules = apply_rules({"val_metric": 0.921, "latency_ms": 2000.0}, comparison=compare(286, 14, 15))
    summaries = [rules[name].summary for name in ("threshold", "prediction_time", "champion")]
    assert format_reason(list(rules.values())) == f"rejected: {'; '.join(summaries)}"
    assert rules["champion"].value == pytest.approx(0.5)


def test_numbers_are_shown_with_enough_digits_to_differ() -> None:
    summary = apply_rules({"val_metric": 0.929999})["threshold"].summary
    assert "0.929999" in summary
    assert "0.930000" in summary
    assert apply_rules({"val_metric": 0.93})["threshold"].passed


def test_champion_rule_reports_counts_interval_and_detectable_difference() -> None:
    rule = apply_rules()["champion"]
    assert (rule.value, rule.limit, rule.passed) == (pytest.approx(0.5806, abs=1e-4), 0.05, True)
    for text in ("286 images", "12 ", "+0.0%", "-3.6% to +3.6%", "4.4%"):
        assert text in rule.detail


@pytest.mark.parametrize(("comparison", "passed"), [(EQUAL, False), (WORSE, False), (BETTER, True)])
def test_champion_rule_better_requires_a_significant_improvement(comparison: ChampionComparison, passed: bool) -> None:
    rule = apply_rules(comparison=comparison, gate=Gate(champion_rule="better"))["champion"]
    assert (rule.passed, rule.value) == (passed, comparison.p_better)


@pytest.mark.parametrize("champion_rule", ["not_worse", "better"])
@pytest.mark.parametrize(("comparison", "word", "p_value"), [
    (BETTER, "significantly better", BETTER.p_better), (WORSE, "significantly worse", WORSE.p_worse),
    (compare(286, 8, 4), "better", compare(286, 8, 4).p_better),
    (compare(286, 4, 8), "worse", compare(286, 4, 8).p_worse),
])
def test_the_summary_has_the_observed_direction_and_its_p_value(
    champion_rule: Any, comparison: ChampionComparison, word: str, p_value: float
) -> None:
    summary = apply_rules(comparison=comparison, gate=Gate(champion_rule=champion_rule))["champion"].summary
    assert summary.startswith(f"{word} than the champion")
    assert summary.endswith(f"(p = {p_value:.2g})")


@pytest.mark.parametrize("champion_rule", ["not_worse", "better"])
def test_the_champion_rule_fails_without_images_to_compare(champion_rule: Any) -> None:
    comparison = compare(0, 0, 0, num_trained_on=90)
    rules = apply_rules(comparison=comparison, gate=Gate(champion_rule=champion_rule))
    assert failed(rules) == ["champion"]
    assert "all images (90)" in rules["champion"].detail
    assert "gate.champion_rule=off" in rules["champion"].detail


@pytest.mark.parametrize(("candidate_only", "champion_only", "num_trained_on", "names"), [
    (0, 2, 91, ["champion"]), (2, 2, 91, []), (2, 0, 91, []), (0, 2, 13, []),
])
def test_a_candidate_that_is_worse_on_few_comparable_images_fails(
    candidate_only: int, champion_only: int, num_trained_on: int, names: list[str]
) -> None:
    rules = apply_rules(comparison=compare(13, candidate_only, champion_only, num_trained_on=num_trained_on))
    assert failed(rules) == names
    assert ("of 104" in rules["champion"].summary) is bool(names)


def test_without_a_champion_or_with_the_rule_off_the_rule_passes() -> None:
    first = apply_rules(comparison=None)
    off = apply_rules(comparison=WORSE, gate=Gate(champion_rule="off"))
    assert failed(first) == failed(off) == []
    assert first["champion"].summary == "there is no champion yet"
    assert "not compared" in off["champion"].summary
    assert not first["champion"].applied
    assert not off["champion"].applied
    assert all(rule.applied for name, rule in off.items() if name != "champion")


def test_images_that_are_not_compared_are_counted_in_the_detail() -> None:
    trained_on = apply_rules(comparison=compare(30, 1, 1, num_trained_on=60))["champion"]
    assert "trained on 60 more" in trained_on.detail
    assert "same members" not in trained_on.detail
    both = apply_rules(comparison=compare(30, 1, 1, num_trained_on=60, num_same_members=5))["champion"]
    assert "trained on 60 more" in both.detail
    assert "5 more" in both.detail.rpartition(";")[2]


def test_a_comparison_without_images_names_the_shared_members() -> None:
    rules = apply_rules(comparison=compare(0, 0, 0, num_trained_on=60, num_same_members=30))
    assert failed(rules) == ["champion"]
    for text in ("30 images", "60 more", "gate.champion_rule=off"):
        assert text in rules["champion"].detail


def test_a_floor_for_a_class_replaces_the_general_floor() -> None:
    low_recall = {"recall": [0.95, 0.94, 0.7]}
    lower = apply_rules(evaluation=low_recall, gate=Gate(min_recall_by_class="7=0.75"))["class_floor"]
    assert (lower.passed, lower.value, lower.limit) == (True, 0.7, 0.75)
    for text in ("class 7", "of 14 images", "p = ", "0.05 / 3 classes"):
        assert text in lower.detail
    higher = apply_rules(gate=Gate(min_recall_by_class="0=1,7=0.9999"))["class_floor"]
    assert (higher.passed, higher.value, higher.limit) == (False, 0.95, 1)
    for text in ("class 0", "0.9500", "1.0000", "class 7", "0.9300", "0.9999"):
        assert text in higher.summary


def test_good_classes_fail_the_floors_no_more_often_than_the_significance() -> None:
    """Ten classes with 29 images each: of true recalls of 0.88, one is observed below the floor 0.8 in 74% of cases."""
    num_models, shape = 400, (10, 29)
    random = np.random.default_rng(0)
    for true_recall, gate in ((0.88, GATE), (GATE.min_recall, GATE)):
        num_correct = random.binomial(shape[1], true_recall, (num_models, shape[0]))
        failures = [not class_floor(evidence_of_counts(counts, shape[1], gate)).passed for counts in num_correct]
        observed_below = (num_correct / shape[1] < gate.min_recall).any(axis=1).mean()
        assert np.mean(failures) <= gate.significance < observed_below
        assert true_recall != 0.88 or observed_below == pytest.approx(0.74, abs=0.07)


def test_a_class_far_below_its_floor_fails() -> None:
    """Of 29 images, 15 correct ones have a p-value of 0.0005."""
    assert not class_floor(evidence_of_counts([28] * 9 + [15], 29, GATE)).passed


def test_a_floor_for_an_unknown_class_raises_config_error() -> None:
    Gate(min_recall_by_class="7=0.5").require_classes(["0", "1", "7"])
    with pytest.raises(ConfigError, match=r"gate\.min_recall_by_class has a floor for 3, 9, .* 0, 1, 7"):
        Gate(min_recall_by_class="3=0.5,7=0.5,9=0.1").require_classes(["0", "1", "7"])


@pytest.mark.parametrize(("text", "floors"), [
    ("", {}), ("Niva=0.7", {"Niva": 0.7}), ("Niva, white=0.7, a=b=1,2=0", {"Niva, white": 0.7, "a=b": 1, "2": 0})])
def test_names_with_commas_and_equals_signs_have_floors(text: str, floors: dict[str, float]) -> None:
    assert Gate(min_recall_by_class=text).min_recalls == floors


@pytest.mark.parametrize("text", ["Niva", "Niva=1.5", "Niva=0.7,Kalina", "=0.7", "a=0.5,a=0.6", "a=0.5\n"])
def test_invalid_floors_are_rejected(text: str) -> None:
    with pytest.raises(ConfigError, match=r"gate\.min_recall_by_class"):
        load_config("demo", {"gate.min_recall_by_class": text})
