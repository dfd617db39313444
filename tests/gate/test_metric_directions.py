"""The gate by each metric, in the direction in which the metric is better."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from gate_candidates import Candidate, build_candidate, build_split

from carclf.artifacts import Decision
from carclf.champion import read_state, set_threshold
from carclf.config import load_config
from carclf.errors import ConfigError
from carclf.metrics import METRICS, Metric
from carclf.services.storage import Store, open_store

OPEN = {"gate.threshold": 0, "gate.max_log_loss": 100, "gate.min_recall": 0}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))


@pytest.fixture(params=METRICS.values(), ids=METRICS)
def metric(request: pytest.FixtureRequest) -> Metric:
    return request.param


def candidate(store: Store, metric: Metric, num_wrong: int, **gate: Any) -> Candidate:
    config = load_config("demo", OPEN | {f"gate.{name}": value for name, value in gate.items()})
    split = build_split(store, 120, metric=metric.name)
    return build_candidate(store, f"{num_wrong} wrong", range(num_wrong), split=split, config=config)


def read(store: Store, decision: Decision) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(decision.path(store, "decision.json").read_text())
    return content


def failed(store: Store, decision: Decision) -> list[str]:
    return [rule["name"] for rule in read(store, decision)["rules"] if not rule["passed"]]


def test_only_the_better_candidate_reaches_a_threshold_between_both(store: Store, metric: Metric) -> None:
    good, bad = (candidate(store, metric, num_wrong, champion_rule="off") for num_wrong in (4, 40))
    good_value, bad_value = (model.evaluation.number("val_metric") for model in (good, bad))
    assert metric.is_better(good_value, bad_value)
    set_threshold(store, (good_value + bad_value) / 2, metric_name=metric.name)
    assert failed(store, bad.promote(store)[0]) == ["threshold"]
    decision, _ = good.promote(store)
    assert failed(store, decision) == []
    assert decision.metrics["metric"] == metric.name
    assert decision.metrics["val_metric"] == good_value
    assert read_state(store)["champion"]["val_metric"] == good_value


def test_a_value_equal_to_the_threshold_reaches_it(store: Store, metric: Metric) -> None:
    model = candidate(store, metric, 10)
    set_threshold(store, model.evaluation.number("val_metric"), metric_name=metric.name)
    assert failed(store, model.promote(store)[0]) == []


def test_worse_candidate_is_rejected_and_a_better_one_is_promoted(store: Store, metric: Metric) -> None:
    candidate(store, metric, 20).promote(store)
    worse, _ = candidate(store, metric, 50).promote(store)
    assert failed(store, worse) == ["champion"]
    better, _ = candidate(store, metric, 4, champion_rule="better").promote(store)
    assert failed(store, better) == []
    for decision, sign in ((worse, -1), (better, 1)):
        comparison = read(store, decision)["champion_comparison"]
        assert comparison["metric"] == metric.name
        assert metric.improvement(comparison["difference"], 0) * sign > 0
        low, high = comparison["interval"]
        assert low <= comparison["difference"] <= high
        assert (comparison["p_worse"] < 0.05, comparison["p_better"] < 0.05) == (sign < 0, sign > 0)
        assert comparison["minimum_detectable_difference"] > 0


def test_model_with_the_champions_predictions_is_not_worse_and_not_better(store: Store, metric: Metric) -> None:
    candidate(store, metric, 20).promote(store)
    split = build_split(store, 120, metric=metric.name)
    copy = build_candidate(store, "copy", range(20), split=split, config=load_config("demo", OPEN))
    decision, _ = copy.promote(store)
    assert failed(store, decision) == []
    comparison = read(store, decision)["champion_comparison"]
    assert (comparison["difference"], comparison["p_worse"], comparison["p_better"]) == (0, 1, 1)


def test_promotion_tightens_the_threshold_and_never_loosens_it(store: Store, metric: Metric) -> None:
    loose = candidate(store, metric, 20, raise_threshold="worse_bound", champion_rule="off")
    set_threshold(store, 0 if metric.higher_is_better else 100, metric_name=metric.name)
    loose.promote(store)
    bound = "val_metric_low" if metric.higher_is_better else "val_metric_high"
    assert read_state(store)["threshold"] == loose.evaluation.number(bound)
    strict = 0.99 if metric.higher_is_better else 0.001
    set_threshold(store, strict)
    candidate(store, metric, 0, raise_threshold="worse_bound", champion_rule="off").promote(store)
    assert read_state(store)["threshold"] == strict


@pytest.mark.parametrize("name", ["log_loss", "roc_auc"])
def test_threshold_of_another_metric_is_an_error_with_the_command_that_sets_it(store: Store, name: str) -> None:
    set_threshold(store, 0.9)
    with pytest.raises(ConfigError, match=rf"set-threshold \S+ --metric {name}"):
        candidate(store, METRICS[name], 0).promote(store)
    assert read_state(store)["threshold"] == 0.9
    set_threshold(store, 0.5, metric_name=name)
    assert candidate(store, METRICS[name], 0).promote(store)[0].metrics["decision"] == "promoted"


def test_automatic_threshold_of_log_loss_is_half_that_of_guessing(store: Store) -> None:
    candidate(store, METRICS["log_loss"], 0, max_log_loss="auto").promote(store)
    state = read_state(store)
    assert state["threshold"] == pytest.approx(math.log(3) / 2)
    assert state["metric"] == "log_loss"
