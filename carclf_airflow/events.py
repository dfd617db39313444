"""The ``extra`` of the assets' events. Consumers read it instead of the store; docs/retraining.md lists the fields."""

from collections.abc import Mapping
from typing import Any

Extra = dict[str, Any]
Result = Mapping[str, Any]  # of a stage, as XCom has it
IDENTITY = ("store", "sequence", "model")  # of an event of a champion
DATASET_COUNTS = ("num_train", "num_val", "num_holdout", "num_excluded")
METRICS = ("metric", "val_metric", "val_metric_low", "val_metric_high", "val_accuracy", "val_accuracy_low",
           "val_accuracy_high")


def dataset_event(run: str, validated: Result, split: Result) -> Extra:
    """Describe validated and split images; ``reused`` is true if an earlier run produced the same split."""
    dataset, subsets = validated["metrics"], split["metrics"]
    return {
        "run": run, "dataset": validated["key"], "split": split["key"], "reused": split["reused"],
        "num_classes": dataset.get("num_classes"), "num_test": dataset.get("num_test"),
        **{name: subsets.get(name) for name in DATASET_COUNTS},
    }


def candidate_event(run: str, trained: Result, evaluated: Result, promoted: Result, store: str) -> Extra:
    """Describe a model that passed the gate and waits for a person's decision."""
    decision = promoted["metrics"]
    return {
        "run": run, "model": trained["key"], "model_url": f"{store}/models/{trained['key']}", "store": store,
        "decision": decision.get("decision_key", ""),
        "reason": decision.get("reason", ""), "threshold": decision.get("threshold"),
        "champion": decision.get("champion"), **{name: evaluated["metrics"].get(name) for name in METRICS},
    }


def submission_event(run: str, submitted: Result) -> Extra:
    """Describe a submission; ``reused`` is true if the same predictions had been submitted before."""
    metrics = submitted["metrics"]
    return {
        "run": run, "model": metrics["model"], "submission": submitted["key"], "ref": metrics["ref"],
        "num_rows": metrics.get("num_rows"), "reused": submitted["reused"],
    }


def champion_event(champion: Extra | None, last: Extra | None, store: str) -> Extra | None:
    """Describe the champion, or return None if the last event is of it.

    ``champion`` is what ``carclf champion current`` prints, ``last`` the extra of the asset's last event. That may be
    of another store, of a history that was replaced by a backup, or created by hand with anything in it.
    """
    if champion is None:
        return None
    event = {"store": store, "model_url": f"{store}/models/{champion['model']}", **champion}
    return None if last and all(last.get(name) == event[name] for name in IDENTITY) else event


def is_outdated(champion: Extra | None, last: Extra | None, store: str) -> bool:
    """Return whether the last event is of a later champion: this one was read before it, or comes from a backup."""
    sequence = last.get("sequence") if last and last.get("store") == store else None
    return champion is not None and isinstance(sequence, int) and champion["sequence"] < sequence
