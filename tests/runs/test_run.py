"""Runs: records, results, attempts and options, with artifacts in a folder store."""

import getpass
import json
from dataclasses import replace
from pathlib import Path

import pytest

from carclf.artifacts import Artifact, Evaluation, Metrics, Provenance, RefittedModel, build
from carclf.config import load_config
from carclf.dashboard.run_facts import run_facts
from carclf.errors import ConfigError, DataError, StageSkipped, StageWaiting
from carclf.runs.index import list_runs
from carclf.runs.run import Result, Run, record_rejection
from carclf.services.storage import Store, open_store
from carclf.stages.chain import STAGES, StageCall, StageOptions
from carclf.stages.promote import PromotionOptions


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))


def start(store: Store, name: str = "r") -> Run:
    return Run.start_or_resume(name, store, "demo", load_config("demo"))


@pytest.mark.parametrize(("environment", "expected"), [
    ({"USER": "ada"}, "ada"), ({"CARCLF_STARTED_BY": "bob", "USER": "ada"}, "bob"),
    ({}, getpass.getuser()), ({"CARCLF_TASK_LOG": "1"}, ""),  # a schedule in Airflow
])
def test_a_run_has_the_name_of_the_person_who_started_it(
    store: Store, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], expected: str
) -> None:
    for name in ("CARCLF_STARTED_BY", "CARCLF_TASK_LOG", "USER", "LOGNAME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert start(store).record["started_by"] == expected


def test_an_unknown_setting_in_a_record_raises_config_error(store: Store) -> None:
    run = start(store, "old")
    run.record["config"]["fine_tune"]["old_setting"] = 1
    store.write("runs/old.json", json.dumps(run.record).encode())
    with pytest.raises(ConfigError, match="'old'"):
        Run.load("old", store)


@pytest.mark.parametrize(
    "content",
    [
        b'{"run": ',
        b"[]",
        b"{}",
        b'{"config": {}, "stages": []}',
        b'{"config": {}, "stages": {"split": 1}}',
        b'{"config": {}, "stages": {}, "attempts": []}',
    ],
)
def test_a_damaged_record_raises_data_error(store: Store, content: bytes) -> None:
    start(store)
    store.write("runs/r.json", content)
    for use in (lambda: Run.load("r", store), lambda: start(store)):
        with pytest.raises(DataError, match=rf"runs/r\.json in {store.url} is damaged"):
            use()


def test_a_run_resumes_under_its_id_and_rejects_other_settings(store: Store) -> None:
    first = start(store)
    first.record_result(Result("download", "k", False, 1.0, {}, ""))
    assert start(store).record == first.record
    with pytest.raises(ConfigError, match="--run"):
        Run.start_or_resume("r", store, "demo", load_config("demo", {"seed": 1}))
    assert Run.load("r", store).record == first.record


def test_rejected_settings_are_recorded_until_the_run_starts_with_valid_ones(store: Store) -> None:
    error = ConfigError("Unknown setting 'x'.")
    record_rejection("r", store, "demo", {"x": 1}, error)
    [row] = list_runs(store)
    assert (row["state"], row["stage"], row["text"]) == ("failed", "download", "ConfigError: Unknown setting 'x'.")
    with pytest.raises(ConfigError, match="Unknown setting 'x'"):
        Run.load("r", store)
    run = start(store)
    assert (run.record["config"], run.record["attempts"]) == (load_config("demo").model_dump(), {})
    record_rejection("r", store, "demo", {"x": 1}, error)
    assert start(store).record == run.record


def test_rejected_settings_are_recorded_without_secrets(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAGGLE_KEY", "12345678")
    monkeypatch.setattr("carclf.redaction.REFRESH_SECONDS", 1e-9)
    settings = {"split.seed": 0.0123456789, "x12345678": "https://ada:planted@host"}
    record_rejection("r", store, "demo", settings, ConfigError("Unknown setting 'x12345678'."))
    stored = store.read("runs/r.json")
    assert stored
    record = json.loads(stored.data)
    assert record["config"] == {"split.seed": 0.0123456789, "x***": "https://***@host"}
    assert "12345678'" not in record["attempts"]["download"]["text"]


def test_a_reused_result_keeps_time_and_machine_of_its_creation(store: Store) -> None:
    run = start(store)
    run.record_result(Result("split", "k1", False, 30.0, {}, "first"))
    first = run.record["stages"]["split"]
    run.record["stages"]["split"]["machine"] = first["machine"] | {"processor": "another"}
    store.write("runs/r.json", json.dumps(run.record).encode())
    run.record_result(Result("split", "k1", True, 0.1, {}, "again"))
    again = Run.load("r", store).record["stages"]["split"]
    assert again == first | {"summary": "again"}
    run.record_result(Result("split", "k2", True, 0.1, {}, "of another run"))
    other = Run.load("r", store).record["stages"]["split"]
    assert (other["seconds"], other["reused"]) == (0.1, True)
    assert other["machine"]["processor"] != "another"


def test_a_refit_of_another_model_is_removed_from_the_record(store: Store) -> None:
    """It would predict with the calibration of the model that was trained instead."""
    run = Run.start_or_resume("r", store, "demo", load_config("demo", {"fine_tune.refit": True}))
    run.record_result(Result("fine_tune", "k1", False, 1.0, {}, ""))
    run.record_result(Result("refit", "k2", False, 1.0, {"measured": "k1"}, ""))
    run.record_result(Result("fine_tune", "k1", True, 1.0, {}, ""))
    assert Run.load("r", store).record["stages"]["refit"]["key"] == "k2"
    run.record_result(Result("fine_tune", "k3", False, 1.0, {}, ""))
    with pytest.raises(ConfigError, match="refit has not run"):
        Run.load("r", store).artifact(RefittedModel, "refit")


def test_the_outcome_of_a_result_is_created_reused_or_waiting() -> None:
    result = Result("split", "k", False, 1.0, {}, "")
    outcomes = [result.outcome, replace(result, reused=True).outcome, replace(result, waiting=True).outcome]
    assert outcomes == ["created", "reused", "waiting"]


def test_a_stage_without_anything_to_do_is_skipped_with_a_reason(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def skip(_: StageCall) -> tuple[Artifact, bool]:
        raise StageSkipped("notebooks only")

    monkeypatch.setitem(STAGES, "submit", replace(STAGES["submit"], run=skip, inputs=()))
    run = start(store)
    result = run.run_stage("submit")
    assert (result.key, result.outcome, result.skip_reason, result.waiting) == ("", "skipped", "notebooks only", False)
    record = Run.load("r", store).record
    assert (record["attempts"]["submit"]["state"], "submit" in record["stages"]) == ("skipped", False)
    [row] = list_runs(store)
    assert (row["state"], row["stage"], row["text"]) == ("done", "submit", "notebooks only")
    facts = {stage.name: (stage.state, stage.text) for stage in run_facts(store, "r").stages}
    assert facts["submit"] == facts["score"] == ("skipped", "notebooks only")


def test_an_interrupted_stage_is_recorded_as_failed_and_can_continue(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def interrupt(_: StageCall) -> tuple[Artifact, bool]:
        raise KeyboardInterrupt

    monkeypatch.setitem(STAGES, "download", replace(STAGES["download"], run=interrupt))
    with pytest.raises(KeyboardInterrupt):
        start(store).run_stage("download")
    assert "download: interrupted; run the same command to continue" in caplog.text
    attempt = Run.load("r", store).record["attempts"]["download"]
    assert (attempt["state"], attempt["text"]) == ("failed", "interrupted")


def test_a_stage_gets_its_input_artifacts_the_options_and_the_run_id(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If input stages have no results, ConfigError names the first of them."""
    calls: list[StageCall] = []

    def wait(call: StageCall) -> tuple[Artifact, bool]:
        calls.append(call)
        raise StageWaiting("not yet", metrics={"value": 1})

    monkeypatch.setitem(STAGES, "score", replace(STAGES["score"], run=wait, inputs=("evaluate",)))
    run = start(store)
    with pytest.raises(ConfigError, match="evaluate has not run"):
        run.run_stage("score")
    evaluation = build(Evaluation, lambda _: Metrics(), Provenance(1, {}, {}), store)[0]
    run.record_result(Result("evaluate", evaluation.key, False, 1.0, {}, ""))
    result = run.run_stage("score", StageOptions(PromotionOptions(approved_by="Ada")))
    assert (result.waiting, result.summary, result.metrics) == (True, "not yet", {"value": 1})
    [call] = calls
    assert call.input(Evaluation, "evaluate") == evaluation
    assert (call.options.promotion.approved_by, call.run_id, call.context) == ("Ada", "r", run.context)


def test_an_artifact_missing_from_the_store_raises_data_error(store: Store) -> None:
    run = start(store)
    run.record_result(Result("evaluate", "0" * 16, False, 1.0, {}, ""))
    with pytest.raises(DataError, match=f"evaluations/{'0' * 16}"):
        run.artifact(Evaluation, "evaluate")


def test_an_unknown_run_raises_config_error_with_the_command_that_lists_runs(store: Store) -> None:
    with pytest.raises(ConfigError, match=rf"'nobody' in {store.url}.*carclf runs list --store {store.url}"):
        Run.load("nobody", store)


def test_a_missing_weights_file_raises_config_error_before_the_download(store: Store) -> None:
    config = load_config("cpu", {"model.weights": "/nowhere/w.h5"})
    with pytest.raises(ConfigError, match=r"model\.weights: .*'/nowhere/w\.h5'"):
        Run.start_or_resume("r", store, "cpu", config)
    assert store.read("runs/r.json") is None
