"""Tests of the state, the text and the command of each stage."""

from pathlib import Path

import pytest
from gate_candidates import build_candidate
from recorded_runs import record_attempt, record_candidate

from carclf.cli.tables import run_lines
from carclf.config import load_config
from carclf.dashboard.run_facts import artifact_file, run_facts
from carclf.dashboard.run_report import run_report
from carclf.dashboard.stage_facts import ChangedSetting, StageFacts
from carclf.errors import ConfigError
from carclf.runs.approvals import end_request
from carclf.runs.run import Result, Run
from carclf.services.storage import Store, open_store
from carclf.stages.chain import STAGES, StageOptions
from carclf.stages.promote import PromotionOptions


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))


def stages(store: Store) -> dict[str, StageFacts]:
    return {stage.name: stage for stage in run_facts(store, "r").stages}


def test_the_stages_of_a_new_run_have_not_started(store: Store) -> None:
    Run.start_or_resume("r", store, "demo", load_config("demo"))
    names = [name for name in STAGES if name != "refit"]
    assert [(name, stage.state) for name, stage in stages(store).items()] == [(name, "not started") for name in names]


def test_the_download_command_repeats_the_changed_settings(store: Store) -> None:
    settings = {"seed": 3, "evaluate.zooms": "1,1.2", "data.source": "my-cars"}
    Run.start_or_resume("r", store, "demo", load_config("demo", settings))
    assert run_facts(store, "r").header.settings == (
        ChangedSetting(name="seed", value=3, default=0),
        ChangedSetting(name="data.source", value="my-cars", default="sf-dl-car-classification"),
        ChangedSetting(name="evaluate.zooms", value="1,1.2", default="1"))
    assert stages(store)["download"].command == (
        f"carclf download --run r --store {store.url} --recipe demo --set seed=3 --set data.source=my-cars "
        "--set evaluate.zooms=1,1.2")
    assert run_facts(store, "r").header.command == (
        f"carclf run --store {store.url} --recipe demo --set seed=3 --set data.source=my-cars "
        "--set evaluate.zooms=1,1.2")


def test_a_string_that_reads_as_a_number_is_quoted_in_the_command(store: Store) -> None:
    Run.start_or_resume("r", store, "demo", load_config("demo", {"evaluate.zooms": "2"}))
    assert stages(store)["download"].command.endswith("""--set 'evaluate.zooms="2"'""")


def test_failed_and_skipped_stages_have_the_reason_as_text(store: Store) -> None:
    candidate = build_candidate(store, "weak", range(30))
    run = record_candidate(store, "r", candidate)
    with pytest.raises(ConfigError):
        run.run_stage("submit")
    decision, _ = candidate.promote(store, load_config("demo", {"gate.threshold": 0.9}))
    reason = str(decision.metrics["reason"])
    run.record_result(Result("promote", decision.key, False, 1.0, decision.metrics, "", skip_reason=reason))
    by_name = stages(store)
    assert (by_name["promote"].state, by_name["promote"].text) == ("done", reason)
    assert (by_name["score"].state, by_name["score"].text) == ("skipped", reason)
    assert by_name["submit"].state == "failed" and by_name["submit"].text.startswith("ConfigError: validate ")
    facts = run_facts(store, "r").decision
    assert facts is not None and facts.reason == reason and facts.rules[0].name == "threshold"


def test_a_run_that_waits_for_approval_shows_its_decision(store: Store) -> None:
    config = load_config("demo", {"gate.approval": "required", "gate.threshold": 0.1})
    run = record_candidate(store, "r", build_candidate(store, "good", config=config))
    assert run.run_stage("promote").waiting
    facts = run_facts(store, "r")
    stage = stages(store)["promote"]
    assert (stage.state, facts.row["decision"], facts.row["state"]) == ("waiting", "awaiting approval", "waiting")
    assert stage.command == f"carclf promote --run r --store {store.url} --approved-by NAME"
    assert facts.decision is not None and facts.decision.decision == "awaiting approval" and stage.files
    page = artifact_file(store, "r", "promote", "report.html")
    assert page is not None and page.startswith(b"<!")


def test_a_declined_promotion_is_recorded_and_needs_an_override(store: Store) -> None:
    config = load_config("demo", {"gate.approval": "required", "gate.threshold": 0.1})
    run = record_candidate(store, "r", build_candidate(store, "good", config=config))
    with pytest.raises(ConfigError):
        end_request(run, "declined", by="Ada")
    run.run_stage("promote")
    end_request(run, "declined", by="Ada", note="blurred")
    facts, by_name = run_facts(store, "r"), stages(store)
    assert (facts.row["state"], facts.row["decision"]) == ("done", "declined")
    assert facts.row["text"] == "declined by Ada: blurred"
    assert facts.decision is not None
    assert (facts.decision.decision, facts.decision.response) == ("declined", "declined by Ada: blurred")
    assert [by_name[name].state for name in ("promote", "submit", "score")] == ["declined", "skipped", "skipped"]
    assert by_name["score"].text == "declined by Ada: blurred"
    assert by_name["promote"].command == f"carclf champion promote --run r --store {store.url} --override REASON"
    run.run_stage("promote", StageOptions(PromotionOptions(approved_by="Bob")))
    facts = run_facts(store, "r")
    assert facts.decision is not None
    assert (facts.row["decision"], facts.decision.decision) == ("rejected", "rejected")
    assert facts.decision.explanation == "declined by Ada: blurred"
    assert "promoted: " not in " ".join(run_lines(facts))
    run.run_stage("promote", StageOptions(PromotionOptions(approved_by="Bob", override_reason="checked")))
    assert run_facts(store, "r").row["decision"] == "promoted"


def test_an_expired_request_can_still_be_approved(store: Store) -> None:
    config = load_config("demo", {"gate.approval": "required", "gate.threshold": 0.1})
    run = record_candidate(store, "r", build_candidate(store, "good", config=config))
    run.run_stage("promote")
    end_request(run, "expired", note="no response within 24 hours")
    facts = run_facts(store, "r")
    assert (facts.row["state"], facts.row["decision"]) == ("done", "expired")
    assert stages(store)["promote"].command.endswith("--approved-by NAME")
    run.run_stage("promote", StageOptions(PromotionOptions(approved_by="Ada")))
    assert run_facts(store, "r").row["decision"] == "promoted"


def test_a_run_that_waits_shows_that_the_champion_has_changed(store: Store) -> None:
    config = load_config("demo", {"gate.approval": "required", "gate.threshold": 0.1})
    record_candidate(store, "r", build_candidate(store, "good", [0], config=config)).run_stage("promote")
    decision = run_facts(store, "r").decision
    assert decision is not None and decision.response == ""
    other = build_candidate(store, "other", [1])
    other.promote(store, run_id="s")
    decision = run_facts(store, "r").decision
    assert decision is not None and f"it is now {other.model.key} of run s" in decision.response
    assert decision.response in " ".join(run_lines(run_facts(store, "r")))
    assert decision.response in run_report(store, "r")


@pytest.mark.parametrize(("since", "state"), [("2020-01-01T00:00:00.000+00:00", "stale"), ("", "running")])
def test_a_running_stage_without_heartbeat_is_stale(store: Store, since: str, state: str) -> None:
    run = Run.start_or_resume("r", store, "demo", load_config("demo"))
    record_attempt(run, "download", "running", since=since)
    facts = run_facts(store, "r")
    assert (facts.stages[0].state, facts.row["state"]) == (state, state)
