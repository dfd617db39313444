"""The extra of the assets' events, and the reconciliation of the champion's events with the champion's file."""

import random
from pathlib import Path
from typing import Any

import pytest
from gate_candidates import build_artifact, build_candidate

from carclf.artifacts import Provenance, RefittedModel
from carclf.champion import champion_event as stored_champion
from carclf.champion import ensure_state, record_promotion, record_refit, roll_back, set_threshold
from carclf.champion_history import promotion_of_model, refit_of_model
from carclf.dashboard.champion_facts import champion_facts
from carclf.errors import ConfigError
from carclf.services.storage import Store, open_store
from carclf_airflow.events import candidate_event, champion_event, dataset_event, is_outdated, submission_event

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
    evaluated = {"metrics": INTERVAL | {"num_images": 9}}
    assert candidate_event("r", {"key": "m"}, evaluated, promoted, STORE) == INTERVAL | {
        "run": "r", "model": "m", "model_url": f"{STORE}/models/m", "store": STORE, "decision": "k",
        "reason": "awaiting approval: x", "threshold": 0.7, "champion": "c"}


def test_the_submission_event_has_the_reference_and_the_model() -> None:
    submitted = {"key": "s", "reused": False, "metrics": {"ref": 7, "num_rows": 20, "model": "m"}}
    assert submission_event("r", submitted) == {
        "run": "r", "model": "m", "submission": "s", "ref": 7, "num_rows": 20, "reused": False}


def test_the_champion_event_has_the_facts_of_the_champion() -> None:
    champion = INTERVAL | {"model": "m", "run": "r", "decision": "d", "by": "Ada", "sequence": 3}
    event = champion_event(champion, None, STORE)
    assert event == champion | {"store": STORE, "model_url": f"{STORE}/models/m"}


@pytest.mark.parametrize(("last", "is_announced"), [
    ({"sequence": 3, "model": "m", "store": STORE}, False), ({"sequence": 2, "model": "m", "store": STORE}, True),
    ({"sequence": 3, "model": "m", "store": "elsewhere"}, True), ({}, True), (None, True),
    ({"sequence": 3, "model": "lost in a restored backup", "store": STORE}, True),
    ({"sequence": "forged", "store": STORE}, True), ({"sequence": 10**9, "store": STORE}, True),
])
def test_a_champion_is_announced_unless_the_last_event_is_of_it(last: Any, is_announced: bool) -> None:
    assert (champion_event({"model": "m", "sequence": 3}, last, STORE) is not None) == is_announced
    assert champion_event(None, last, STORE) is None


@pytest.mark.parametrize(("sequence", "store", "outdated"), [
    (4, STORE, True), (3, STORE, False), (4, "elsewhere", False), ("forged", STORE, False), (None, STORE, False)])
def test_a_champion_that_is_older_than_the_last_event_is_read_again(sequence: Any, store: str, outdated: bool) -> None:
    assert is_outdated({"model": "m", "sequence": 3}, {"sequence": sequence, "store": store}, STORE) == outdated
    assert not is_outdated(None, {"sequence": sequence, "store": store}, STORE)


class Deployment:
    """A store with five candidates, and the events of the asset: an announcement may be lost in a crash."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.candidates = [build_candidate(store, str(number)) for number in range(5)]
        self.refits = [
            [build_artifact(store, RefittedModel, Provenance(1, {"measured": candidate.model.key}, {"n": number}))
             for number in range(2)]
            for candidate in self.candidates
        ]
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

    def refit(self, number: int) -> None:
        is_first = refit_of_model(ensure_state(self.store, 0.5), self.candidates[number].model.key) == ""
        record_refit(self.store, self.refits[number][0 if is_first else 1])

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
            chance.choice([deployment.promote, deployment.roll_back, deployment.refit])(number)
            if chance.random() < 0.3:
                set_threshold(deployment.store, round(chance.random(), 3))
            for _ in range(chance.choice([0, 0, 1, 2])):  # 0: it crashed before the event; 2: two DAGs announce
                deployment.announce()
        deployment.announce()
        champion, events = stored_champion(deployment.store), deployment.events
        state = ensure_state(deployment.store, 0.5)
        expected = [(champion["model"], refit_of_model(state, champion["model"]))] if champion else []
        assert [(event["model"], event["refit"]) for event in events[-1:]] == expected
        sequences = [event["sequence"] for event in events]
        assert sequences == sorted(set(sequences))
    history = ensure_state(deployment.store, 0.5)["history"]
    for event in deployment.events:  # each is of an event that changed which model predicts
        made = history[event["sequence"] - 1]
        assert made["model"] == event["model"]
        assert made["action"] in ({"refitted"} if event["refit"] else set()) | {event["action"]}
        assert event["action"] in ("promoted", "rolled_back")
