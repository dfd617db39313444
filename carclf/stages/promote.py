"""The gate: a candidate that reaches the stored threshold becomes the champion."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from carclf.artifacts import Decision, Evaluation, Figures, Model, build
from carclf.config import Config, Gate
from carclf.errors import ServiceError
from carclf.progress import log
from carclf.services.storage import Store

VERSION = 1
CHAMPION = "champion.json"
NUM_TRIES = 20  # of the compare-and-swap


def promote(
    model: Model, evaluation: Evaluation, config: Config, store: Store, *, salt: str = ""
) -> tuple[Decision, bool]:
    """The decision; where it is "promoted", ``champion.json`` names this model when this returns."""
    threshold = stored_threshold(store, config)
    if threshold != config.gate.threshold:
        log.info("promote: the stored threshold %.4f holds; gate.threshold, %.4f, is for a store without one. "
                 "Change it by carclf set-threshold", threshold, config.gate.threshold)
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
        _crown(decision, model, config, store)
    return decision, reused


def stored_threshold(store: Store, config: Config) -> float:
    """The store's threshold; the configuration's is written down where the store has none."""
    state, version = _load(store, config)
    if version is None and not store.write_if(CHAMPION, json.dumps(state, indent=1).encode(), None):
        state, _ = _load(store, config)  # another run was first
    return float(state["threshold"])


def set_threshold(store: Store, threshold: float) -> None:
    """Change the stored threshold; champion and history stay."""
    config = Config(gate=Gate(threshold=threshold))
    for _ in range(NUM_TRIES):
        state, version = _load(store, config)
        if store.write_if(CHAMPION, json.dumps(state | {"threshold": threshold}, indent=1).encode(), version):
            return
    raise ServiceError(f"{store.url}/{CHAMPION} changed {NUM_TRIES} times while it was to be written. Try again.")


def _load(store: Store, config: Config) -> tuple[dict[str, Any], str | None]:
    found = store.read(CHAMPION)
    if found is None:
        return {"champion": None, "threshold": config.gate.threshold, "history": []}, None
    return json.loads(found.data), found.version


def _crown(decision: Decision, model: Model, config: Config, store: Store) -> None:
    """Write the champion by compare-and-swap, so that two runs that end together lose nothing."""
    for _ in range(NUM_TRIES):
        state, version = _load(store, config)
        if any(entry["decision"] == decision.key for entry in state["history"]):
            return  # crowned once: running an old run's stage again takes nothing from a later champion
        entry = {"model": model.key, "decision": decision.key, "val_accuracy": decision.figures["val_accuracy"],
                 "promoted": datetime.now(UTC).isoformat(timespec="seconds")}
        state = state | {"champion": entry, "history": [*state["history"], entry]}
        if store.write_if(CHAMPION, json.dumps(state, indent=1).encode(), version):
            return
    raise ServiceError(f"{store.url}/{CHAMPION} changed {NUM_TRIES} times while it was to be written. Try again.")
