"""The gate: a candidate that passes its rules, beside the champion on the same images, becomes the champion."""

from dataclasses import dataclass
from pathlib import Path

from carclf.artifacts import Archive, Decision, Evaluation, Metrics, Model, Provenance, Split, StageContext, build
from carclf.champion import Event, State, ensure_state, load_event_model, promotion_of_model, record_promotion
from carclf.config import Config
from carclf.errors import DataError, ServiceError, StageWaiting
from carclf.evaluation.evaluate import evaluate_model, with_champion_tta
from carclf.progress import log
from carclf.services.storage import MAX_UPDATE_ATTEMPTS, Store, format_command

VERSION = 3
# These say what follows when a model is crowned, and not whether it should be.
NOT_JUDGED = {"threshold", "raise_threshold", "approval"}


@dataclass(frozen=True)
class _Candidate:
    """A run's model and what is needed to judge it."""

    archive: Archive
    split: Split
    model: Model
    evaluation: Evaluation
    config: Config
    store: Store
    salt: str


def promote(
    archive: Archive, split: Split, model: Model, evaluation: Evaluation, config: Config, store: Store, *,
    salt: str = "", run_id: str = "", approved_by: str = "", override: str = "",
) -> tuple[Decision, bool]:
    """The decision; where it is "promoted", ``champion.json`` names this model when this returns.

    A model that was promoted before keeps its decision and is not crowned again. ``override`` is the reason why a
    refused one is crowned nevertheless. NotYet where somebody must approve first.
    """
    candidate = _Candidate(archive, split, model, evaluation, config, store, salt)
    state = ensure_state(store, config.gate.threshold)
    _tell_threshold(state, config)
    for _ in range(MAX_UPDATE_ATTEMPTS):
        if earlier := promotion_of_model(state, model.key):
            return _earlier_decision(earlier, state, store), True
        decision, reused = _judged(candidate, state)
        if decision.metrics["decision"] == "rejected" and override:
            decision, reused = _overridden(decision, override, store)
        if decision.metrics["decision"] == "rejected":
            return decision, reused
        if config.gate.approval == "required" and not approved_by:
            raise _awaiting(decision, run_id, store)
        if record_promotion(store, _event(candidate, decision, run_id, approved_by), state, raise_to=_raised(candidate)):
            return decision, reused
        log.info("promote: the champion or the threshold changed meanwhile; judged again")
        state = ensure_state(store, config.gate.threshold)
    raise ServiceError(f"The champion changed {MAX_UPDATE_ATTEMPTS} times while the candidate was judged. Try again.")


def _tell_threshold(state: State, config: Config) -> None:
    if state["threshold"] != config.gate.threshold:
        log.info("promote: the stored threshold %.4f holds; gate.threshold, %.4f, is for a store without one. "
                 "Change it by carclf champion set-threshold", state["threshold"], config.gate.threshold)


def _earlier_decision(event: Event, state: State, store: Store) -> Decision:
    """The decision that crowned a model; its reason tells where another one is the champion now."""
    if (decision := Decision.find(store, event["decision"])) is None:
        raise DataError(f"The decision {event['decision']} that promoted {event['model']} is gone from {store.url}. "
                        f"Restore decisions/{event['decision']}.")
    now = state["champion"]["model"]
    if now == event["model"]:
        return decision
    note = (f"it was promoted before and is not crowned again: the champion is {now}. To bring it back: carclf "
            f"champion rollback --to {event['model']}")
    log.warning("promote: %s: %s", event["model"], note)
    reason = f"{decision.metrics['reason']}; {note}"
    return decision.model_copy(update={"metrics": decision.metrics | {"reason": reason}})


def _judged(candidate: _Candidate, state: State) -> tuple[Decision, bool]:
    """The gate's decision beside the champion and the threshold of that state; nobody is crowned."""
    own, gate = candidate, candidate.config.gate
    model = found = None
    inputs = {"model": own.model.key, "evaluation": own.evaluation.key}
    if state["champion"] and gate.champion_rule != "off":
        model = load_event_model(own.store, state["champion"])
        config = with_champion_tta(own.config, state["champion"], own.store)
        found, _ = evaluate_model(own.archive, own.split, model, StageContext(own.store, config, own.salt))
        inputs["champion_evaluation"] = found.key
    threshold = float(state["threshold"])

    def make(folder: Path) -> Metrics:
        from carclf.gate.decision import EvaluatedModel, decide, write_decision

        champion = EvaluatedModel(model, found) if model and found else None
        return write_decision(folder, decide(
            EvaluatedModel(own.model, own.evaluation), champion, own.split, threshold, gate, own.store
        ))

    return build(Decision, make, Provenance(VERSION, inputs, {
        "threshold": threshold, "gate": gate.model_dump(exclude=NOT_JUDGED), "salt": own.salt,
    }), own.store)


def _overridden(refused: Decision, reason: str, store: Store) -> tuple[Decision, bool]:
    """What a person decided against the gate: the decision tells so, and what the gate said."""
    def make(folder: Path) -> Metrics:
        import json

        from carclf.gate.decision import write_decision

        decision = json.loads(refused.path(store, "decision.json").read_text())
        return write_decision(folder, decision | {
            "decision": "promoted", "override": reason, "rejection": decision["reason"],
            "reason": f"promoted by hand, because {reason}, though {decision['reason']}",
        })

    return build(Decision, make, Provenance(VERSION, refused.inputs | {"rejection": refused.key}, refused.settings | {"override": reason}), store)


def _awaiting(decision: Decision, run_id: str, store: Store) -> StageWaiting:
    reason = f"awaiting approval: {decision.metrics['reason']}"
    text = f"{reason}. To go on: {format_command(store, 'promote --run ' + (run_id or 'RUN'))} --approved-by NAME"
    return StageWaiting(text, metrics=decision.metrics | {"decision": "awaiting approval", "reason": reason,
                                                          "report": decision.files["report.html"].key})


def _event(candidate: _Candidate, decision: Decision, run_id: str, approved_by: str) -> Event:
    metrics = decision.metrics
    told = {"approved_by": approved_by, "override": metrics.get("override"), "rejection": metrics.get("rejection")}
    return {"model": candidate.model.key, "decision": decision.key, "evaluation": candidate.evaluation.key,
            "run": run_id, "val_accuracy": metrics.get("val_accuracy")} | {
                name: value for name, value in told.items() if value}


def _raised(candidate: _Candidate) -> float | None:
    """What a promotion raises the stored threshold to, where it is lower."""
    name = {"off": "", "lower_bound": "val_accuracy_low", "accuracy": "val_accuracy"}[candidate.config.gate.raise_threshold]
    if not name:
        return None
    if (value := candidate.evaluation.metrics.get(name)) is None:
        raise DataError(f"The evaluation {candidate.evaluation.key} has no figure {name!r}, to which "
                        "gate.raise_threshold would raise the threshold. Evaluate again with force.")
    return float(value)
