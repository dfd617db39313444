"""The list of runs: filtered, sorted, in parts."""

import csv
import io
import json

import pytest
from pydantic import ValidationError
from typer.testing import CliRunner

from carclf.cli.app import app
from carclf.config import load_config
from carclf.dashboard.run_facts import run_facts
from carclf.dashboard.run_list import RunQuery, filter_and_sort, query_runs, runs_as_csv
from carclf.runs.index import rebuild_index
from carclf.runs.run import Result, Run
from carclf.services.storage import Store, open_store


@pytest.fixture()
def store(tmp_path) -> Store:
    found = open_store(tmp_path / "store")
    runs = [("b", "demo", 0.7), ("a", "cars10", 0.9), ("C-x", "demo", None)]
    for number, (name, recipe, accuracy) in enumerate(runs):
        run = Run.start_or_resume(name, found, recipe, load_config(recipe, {"seed": number}))
        if accuracy:
            run.record_result(Result("evaluate", f"{number}", False, 1.0, {"val_accuracy": accuracy}, ""))
    return found


def names(store: Store, **wanted: object) -> list[str]:
    return [row["run"] for row in query_runs(store, RunQuery.model_validate(wanted))["rows"]]


def test_runs_are_sorted_by_any_column_and_those_without_a_value_come_last(store):
    assert names(store, sort="val_accuracy") == ["a", "b", "C-x"]
    assert names(store, sort="val_accuracy", descending=False) == ["b", "a", "C-x"]
    assert names(store, sort="run", descending=False) == ["C-x", "a", "b"]


def test_a_run_whose_process_was_killed_is_silent_in_the_list_as_on_its_page(store):
    for name, since in (("killed", "2020-01-01T00:00:00.000+00:00"), ("begun", None)):
        run = Run.start_or_resume(name, store, "demo", load_config("demo"))
        run._tell("fine_tune", since or run.record["created"], state="running")
        if since:  # as the clock of that time would have noted it
            store.write(f"runs/{name}.json", json.dumps(run.record | {"updated": since}).encode())
    rebuild_index(store)
    assert {name: run_facts(store, name)["row"]["state"] for name in ("killed", "begun")} == {
        "killed": "stale", "begun": "running"}
    assert (names(store, state="stale"), names(store, state="running")) == (["killed"], ["begun"])
    assert query_runs(store, RunQuery())["states"] == ["pending", "running", "stale"]
    listed = CliRunner().invoke(app, ["runs", "list", "--store", store.url, "--json"])
    assert {row["run"]: row["state"] for row in json.loads(listed.stdout)}["killed"] == "stale"


def test_the_list_is_a_table_for_a_spreadsheet_with_all_that_fits_in_its_order(store):
    run = Run.start_or_resume("d", store, "demo", load_config("demo"))
    store.write("runs/d.json", json.dumps(run.record | {"recipe": "=HYPERLINK(1)"}).encode())
    rebuild_index(store)
    table = runs_as_csv(store, RunQuery(sort="val_accuracy", limit=1, offset=2))
    head, *lines = list(csv.reader(io.StringIO(table)))
    assert head[:3] == ["run", "created", "recipe"]
    assert [line[0] for line in lines] == ["a", "b", "d", "C-x"]
    assert [line[head.index("val_accuracy")] for line in lines] == ["0.9", "0.7", "", ""]
    assert lines[2][head.index("recipe")] == "'=HYPERLINK(1)"
    assert len(runs_as_csv(store, RunQuery(recipe="cars10")).splitlines()) == 2


def test_runs_are_found_by_words_in_any_case_and_by_exact_values(store):
    assert names(store, text="c-X") == ["C-x"]
    assert sorted(names(store, text="DEMO")) == ["C-x", "b"]
    assert sorted(names(store, recipe="demo")) == ["C-x", "b"] and names(store, recipe="dem") == []
    assert names(store, text="demo open b") == ["b"]


def test_a_part_says_how_many_there_are_in_all(store):
    found = query_runs(store, RunQuery(sort="run", descending=False, offset=1, limit=1, recipe="demo"))
    assert [row["run"] for row in found.pop("rows")] == ["b"]
    assert found == {"num_matching": 2, "num_runs": 3, "recipes": ["cars10", "demo"], "decisions": [], "states": ["pending"]}


@pytest.mark.parametrize("wrong", [
    {"sort": "config"}, {"limit": 0}, {"limit": 201}, {"offset": -1}, {"text": "x" * 201}, {"key": "x"}])
def test_what_no_list_can_be_asked_for_is_refused(wrong):
    with pytest.raises(ValidationError):
        RunQuery.model_validate(wrong)


def test_an_order_is_kept_among_equal_values():
    rows = [{"run": name, "minutes": 1.0} for name in "cab"]
    assert [row["run"] for row in filter_and_sort(rows, RunQuery(sort="minutes"))] == ["c", "a", "b"]
