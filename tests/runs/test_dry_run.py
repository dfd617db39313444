"""What a run would reuse, judged by earlier runs that are only recorded."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from carclf.config import load_config
from carclf.runs.dry_run import ESTIMATED_STAGES, MAX_TIMES, dry_run
from carclf.runs.run import Result, Run
from carclf.services.storage import Store, init_store

TRAINED = ("download", "validate", "split", "train_head", "fine_tune", "evaluate")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return init_store(tmp_path / "store")


def record(store: Store, name: str, settings: Mapping[str, object] | None = None, *, recipe: str = "demo") -> Run:
    """Record a run whose stages took 10 seconds each."""
    run = Run.start_or_resume(name, store, recipe, load_config(recipe, settings))
    return add_results(run, TRAINED, 10.0)


def add_results(run: Run, stages: tuple[str, ...], seconds: float, *, reused: bool = False) -> Run:
    for stage in stages:
        run.record_result(Result(stage, f"{run.run_id}-{stage}", reused, seconds, {}, ""))
    return run


def reused(store: Store, settings: Mapping[str, object] | None = None) -> dict[str, str]:
    """Return the run from which each stage of a new run is reused, without the stages that run."""
    expected = dry_run(store, "demo", load_config("demo", settings))
    return {stage.stage: stage.reused_from for stage in expected if stage.reused_from}


def test_nothing_is_reused_in_an_empty_store(store: Store) -> None:
    stages = dry_run(store, "demo", load_config("demo"))
    assert [stage.stage for stage in stages] == list(TRAINED)
    assert {(stage.reused_from, stage.seconds, stage.num_times) for stage in stages} == {("", None, 0)}


def test_stages_before_the_first_changed_setting_are_reused(store: Store) -> None:
    record(store, "a")
    assert reused(store) == dict.fromkeys(TRAINED, "a")
    assert reused(store, {"fine_tune.epochs": 3}) == dict.fromkeys(TRAINED[:4], "a")
    assert reused(store, {"seed": 3}) == dict.fromkeys(TRAINED[:2], "a")
    assert reused(store, {"data.source": "./photos"}) == {}


def test_a_stage_after_a_changed_one_is_not_reused_although_its_settings_are_the_same(store: Store) -> None:
    record(store, "a")
    assert "evaluate" not in reused(store, {"head.epochs": 3})


def test_a_forced_run_reuses_nothing_and_is_not_reused(store: Store) -> None:
    record(store, "a", {"force": True})
    assert reused(store) == {}
    record(store, "b")
    assert reused(store, {"force": True}) == {}


def test_the_newest_run_with_the_same_settings_is_named(store: Store) -> None:
    record(store, "old")
    add_results(Run.start_or_resume("new", store, "demo", load_config("demo")), TRAINED[:3], 10.0)
    assert reused(store) == dict.fromkeys(TRAINED[:3], "new") | dict.fromkeys(TRAINED[3:], "old")


def test_times_are_the_median_of_the_newest_runs_that_did_not_reuse_the_stage(store: Store) -> None:
    for number in range(MAX_TIMES + 2):
        add_results(record(store, f"r{number}", {"seed": number}), TRAINED, 100.0 + number)
    record(store, "other", recipe="cpu")
    add_results(record(store, "reusing", {"seed": 99}), TRAINED, 0.1, reused=True)
    expected = {stage.stage: stage for stage in dry_run(store, "demo", load_config("demo", {"seed": 1000}))}
    assert (expected["fine_tune"].seconds, expected["fine_tune"].num_times) == (104.0, MAX_TIMES)


def test_damaged_records_and_those_of_another_version_are_passed_over(store: Store) -> None:
    record(store, "a")
    record(store, "odd", {"fine_tune.epochs": 3})
    damaged, odd = store.read("runs/a.json"), store.read("runs/odd.json")
    assert damaged is not None and odd is not None
    store.write("runs/odd.json", odd.data.replace(b'"epochs": 3', b'"epochs": "many"'))
    assert reused(store) == dict.fromkeys(TRAINED, "a")
    store.write("runs/a.json", b"{")
    assert reused(store) == {}


def test_a_run_with_refit_has_that_stage(store: Store) -> None:
    expected = dry_run(store, "demo", load_config("demo", {"fine_tune.refit": True}))
    assert [stage.stage for stage in expected] == list(ESTIMATED_STAGES)
