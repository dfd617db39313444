"""The gate: a candidate that reaches the stored threshold becomes the champion."""

import json
from datetime import UTC, datetime
from pathlib import Path

from carclf.artifacts import Archive, Decision, Evaluation, Figures, Model, Split, build
from carclf.champion import State, change_state, read_state
from carclf.config import Config, Gate
from carclf.progress import log
from carclf.services.storage import Store

VERSION = 1


def promote(
    archive: Archive, split: Split, model: Model, evaluation: Evaluation, config: Config, store: Store, *,
    salt: str = "", run_id: str = "", approved_by: str = "",
) -> tuple[Decision, bool]:
    """The decision; where it is "promoted", ``champion.json`` names this model when this returns."""
    threshold = stored_threshold(store, config)
    if threshold != config.gate.threshold:
        log.info("promote: the stored threshold %.4f holds; gate.threshold, %.4f, is for a store without one. "
                 "Change it by carclf champion set-threshold", threshold, config.gate.threshold)
    accuracy = float(evaluation.figures["val_accuracy"])

    def make(folder: Path) -> Figures:
        passed = accuracy >= threshold
        verb, word = ("promoted", "reaches") if passed else ("refused", "is below")
        reason = f"{verb}: accuracy {accuracy:.4f} {word} the stored threshold {threshold:.4f}"
        rules = [{"rule": "accuracy", "value": accuracy, "limit": threshold, "passed": passed}]
        (folder / "decision.json").write_text(json.dumps({"reason": reason, "rules": rules}, indent=1))
        return {"decision": verb, "threshold": threshold, "val_accuracy": accuracy, "reason": reason}

    decision, reused = build(
        Decision, make, store=store, version=VERSION,
        inputs={"model": model.key, "evaluation": evaluation.key},
        settings={"threshold": threshold, "salt": salt},
    )
    if decision.figures["decision"] == "promoted":
        _crown(decision, model, store)
    return decision, reused


def stored_threshold(store: Store, config: Config) -> float:
    """The store's threshold; the configuration's is written down where the store has none."""
    change_state(store, lambda state: None if state else _new_state(config.gate.threshold))
    state = read_state(store)
    assert state is not None
    return float(state["threshold"])


def set_threshold(store: Store, threshold: float) -> None:
    """Change the stored threshold; champion and history stay."""
    wanted = Gate(threshold=threshold).threshold
    change_state(store, lambda state: (state or _new_state(wanted)) | {"threshold": wanted})


def _new_state(threshold: float) -> State:
    return {"champion": None, "threshold": threshold, "history": []}


def _crown(decision: Decision, model: Model, store: Store) -> None:
    entry = {"model": model.key, "decision": decision.key, "val_accuracy": decision.figures["val_accuracy"],
             "promoted": datetime.now(UTC).isoformat(timespec="seconds")}

    def change(state: State | None) -> State | None:
        state = state or _new_state(float(decision.figures["threshold"]))
        if any(earlier["decision"] == decision.key for earlier in state["history"]):
            return None  # crowned once: running an old run's stage again takes nothing from a later champion
        return state | {"champion": entry, "history": [*state["history"], entry]}

    change_state(store, change)
