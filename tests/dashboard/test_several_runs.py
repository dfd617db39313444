"""The comparison of up to ten runs with a baseline."""

import csv
import io
from pathlib import Path

import pytest
from gate_candidates import build_candidate, build_split
from recorded_runs import record_candidate

from carclf.config import load_config
from carclf.dashboard.run_charts import overlaid_curves
from carclf.dashboard.run_comparison import compare_runs
from carclf.dashboard.several_runs import SettingValues, compare_several, several_as_csv, several_charts
from carclf.errors import ConfigError, NotFoundError
from carclf.metrics import METRICS
from carclf.runs.run import Run
from carclf.services.storage import Store, open_store

EPOCHS = [{"epoch": 1.0, "val_metric": 0.5, "loss": 1.0}, {"epoch": 2.0, "val_metric": 0.75, "loss": None}]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Runs a, b and c on one split, d with another metric, and e without an evaluation."""
    store = open_store(str(tmp_path / "store"))
    split, other = build_split(store), build_split(store, metric="log_loss")
    for name, num_wrong, settings in (("a", 10, {"seed": 1}), ("b", 2, {"seed": 2}), ("c", 25, {"head.epochs": 7})):
        record_candidate(store, name, build_candidate(store, name, range(num_wrong), split=split), **settings)
    record_candidate(store, "d", build_candidate(store, "d", range(3), split=other))
    Run.start_or_resume("e", store, "demo", load_config("demo"))
    return store


def test_each_run_is_compared_with_the_first(store: Store) -> None:
    a, b, c = compare_several(store, ["a", "b", "c"]).runs
    assert (a.conclusion, a.paired) == ("baseline", None)
    assert (b.conclusion, c.conclusion) == ("better", "worse")
    assert b.paired == compare_runs(store, "a", "b").paired and c.paired == compare_runs(store, "a", "c").paired


def test_runs_that_cannot_be_compared_have_the_reason(store: Store) -> None:
    _, d, e = compare_several(store, ["a", "d", "e"]).runs
    assert {d.conclusion, e.conclusion} == {"not_comparable"} and d.paired is e.paired is None
    assert "log_loss" in d.summary and "has not run yet" in e.summary


def test_only_settings_that_differ_are_shown(store: Store) -> None:
    assert compare_several(store, ["a", "b", "c"]).settings == (
        SettingValues(name="head.epochs", values=(10, 10, 7)), SettingValues(name="seed", values=(1, 2, 0)))


@pytest.mark.parametrize("run_ids", [[], ["a"], ["a", "a"], [str(n) for n in range(11)]])
def test_two_to_ten_different_runs_are_compared(store: Store, run_ids: list[str]) -> None:
    with pytest.raises(ConfigError, match="Choose 2 to 10"):
        compare_several(store, run_ids)


def test_a_run_that_does_not_exist_is_an_error(store: Store) -> None:
    with pytest.raises(NotFoundError, match="none"):
        compare_several(store, ["a", "none"])


def test_the_table_has_a_row_for_each_run_and_a_column_for_each_setting(store: Store) -> None:
    rows = list(csv.DictReader(io.StringIO(several_as_csv(compare_several(store, ["a", "b", "e"])))))
    assert [(row["run"], row["seed"], row["num_common_images"]) for row in rows] == [
        ("a", "1", ""), ("b", "2", "60"), ("e", "0", "")]
    assert float(rows[1]["difference"]) == pytest.approx(8 / 60)


def test_curves_of_all_runs_are_in_one_chart_for_each_value() -> None:
    runs = {"first": EPOCHS, "second": EPOCHS[:1], "third": []}
    metric, loss = overlaid_curves(runs, METRICS["accuracy"])
    assert (metric.name, loss.name) == ("overlaid-val_metric", "overlaid-loss")
    assert metric.columns == ["epoch", "first", "second"]
    assert metric.rows == [["1", "0.5", "0.5"], ["2", "0.75", ""]]
    assert [(point["kind"], point["value"]) for point in loss.values] == [("first", 1.0), ("second", 1.0)]


def test_curves_of_different_metrics_are_not_overlaid(store: Store) -> None:
    comparison = compare_several(store, ["a", "d"])
    runs = tuple(run.model_copy(update={"epochs": EPOCHS}) for run in comparison.runs)
    charts = several_charts(comparison.model_copy(update={"runs": runs}))
    assert [chart.name for chart in charts] == ["overlaid-loss"]
