"""Tests of the pages of an experiment."""

import time
from pathlib import Path
from typing import Any

import pytest
from recorded_runs import record_attempt

from carclf.config import load_config
from carclf.dashboard.experiment_view import experiment_view
from carclf.dashboard.pages import experiment_page, experiment_progress_page
from carclf.errors import DataError
from carclf.progress import report_progress
from carclf.reports.experiment_report import summarize_design
from carclf.runs.live import record_progress
from carclf.runs.run import Result, Run
from carclf.services.storage import Store, open_store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "store")


def recipe(name: str, accuracy: float, minutes: float, conclusion: str = "", **more: Any) -> dict[str, Any]:
    test = {"difference": 0.05, "low": 0.01, "high": 0.09, "p_value": 0.004} if conclusion else {}
    return {"recipe": name, "accuracy": accuracy, "value": accuracy, "value_std": None, "num_seeds": 1,
            "minutes": minutes,
            "on_pareto_front": True, "conclusion": conclusion, "runs": [f"e-{name}-s0"],
            "summary": f"{conclusion} by 5.0 points" if conclusion else "the baseline",
            "command": f"carclf run --recipe demo --set x={name}"} | test | more


def outcome(*rows: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"experiment": "e", "metric": "accuracy", "recipe": "demo",
            "seeds": [0], "num_images": 60, "num_folds": 0, "num_comparisons": 1,
            "significance_level": 0.05, "seed_std": None, "selection_optimism": 0.012, "rows": list(rows),
            "stopped_early": [], "failed": [], "not_trained": []} | more


def test_recipes_are_sorted_by_accuracy_and_drawn_over_their_cost(store: Store) -> None:
    view = experiment_view(outcome(
        recipe("baseline", 0.9, 2.0), recipe("frozen", 0.85, 3.0, "worse", on_pareto_front=False),
        recipe("<b>more", 0.95, 4.0, "better", images_per_second=70.04)), store)
    assert [row.recipe for row in view["rows"]] == ["<b>more", "baseline", "frozen"]
    assert view["rows"][0].cells(view["metric"]) == ("0.9500", "", "1", "+5.0 (+1.0 to +9.0)", "0.004", "4.0", "70.0")
    assert view["rows"][1].cells(view["metric"]) == ("0.9000", "", "1", "", "", "2.0", "")
    chart = view["metric_over_cost"]
    assert chart.rows == [["<b>more", "4.0", "0.9500", "yes"], ["baseline", "2.0", "0.9000", "yes"],
                          ["frozen", "3.0", "0.8500", ""]]
    front, *_ = chart.spec["layer"]
    assert sorted(value["recipe"] for value in front["data"]["values"]) == ["<b>more", "baseline"]
    assert [value["kind"] for value in chart.values] == ["better", "baseline", "worse"]
    assert "The best is <b>more: 0.9500 in 4.0 minutes." in chart.summary
    assert chart.summary.endswith(": baseline, <b>more.")


def test_an_outcome_without_the_optimism_has_a_design_without_it() -> None:
    content = outcome(recipe("baseline", 0.9, 2.0))
    assert "better than on other images by 1.20 points or more" in summarize_design(content)
    del content["selection_optimism"]
    assert "other images" not in summarize_design(content)


def test_the_lowest_loss_is_first(store: Store) -> None:
    rows = recipe("baseline", 0.9, 2.0, value=0.4), recipe("more", 0.8, 4.0, "better", value=0.3, difference=-0.1)
    view = experiment_view(outcome(*rows, metric="log_loss"), store)
    assert [row.recipe for row in view["rows"]] == ["more", "baseline"]
    assert view["rows"][0].cells(view["metric"])[:2] == ("0.3000", "0.8000")
    assert "-0.1000 (" in view["rows"][0].cells(view["metric"])[4]
    assert view["metric_over_cost"].summary.startswith("The best is more: 0.3000")
    page = experiment_page(store, "", outcome(*rows, metric="log_loss"), has_report=False)
    assert "log loss (lower is better)</th>" in page and ">accuracy</th>" in page


def test_the_page_lists_conclusions_and_incomplete_recipes(store: Store) -> None:
    page = experiment_page(store, "/carclf", outcome(
        recipe("baseline", 0.9, 2.0), recipe("<b>more", 0.95, 4.0, "better"),
        stopped_early=[{"recipe": "slow", "epoch": 2, "val_accuracy": 0.5, "val_metric": 0.5}],
        failed=[{"run": "e-x-s0", "error": "<i>"}], not_trained=["late"]), has_report=False)
    assert '<b>&lt;b&gt;more</b>: <span class="ok">better by 5.0 points</span>' in page and "<b>more" not in page
    assert '<a href="/carclf/runs/e-baseline-s0">' in page and "carclf run --recipe demo --set x=baseline" in page
    assert "slow: after epoch 2, with accuracy 0.5" in page
    assert "<bdi>&lt;i&gt;</bdi>" in page and "<p>late</p>" in page


def test_the_page_shows_the_winner_and_the_command_that_promotes_it(store: Store) -> None:
    rows = recipe("baseline", 0.9, 2.0), recipe("more", 0.95, 4.0, "better")
    page = experiment_page(store, "/carclf", outcome(*rows, winner="e-more-s0"), has_report=True)
    assert '<a href="/carclf/runs/e-more-s0">' in page.partition('id="winner"')[2].partition("<h2")[0]
    assert "/experiments/e/report.html" in page
    assert f"carclf champion promote --run e-more-s0 --store {store.url}</code>" in page
    page = experiment_page(store, "/carclf", outcome(*rows, winner=""), has_report=True)
    assert "there is nothing to promote" in page and "champion promote" not in page


def test_an_active_experiment_shows_the_progress_of_its_training_runs(store: Store) -> None:
    done, running = (
        Run.start_or_resume(f"e-{name}-s0", store, "demo", load_config("demo")) for name in ("done", "more")
    )
    metrics = {"val_accuracy": 0.75, "val_accuracy_low": 0.61, "val_accuracy_high": 0.85}
    done.record_result(Result("evaluate", "0", False, 90.0, metrics, ""))
    record_attempt(running, "fine_tune", "running")
    training_runs = [
        {"recipe": name, "seed": 0, "fold": 0, "run_id": f"e-{name}-s0"} for name in ("done", "more", "<b>")
    ]
    with record_progress(store, "e-more-s0", "fine_tune"):
        report_progress("fine_tune", 31, 180, {"epoch": 2, "loss": 2.099})
        page = wait_for_progress(store, training_runs)
    assert "Training runs: 2 of 3 started" in page and "data-auto-refresh" in page
    assert "0.7500 (0.610\u20130.850)" in page and '<a href="/carclf/runs/e-done-s0">' in page
    assert "fine_tune: 31 of 180, epoch 2, loss 2.099" in page
    assert "&lt;b&gt;</th>" in page and page.count("not started") == 1


def wait_for_progress(store: Store, training_runs: list[dict[str, Any]]) -> str:
    deadline = time.monotonic() + 300
    while "31 of 180" not in (page := experiment_progress_page(store, "/carclf", "e", training_runs)):
        assert time.monotonic() < deadline, page
        time.sleep(0.2)
    return page


@pytest.mark.parametrize("damage", [{"rows": [{}]}, {"rows": 3}, {"rows": [{"recipe": "x", "accuracy": 0.5}]}, None])
def test_a_malformed_outcome_raises_data_error(store: Store, damage: dict[str, Any] | None) -> None:
    malformed = {} if damage is None else outcome() | damage
    with pytest.raises(DataError, match="carclf experiment compare"):
        experiment_view(malformed, store)
