"""A promoted model is measured once on the labeled test images, and a failed measurement is completed by a retry."""

import json
from pathlib import Path

import pytest
from gate_candidates import Candidate, build_artifact, build_candidate, build_split

from carclf.artifacts import Evaluation, Metrics, Provenance, Split
from carclf.champion import read_state
from carclf.champion_history import describe_holdout
from carclf.cli.tables import champion_rows, history_table
from carclf.dashboard.champion_facts import champion_facts
from carclf.errors import CarclfError
from carclf.evaluation import evaluate
from carclf.services.storage import Store, open_store

HOLDOUT_METRICS: Metrics = {
    "holdout_accuracy": 0.9, "holdout_accuracy_low": 0.8, "holdout_accuracy_high": 0.95, "temperature": 1.0,
    "holdout_metric": 0.9, "holdout_metric_low": 0.8, "holdout_metric_high": 0.95, "subset": "holdout"}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))


def split_with_holdout(store: Store) -> Split:
    split = build_split(store)
    files = {"split.parquet": split.rows(store), "split_history.parquet": split.history(store)}
    metrics = split.metrics | {"num_holdout": 20}
    return build_artifact(store, Split, Provenance(1, {}, {"name": "with holdout"}), metrics, files)


def build_measurement(store: Store, candidate: Candidate) -> Evaluation:
    """Build the evaluation on the labeled test images, under the key that ``evaluate_holdout`` would give it."""
    inputs = {"archive": candidate.archive.key, "split": candidate.split.key, "model": candidate.model.key,
              "validation": candidate.evaluation.key}
    settings = candidate.config.evaluate.model_dump(exclude={"batch_size"}) | {"salt": "", "subset": "holdout"}
    return build_artifact(store, Evaluation, Provenance(evaluate.VERSION, inputs, settings), HOLDOUT_METRICS)


def test_a_failed_measurement_does_not_undo_the_promotion_and_a_retry_completes_it(store: Store) -> None:
    candidate = build_candidate(store, "first", [0, 1, 2], split=split_with_holdout(store))
    with pytest.raises(CarclfError):  # the fixture's network cannot be loaded
        candidate.promote(store)
    state = read_state(store)
    assert state["champion"]["model"] == candidate.model.key
    assert [event["action"] for event in state["history"]] == ["promoted"]
    measurement = build_measurement(store, candidate)
    for _ in range(2):
        decision, reused = candidate.promote(store)
        assert reused
        assert decision.metrics["holdout_accuracy"] == 0.9
        assert decision.metrics["holdout_evaluation"] == measurement.key
        history = read_state(store)["history"]
        assert [event["action"] for event in history] == ["promoted", "measured"]
        assert history[-1].items() >= {"model": candidate.model.key, "holdout_metric": 0.9}.items()
    assert read_state(store)["champion"] == state["champion"]


def test_a_rejected_candidate_is_not_measured(store: Store) -> None:
    candidate = build_candidate(store, "wrong", range(50), split=split_with_holdout(store))
    decision, _ = candidate.promote(store)
    assert decision.metrics["decision"] == "rejected"
    assert read_state(store)["history"] == []


def test_the_history_and_the_page_show_the_measurement(store: Store) -> None:
    candidate = build_candidate(store, "first", [0, 1, 2], split=split_with_holdout(store))
    build_measurement(store, candidate)
    candidate.promote(store)
    state = read_state(store)
    rows = champion_rows(store, state)
    assert json.loads(json.dumps(rows))[0]["holdout_accuracy"] == 0.9
    assert "accuracy 0.9000 (0.8000 to 0.9500)" in history_table(rows)[1]
    facts = champion_facts(store)
    assert (facts.champion.holdout_accuracy, facts.champion.holdout_accuracy_low) == (0.9, 0.8)


def test_the_metric_comes_before_the_accuracy() -> None:
    measured = HOLDOUT_METRICS | {"metric": "log_loss", "holdout_metric": 0.25}
    assert describe_holdout(measured) == "log loss 0.2500 (0.8000 to 0.9500), accuracy 0.9000 (0.8000 to 0.9500)"
    assert describe_holdout(measured | {"holdout_metric": None}) == "accuracy 0.9000 (0.8000 to 0.9500)"
    assert describe_holdout(HOLDOUT_METRICS) == "accuracy 0.9000 (0.8000 to 0.9500)"
