"""The index of runs: derived from the records, whoever notes them in whatever order."""

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from gate_candidates import build_candidate
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from carclf.champion import read_state, record_promotion, roll_back
from carclf.config import load_config
from carclf.errors import ServiceError
from carclf.runs.index import index_row, list_runs, rebuild_index, update_index
from carclf.runs.record import change_record
from carclf.runs.run import Result, Run
from carclf.services.storage import FolderStore, Store, open_store

FIGURES = {"evaluate": {"val_accuracy": 0.9, "val_accuracy_low": 0.8, "val_accuracy_high": 0.95}, "promote": {"decision": "rejected"},
           "score": {"public_score": 0.91, "rank": 4}}
CHAIN = ("download", "validate", "split", "train_head", "fine_tune", "evaluate", "promote", "submit", "score")


@pytest.fixture()
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))


def begun(store: Store, name: str) -> Run:
    return Run.start_or_resume(name, store, "demo", load_config("demo"))


def ended(stage: str, **told: Any) -> Result:
    return Result(stage, f"{stage}-key", False, 60.0, FIGURES.get(stage, {}), "", **told)


def index(store: Store) -> dict[str, Any]:
    found = store.read("runs.json")
    assert found is not None
    return json.loads(found.data)


def test_a_row_says_how_far_a_run_is_and_what_came_of_it(store: Store) -> None:
    run = begun(store, "r")
    for stage in CHAIN:
        run.record_result(ended(stage))
    created, updated = run.record["created"], run.record["updated"]
    assert list_runs(store) == [{
        "run": "r", "recipe": "demo", "created": created, "updated": updated, "dataset": "validate-key",
        "model": "fine_tune-key", "state": "done", "stage": "score", "text": "", "val_accuracy": 0.9, "val_accuracy_low": 0.8,
        "val_accuracy_high": 0.95, "public_score": 0.91, "rank": 4, "decision": "rejected", "minutes": 9.0, "gpu_minutes": 0.0,
        "gpu": "", "champion": False,
    }]


def test_minutes_on_a_gpu_are_those_of_trainings_that_ran_on_one() -> None:
    done = {stage: {"seconds": 90.0, "gpu": "A100"} for stage in ("train_head", "fine_tune", "evaluate")}
    row = index_row({"stages": done | {"download": {"seconds": 30.0, "gpu": ""}}})
    assert (row["minutes"], row["gpu_minutes"], row["gpu"]) == (5.0, 3.0, "A100")


@pytest.mark.parametrize(("stages", "attempts", "expected"), [
    ([], {}, ("pending", "", "")),
    (["download"], {}, ("pending", "download", "")),
    (["download"], {"validate": {"state": "running"}}, ("running", "validate", "")),
    (["download"], {"validate": {"state": "failed", "text": "no"}}, ("failed", "validate", "no")),
    (CHAIN[:8], {"score": {"state": "waiting", "text": "PENDING"}}, ("waiting", "score", "PENDING")),
    (CHAIN[:7], {}, ("done", "promote", "rejected: weak")),
    (CHAIN, {}, ("done", "score", "")),
])
def test_the_state_is_that_of_the_latest_attempt_or_of_the_last_stage(
    stages: list[str], attempts: dict[str, Any], expected: tuple[str, str, str]
) -> None:
    skip = {"promote": {"skip_reason": "rejected: weak"}} if "submit" not in stages else {}
    record = {"stages": {stage: skip.get(stage, {}) for stage in stages},
              "attempts": {stage: {"stage": stage, "since": "2026"} | told for stage, told in attempts.items()}}
    row = index_row(record)
    assert (row["state"], row["stage"], row["text"]) == expected


def test_a_row_stays_small_whatever_the_record_says() -> None:
    long = "x" * 100_000
    record = {"run": long, "recipe": long, "created": long, "attempts": {"score": {
        "stage": long, "state": "failed", "text": long, "since": long, "metrics": {"decision": long}}},
        "stages": {stage: {"key": long, "seconds": 1.0, "gpu": long, "skip_reason": long} for stage in CHAIN}}
    assert len(json.dumps(index_row(record))) < 4000


def test_what_is_no_number_is_not_known() -> None:
    metrics = {"val_accuracy": float("nan"), "val_accuracy_low": "", "val_accuracy_high": True}
    row = index_row({"stages": {"evaluate": {"metrics": metrics}, "score": {"metrics": {"public_score": ""}}}})
    assert [row[name] for name in ("val_accuracy", "val_accuracy_low", "val_accuracy_high", "public_score")] == [None] * 4


def test_a_failed_stage_leaves_its_words_in_the_record_and_the_next_try_clears_them(store: Store) -> None:
    run = begun(store, "r")
    with pytest.raises(Exception, match="carclf download --run r"):
        run.run_stage("validate")
    (row,) = list_runs(store)
    assert (row["state"], row["stage"]) == ("failed", "validate")
    assert row["text"].startswith("ConfigError: download has not run in 'r' yet.")
    run.record_result(ended("validate"))
    (row,) = list_runs(store)
    assert (row["state"], row["text"], Run.load("r", store).record["attempts"]) == ("pending", "", {})


