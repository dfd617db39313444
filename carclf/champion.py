"""``champion.json``: the champion, the stored threshold and the history, changed by compare-and-swap.

The history only grows. Its events have an ``action`` (promoted, rolled_back, threshold, scored; those that older
versions wrote have none, and are promotions) and a ``time``; the first two name the champion from then on.
"""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from carclf.artifacts import Figures, Model, Split
from carclf.errors import DataError
from carclf.services.storage import Store, change_object

CHAMPION = "champion.json"
State = dict[str, Any]
Event = dict[str, Any]


def read_state(store: Store) -> State | None:
    """``champion`` (an event of the history, or None), ``threshold`` and ``history``; None in a new store."""
    found = store.read(CHAMPION)
    return None if found is None else json.loads(found.data)


def change_state(store: Store, change: Callable[[State | None], State | None]) -> None:
    """Replace the state by what ``change`` makes of it (None: leave it), so that two that write at once lose nothing.

    ``change`` may be called again with a newer state. ServiceError where others were first each time.
    """
    def changed(data: bytes | None) -> bytes | None:
        state = change(None if data is None else json.loads(data))
        return None if state is None else json.dumps(state, indent=1).encode()

    change_object(store, CHAMPION, changed)


def begun_state(store: Store, threshold: float) -> State:
    """The store's state; a store without one gets this threshold and no champion."""
    change_state(store, lambda state: None if state else _new_state(threshold))
    state = read_state(store)
    assert state is not None
    return state


def champion_model(store: Store) -> Model | None:
    """The champion's fine-tuned model; None where there is no champion, DataError where its artifact is gone."""
    state = read_state(store)
    if state is None or state["champion"] is None:
        return None
    return model_of(store, state["champion"])


def model_of(store: Store, event: Event) -> Model:
    """The model that an event names; DataError where it is gone."""
    key = str(event["model"])
    if (model := Model.find(store, key)) is None:
        raise DataError(f"{CHAMPION} names the model {key}, which is gone from {store.url}. Restore models/{key}.")
    return model


def champion_split(store: Store) -> Split | None:
    """The split that the champion was trained on; None where there is no champion, DataError where it is gone."""
    model = champion_model(store)
    return None if model is None else split_of(store, model)


def split_of(store: Store, champion: Model) -> Split:
    """The split that a champion was trained on; DataError where it is gone."""
    key = champion.inputs["split"]
    if (split := Split.find(store, key)) is None:
        raise DataError(f"The champion was trained on the split {key}, which is gone from {store.url}: nobody can tell "
                        f"which pictures it knows. Restore splits/{key}.")
    return split


def record_score(store: Store, model_key: str, figures: Figures) -> None:
    """Append a submission's ``ref``, ``public_score`` and ``rank`` to the history, once for a model and a ref.

    An empty public score is none yet, and a store without a champion's file keeps no history: both leave all as it is.
    """
    def change(state: State | None) -> State | None:
        if state is None or any(known(event) for event in state["history"]):
            return None
        return _with_event(state, scored)

    def known(event: Event) -> bool:
        return action(event) == "scored" and (event["model"], event["ref"]) == (model_key, figures["ref"])

    scored = {"action": "scored", "model": model_key, "ref": figures["ref"],
              "public_score": figures["public_score"], "rank": figures.get("rank", "")}
    if figures["public_score"] != "":
        change_state(store, change)


def action(event: Event) -> str:
    """What an event did."""
    return str(event.get("action", "promoted"))


def _with_event(state: State, event: Event) -> State:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return state | {"history": [*state["history"], event | {"time": now}]}


def _new_state(threshold: float) -> State:
    return {"champion": None, "threshold": threshold, "history": []}
