"""The index of runs equals the records, in whatever order they are written."""

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
from carclf.runs.index import ROW_FIELDS, StoredRow, index_row, list_runs, rebuild_index, update_index
from carclf.runs.record import Record, change_record
from carclf.runs.run import Result, Run
from carclf.services.storage import FolderStore, Store, open_store

METRICS = {
    "evaluate": {"val_accuracy": 0.9, "val_accuracy_low": 0.8, "val_accuracy_high": 0.95},
    "promote": {"decision": "rejected"}, "score": {"public_score": 0.91, "rank": 4},
}
CHAIN = ("download", "validate", "split", "train_head", "fine_tune", "evaluate", "promote", "submit", "score")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))


def start(store: Store, name: str) -> Run:
    return Run.start_or_resume(name, store, "demo", load_config("demo"))


def result(stage: str) -> Result:
    return Result(stage, f"{stage}-key", False, 60.0, METRICS.get(stage, {}), "")


def index(store: Store) -> dict[str, Any]:
    stored = store.read("runs.json")
    assert stored is not None
    return json.loads(stored.data)


def test_a_row_has_the_state_and_the_metrics_of_a_run(store: Store) -> None:
    run = start(store, "r")
    for stage in CHAIN:
        run.record_result(result(stage))
    created, updated = run.record["created"], run.record["updated"]
    assert list_runs(store) == [{
        "run": "r", "recipe": "demo", "created": created, "updated": updated, "dataset": "validate-key",
        "model": "fine_tune-key", "state": "done", "stage": "score", "text": "", "val_accuracy": 0.9,
        "val_accuracy_low": 0.8, "val_accuracy_high": 0.95, "metric": "accuracy", "val_metric": 0.9,
        "val_metric_low": 0.8, "val_metric_high": 0.95, "public_score": 0.91, "rank": 4, "decision": "rejected",
        "minutes": 9.0, "gpu_minutes": 0.0, "gpu": "", "champion": False,
    }]


def test_gpu_minutes_count_only_trainings_on_a_gpu() -> None:
    stages = {stage: {"seconds": 90.0, "gpu": "A100"} for stage in ("train_head", "fine_tune", "evaluate")}
    row = index_row({"stages": stages | {"download": {"seconds": 30.0, "gpu": ""}}, "attempts": {}})
    assert (row["minutes"], row["gpu_minutes"], row["gpu"]) == (5.0, 3.0, "A100")


@pytest.mark.parametrize(("stages", "attempts", "expected"), [
    ([], {}, ("not started", "", "")),
    (["download"], {}, ("incomplete", "download", "")),
    (["download"], {"validate": {"state": "running"}}, ("running", "validate", "")),
    (["download"], {"validate": {"state": "failed", "text": "no"}}, ("failed", "validate", "no")),
    (CHAIN[:8], {"score": {"state": "waiting", "text": "PENDING"}}, ("waiting", "score", "PENDING")),
    (CHAIN[:7], {}, ("done", "promote", "rejected: weak")),
    (CHAIN, {}, ("done", "score", "")),
])
def test_the_state_comes_from_the_latest_attempt_or_the_last_stage(
    stages: list[str], attempts: dict[str, Any], expected: tuple[str, str, str]
) -> None:
    skip = {"promote": {"skip_reason": "rejected: weak"}} if "submit" not in stages else {}
    record = {"stages": {stage: skip.get(stage, {}) for stage in stages},
              "attempts": {stage: {"stage": stage, "since": "2026"} | fields for stage, fields in attempts.items()}}
    row = index_row(record)
    assert (row["state"], row["stage"], row["text"]) == expected


def test_a_training_of_an_experiment_is_done_after_its_evaluation() -> None:
    record = {"stages": {stage: {} for stage in CHAIN[:6]}, "attempts": {}}
    assert index_row(record)["state"] == "incomplete"
    assert index_row(record | {"spent_seconds": 1.0})["state"] == "done"


