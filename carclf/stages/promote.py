"""Compare the candidate with the gate's rules and the champion, and promote it if it passes."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from carclf.artifacts import Archive, Decision, Evaluation, Metrics, Model, Provenance, Split, StageContext, build
from carclf.champion import (
    MAX_ATTEMPTS,
    ensure_state,
    load_event_model,
    read_state,
    record_measurement,
    record_promotion,
    record_response,
    require_common_classes,
)
from carclf.champion_history import (
    Event,
    State,
    decline_of_model,
    describe_holdout,
    describe_response,
    measurement_of_model,
    promotion_of_model,
)
from carclf.config import Config, Gate
from carclf.errors import ServiceError, StageWaiting
from carclf.evaluation.evaluate import evaluate_champion, evaluate_holdout
from carclf.formatting import format_pairs
from carclf.metrics import METRICS
from carclf.progress import log
from carclf.services.storage import Store, format_command

VERSION = 9
# These settings affect a promotion's consequences, not whether the candidate passes.
EXCLUDED_GATE_SETTINGS = frozenset({"threshold", "max_log_loss", "raise_threshold", "approval"})


@dataclass(frozen=True)
class Candidate:
    """A run's model, with the data and the evaluation that the gate uses."""

    archive: Archive
    split: Split
    model: Model
    evaluation: Evaluation


@dataclass(frozen=True)
class PromotionOptions:
    """The run that requests the promotion, its approval, and the reason for promoting a rejected candidate.

    ``shown_decision`` is the key of the decision that the approver saw.
    """

    run_id: str = ""
    approved_by: str = ""
    override_reason: str = ""
    note: str = ""
    shown_decision: str = ""


NO_OPTIONS = PromotionOptions()


def promote(
    candidate: Candidate, context: StageContext, options: PromotionOptions = NO_OPTIONS
) -> tuple[Decision, bool]:
    """Return the gate's decision, and whether it was reused. If it is "promoted", ``champion.json`` names the model.

    A promoted model is then measured once on the labeled test images, if there are any. If that fails, the model stays
    the champion, and running the stage again measures it. A model that was promoted before keeps its decision and is
    not promoted again. A model that a person declined is rejected unless a person overrides that. Raise StageWaiting if
    ``gate.approval`` is required and nobody has approved yet, ServiceError if other runs keep changing the champion,
    ConfigError if the policy does not allow the metric of the split.
    """
    decision, reused = _promote(candidate, context, options)
    if decision.metric("decision") != "promoted" or not candidate.split.metrics.get("num_holdout"):
        return decision, reused
    metrics = decision.metrics | _measure_holdout(candidate, context)
    reason = f"{metrics['reason']}; on labeled test images: {describe_holdout(metrics)}"
    return decision.model_copy(update={"metrics": metrics | {"reason": reason}}), reused


def _measure_holdout(candidate: Candidate, context: StageContext) -> Metrics:
    """Return the promoted model's metrics on the labeled test images, which are measured once and then recorded."""
    store, model = context.store, candidate.model.key
    event = measurement_of_model(read_state(store) or {"history": []}, model)
    if event is None:
        holdout, _ = evaluate_holdout(candidate.archive, candidate.split, candidate.evaluation, context)
        event = record_measurement(store, model, holdout)
    measured = {name: value for name, value in event.items() if name.startswith("holdout_")}
    log.info("promote: model=%s %s", model, format_pairs(measured))
    return measured


