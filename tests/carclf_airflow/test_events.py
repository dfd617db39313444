"""The extra of the assets' events, and the reconciliation of the champion's events with the champion's file."""

import random
from pathlib import Path
from typing import Any

import pytest
from gate_candidates import build_candidate

from carclf.champion import champion_event as stored_champion
from carclf.champion import ensure_state, record_promotion, roll_back, set_threshold
from carclf.champion_history import promotion_of_model
from carclf.dashboard.champion_facts import champion_facts
from carclf.errors import ConfigError
from carclf.services.storage import Store, open_store
from carclf_airflow.events import candidate_event, champion_event, dataset_event, submission_event

INTERVAL = {"metric": "log_loss", "val_metric": 0.5, "val_metric_low": 0.4, "val_metric_high": 0.6, "val_accuracy": 0.9,
            "val_accuracy_low": 0.8, "val_accuracy_high": 0.95}
STORE = "s3://bucket/store"


def test_the_dataset_event_has_the_keys_and_the_counts_per_subset() -> None:
    validated = {"key": "d", "metrics": {"num_classes": 10, "num_test": 20, "num_warnings": 3}}
    split = {"key": "s", "reused": True, "metrics": {"num_train": 80, "num_val": 15, "num_holdout": 0,
                                                     "num_excluded": 5, "num_groups": 0}}
    assert dataset_event("r", validated, split) == {
        "run": "r", "dataset": "d", "split": "s", "reused": True, "num_classes": 10, "num_test": 20,
        "num_train": 80, "num_val": 15, "num_holdout": 0, "num_excluded": 5}


def test_the_candidate_event_has_the_decision_and_the_metric_with_its_interval() -> None:
    promoted = {"waiting": True, "metrics": {"decision_key": "k", "reason": "awaiting approval: x", "threshold": 0.7,
                                             "champion": "c", "decision": "awaiting approval"}}
    assert candidate_event("r", {"key": "m"}, {"metrics": INTERVAL | {"num_images": 9}}, promoted) == INTERVAL | {
        "run": "r", "model": "m", "decision": "k", "reason": "awaiting approval: x", "threshold": 0.7, "champion": "c"}


def test_the_submission_event_has_the_reference_and_the_model() -> None:
    submitted = {"key": "s", "reused": False, "metrics": {"ref": 7, "num_rows": 20, "model": "m"}}
    assert submission_event("r", submitted) == {
        "run": "r", "model": "m", "submission": "s", "ref": 7, "num_rows": 20, "reused": False}


def test_the_champion_event_has_the_facts_of_the_champion() -> None:
    champion = INTERVAL | {"model": "m", "run": "r", "decision": "d", "by": "Ada", "sequence": 3}
    event = champion_event(champion, None, STORE)
    assert event == champion | {"store": STORE, "model_url": f"{STORE}/models/m"}


@pytest.mark.parametrize(("last", "is_announced"), [
    ({"sequence": 3, "store": STORE}, False), ({"sequence": 4, "store": STORE}, False),
    ({"sequence": 2, "store": STORE}, True), ({"sequence": 9, "store": "elsewhere"}, True), ({}, True), (None, True),
])
def test_a_champion_is_announced_unless_the_last_event_is_of_it(last: Any, is_announced: bool) -> None:
    assert (champion_event({"model": "m", "sequence": 3}, last, STORE) is not None) == is_announced
    assert champion_event(None, last, STORE) is None


class Deployment:
    """A store with five candidates, and the events of the asset: an announcement may be lost in a crash."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.candidates = [build_candidate(store, str(number)) for number in range(5)]
        self.events: list[dict[str, Any]] = []
        ensure_state(store, 0.5)

    def announce(self) -> None:
        facts = champion_facts(self.store)
        assert facts is not None
        champion = facts.champion and facts.champion.to_json()
        if event := champion_event(champion, self.events[-1] if self.events else None, self.store.url):
            self.events.append(event)

    def promote(self, number: int) -> None:
        candidate, state = self.candidates[number], ensure_state(self.store, 0.5)
        event = {"model": candidate.model.key, "decision": "d", "evaluation": candidate.evaluation.key}
        is_new = promotion_of_model(state, candidate.model.key) is None
        assert record_promotion(self.store, event, state) == is_new

    def roll_back(self, number: int) -> None:
        try:
            roll_back(self.store, self.candidates[number].model.key)
        except ConfigError:  # it was never the champion, or is the champion
            return


@pytest.mark.parametrize("seed", range(10))
def test_events_agree_with_the_champion_after_any_interleaving(tmp_path: Path, seed: int) -> None:
    """Ten interleavings per seed of promotions, rollbacks, other changes, and crashes before the event."""
    deployment = Deployment(open_store(tmp_path / "store"))
    chance = random.Random(seed)
    for _ in range(10):
        for _ in range(chance.randint(1, 6)):
            number = chance.randrange(5)
            chance.choice([deployment.promote, deployment.roll_back])(number)
            if chance.random() < 0.3:
                set_threshold(deployment.store, round(chance.random(), 3))
            for _ in range(chance.choice([0, 0, 1, 2])):  # 0: it crashed before the event; 2: two DAGs announce
                deployment.announce()
        deployment.announce()
        champion, events = stored_champion(deployment.store), deployment.events
        assert [event["model"] for event in events[-1:]] == ([champion["model"]] if champion else [])
        sequences = [event["sequence"] for event in events]
        assert sequences == sorted(set(sequences))
    history = ensure_state(deployment.store, 0.5)["history"]
    for event in deployment.events:  # each is of an event that moved the pointer
        made = history[event["sequence"] - 1]
        assert (made["action"], made["model"]) == (event["action"], event["model"])
        assert made["action"] in ("promoted", "rolled_back")
