"""The content of ``champion.json``, and queries of its history.

The history only grows. Each event has an ``action`` and a ``time``. The actions ``promoted`` and ``rolled_back`` make
the event's model the champion; ``threshold_changed``, ``scored``, ``measured`` (on labeled test images) and
``refitted`` do not. A champion is always a measured model; ``refitted`` names the refitted model that predicts for it.
The responses to a request for approval are ``declined``, ``expired`` (nobody responded), and ``approved`` if the gate
rejected the candidate afterwards; a promotion names its approver itself.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, NotRequired, Required

from pydantic import AfterValidator, Field, FiniteFloat, with_config
from typing_extensions import TypedDict  # pydantic needs it on Python 3.11

from carclf.artifacts import ArtifactKey, Evaluation
from carclf.metrics import METRICS

CHAMPION_ACTIONS = ("promoted", "rolled_back")
RESPONSE_ACTIONS = ("approved", "declined", "expired")
MAX_NOTE_CHARS = 1000  # of a response
HOLDOUT_FIELDS = ("holdout_accuracy", "holdout_accuracy_low", "holdout_accuracy_high",
                  "holdout_metric", "holdout_metric_low", "holdout_metric_high")
State = dict[str, Any]  # StoredState
Event = dict[str, Any]  # StoredEvent
Accuracy = Annotated[float, Field(ge=0, le=1)]


def _require_metric(name: str) -> str:
    if name not in METRICS:
        raise ValueError(f"{name!r} is not a metric: expected one of {', '.join(METRICS)}")
    return name


MetricName = Annotated[str, AfterValidator(_require_metric)]


@with_config(extra="allow")
class StoredEvent(TypedDict, total=False):
    """An event of the history in ``champion.json``. ``rank`` may be empty."""

    action: Required[Literal["promoted", "rolled_back", "threshold_changed", "scored", "measured", "refitted",
                             "approved", "declined", "expired"]]
    time: Required[str]
    model: ArtifactKey
    run: str
    decision: ArtifactKey
    evaluation: ArtifactKey
    val_accuracy: Accuracy | None
    metric: MetricName
    val_metric: FiniteFloat | None
    approved_by: str
    note: str
    shown_decision: ArtifactKey  # the decision that the approver saw, and the champion in it
    shown_champion: ArtifactKey | None
    override: str
    rejection: str
    previous_model: ArtifactKey | None
    threshold: FiniteFloat
    previous_threshold: FiniteFloat | None
    by: str
    ref: int
    public_score: FiniteFloat
    rank: int | Literal[""]
    refit: ArtifactKey
    holdout_evaluation: ArtifactKey
    holdout_accuracy: Accuracy
    holdout_accuracy_low: Accuracy
    holdout_accuracy_high: Accuracy
    holdout_metric: FiniteFloat
    holdout_metric_low: FiniteFloat
    holdout_metric_high: FiniteFloat


_REQUIRED_FIELDS = {
    "promoted": {"model", "decision"}, "rolled_back": {"model", "previous_model"}, "threshold_changed": {"threshold"},
    "scored": {"model", "ref", "public_score", "rank"}, "measured": {"model", "holdout_evaluation", "holdout_accuracy"},
    "refitted": {"model", "refit"}, **{action: {"model"} for action in RESPONSE_ACTIONS},
}


def _require_fields(event: StoredEvent) -> StoredEvent:
    if missing := _REQUIRED_FIELDS[event["action"]] - event.keys():
        raise ValueError(f"{event['action']} lacks {', '.join(sorted(missing))}")
    return event


_CompleteEvent = Annotated[StoredEvent, AfterValidator(_require_fields)]


class StoredState(TypedDict):
    """The content of ``champion.json``; ``champion`` is the event that made the champion, or None.

    Without ``metric``, as earlier versions wrote it, the threshold is of accuracy.
    """

    champion: _CompleteEvent | None
    threshold: FiniteFloat
    metric: NotRequired[MetricName]
    history: list[_CompleteEvent]


def measurement_of_model(state: State, model_key: str) -> Event | None:
    """Return the event with a model's metrics on the labeled test images, or None if they were not measured."""
    measured = (event for event in state["history"] if event["action"] == "measured")
    return next((event for event in measured if event["model"] == model_key), None)


