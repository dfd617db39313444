"""Tests of the champion's facts."""

from pathlib import Path

from gate_candidates import build_candidate

from carclf.champion import set_threshold
from carclf.champion_history import HOLDOUT_FIELDS
from carclf.config import load_config
from carclf.dashboard.champion_facts import champion_facts
from carclf.services.storage import open_store


def test_the_facts_have_the_champions_metrics_and_the_threshold_history(tmp_path: Path) -> None:
    store = open_store(tmp_path / "store")
    assert champion_facts(store) is None
    set_threshold(store, 0.5, by="me")
    set_threshold(store, 0.6)
    candidate = build_candidate(store, "one", range(6))
    config = load_config("demo", {"gate.raise_threshold": "worse_bound"})
    decision, _ = candidate.promote(store, config, run_id="r", approved_by="you")
    facts = champion_facts(store)
    assert facts is not None and facts.champion is not None
    metrics = candidate.evaluation.metrics
    assert facts.champion.model_dump(exclude={"since"}) == {
        "model": candidate.model.key, "run": "r", "val_accuracy": 0.9, "by": "you",
        "action": "promoted", "decision": decision.key, "sequence": 3, "refit": "",
        "val_accuracy_low": metrics["val_accuracy_low"], "val_accuracy_high": metrics["val_accuracy_high"],
        "metric": "accuracy", "val_metric": 0.9, "val_metric_low": metrics["val_accuracy_low"],
        "val_metric_high": metrics["val_accuracy_high"], "public_score": None, "rank": None,
        **dict.fromkeys(HOLDOUT_FIELDS)}
    assert facts.champion.since.startswith("20")
    assert [change.threshold for change in facts.thresholds] == [0.5, 0.6, metrics["val_accuracy_low"]]
    assert facts.threshold == metrics["val_accuracy_low"]
    assert [event["action"] for event in facts.events] == ["promoted", "threshold_changed", "threshold_changed"]