class WithoutIndex(FolderStore):
    """A store whose index cannot be written."""

    def write_if(self, key: str, data: bytes, version: str | None) -> bool:
        if key == "runs.json":
            raise ServiceError("the index is away.")
        return super().write_if(key, data, version)


def test_an_index_that_cannot_be_written_is_a_warning_and_the_rows_are_read_all_the_same(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = WithoutIndex(tmp_path / "store")
    run = begun(store, "r")
    run.record_result(ended("download"))
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warnings == ["The index of runs was not brought up to date: the index is away. Mend it by: "
                        "carclf runs reindex"] * 2
    assert [row["stage"] for row in list_runs(store)] == ["download"]


def test_a_store_without_runs_gets_no_index_by_being_looked_at(store: Store) -> None:
    assert list_runs(store) == [] and list(store.keys()) == []


@pytest.mark.parametrize("content", [
    None, b"{", b"[]", b'{"version": 0, "rows": {}}', b'{"version": 1, "rows": {"a": {"run": "a"}}}'])
def test_an_index_that_is_gone_damaged_or_of_another_version_is_made_anew(store: Store, content: bytes | None) -> None:
    for name in ("a", "b"):
        begun(store, name)
    before = index(store)
    if content is None:
        Path(store.url, "runs.json").unlink()
    else:
        store.write("runs.json", content)
    assert {row["run"] for row in list_runs(store)} == {"a", "b"} and index(store) == before
    store.write("runs.json", content or b"")
    update_index(store, "a")  # a note alone would leave the others out
    assert index(store) == before


def test_a_damaged_record_is_a_row_that_says_so_and_a_strange_file_none(store: Store) -> None:
    begun(store, "good")
    store.write("runs/bad.json", b"{")
    store.write("runs/odd.json", b'{"config": {}, "stages": {"download": 3}}')
    store.write("runs/_strange.json", b"{}")
    assert rebuild_index(store) == 3
    told = {row["run"]: (row["state"], row["text"][:17]) for row in list_runs(store)}
    assert told == {"good": ("pending", ""), "bad": ("damaged", "runs/bad.json in "),
                    "odd": ("damaged", "runs/odd.json in ")}


def test_a_run_whose_record_was_removed_leaves_the_index_when_it_is_noted_or_made_anew(store: Store) -> None:
    for name in ("a", "b", "c"):
        begun(store, name)
    for name in ("a", "b"):
        Path(store.url, "runs", f"{name}.json").unlink()
    update_index(store, "a")
    assert sorted(index(store)["rows"]) == ["b", "c"]
    assert rebuild_index(store) == 1 and sorted(index(store)["rows"]) == ["c"]


def test_the_champion_is_known_at_reading_also_after_a_rolling_back(store: Store) -> None:
    for name in ("first", "second"):
        one = build_candidate(store, name)
        one.promote(store, load_config("demo", {"gate.champion_rule": "off"}), run_id=name)
        begun(store, name).record_result(Result("fine_tune", one.model.key, False, 1.0, {}, ""))

    def champions() -> list[str]:
        return [row["run"] for row in list_runs(store) if row["champion"]]

    assert champions() == ["second"]
    roll_back(store)
    assert champions() == ["first"]
    Path(store.url, "runs", "first.json").unlink()
    begun(store, "again").record_result(Result("fine_tune", build_candidate(store, "first").model.key, True, 0.1, {}, ""))
    rebuild_index(store)
    assert champions() == ["again"]  # it has the champion's model, and the run that made it is gone


def test_a_champion_of_no_known_run_is_nobodys(store: Store) -> None:
    one = build_candidate(store, "other")
    one.promote(store)
    state = read_state(store)
    assert state is not None and not record_promotion(store, {"model": one.model.key}, state)
    begun(store, "r")
    assert [row["champion"] for row in list_runs(store)] == [False]


ACTIONS = st.lists(st.tuples(
    st.sampled_from(["a", "b", "c"]), st.sampled_from(["end", "fail", "reindex"]), st.sampled_from(CHAIN),
), max_size=12)


def act(store: Store, actions: list[tuple[str, str, str]]) -> None:
    for name, what, stage in actions:
        if what == "reindex":
            rebuild_index(store)
        else:
            begun(store, name)
            told = {"attempts": {stage: {"stage": stage, "since": "2026", "state": "failed"}}} if what == "fail" else {
                "attempts": {}, "stages": {stage: vars(ended(stage))}}
            change_record(store, name, lambda record, told=told: record | told)
            update_index(store, name)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(several=st.lists(ACTIONS, min_size=2, max_size=4))
def test_whatever_several_processes_note_at_once_the_rows_are_those_of_the_records(
    tmp_path_factory: pytest.TempPathFactory, several: list[list[tuple[str, str, str]]]
) -> None:
    store = open_store(str(tmp_path_factory.mktemp("store")))
    begun(store, "always")
    faults: list[BaseException] = []

    def work(actions: list[tuple[str, str, str]]) -> None:
        try:
            act(store, actions)
        except BaseException as error:
            faults.append(error)
            raise

    threads = [threading.Thread(target=work, args=(actions,)) for actions in several]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    noted = index(store)
    rebuild_index(store)
    assert (faults, noted) == ([], index(store))
