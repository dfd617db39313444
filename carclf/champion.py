"""``champion.json``: the champion, the stored threshold and the history, changed by compare-and-swap."""

import json
from collections.abc import Callable
from typing import Any

from carclf.artifacts import Model, Split
from carclf.errors import DataError
from carclf.services.storage import Store, change_object

CHAMPION = "champion.json"
State = dict[str, Any]


def read_state(store: Store) -> State | None:
    """``champion`` (an entry of the history, or None), ``threshold`` and ``history``; None in a new store."""
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


def champion_model(store: Store) -> Model | None:
    """The champion's fine-tuned model; None where there is no champion, DataError where its artifact is gone."""
    state = read_state(store)
    if state is None or state["champion"] is None:
        return None
    key = str(state["champion"]["model"])
    if (model := Model.find(store, key)) is None:
        raise DataError(f"{CHAMPION} names the model {key}, which is gone from {store.url}. Restore models/{key}.")
    return model


def champion_split(store: Store) -> Split | None:
    """The split that the champion was trained on; None where there is no champion, DataError where it is gone."""
    if (model := champion_model(store)) is None:
        return None
    key = model.inputs["split"]
    if (split := Split.find(store, key)) is None:
        raise DataError(f"The champion was trained on the split {key}, which is gone from {store.url}: nobody can tell "
                        f"which pictures it knows. Restore splits/{key}.")
    return split
