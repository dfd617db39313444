"""Runs, the stored threshold and promotions under a policy."""

import logging
from pathlib import Path
from typing import Any

import pytest
from gate_candidates import build_candidate, build_split
from typer.testing import CliRunner

from carclf.champion import read_state, set_threshold
from carclf.cli.app import app
from carclf.config import load_config
from carclf.errors import ConfigError
from carclf.experiments.plan import find_plan, make_plan, write_plan
from carclf.runs.run import Result, Run
from carclf.services.storage import Store, init_store
from carclf.stages.chain import StageOptions
from carclf.stages.promote import PromotionOptions

SOURCE = {"data.source": "demo-cars"}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return init_store(tmp_path / "store")


@pytest.fixture
def set_policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Write a policy and use it from now on."""

    def write(text: str) -> None:
        (tmp_path / "policy.toml").write_text(text)
        monkeypatch.setenv("CARCLF_POLICY", str(tmp_path / "policy.toml"))

    return write


def start(store: Store, run_id: str, *, metric: str = "accuracy", **settings: Any) -> Run:
    """Record a run that is ready for promote; its accuracy is 0.85."""
    candidate = build_candidate(store, run_id, range(9), split=build_split(store, metric=metric))
    settings |= {} if metric == "accuracy" else {"data.metric": metric}
    run = Run.start_or_resume(run_id, store, "demo", load_config("demo", SOURCE | settings))
    for stage, artifact in (("download", candidate.archive), ("split", candidate.split),
                            ("fine_tune", candidate.model), ("evaluate", candidate.evaluation)):
        run.record_result(Result(stage, artifact.key, False, 1.0, artifact.metrics, ""))
    return run


def stored_state(store: Store) -> dict[str, Any]:
    state = read_state(store)
    assert state is not None
    return state


def test_a_tightened_recipe_is_logged_in_one_line_and_recorded(
    store: Store, set_policy: Any, caplog: pytest.LogCaptureFixture
) -> None:
    set_policy("[settings]\ngate.threshold = 0.9\ngate.max_latency_ms = 2000\n")
    with caplog.at_level(logging.INFO):
        run = start(store, "r")
    lines = [record.message for record in caplog.records if record.message.startswith("policy")]
    assert len(lines) == 1 and "gate.threshold=0.9" in lines[0]
    assert run.record["tightened"] == {"gate.threshold": 0.6}
    assert run.record["config"]["gate"]["threshold"] == 0.9
    assert Run.start_or_resume("r", store, "demo", load_config("demo", SOURCE)).config == run.config
    assert "tightened" not in start(store, "strict", **{"gate.threshold": 0.95}).record


def test_a_run_recorded_under_a_looser_policy_is_judged_by_the_current_one(store: Store, set_policy: Any) -> None:
    start(store, "r", **{"gate.approval": "none", "gate.min_recall_by_class": "0=0.1"})
    set_policy('[settings]\ngate.threshold = 0.9\ngate.approval = "required"\ngate.min_recall = 0.3\n')
    run = Run.load("r", store)
    assert (run.config.gate.approval, run.config.gate.min_recalls) == ("required", {"0": 0.3})
    result = run.run_stage("promote")
    assert result.metrics["decision"] == "rejected"
    assert "0.9" in str(result.metrics["reason"])
    set_policy('[settings]\ngate.approval = "required"\n')
    set_threshold(store, 0.8)
    assert Run.load("r", store).run_stage("promote").waiting
    assert stored_state(store)["champion"] is None


def test_a_run_recorded_with_another_metric_than_the_policys_is_not_promoted(store: Store, set_policy: Any) -> None:
    start(store, "r", metric="log_loss")
    set_policy('[settings]\ndata.metric = "accuracy"\ngate.threshold = 0.99\n')
    with pytest.raises(ConfigError, match=r"policy\.toml .*data\.metric = accuracy.*log_loss"):
        Run.load("r", store).run_stage("promote")
    assert read_state(store) is None
    set_policy('[settings]\ngate.threshold = 0.99\n')
    assert Run.load("r", store).run_stage("promote").metrics["decision"] == "promoted"


def test_a_recorded_run_with_settings_under_the_policy_is_resumed(store: Store, set_policy: Any) -> None:
    start(store, "r")
    set_policy("[settings]\ngate.threshold = 0.9\n")
    assert Run.start_or_resume("r", store, "demo", load_config("demo", SOURCE)).config.gate.threshold == 0.9


@pytest.mark.parametrize(("text", "stage", "message"), [
    ('[allowed]\nrecipes = ["gpu"]', "promote", "recipe = 'demo'"),
    ('[allowed]\nsources = ["s3://images/*"]', "promote", "data.source = 'demo-cars'"),
    ("[settings]\nsubmit.enabled = false", "submit", "submit.enabled"),
])
def test_a_stage_fails_if_the_policy_no_longer_allows_it(
    text: str, stage: str, message: str, store: Store, set_policy: Any
) -> None:
    start(store, "r")
    set_policy(text)
    with pytest.raises(ConfigError, match=message):
        Run.load("r", store).run_stage(stage)
    attempt = Run.load("r", store).record["attempts"][stage]
    assert (attempt["state"], message in attempt["text"]) == ("failed", True)


def test_a_stored_threshold_is_raised_to_the_policys_and_never_lowered(store: Store, set_policy: Any) -> None:
    set_threshold(store, 0.5, "ada")
    set_policy("[settings]\ngate.threshold = 0.7\n")
    for _ in range(2):
        start(store, "r").run_stage("promote")
        last = stored_state(store)["history"][1]
        assert (last["action"], last["threshold"], last["previous_threshold"]) == ("threshold_changed", 0.7, 0.5)
        assert last["by"].startswith("policy ") and last["by"].endswith("policy.toml")
    assert [event["action"] for event in stored_state(store)["history"]] == [
        "threshold_changed", "threshold_changed", "promoted"]
    with pytest.raises(ConfigError, match=r"0\.69.*policy\.toml.*0\.7"):
        set_threshold(store, 0.69)
    set_threshold(store, 0.8)
    start(store, "second").run_stage("promote")
    assert stored_state(store)["threshold"] == 0.8


def test_a_threshold_of_another_metric_is_rejected_if_the_policy_fixes_the_metric(
    store: Store, set_policy: Any
) -> None:
    set_policy('[settings]\ndata.metric = "accuracy"\ngate.max_log_loss = 0.5\n')
    with pytest.raises(ConfigError, match=r"policy\.toml.*data\.metric"):
        set_threshold(store, 0.4, metric_name="log_loss")
    set_policy("[settings]\ngate.max_log_loss = 0.5\n")
    with pytest.raises(ConfigError, match=r"0\.51.*policy\.toml"):
        set_threshold(store, 0.51, metric_name="log_loss")
    set_threshold(store, 0.4, metric_name="log_loss")


def test_a_threshold_is_not_moved_to_a_metric_without_a_limit(store: Store, set_policy: Any) -> None:
    set_threshold(store, 0.9)
    set_policy("[settings]\ngate.threshold = 0.9\n")
    with pytest.raises(ConfigError, match=r"policy\.toml.*gate\.threshold.*gate\.max_log_loss"):
        set_threshold(store, 99, metric_name="log_loss")
    assert stored_state(store)["threshold"] == 0.9
    set_threshold(store, 0.95, metric_name="balanced_accuracy")
    set_policy("[settings]\ngate.threshold = 0.9\ngate.max_log_loss = 0.5\n")
    set_threshold(store, 0.5, metric_name="log_loss")


def test_nobody_approves_their_own_run_if_the_policy_forbids_it(
    store: Store, set_policy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CARCLF_STARTED_BY", "ada")
    set_policy('[settings]\ngate.approval = "required"\n[approval]\nown_runs = false\n')
    start(store, "r")
    assert Run.load("r", store).run_stage("promote").waiting
    with pytest.raises(ConfigError, match=r"ada.*approval\.own_runs.*policy\.toml"):
        Run.load("r", store).run_stage("promote", StageOptions(PromotionOptions(approved_by="ada")))
    assert Run.load("r", store).record["attempts"]["promote"]["state"] == "waiting"
    result = Run.load("r", store).run_stage("promote", StageOptions(PromotionOptions(approved_by="grace")))
    assert (result.metrics["decision"], stored_state(store)["champion"]["approved_by"]) == ("promoted", "grace")


def test_a_rejected_model_is_not_promoted_if_the_policy_forbids_overrides(store: Store, set_policy: Any) -> None:
    set_policy("[settings]\ngate.threshold = 0.9\n[approval]\noverride = false\n")
    start(store, "r")
    override = StageOptions(PromotionOptions(approved_by="grace", override_reason="urgent"))
    with pytest.raises(ConfigError, match=r"approval\.override"):
        Run.load("r", store).run_stage("promote", override)
    set_policy("[settings]\ngate.threshold = 0.9\n")
    assert Run.load("r", store).run_stage("promote", override).metrics["decision"] == "promoted"


def test_the_command_line_is_subject_to_the_policy(store: Store, set_policy: Any) -> None:
    set_policy("[settings]\ngate.threshold = 0.9\n[approval]\nown_runs = false\noverride = false\n")
    start(store, "r")
    for arguments in (["champion", "set-threshold", "0.5"],
                      ["champion", "promote", "--run", "r", "--by", "grace", "--override", "urgent"],
                      ["download", "--run", "new", "--recipe", "demo", "--set", "gate.threshold=0.5"]):
        result = CliRunner().invoke(app, [*arguments, "--store", store.url])
        assert isinstance(result.exception, ConfigError), arguments
        assert "policy.toml" in str(result.exception), arguments
        assert result.exception.exit_status == 78
    assert Run.load("r", store).record["attempts"] == {}
    with pytest.raises(ConfigError, match=r"'new'.*policy\.toml"):
        Run.load("new", store)


@pytest.mark.parametrize("arguments", [
    ["predictions", "plan", "--source", "{folder}"], ["predictions", "run", "--source", "{folder}"],
    ["predictions", "export", "--to", "{folder}/x.csv", "--source", "{folder}"],
    ["champion", "reevaluate", "{folder}", "--recipe", "demo"],
])
def test_other_commands_read_only_sources_that_the_policy_allows(
    arguments: list[str], store: Store, set_policy: Any, tmp_path: Path
) -> None:
    start(store, "r").run_stage("promote")
    set_policy('[allowed]\nsources = ["s3://images/*"]\n')
    command = [text.format(folder=tmp_path) for text in arguments]
    result = CliRunner().invoke(app, [*command, "--store", store.url])
    assert isinstance(result.exception, ConfigError)
    assert str(tmp_path) in str(result.exception) and "policy.toml" in str(result.exception)


def test_an_experiment_cannot_loosen_the_policy_and_a_stored_plan_stays_readable(
    store: Store, set_policy: Any
) -> None:
    loose = make_plan("loose", "demo", ["frozen"], settings=SOURCE | {"gate.threshold": 0.1})
    write_plan(loose, store)
    set_policy("[settings]\ngate.threshold = 0.9\naudit.enabled = true\nsubmit.enabled = false\n")
    assert find_plan("loose", store) == loose
    with pytest.raises(ConfigError, match=r"gate\.threshold = 0\.1.*policy\.toml"):
        loose.config("baseline", 0, 0)
    with pytest.raises(ConfigError, match=r"gate\.threshold = 0\.1.*policy\.toml"):
        make_plan("second", "demo", ["frozen"], settings=SOURCE | {"gate.threshold": 0.1})
    config = make_plan("third", "demo", ["frozen"], settings=SOURCE).config("frozen", 0, 0)
    assert (config.gate.threshold, config.audit.enabled, config.submit.enabled) == (0.9, True, False)
