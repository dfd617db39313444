"""The page of an experiment: its findings in words, and accuracy over cost."""

import time
from pathlib import Path
from typing import Any

import pytest

from carclf.config import load_config
from carclf.dashboard.experiment_view import experiment_view
from carclf.dashboard.pages import experiment_page, experiment_progress_page
from carclf.errors import DataError
from carclf.progress import report_progress
from carclf.runs.live import record_progress
from carclf.runs.run import Result, Run
from carclf.services.storage import Store, open_store


@pytest.fixture()
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "store")


def recipe(name: str, accuracy: float, minutes: float, finding: str = "", **more: Any) -> dict[str, Any]:
    verdict = {"difference": 0.05, "low": 0.01, "high": 0.09, "p_value": 0.004} if finding else {}
    return {"recipe": name, "accuracy": accuracy, "accuracy_std": None, "num_seeds": 1, "minutes": minutes, "on_pareto_front": True,
            "conclusion": finding, "summary": f"{finding} by 5.0 points" if finding else "the baseline",
            "command": f"carclf run --recipe demo --set x={name}", "runs": [f"e-{name}-s0"]} | verdict | more


def experiment(*rows: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"experiment": "e", "recipe": "demo", "seeds": [0], "num_images": 60, "num_folds": 0, "num_comparisons": 1,
            "significance_level": 0.05, "seed_std": None, "rows": list(rows), "stopped_early": [], "failed": [], "not_trained": []} | more


def test_recipes_are_told_in_words_and_drawn_over_their_cost_with_the_front_as_a_line(store: Store) -> None:
    view = experiment_view(experiment(
        recipe("baseline", 0.9, 2.0), recipe("frozen", 0.85, 3.0, "worse", front=False),
        recipe("<b>more", 0.95, 4.0, "better", images_per_second=70.04)), store)
    assert [row["recipe"] for row in view["rows"]] == ["<b>more", "baseline", "frozen"]
    assert view["rows"][0]["metrics"] == ["0.9500", "", "1", "+5.0 (+1.0 to +9.0)", "0.004", "4.0", "70.0"]
    assert view["rows"][1]["metrics"] == ["0.9000", "", "1", "", "", "2.0", ""]
    cost = view["accuracy_over_cost"]
    assert cost.rows == [["<b>more", "4.0", "0.9500", "yes"], ["baseline", "2.0", "0.9000", "yes"],
                         ["frozen", "3.0", "0.8500", ""]]
    line, *_ = cost.spec["layer"]
    assert sorted(value["recipe"] for value in line["data"]["values"]) == ["<b>more", "baseline"]
    assert [value["kind"] for value in cost.values] == ["better", "baseline", "worse"]
    assert cost.summary == ("The most accurate is <b>more: 0.9500 for 4.0 minutes. None is more accurate for the same "
                            "cost or less than these: baseline, <b>more.")


def test_the_page_says_what_was_found_and_what_was_not_trained_to_its_end(store: Store) -> None:
    page = experiment_page(store, "/carclf", experiment(
        recipe("baseline", 0.9, 2.0), recipe("<b>more", 0.95, 4.0, "better"),
        stopped_early=[{"recipe": "slow", "epoch": 2, "val_accuracy": 0.5}], failed=[{"run": "e-x-s0", "error": "<i>"}],
        not_trained=["late"]))
    assert '<b>&lt;b&gt;more</b>: <span class="ok">better by 5.0 points</span>' in page and "<b>more" not in page
    assert '<a href="/carclf/runs/e-baseline-s0">' in page and "carclf run --recipe demo --set x=baseline" in page
    assert "1 recipe beside the baseline" in page
    assert "slow: after epoch 2, at 0.5" in page and "<bdi>&lt;i&gt;</bdi>" in page and "<p>late</p>" in page


def test_the_winner_is_named_with_the_command_that_takes_it_through_the_gate(store: Store) -> None:
    rows = recipe("baseline", 0.9, 2.0), recipe("more", 0.95, 4.0, "better")
    page = experiment_page(store, "/carclf", experiment(*rows, winner="e-more-s0"))
    assert '<a href="/carclf/runs/e-more-s0">' in page.partition('id="winner"')[2].partition("<h2")[0]
    assert f"carclf champion promote --run e-more-s0 --store {store.url}</code>" in page
    for none in ({"winner": ""}, {}):  # in an older comparison it is missing
        page = experiment_page(store, "/carclf", experiment(*rows, **none))
        assert "there is nothing to promote" in page and "champion promote" not in page


def test_an_experiment_that_goes_on_shows_how_each_of_its_trainings_goes(store: Store) -> None:
    done, running = (Run.start_or_resume(f"e-{name}-s0", store, "demo", load_config("demo")) for name in ("done", "more"))
    done.record_result(Result("evaluate", "0", False, 90.0, {"val_accuracy": 0.75, "val_accuracy_low": 0.61, "val_accuracy_high": 0.85}, ""))
    running._tell("fine_tune", running.record["created"], state="running")
    members = [{"recipe": name, "seed": 0, "fold": 0, "run_id": f"e-{name}-s0"} for name in ("done", "more", "<b>")]
    with record_progress(store, "e-more-s0", "fine_tune"):
        report_progress("fine_tune", 31, 180, {"epoch": 2, "loss": 2.099})
        page = _once_written(store, members)
    assert "Trainings: 2 of 3 begun" in page and "data-auto-refresh" in page
    assert "0.7500 (0.610–0.850)" in page and '<a href="/carclf/runs/e-done-s0">' in page
    assert "fine_tune: 31 of 180, epoch 2, loss 2.099" in page
    assert "&lt;b&gt;</th>" in page and page.count("not begun") == 1


def _once_written(store: Store, members: list[dict[str, Any]]) -> str:
    limit = time.monotonic() + 30
    while time.monotonic() < limit:
        if "31 of 180" in (page := experiment_progress_page(store, "/carclf", "e", members)):
            return page
        time.sleep(0.2)
    return page


def test_a_comparison_of_another_shape_is_told_with_its_mend(store: Store) -> None:
    whole = experiment(recipe("baseline", 0.9, 2.0))
    for damaged in ({}, whole | {"rows": [{}]}, whole | {"rows": 3}):
        with pytest.raises(DataError, match="Make it again: carclf experiment compare"):
            experiment_view(damaged, store)
