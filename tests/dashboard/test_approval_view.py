"""What a person is shown before a decision about a candidate."""

from pathlib import Path
from typing import Any

import pytest
from gate_candidates import build_candidate, build_split
from recorded_runs import record_candidate

from carclf.config import Policy, load_policy
from carclf.config.policy import POLICY_VARIABLE
from carclf.dashboard.approval_view import approval_facts
from carclf.dashboard.pages import approval_page
from carclf.errors import ConfigError
from carclf.runs.approvals import end_request
from carclf.runs.run import Run
from carclf.services.storage import Store, init_store

SETTINGS: dict[str, Any] = {"gate.approval": "required", "gate.threshold": 0.1, "gate.min_recall": 0}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return init_store(tmp_path / "store")


def promoted_run(store: Store, name: str, wrong: range) -> Run:
    """Return a run whose model is the champion."""
    run = record_candidate(store, name, build_candidate(store, name, wrong, split=build_split(store)),
                           **SETTINGS | {"gate.approval": "none"})
    assert run.run_stage("promote").metrics["decision"] == "promoted"
    return run


def waiting_run(store: Store, name: str, wrong: range, **settings: Any) -> Run:
    """Return a run whose candidate waits for a decision."""
    candidate = build_candidate(store, name, wrong, split=build_split(store))
    run = record_candidate(store, name, candidate, **SETTINGS | settings)
    assert run.run_stage("promote").waiting
    return run


def page(store: Store, run_id: str, **values: Any) -> str:
    return approval_page(store, "/carclf", run_id, Policy(), "ada", **{
        "can_respond": True, "api": "/api/v2/dags/car_promote", "subject": "?"} | values)


def test_a_candidate_is_compared_with_the_champion_of_now(store: Store) -> None:
    promoted_run(store, "first", range(30))
    waiting_run(store, "candidate", range(4, 10))
    promoted_run(store, "second", range(8))
    facts = approval_facts(store, "candidate", Policy(), "ada")
    assert facts.is_waiting and facts.champion is not None and facts.champion.run == "second"
    assert facts.comparison is not None and facts.comparison.a.run == "second"
    kinds = [prediction.kind for prediction in facts.comparison.changed_predictions]
    assert sorted(kinds) == ["gained"] * 4 + ["lost"] * 2
    assert facts.comparison.paired.num_images == 60 and facts.problem == ""


def test_at_most_twelve_images_of_a_kind_are_shown(store: Store) -> None:
    promoted_run(store, "champion", range(20))
    waiting_run(store, "candidate", range(19, 24))
    comparison = approval_facts(store, "candidate", Policy(), "ada").comparison
    assert comparison is not None
    kinds = [prediction.kind for prediction in comparison.changed_predictions]
    assert (kinds.count("gained"), kinds.count("lost"), comparison.paired.only_b_correct) == (12, 4, 19)


def test_the_first_candidate_has_no_champion_to_compare_with(store: Store) -> None:
    waiting_run(store, "candidate", range(3))
    facts = approval_facts(store, "candidate", Policy(), "ada")
    assert facts.champion is None and facts.comparison is None and facts.problem == ""
    assert "There is no champion yet" in page(store, "candidate")


@pytest.mark.parametrize(("settings", "is_submitted", "is_refitted"), [
    ({}, True, False), ({"submit.enabled": False}, False, False), ({"fine_tune.refit": True}, True, True)])
def test_the_effects_of_an_approval_are_those_of_the_settings(
    store: Store, settings: dict[str, Any], is_submitted: bool, is_refitted: bool
) -> None:
    waiting_run(store, "candidate", range(3), **settings)
    text = " ".join(approval_facts(store, "candidate", Policy(), "ada").approval)
    assert ("submitted to Kaggle" in text, "refitted" in text) == (is_submitted, is_refitted)


@pytest.mark.parametrize(("approver", "is_forbidden"), [("ada", True), (" ADA", True), ("grace", False)])
def test_the_policy_forbids_people_to_approve_their_own_runs(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, approver: str, is_forbidden: bool
) -> None:
    monkeypatch.setenv("USER", "ada")
    waiting_run(store, "candidate", range(3))
    policy = tmp_path / "policy.toml"
    policy.write_text('[settings]\n"gate.approval" = "required"\n[approval]\nown_runs = false\noverride = false\n')
    monkeypatch.setenv(POLICY_VARIABLE, str(policy))
    facts = approval_facts(store, "candidate", load_policy(), approver)
    assert (bool(facts.forbidden), str(policy) in facts.policy) == (is_forbidden, True)
    assert "--override" not in " ".join(facts.rejection)


@pytest.mark.parametrize(("values", "num_buttons"), [({}, 2), ({"can_respond": False}, 0)])
def test_only_people_who_may_respond_have_buttons(store: Store, values: dict[str, Any], num_buttons: int) -> None:
    waiting_run(store, "candidate", range(3))
    assert page(store, "candidate", **values).count('class="respond"') == num_buttons


def test_an_expired_request_is_decided_in_a_terminal(store: Store) -> None:
    run = waiting_run(store, "candidate", range(3))
    end_request(run, "expired", note="no response")
    facts = approval_facts(store, "candidate", Policy(), "ada")
    assert facts.is_waiting and facts.is_expired and "--approved-by" in facts.command
    assert page(store, "candidate").count('class="respond"') == 0


def test_a_decided_run_has_nothing_to_decide(store: Store) -> None:
    promoted_run(store, "champion", range(3))
    facts = approval_facts(store, "champion", Policy(), "ada")
    assert not facts.is_waiting and facts.decision is not None and facts.decision.decision == "promoted"
    assert "does not wait" in page(store, "champion")


def test_a_champion_of_a_missing_run_is_a_problem_and_not_an_error(store: Store) -> None:
    promoted_run(store, "champion", range(9))
    waiting_run(store, "candidate", range(3))
    (Path(store.url) / "runs" / "champion.json").unlink()
    facts = approval_facts(store, "candidate", Policy(), "ada")
    assert facts.comparison is None and "champion" in facts.problem
    assert page(store, "candidate").count('class="respond"') == 2


def test_the_approval_of_a_missing_run_is_an_error(store: Store) -> None:
    with pytest.raises(ConfigError, match="nothing"):
        approval_facts(store, "nothing", Policy(), "ada")