def test_the_size_of_a_row_is_limited() -> None:
    long = "x" * 100_000
    record = {"run": long, "recipe": long, "created": long, "attempts": {"score": {
        "stage": long, "state": "failed", "text": long, "since": long, "metrics": {"decision": long}}},
        "stages": {stage: {"key": long, "seconds": 1.0, "gpu": long, "skip_reason": long} for stage in CHAIN}}
    assert len(json.dumps(index_row(record))) < 4000


def test_a_metric_that_is_not_a_finite_number_is_none() -> None:
    metrics = {"val_accuracy": float("nan"), "val_accuracy_low": "", "val_accuracy_high": True}
    stages = {"evaluate": {"metrics": metrics}, "score": {"metrics": {"public_score": ""}}}
    row = index_row({"stages": stages, "attempts": {}})
    names = ("val_accuracy", "val_accuracy_low", "val_accuracy_high", "public_score")
    assert [row[name] for name in names] == [None] * 4


def test_the_error_of_a_stage_is_in_the_row_until_the_stage_succeeds(store: Store) -> None:
    run = start(store, "r")
    with pytest.raises(Exception, match="carclf download --run r"):
        run.run_stage("validate")
    (row,) = list_runs(store)
    assert (row["state"], row["stage"]) == ("failed", "validate")
    assert row["text"].startswith("ConfigError: download has not run in 'r' yet.")
    run.record_result(result("validate"))
    (row,) = list_runs(store)
    assert (row["state"], row["text"], Run.load("r", store).record["attempts"]) == ("incomplete", "", {})


class StoreWithoutIndex(FolderStore):
    """A store whose index cannot be written."""

    def write_if(self, key: str, data: bytes, version: str | None) -> bool:
        if key == "runs.json":
            raise ServiceError("the index is unavailable.")
        return super().write_if(key, data, version)


def test_a_failed_write_of_the_index_logs_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = StoreWithoutIndex(tmp_path / "store")
    run = start(store, "r")
    run.record_result(result("download"))
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 2
    expected = ("run=r: the index is unavailable.", "carclf runs reindex")
    assert all(part in warning for warning in warnings for part in expected)
    assert [row["stage"] for row in list_runs(store)] == ["download"]


def test_listing_an_empty_store_writes_nothing(store: Store) -> None:
    assert list_runs(store) == [] and list(store.list_keys()) == []


@pytest.mark.parametrize("content", [
    None, b"{", b"[]", b'{"version": 0, "rows": {}}', b'{"version": 3, "rows": {"a": {"run": "a"}}}'])
def test_a_missing_damaged_or_old_index_is_rebuilt(store: Store, content: bytes | None) -> None:
    for name in ("a", "b"):
        start(store, name)
    before = index(store)
    if content is None:
        Path(store.url, "runs.json").unlink()
    else:
        store.write("runs.json", content)
    assert {row["run"] for row in list_runs(store)} == {"a", "b"} and index(store) == before
    store.write("runs.json", content or b"")
    update_index(store, "a")  # rebuilds the other rows too
    assert index(store) == before


def test_a_damaged_record_has_a_damaged_row_and_other_files_are_ignored(store: Store) -> None:
    start(store, "good")
    store.write("runs/bad.json", b"{")
    store.write("runs/odd.json", b'{"config": {}, "stages": {"download": 3}}')
    store.write("runs/_strange.json", b"{}")
    assert rebuild_index(store) == 3
    rows = {row["run"]: (row["state"], row["text"][:17]) for row in list_runs(store)}
    assert rows == {"good": ("not started", ""), "bad": ("damaged", "runs/bad.json in "),
                    "odd": ("damaged", "runs/odd.json in ")}


def test_the_row_of_a_removed_record_is_removed(store: Store) -> None:
    for name in ("a", "b", "c"):
        start(store, name)
    for name in ("a", "b"):
        Path(store.url, "runs", f"{name}.json").unlink()
    update_index(store, "a")
    assert sorted(index(store)["rows"]) == ["b", "c"]
    assert rebuild_index(store) == 1 and sorted(index(store)["rows"]) == ["c"]


