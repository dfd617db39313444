"""The champion, the promotion threshold and their history, for the pages."""

from typing import Any

from carclf.artifacts import Evaluation
from carclf.champion import read_state
from carclf.champion_history import Event, State, champion_sequence, model_summary, refit_of_model
from carclf.dashboard.run_reader import Facts
from carclf.errors import DataError
from carclf.runs.index import BOUNDS
from carclf.services.storage import Store


class Champion(Facts):
    """The champion with its metric and accuracy, their 95% intervals, and the last public score; None: unknown."""

    model: str
    run: str
    val_accuracy: float | None
    val_accuracy_low: float | None
    val_accuracy_high: float | None
    metric: str = "accuracy"
    val_metric: float | None
    val_metric_low: float | None
    val_metric_high: float | None
    holdout_metric: float | None = None  # on labeled test images; None also if it is undefined there
    holdout_metric_low: float | None = None
    holdout_metric_high: float | None = None
    holdout_accuracy: float | None = None
    holdout_accuracy_low: float | None = None
    holdout_accuracy_high: float | None = None
    public_score: float | None
    rank: int | None
    since: str  # ISO 8601
    by: str  # who approved the promotion or rolled back, or ""
    action: str = "promoted"  # or rolled_back
    decision: str = ""  # the key of the decision that promoted the model
    refit: str = ""  # the key of the refitted model that predicts for it, or ""
    sequence: int = 0  # the position in the history of the event that made the model that predicts


class ThresholdChange(Facts):
    """A threshold and the time from which it applies, in ISO 8601; "" for the initial threshold."""

    time: str
    threshold: float


class ChampionFacts(Facts):
    """The champion, the threshold, its changes (oldest first) and the history of events (newest first)."""

    champion: Champion | None
    threshold: float
    metric: str = "accuracy"  # of the threshold
    thresholds: tuple[ThresholdChange, ...]
    events: tuple[dict[str, Any], ...] = ()


def champion_facts(store: Store) -> ChampionFacts | None:
    """Return the facts, or None if the gate has not decided anything yet; DataError if ``champion.json`` is damaged."""
    if (state := read_state(store)) is None:
        return None
    champion = _champion(store, state, state["champion"]) if state["champion"] else None
    thresholds, events = _threshold_changes(state), tuple(reversed(state["history"]))
    metric = str(state.get("metric", "accuracy"))
    return ChampionFacts(
        champion=champion, threshold=state["threshold"], metric=metric, thresholds=thresholds, events=events,
    )


def _champion(store: Store, state: State, event: Event) -> Champion:
    try:
        evaluation = Evaluation.find(store, event["evaluation"]) if event.get("evaluation") else None
    except DataError:  # show the champion without its interval
        evaluation = None
    summary = model_summary(state, event, evaluation)
    summary = {f"val_metric{bound}": summary[f"val_accuracy{bound}"] for bound in BOUNDS} | summary
    by = event.get("approved_by") or event.get("by") or ""
    made = {"action": event["action"], "decision": event.get("decision", ""), "sequence": champion_sequence(state),
            "refit": refit_of_model(state, event["model"])}
    return Champion.model_validate(summary | made | {
        "rank": summary["rank"] or None, "since": event["time"], "by": by})


def _threshold_changes(state: State) -> tuple[ThresholdChange, ...]:
    metric = state.get("metric", "accuracy")
    changes = [
        event for event in state["history"] if "threshold" in event and event.get("metric", metric) == metric
    ]
    initial = changes[0].get("previous_threshold") if changes else state["threshold"]
    steps = [] if initial is None else [("", initial)]
    steps += [(event["time"], event["threshold"]) for event in changes]
    return tuple(ThresholdChange(time=time, threshold=threshold) for time, threshold in steps)
