"""The champion, the threshold and how both came to be."""

from typing import Any

from carclf.artifacts import Evaluation
from carclf.champion import Event, State, action, read_state
from carclf.errors import DataError
from carclf.services.storage import Store


def champion_facts(store: Store) -> dict[str, Any] | None:
    """The champion and the threshold; None in a store where nobody was judged yet. DataError where it is damaged.

    ``champion``: None, or ``model``, ``run``, ``val_accuracy``, ``low``, ``high``, ``public_score``, ``rank`` (numbers
    or None), ``since`` (ISO 8601), ``by`` (who approved or rolled back, or ""). ``threshold``, and ``thresholds``:
    ``time`` ("": from the beginning) and ``threshold`` of each change, the oldest first, for a line over time.
    ``events``: the history as it is, the newest first.
    """
    if (state := read_state(store)) is None:
        return None
    champion = state["champion"]
    return {
        "champion": None if champion is None else _champion(store, state, champion),
        "threshold": state["threshold"], "thresholds": _thresholds(state), "events": state["history"][::-1],
    }


def _champion(store: Store, state: State, event: Event) -> dict[str, Any]:
    try:
        evaluation = Evaluation.find(store, event["evaluation"]) if event.get("evaluation") else None
    except DataError:  # the champion is known all the same; its interval is not
        evaluation = None
    figures = evaluation.figures if evaluation else {}
    scores = [other for other in state["history"] if action(other) == "scored" and other["model"] == event["model"]]
    last = scores[-1] if scores else {}
    return {
        "model": event["model"], "run": event.get("run", ""), "val_accuracy": event.get("val_accuracy"),
        "low": figures.get("low"), "high": figures.get("high"), "public_score": last.get("public_score"),
        "rank": last.get("rank") or None, "since": event.get("time") or event.get("promoted", ""),
        "by": event.get("approved_by") or event.get("by") or "",
    }


def _thresholds(state: State) -> list[dict[str, Any]]:
    changes = [event for event in state["history"] if "threshold" in event]
    first = changes[0].get("before") if changes else state["threshold"]
    begin = [] if first is None else [{"time": "", "threshold": first}]
    return begin + [{"time": event.get("time", ""), "threshold": event["threshold"]} for event in changes]
