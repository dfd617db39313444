"""The gate's rules, each by a model that breaks just that one, and its sentences."""

import json
import math
from typing import Any

import pytest
from gate_candidates import DEFAULT_METRICS

from carclf.config import Gate
from carclf.errors import ConfigError
from carclf.gate.rules import ChampionComparison, evaluate_rules, format_reason, validate_class_floors
from carclf.stats import PairedCounts

GATE = Gate(threshold=0.9, min_recall=0.8)
FOUND = {"class_names": [0, 1, 7], "recall": [0.95, 0.94, 0.93], "confusion": [[19, 1, 0], [1, 16, 0], [0, 1, 13]]}
FIGURES: dict[str, Any] = {"val_accuracy": 0.95, "val_accuracy_low": 0.91, "val_accuracy_high": 0.97, **DEFAULT_METRICS}
EQUAL = ChampionComparison("c0", PairedCounts(286, 12, 12))
WORSE = ChampionComparison("c0", PairedCounts(286, 2, 20))
BETTER = ChampionComparison("c0", PairedCounts(286, 20, 2))
NAMES = ["accuracy", "champion", "class_floor", "calibration", "prediction_time", "model_size", "reload"]


def rules(
    metrics: dict[str, Any] | None = None, found: dict[str, Any] | None = None,
    comparison: ChampionComparison | None = EQUAL, gate: Gate = GATE,
) -> dict[str, Any]:
    judged = evaluate_rules(FIGURES | (metrics or {}), FOUND | (found or {}), comparison, 0.93, gate)
    return {rule.rule: rule for rule in judged}


def failed(judged: dict[str, Any]) -> list[str]:
    return [name for name, rule in judged.items() if not rule.passed]


def test_a_candidate_that_breaks_no_rule_is_promoted_and_the_table_is_whole() -> None:
    judged = rules()
    assert list(judged) == NAMES and failed(judged) == []
    assert format_reason(list(judged.values())) == (
        "promoted: accuracy 0.9500 reaches the stored 0.9300; not significantly worse than the champion (p = 0.58)")
    assert [tuple(rule.row())[:4] for rule in judged.values()] == [("rule", "value", "limit", "passed")] * 7


@pytest.mark.parametrize(("name", "change", "clause"), [
    ("accuracy", {"metrics": {"val_accuracy": 0.921}}, "accuracy 0.9210 is below the stored 0.9300"),
    ("champion", {"comparison": WORSE}, "significantly worse than the champion (p = 6.1e-05)"),
    ("class_floor", {"found": {"recall": [0.95, 0.94, 0.7]}}, "class 7 has recall 0.7000, below its floor 0.8000"),
    ("calibration", {"metrics": {"calibration_error": 0.12}}, "calibration error 0.12 is above 0.1"),
    ("prediction_time", {"metrics": {"latency_ms": 1500.0}}, "prediction time 1500 ms is above 1000 ms"),
    ("model_size", {"metrics": {"model_mb": 2100.5}}, "model size 2100 MB is above 2000 MB"),
    ("reload", {"metrics": {"reload_difference": 0.25}}, "difference after reloading 0.25 is above 0.01"),
])
def test_a_candidate_that_breaks_just_one_rule_is_refused_by_it(name: str, change: Any, clause: str) -> None:
    judged = rules(**change)
    assert failed(judged) == [name] and judged[name].clause == clause
    assert format_reason(list(judged.values())).startswith(f"rejected: {clause}")


@pytest.mark.parametrize(("name", "figure"), [
    ("accuracy", "val_accuracy"), ("calibration", "calibration_error"), ("prediction_time", "latency_ms"),
    ("model_size", "model_mb"), ("reload", "reload_difference"),
])
@pytest.mark.parametrize("value", [None, math.nan, math.inf, "", "0.99", True])
def test_what_was_not_measured_or_is_no_number_never_passes(name: str, figure: str, value: Any) -> None:
    judged = rules({figure: value})
    assert failed(judged) == [name]
    assert judged[name].value is None and "was not measured (measure it again" in judged[name].clause
    json.dumps([rule.row() for rule in judged.values()], allow_nan=False)


def test_a_missing_figure_fails_like_a_missing_recall() -> None:
    judged = {rule.rule: rule for rule in evaluate_rules({}, {}, None, 0.5, GATE)}
    assert failed(judged) == [name for name in NAMES if name != "champion"]


def test_a_recall_that_is_no_number_or_a_class_without_images_fails() -> None:
    none = rules(found={"recall": [0.95, None, 0.93]})["class_floor"]
    empty = rules(found={"confusion": [[19, 1, 0], [0, 0, 0], [0, 1, 13]]})["class_floor"]
    assert [(rule.passed, rule.value, rule.clause) for rule in (none, empty)] == [
        (False, None, "class 1 has no validation image")] * 2
    assert not rules(found={"recall": [0.95, math.nan, 0.93]})["class_floor"].passed