def _promote(candidate: Candidate, context: StageContext, options: PromotionOptions) -> tuple[Decision, bool]:
    """Return the gate's decision, and whether it was reused, after recording a promotion."""
    store = context.store
    metric = METRICS[candidate.split.metric_name]
    threshold = _initial_threshold(candidate, context.config.gate)
    state = ensure_state(store, threshold, metric)
    _log_threshold(state, threshold)
    for _ in range(MAX_ATTEMPTS):
        if earlier := promotion_of_model(state, candidate.model.key):
            return _earlier_decision(earlier, state, context), True
        decision, reused = _decide(candidate, state, context)
        decision = _with_decline(decision, state)
        if decision.metric("decision") == "rejected":
            if not options.override_reason:
                return _with_approval(decision, options, state, store), reused
            decision, reused = _override(decision, options.override_reason, store)
        if context.config.gate.approval == "required" and not options.approved_by:
            raise _approval_required(decision, options.run_id, store)
        event = _promotion_event(candidate, decision, options) | _changed_evidence(decision, options, store)
        if record_promotion(store, event, state, raise_to=_raised_threshold(candidate, context.config)):
            return _with_evidence(decision, event), reused
        log.info("promote: the champion or the threshold has changed, comparing again")
        state = ensure_state(store, threshold, metric)
    raise ServiceError(f"The champion changed {MAX_ATTEMPTS} times while the candidate was compared with it. "
                       "Run promote again.")


def _initial_threshold(candidate: Candidate, gate: Gate) -> float:
    """Return the threshold of a new store; for log loss, half of what equal probabilities of all classes have."""
    if METRICS[candidate.split.metric_name].higher_is_better:
        return gate.threshold
    return gate.max_log_loss or math.log(len(candidate.split.class_names)) / 2


def _log_threshold(state: State, initial: float) -> None:
    if state["threshold"] != initial:
        log.info("promote: stored_threshold=%.4f applies; %.4f, from the settings, is only for a new store. Change the "
                 "stored threshold with carclf champion set-threshold.", state["threshold"], initial)


def _earlier_decision(event: Event, state: State, context: StageContext) -> Decision:
    """Return the decision that promoted a model.

    Its reason has a note if another model is the champion now, or if the gate's settings were others.
    """
    decision = Decision.require(context.store, event["decision"])
    champion = state["champion"]["model"]
    if champion != event["model"]:
        note = (f"it was promoted before and is not promoted again: the champion is {champion}. To restore it: carclf "
                f"champion rollback --to {event['model']}")
    elif any(decision.settings["gate"].get(name, value) != value
             for name, value in _judged_settings(context.config.gate).items()):
        note = "it was promoted before, with other settings of the gate, and is not judged again"
    else:
        return decision
    log.warning("promote: model=%s: %s", event["model"], note)
    return _with_reason(decision, f"{decision.metric('reason')}; {note}")


def _decide(candidate: Candidate, state: State, context: StageContext) -> tuple[Decision, bool]:
    """Build the decision on a candidate for the champion and the threshold of this state. Nothing is promoted."""
    store, gate = context.store, context.config.gate
    threshold = float(state["threshold"])
    champion = None
    champion_key = state["champion"] and str(state["champion"]["model"])
    inputs = {"model": candidate.model.key, "evaluation": candidate.evaluation.key}
    if champion_key and gate.champion_rule == "off":
        inputs["champion"] = champion_key
    elif champion_key:
        model = load_event_model(store, state["champion"])
        require_common_classes(model, candidate.split, store)
        evaluation, _ = evaluate_champion(candidate.archive, candidate.split, state["champion"], context)
        champion = model, evaluation
        inputs["champion_evaluation"] = evaluation.key

    def make(folder: Path) -> Metrics:
        from carclf.gate.decision import EvaluatedModel, decide, write_decision

        evaluated = EvaluatedModel(candidate.model, candidate.evaluation)
        evaluated_champion = EvaluatedModel(*champion) if champion else None
        decision = decide(evaluated, evaluated_champion, candidate.split, threshold, context)
        return write_decision(folder, decision.model_copy(update={"champion": champion_key}))

    settings = {"threshold": threshold, "gate": _judged_settings(gate), "salt": context.salt}
    return build(Decision, make, Provenance(VERSION, inputs, settings), store)


def _judged_settings(gate: Gate) -> dict[str, Any]:
    return gate.model_dump(exclude=set(EXCLUDED_GATE_SETTINGS))


def _with_decline(decision: Decision, state: State) -> Decision:
    """Return the decision, as a rejection if a person declined the model."""
    decline = decline_of_model(state, decision.input("model"))
    if decline is None or decision.metric("decision") == "rejected":
        return decision
    rejected = {"decision": "rejected", "reason": f"rejected: {describe_response(decline)}"}
    return decision.model_copy(update={"metrics": decision.metrics | rejected})


