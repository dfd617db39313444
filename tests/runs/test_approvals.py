"""Requests for approval: claims, rejections, and requests that expire."""

from pathlib import Path
from typing import Any

import pytest
from gate_candidates import build_candidate
from recorded_runs import record_candidate

from carclf.champion import read_state
from carclf.config import load_config
from carclf.runs.approvals import end_request
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