def test_what_failed_comes_first_and_accuracy_and_champion_are_always_named() -> None:
    judged = rules({"val_accuracy": 0.921, "latency_ms": 2000.0}, comparison=ChampionComparison("c0", PairedCounts(286, 14, 15)))
    assert format_reason(list(judged.values())) == (
        "rejected: accuracy 0.9210 is below the stored 0.9300; prediction time 2000 ms is above 1000 ms; "
        "not significantly worse than the champion (p = 0.5)")


def test_numbers_that_would_look_alike_are_told_apart() -> None:
    assert rules({"val_accuracy": 0.929999})["accuracy"].clause == "accuracy 0.929999 is below the stored 0.930000"
    assert rules({"val_accuracy": 0.93})["accuracy"].passed


def test_the_champions_row_tells_the_answers_and_what_the_images_could_show() -> None:
    assert rules()["champion"].row() == {
        "rule": "champion", "value": pytest.approx(0.5806, abs=1e-4), "limit": 0.05, "passed": True,
        "text": "not significantly worse than the champion (p = 0.58): of 286 images 12 are right only by the "
                "candidate, 12 only by the champion, a difference of +0.0% (95%: -3.6% to +3.6%); they could show one "
                "of 4.4%",
    }


@pytest.mark.parametrize(("comparison", "passed"), [(EQUAL, False), (WORSE, False), (BETTER, True)])
def test_the_rule_better_asks_for_a_significant_gain(comparison: ChampionComparison, passed: bool) -> None:
    rule = rules(comparison=comparison, gate=Gate(champion_rule="better"))["champion"]
    assert (rule.passed, rule.value) == (passed, comparison.paired.p_better)
    assert rule.clause.startswith("significantly better" if passed else "not significantly better")


@pytest.mark.parametrize("rule", ["not_worse", "better"])
def test_where_all_images_trained_the_champion_nothing_is_compared_and_nothing_passes(rule: Any) -> None:
    judged = rules(comparison=ChampionComparison("c0", PairedCounts(0, 0, 0), num_trained_on=90), gate=Gate(champion_rule=rule))
    assert failed(judged) == ["champion"]
    assert judged["champion"].row()["text"] == (
        "nothing to compare with the champion on: all 90 images trained it. Take its fold, or a holdout, or set "
        "gate.champion_rule=off")


def test_without_a_champion_or_with_the_rule_off_nobody_is_compared() -> None:
    first, off = rules(comparison=None), rules(comparison=WORSE, gate=Gate(champion_rule="off"))
    assert (first["champion"].clause, off["champion"].clause) == (
        "there is no champion yet", "not compared with the champion")
    assert failed(first) == failed(off) == []


def test_images_that_trained_the_champion_are_told() -> None:
    assert rules(comparison=ChampionComparison("c0", PairedCounts(30, 1, 1), num_trained_on=60))["champion"].detail.endswith(
        "; 60 more trained the champion")


def test_images_that_the_same_members_answer_for_both_are_told() -> None:
    some = rules(comparison=ChampionComparison("c0", PairedCounts(30, 1, 1), num_trained_on=60, num_same_members=5))["champion"]
    assert some.detail.endswith("; 60 more trained the champion; 5 more are left out, as the same members answer them "
                                "for both")
    none = rules(comparison=ChampionComparison("c0", PairedCounts(0, 0, 0), num_trained_on=60, num_same_members=30))
    assert failed(none) == ["champion"]
    assert none["champion"].row()["text"] == (
        "nothing to compare with the champion on: 30 images are answered for both by the same members; 60 more trained "
        "the champion. Join other members, of its holdout or its fold, or set gate.champion_rule=off")


def test_a_class_of_its_own_floor_is_held_to_that_and_the_nearest_one_is_named() -> None:
    low = rules(found={"recall": [0.95, 0.94, 0.7]}, gate=Gate(min_recall_by_class="7=0.65"))["class_floor"]
    assert (low.passed, low.value, low.limit, low.detail) == (
        True, 0.7, 0.65, "the nearest is class 7 with recall 0.7000, floor 0.6500")
    high = rules(gate=Gate(min_recall_by_class="0=0.96,7=0.94"))["class_floor"]
    assert (high.value, high.limit, high.clause) == (
        0.95, 0.96, "class 0 has recall 0.9500, below its floor 0.9600, class 7 has recall 0.9300, below its floor "
                    "0.9400")


def test_a_floor_for_a_class_that_there_is_not_is_refused_in_words() -> None:
    validate_class_floors(Gate(min_recall_by_class="7=0.5"), [0, 1, 7])
    with pytest.raises(ConfigError, match=r"has a floor for 3, 9; the classes are 0, 1, 7\. Remove it\."):
        validate_class_floors(Gate(min_recall_by_class="3=0.5,7=0.5,9=0.1"), [0, 1, 7])