def responses_of_model(state: State, model_key: str) -> list[Event]:
    """Return the responses to requests to promote a model, oldest first."""
    responses = [event for event in state["history"] if event["action"] in RESPONSE_ACTIONS]
    return [event for event in responses if event["model"] == model_key]


def decline_of_model(state: State, model_key: str) -> Event | None:
    """Return the last event in which a person declined a model, or None. Later responses do not revoke it."""
    declines = [event for event in responses_of_model(state, model_key) if event["action"] == "declined"]
    return declines[-1] if declines else None


def describe_response(event: Event) -> str:
    """Return a response as text, such as ``declined by Ada: too few images``."""
    by, note = event.get("by"), event.get("note")
    return f"{event['action']}{f' by {by}' if by else ''}{f': {note}' if note else ''}"


def champion_sequence(state: State) -> int:
    """Return the position in the history, from 1, of the event that made the model that predicts; 0 without a champion.

    That is the newest promotion or rollback, or the champion's newest refit after it.
    """
    model = (state["champion"] or {}).get("model")
    positions = [
        number for number, event in enumerate(state["history"], 1)
        if event["action"] in CHAMPION_ACTIONS or (event["action"] == "refitted" and event["model"] == model)
    ]
    return positions[-1] if positions else 0


def refit_of_model(state: State, model_key: str) -> str:
    """Return the key of the newest refitted model of a model, or ""."""
    refits = [event["refit"] for event in state["history"]
              if event["action"] == "refitted" and event["model"] == model_key]
    return str(refits[-1]) if refits else ""


def describe_holdout(measurement: Mapping[str, Any]) -> str:
    """Return the metric and the accuracy on the labeled test images, with their 95% intervals, as text."""
    names = {"metric": METRICS[measurement.get("metric", "accuracy")], "accuracy": METRICS["accuracy"]}
    if names["metric"].is_accuracy or measurement.get("holdout_metric") is None:
        del names["metric"]
    return ", ".join(
        f"{metric.noun} {measurement[f'holdout_{name}']:.4f} ({measurement[f'holdout_{name}_low']:.4f} to "
        f"{measurement[f'holdout_{name}_high']:.4f})" for name, metric in names.items())


def model_summary(state: State, event: Event, evaluation: Evaluation | None) -> dict[str, Any]:
    """Return accuracy, metric, their intervals, last public score and rank of an event's model; None if unknown."""
    metrics = evaluation.metrics if evaluation else {}
    scores = [other for other in state["history"] if other["action"] == "scored" and other["model"] == event["model"]]
    last_score = scores[-1] if scores else {}
    measurement = measurement_of_model(state, event["model"]) or {}
    return {
        "model": event["model"],
        "run": event.get("run", ""),
        "val_accuracy": event.get("val_accuracy"),
        "val_accuracy_low": metrics.get("val_accuracy_low"),
        "val_accuracy_high": metrics.get("val_accuracy_high"),
        "metric": event.get("metric", "accuracy"),
        "val_metric": event.get("val_metric", event.get("val_accuracy")),
        "val_metric_low": metrics.get("val_metric_low", metrics.get("val_accuracy_low")),
        "val_metric_high": metrics.get("val_metric_high", metrics.get("val_accuracy_high")),
        **{name: measurement.get(name) for name in HOLDOUT_FIELDS},
        "public_score": last_score.get("public_score"),
        "rank": last_score.get("rank"),
    }


def promotions(state: State) -> list[Event]:
    """Return the events that promoted a model, oldest first."""
    return [event for event in state["history"] if event["action"] == "promoted"]


def promotion_of_model(state: State, model_key: str) -> Event | None:
    """Return the event that promoted a model, or None if it was never promoted."""
    return next((event for event in promotions(state) if event["model"] == model_key), None)
