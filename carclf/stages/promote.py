"""The gate: a candidate that passes its rules, beside the champion on the same images, becomes the champion."""

from dataclasses import dataclass
from pathlib import Path

from carclf.artifacts import Archive, Decision, Evaluation, Figures, Model, Split, build
from carclf.champion import Event, State, begun_state, crown, model_of, promotion_of
from carclf.config import Config
from carclf.errors import DataError, NotYet, ServiceError
from carclf.evaluation.evaluate import as_promoted, measured
from carclf.progress import log
from carclf.services.storage import NUM_TRIES, Store, command_on

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
    state = begun_state(store, config.gate.threshold)
    _tell_threshold(state, config)
    for _ in range(NUM_TRIES):
        if earlier := promotion_of(state, model.key):
            return _earlier_decision(earlier, state, store), True
        decision, reused = _judged(candidate, state)
        if decision.figures["decision"] == "refused" and override:
            decision, reused = _overridden(decision, override, store)
        if decision.figures["decision"] == "refused":
            return decision, reused
        if config.gate.approval == "required" and not approved_by:
            raise _awaiting(decision, run_id, store)
        if crown(store, _event(candidate, decision, run_id, approved_by), state, raise_to=_raised(candidate)):
            return decision, reused
        log.info("promote: the champion or the threshold changed meanwhile; judged again")
        state = begun_state(store, config.gate.threshold)
    raise ServiceError(f"The champion changed {NUM_TRIES} times while the candidate was judged. Try again.")


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
    reason = f"{decision.figures['reason']}; {note}"
    return decision.model_copy(update={"figures": decision.figures | {"reason": reason}})


def _judged(candidate: _Candidate, state: State) -> tuple[Decision, bool]:
    """The gate's decision beside the champion and the threshold of that state; nobody is crowned."""
    own, gate = candidate, candidate.config.gate
    model = found = None
    inputs = {"model": own.model.key, "evaluation": own.evaluation.key}
    if state["champion"] and gate.champion_rule != "off":
        model = model_of(own.store, state["champion"])
        config = as_promoted(own.config, state["champion"], own.store)
        found, _ = measured(own.archive, own.split, model, config, own.store, salt=own.salt)
        inputs["champion_evaluation"] = found.key
    threshold = float(state["threshold"])

    def make(folder: Path) -> Figures:
        from carclf.gate.decision import Measured, decide, write_decision

        champion = Measured(model, found) if model and found else None
        return write_decision(folder, decide(
            Measured(own.model, own.evaluation), champion, own.split, threshold, gate, own.store
        ))

    return build(Decision, make, store=own.store, version=VERSION, inputs=inputs, settings={
        "threshold": threshold, "gate": gate.model_dump(exclude=NOT_JUDGED), "salt": own.salt,
    })


def _overridden(refused: Decision, reason: str, store: Store) -> tuple[Decision, bool]:
    """What a person decided against the gate: the decision tells so, and what the gate said."""
    def make(folder: Path) -> Figures:
        import json

        from carclf.gate.decision import write_decision

        decision = json.loads(refused.path(store, "decision.json").read_text())
        return write_decision(folder, decision | {
            "decision": "promoted", "override": reason, "refusal": decision["reason"],
            "reason": f"promoted by hand, because {reason}, though {decision['reason']}",
        })

    return build(Decision, make, store=store, version=VERSION, inputs=refused.inputs | {"refusal": refused.key},
                 settings=refused.settings | {"override": reason})


def _awaiting(decision: Decision, run_id: str, store: Store) -> NotYet:
    text = (f"awaiting approval: {decision.figures['reason']}. To go on: "
            f"{command_on(store, 'promote --run ' + (run_id or 'RUN'))} --approved-by NAME")
    return NotYet(text, figures=decision.figures | {"decision": "awaiting approval", "reason": text,
                                                    "report": decision.files["report.html"].key})


def _event(candidate: _Candidate, decision: Decision, run_id: str, approved_by: str) -> Event:
    figures = decision.figures
    told = {"approved_by": approved_by, "override": figures.get("override"), "refusal": figures.get("refusal")}
    return {"model": candidate.model.key, "decision": decision.key, "evaluation": candidate.evaluation.key,
            "run": run_id, "val_accuracy": figures.get("val_accuracy")} | {
                name: value for name, value in told.items() if value}


def _raised(candidate: _Candidate) -> float | None:
    """What a promotion raises the stored threshold to, where it is lower."""
    name = {"off": "", "interval": "low", "accuracy": "val_accuracy"}[candidate.config.gate.raise_threshold]
    if not name:
        return None
    if (value := candidate.evaluation.figures.get(name)) is None:
        raise DataError(f"The evaluation {candidate.evaluation.key} has no figure {name!r}, to which "
                        "gate.raise_threshold would raise the threshold. Evaluate again with force.")
    return float(value)