def _with_approval(rejected: Decision, options: PromotionOptions, state: State, store: Store) -> Decision:
    """Record an approval that promotes nothing, because the gate rejects the candidate now; return the rejection.

    A declined model needs an override instead of an approval, so nothing is recorded.
    """
    evidence = _changed_evidence(rejected, options, store)
    if not options.approved_by or not evidence or decline_of_model(state, rejected.input("model")):
        return rejected
    event = {"action": "approved", "model": rejected.input("model"), "run": options.run_id, "by": options.approved_by,
             "note": options.note, "decision": rejected.key}
    record_response(store, event | evidence)
    return _with_evidence(rejected, evidence)


def _changed_evidence(decision: Decision, options: PromotionOptions, store: Store) -> Event:
    """Return the decision that the approver saw and the champion in it; empty if it is this decision."""
    shown = Decision.find(store, options.shown_decision) if options.shown_decision else None
    if shown is None or shown.key in (decision.key, decision.inputs.get("rejection")):
        return {}
    return {"shown_decision": shown.key, "shown_champion": shown.metrics.get("champion")}


def _with_evidence(decision: Decision, event: Event) -> Decision:
    """Return the decision with a note in its reason if the approver saw another one."""
    if "shown_decision" not in event:
        return decision
    note = (f"decided again when it was approved: the approver saw the decision {event['shown_decision']}, against "
            f"{event['shown_champion'] or 'no champion'}")
    return _with_reason(decision, f"{decision.metric('reason')}; {note}")


def _with_reason(decision: Decision, reason: str) -> Decision:
    return decision.model_copy(update={"metrics": decision.metrics | {"reason": reason}})


def _override(rejected: Decision, reason: str, store: Store) -> tuple[Decision, bool]:
    """Build the decision of a person who overrides the gate or a declined request, with the gate's rules."""
    rejection = str(rejected.metric("reason"))

    def make(folder: Path) -> Metrics:
        from carclf.gate.decision import GateDecision, write_decision

        decision = GateDecision.model_validate_json(rejected.path(store, "decision.json").read_text())
        return write_decision(folder, decision.overridden(reason, rejection))

    inputs = rejected.inputs | {"rejection": rejected.key}
    settings = {"override": reason, "rejection": rejection}
    return build(Decision, make, Provenance(VERSION, inputs, rejected.settings | settings), store)


def _approval_required(decision: Decision, run_id: str, store: Store) -> StageWaiting:
    command = format_command(store, f"promote --run {run_id or 'RUN'}")
    reason = f"awaiting approval: {str(decision.metric('reason')).removeprefix('promoted: ')}"
    report = decision.file("report.html").key
    metrics = decision.metrics | {"decision": "awaiting approval", "reason": reason, "report": report,
                                  "decision_key": decision.key}
    return StageWaiting(f"{reason}. To approve: {command} --approved-by NAME", metrics=metrics)


def _promotion_event(candidate: Candidate, decision: Decision, options: PromotionOptions) -> Event:
    metrics = decision.metrics
    event: Event = {
        "model": candidate.model.key, "decision": decision.key, "evaluation": candidate.evaluation.key,
        "run": options.run_id, "val_accuracy": metrics.get("val_accuracy"),
        "metric": metrics["metric"], "val_metric": metrics.get("val_metric"),
    }
    optional = {"approved_by": options.approved_by, "note": options.note}
    optional |= {name: str(metrics[name]) for name in ("override", "rejection") if name in metrics}
    return event | {name: value for name, value in optional.items() if value}


def _raised_threshold(candidate: Candidate, config: Config) -> float | None:
    """Return the value to which a promotion raises the stored threshold, or None if gate.raise_threshold is off."""
    if config.gate.raise_threshold == "off":
        return None
    higher_is_better = METRICS[candidate.split.metric_name].higher_is_better
    return candidate.evaluation.number("val_metric_low" if higher_is_better else "val_metric_high")
