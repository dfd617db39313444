"""The champion, the threshold and how both came to be."""

from typing import Any

from carclf.artifacts import Evaluation
from carclf.champion import Event, State, model_summary, read_state
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
    known = model_summary(state, event, evaluation)
    return known | {
        "rank": known["rank"] or None, "since": event["time"],
        "by": event.get("approved_by") or event.get("by") or "",
    }


def _thresholds(state: State) -> list[dict[str, Any]]:
    changes = [event for event in state["history"] if "threshold" in event]
    first = changes[0].get("previous_threshold") if changes else state["threshold"]
    begin = [] if first is None else [{"time": "", "threshold": first}]
    return begin + [{"time": event.get("time", ""), "threshold": event["threshold"]} for event in changes]