def test_the_champion_is_marked_after_a_rollback_too(store: Store) -> None:
    for name in ("first", "second"):
        candidate = build_candidate(store, name)
        candidate.promote(store, load_config("demo", {"gate.champion_rule": "off"}), run_id=name)
        start(store, name).record_result(Result("fine_tune", candidate.model.key, False, 1.0, {}, ""))

    def champions() -> list[str]:
        return [row["run"] for row in list_runs(store) if row["champion"]]

    assert champions() == ["second"]
    roll_back(store)
    assert champions() == ["first"]
    Path(store.url, "runs", "first.json").unlink()
    model = build_candidate(store, "first").model
    start(store, "again").record_result(Result("fine_tune", model.key, True, 0.1, {}, ""))
    rebuild_index(store)
    assert champions() == ["again"]  # the newest run with the champion's model


def test_a_champion_without_a_run_marks_no_row(store: Store) -> None:
    candidate = build_candidate(store, "other")
    candidate.promote(store)
    state = read_state(store)
    assert state is not None and not record_promotion(store, {"model": candidate.model.key}, state)
    start(store, "r")
    assert [row["champion"] for row in list_runs(store)] == [False]


ACTIONS = st.lists(st.tuples(
    st.sampled_from(["a", "b", "c"]), st.sampled_from(["end", "fail", "reindex"]), st.sampled_from(CHAIN),
), max_size=12)


def act(store: Store, actions: list[tuple[str, str, str]]) -> None:
    for name, action, stage in actions:
        if action == "reindex":
            rebuild_index(store)
            continue
        start(store, name)
        failure = {"attempts": {stage: {"stage": stage, "since": "2026", "state": "failed"}}}
        success = {"attempts": {}, "stages": {stage: vars(result(stage))}}
        change = failure if action == "fail" else success
        change_record(store, name, lambda record, change=change: record | change)
        update_index(store, name)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(workers=st.lists(ACTIONS, min_size=2, max_size=4))
def test_after_concurrent_updates_the_index_equals_the_records(
    tmp_path_factory: pytest.TempPathFactory, workers: list[list[tuple[str, str, str]]]
) -> None:
    store = open_store(str(tmp_path_factory.mktemp("store")))
    start(store, "always")
    errors: list[BaseException] = []

    def work(actions: list[tuple[str, str, str]]) -> None:
        try:
            act(store, actions)
        except BaseException as error:
            errors.append(error)
            raise

    threads = [threading.Thread(target=work, args=(actions,)) for actions in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    updated = index(store)
    rebuild_index(store)
    assert (errors, updated) == ([], index(store))


def test_the_stored_fields_are_those_of_a_row() -> None:
    """Otherwise every index would count as damaged and be rebuilt by each reader."""
    assert tuple(StoredRow.__annotations__) == ROW_FIELDS


def test_a_row_has_the_metric_of_the_evaluation_or_of_the_split() -> None:
    def metric_of(**metrics: dict[str, Any]) -> list[Any]:
        stages = {stage: {"metrics": values} for stage, values in metrics.items()}
        row = index_row(Record(run="r", recipe="", config={}, stages=stages, attempts={}, created=""))
        return [row[name] for name in ("metric", "val_metric", "val_metric_low", "val_metric_high")]

    accuracy = {"val_accuracy": 0.8, "val_accuracy_low": 0.7, "val_accuracy_high": 0.9}
    loss = {"metric": "log_loss", "val_metric": 0.4, "val_metric_low": 0.3, "val_metric_high": 0.5}
    assert metric_of(evaluate=accuracy | loss) == ["log_loss", 0.4, 0.3, 0.5]
    assert metric_of(evaluate=accuracy) == ["accuracy", 0.8, 0.7, 0.9]
    assert metric_of(split={"metric": "macro_f1"}) == ["macro_f1", None, None, None]
    assert metric_of(split={"metric": ["x"]}) == ["accuracy", None, None, None]
