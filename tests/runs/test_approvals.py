"""Requests for approval: claims, rejections, and requests that expire."""

from pathlib import Path
from typing import Any

import pytest
from gate_candidates import build_candidate
from recorded_runs import record_candidate
from typer.testing import CliRunner

from carclf.champion import read_state, set_threshold
from carclf.cli.app import app
from carclf.config import load_config
from carclf.errors import ConfigError
from carclf.runs.approvals import Claimant, end_request, release_claim, waiting_candidates
from carclf.runs.run import Run
from carclf.services.storage import Store, init_store
from carclf.stages.chain import StageOptions
from carclf.stages.promote import PromotionOptions

CONFIG = load_config("demo", {"gate.approval": "required", "gate.threshold": 0.1})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return init_store(tmp_path / "store")


def waiting_run(store: Store, run_id: str = "r", name: str = "good") -> Run:
    """Record a run whose candidate waits for approval."""
    run = record_candidate(store, run_id, build_candidate(store, name, [0], config=CONFIG))
    assert run.run_stage("promote").waiting
    return run


def approve(run: Run, by: str, shown: str = "") -> Any:
    return run.run_stage("promote", StageOptions(PromotionOptions(approved_by=by, shown_decision=shown)))


def actions(store: Store) -> list[str]:
    return [event["action"] for event in (read_state(store) or {"history": []})["history"]]


def test_a_rejection_is_not_erased_by_an_expiry_or_an_approval(store: Store) -> None:
    """Of two runs with the same model, one is declined."""
    declined, other = waiting_run(store, "r"), waiting_run(store, "s")
    end_request(declined, "declined", by="Ada")
    assert end_request(declined, "expired").skip_reason == "already decided: declined by Ada"
    assert Run.load("r", store).record["attempts"]["promote"]["state"] == "declined"
    end_request(other, "expired")
    for run in (declined, other, declined):
        result = approve(run, "Bob")
        assert (result.metrics["decision"], result.metrics["reason"]) == ("rejected", "rejected: declined by Ada")
    assert actions(store) == ["declined", "expired"]


def test_an_approval_does_not_revoke_a_rejection_after_the_champion_changed(store: Store) -> None:
    run = waiting_run(store)
    shown = str(run.record["attempts"]["promote"]["metrics"]["decision_key"])
    end_request(run, "declined", by="Ada")
    build_candidate(store, "other", [0, 1]).promote(store)
    for _ in range(2):
        assert approve(run, "Bob", shown).metrics["decision"] == "rejected"
    assert actions(store) == ["declined", "promoted"]


def test_a_response_to_a_request_that_was_decided_elsewhere_changes_nothing(store: Store) -> None:
    run = waiting_run(store)
    approve(run, "Ada")
    for action in ("expired", "declined"):
        ended = end_request(Run.load("r", store), action, by="Bob")
        assert ended.skip_reason.startswith("already decided: promoted: ")
        assert ended.metrics["decision"] == "promoted"
    assert actions(store) == ["promoted"]


def test_a_rejection_is_recorded_although_the_gate_has_rejected_the_model_meanwhile(store: Store) -> None:
    run = waiting_run(store)
    set_threshold(store, 0.99)
    assert run.run_stage("promote").metrics["decision"] == "rejected"
    assert end_request(run, "declined", by="Bob").skip_reason.startswith("already decided: rejected: ")
    set_threshold(store, 0.1)
    assert run.run_stage("promote").metrics["reason"] == "rejected: declined by Bob"


def claims(store: Store, name: str, hours: float = 25) -> list[str]:
    return [candidate["run"] for candidate in waiting_candidates(store, Claimant(name, hours))]


def test_a_claim_ends_when_its_claimant_cannot_act_any_more(store: Store) -> None:
    run = waiting_run(store)
    assert claims(store, "a") == ["r"]
    assert claims(store, "b") == []
    assert claims(store, "b", hours=0) == ["r"]
    assert claims(store, "a") == []
    release_claim(store, run.run_id)
    assert claims(store, "a") == ["r"]


def test_a_run_that_asks_again_keeps_the_claim_until_it_is_decided(store: Store) -> None:
    run = waiting_run(store)
    assert claims(store, "a") == ["r"]
    assert run.run_stage("promote").waiting
    assert (claims(store, "b"), claims(store, "a")) == ([], ["r"])
    end_request(Run.load("r", store), "expired")
    assert Run.load("r", store).run_stage("promote").waiting
    assert claims(store, "b") == ["r"]


def test_a_candidate_is_asked_about_again_if_the_response_is_not_allowed(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CARCLF_STARTED_BY", "ada")
    (tmp_path / "policy.toml").write_text("[approval]\nown_runs = false\n")
    monkeypatch.setenv("CARCLF_POLICY", str(tmp_path / "policy.toml"))
    run = waiting_run(store)
    assert claims(store, "a") == ["r"]
    command = ["promote", "--run", "r", "--store", store.url, "--approved-by", "ada"]
    assert isinstance(CliRunner().invoke(app, command).exception, ConfigError)
    assert claims(store, "b") == []  # the question is still open
    command.append(f"--shown={run.record['attempts']['promote']['metrics']['decision_key']}")
    assert isinstance(CliRunner().invoke(app, command).exception, ConfigError)
    assert claims(store, "b") == ["r"]


@pytest.mark.parametrize("response", ["--approved-by=ada", "--declined-by=ada", "--expired"])
def test_a_candidate_is_asked_about_again_if_the_policy_was_invalid(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, response: str
) -> None:
    run = waiting_run(store)
    assert claims(store, "a") == ["r"]
    (tmp_path / "policy.toml").write_text("[settings")
    monkeypatch.setenv("CARCLF_POLICY", str(tmp_path / "policy.toml"))
    shown = f"--shown={run.record['attempts']['promote']['metrics']['decision_key']}"
    done = CliRunner().invoke(app, ["promote", "--run", "r", "--store", store.url, response, shown])
    assert isinstance(done.exception, ConfigError)
    monkeypatch.delenv("CARCLF_POLICY")
    assert claims(store, "b") == ["r"]
