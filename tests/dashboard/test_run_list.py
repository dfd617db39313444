"""Tests of the list of runs: filters, order, pages and CSV."""

import csv
import io
import json
from pathlib import Path

import pytest
from pydantic import ValidationError
from recorded_runs import record_attempt
from typer.testing import CliRunner

from carclf.cli.app import app
from carclf.config import load_config
from carclf.dashboard.run_facts import run_facts
from carclf.dashboard.run_list import RunQuery, filter_and_sort, query_runs, runs_as_csv
from carclf.runs.index import rebuild_index
from carclf.runs.run import Result, Run
from carclf.services.storage import Store, init_store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = init_store(tmp_path / "store")
    for seed, (run_id, recipe, accuracy) in enumerate([("b", "demo", 0.7), ("a", "cpu", 0.9), ("C-x", "demo", None)]):
        run = Run.start_or_resume(run_id, store, recipe, load_config(recipe, {"seed": seed}))
        if accuracy:
            run.record_result(Result("evaluate", str(seed), False, 1.0, {"val_accuracy": accuracy}, ""))
    return store


def names(store: Store, **query: object) -> list[str]:
    return [row["run"] for row in query_runs(store, RunQuery.model_validate(query)).rows]


def test_runs_without_a_value_in_the_sorted_column_come_last(store: Store) -> None:
    assert names(store, sort="val_accuracy") == ["a", "b", "C-x"]
    assert names(store, sort="val_accuracy", descending=False) == ["b", "a", "C-x"]
    assert names(store, sort="run", descending=False) == ["C-x", "a", "b"]


def test_a_killed_run_is_stale_in_the_list_and_on_its_page(store: Store) -> None:
    for run_id, since in (("killed", "2020-01-01T00:00:00.000+00:00"), ("active", "")):
        run = Run.start_or_resume(run_id, store, "demo", load_config("demo"))
        record_attempt(run, "fine_tune", "running", since=since)
    states = {run_id: run_facts(store, run_id).row["state"] for run_id in ("killed", "active")}
    assert states == {"killed": "stale", "active": "running"}
    assert (names(store, state="stale"), names(store, state="running")) == (["killed"], ["active"])
    assert query_runs(store, RunQuery()).states == ("incomplete", "not started", "running", "stale")
    listed = CliRunner().invoke(app, ["runs", "list", "--store", store.url, "--json"])
    assert {row["run"]: row["state"] for row in json.loads(listed.stdout)}["killed"] == "stale"


def test_the_csv_has_all_matching_runs_in_order_and_no_formulas(store: Store) -> None:
    run = Run.start_or_resume("d", store, "demo", load_config("demo"))
    store.write("runs/d.json", json.dumps(run.record | {"recipe": "=HYPERLINK(1)"}).encode())
    rebuild_index(store)
    table = runs_as_csv(store, RunQuery(sort="val_accuracy", limit=1, offset=2))
    head, *lines = list(csv.reader(io.StringIO(table)))
    assert head[:3] == ["run", "created", "recipe"]
    assert [line[0] for line in lines] == ["a", "b", "d", "C-x"]
    assert [line[head.index("val_accuracy")] for line in lines] == ["0.9", "0.7", "", ""]
    assert lines[2][head.index("recipe")] == "'=HYPERLINK(1)"
    assert len(runs_as_csv(store, RunQuery(recipe="cpu")).splitlines()) == 2


def test_text_matches_words_in_any_case_and_filters_match_exactly(store: Store) -> None:
    assert names(store, text="c-X") == ["C-x"]
    assert sorted(names(store, text="DEMO")) == ["C-x", "b"]
    assert sorted(names(store, recipe="demo")) == ["C-x", "b"] and names(store, recipe="dem") == []
    assert names(store, text="demo incomplete b") == ["b"]


def test_a_part_of_the_list_has_the_total_counts_and_all_filter_values(store: Store) -> None:
    page = query_runs(store, RunQuery(sort="run", descending=False, offset=1, limit=1, recipe="demo")).to_json()
    assert [row["run"] for row in page.pop("rows")] == ["b"]
    assert page == {
        "num_matching": 2, "num_runs": 3, "recipes": ["cpu", "demo"], "decisions": [],
        "states": ["incomplete", "not started"]}


@pytest.mark.parametrize("query", [
    {"sort": "config"}, {"limit": 0}, {"limit": 201}, {"offset": -1}, {"text": "x" * 201}, {"key": "x"}])
def test_an_invalid_query_is_rejected(query: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        RunQuery.model_validate(query)


def test_sorting_keeps_the_order_of_equal_values() -> None:
    rows = [{"run": name, "minutes": 1.0} for name in "cab"]
    assert [row["run"] for row in filter_and_sort(rows, RunQuery(sort="minutes"))] == ["c", "a", "b"]


def test_the_best_run_is_first_in_descending_order_of_a_metric() -> None:
    rows = [
        {"run": run, "metric": metric, "val_metric": value}
        for run, metric, value in (("a", "log_loss", 0.5), ("b", "log_loss", 0.2), ("c", "log_loss", None),
                                   ("d", "accuracy", 0.7), ("e", "accuracy", 0.9))
    ]
    ordered = filter_and_sort(rows, RunQuery(sort="val_metric"))
    assert [row["run"] for row in ordered] == ["e", "d", "b", "a", "c"]
    ordered = filter_and_sort(rows, RunQuery(sort="val_metric", descending=False))
    assert [row["run"] for row in ordered] == ["a", "b", "d", "e", "c"]
