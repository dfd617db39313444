"""``champion.json``: the champion, the stored threshold and the history, changed by compare-and-swap.

The history only grows. Its events have an ``action`` (promoted, rolled_back, threshold, scored; those that older
versions wrote have none, and are promotions) and a ``time``; the first two name the champion from then on.
"""

import json
import math
import re
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from carclf.artifacts import Artifact, Evaluation, Metrics, Model, Split, file_sha256
from carclf.errors import ConfigError, DataError, ServiceError
from carclf.services.storage import MAX_UPDATE_ATTEMPTS, Store, update_object

CHAMPION = "champion.json"
State = dict[str, Any]
Event = dict[str, Any]
# What a rolling back repeats of the promotion.
ENTRY = ("model", "decision", "evaluation", "run", "val_accuracy")


def read_state(store: Store) -> State | None:
    """``champion`` (an event of the history, or None), ``threshold`` and ``history``; None in a new store.

    DataError where it is damaged.
    """
    found = store.read(CHAMPION)
    return None if found is None else _parsed(found.data, store)


def change_state(store: Store, change: Callable[[State | None], State | None]) -> None:
    """Replace the state by what ``change`` makes of it (None: leave it), so that two that write at once lose nothing.

    ``change`` may be called again with a newer state. ServiceError where others were first each time.
    """
    def changed(data: bytes | None) -> bytes | None:
        state = change(None if data is None else _parsed(data, store))
        return None if state is None else json.dumps(state, indent=1).encode()

    update_object(store, CHAMPION, changed)


def _parsed(data: bytes, store: Store) -> State:
    try:
        state = json.loads(data)
    except ValueError as error:
        raise _damaged(store, f"it is no JSON ({error})") from error
    if not isinstance(state, dict) or (missing := {"champion", "threshold", "history"} - state.keys()):
        raise _damaged(store, f"it has no {', no '.join(sorted(missing))}" if isinstance(state, dict) else
                       "it is no JSON object")
    champion, threshold, history = state["champion"], state["threshold"], state["history"]
    if isinstance(threshold, bool) or not isinstance(threshold, int | float) or not math.isfinite(threshold):
        raise _damaged(store, "its threshold is no number")
    if champion is not None and not (isinstance(champion, dict) and "model" in champion):
        raise _damaged(store, "its champion names no model")
    if not isinstance(history, list) or not all(isinstance(event, dict) for event in history):
        raise _damaged(store, "its history is no list of events")
    return state


def _damaged(store: Store, what: str) -> DataError:
    return DataError(f"{CHAMPION} in {store.url} is damaged: {what}. Restore it from a backup.")


def ensure_state(store: Store, threshold: float) -> State:
    """The store's state; a store without one gets this threshold and no champion."""
    while (state := read_state(store)) is None:
        change_state(store, lambda there: None if there else _new_state(threshold))
    return state


def champion_event(store: Store) -> Event | None:
    """The event that made the champion; None where there is no champion."""
    state = read_state(store)
    return None if state is None else state["champion"]


def champion_model(store: Store) -> Model | None:
    """The champion's fine-tuned model; None where there is no champion, DataError where its artifact is gone."""
    event = champion_event(store)
    return None if event is None else load_event_model(store, event)


def load_event_model(store: Store, event: Event) -> Model:
    """The model that an event names; DataError where it is gone."""
    key = str(event["model"])
    if (model := Model.find(store, key)) is None:
        raise DataError(f"{CHAMPION} names the model {key}, which is gone from {store.url}. Restore models/{key}.")
    return model


def champion_split(store: Store) -> Split | None:
    """The split that the champion was trained on; None where there is no champion, DataError where it is gone."""
    model = champion_model(store)
    return None if model is None else load_training_split(store, model)


def load_training_split(store: Store, champion: Model) -> Split:
    """The split that a champion was trained on; DataError where it is gone."""
    key = champion.inputs["split"]
    if (split := Split.find(store, key)) is None:
        raise DataError(f"The champion was trained on the split {key}, which is gone from {store.url}: nobody can tell "
                        f"which pictures it knows. Restore splits/{key}.")
    return split


def record_promotion(store: Store, event: Event, judged: State, *, raise_to: float | None = None) -> bool:
    """Append a promotion; False where champion or threshold are no more those of the state that was judged.

    The threshold rises to ``raise_to`` where it is lower, and never falls. DataError where that is no accuracy.
    """
    if raise_to is not None and not 0 <= raise_to <= 1:  # nor where it is no number: NaN would pass nobody
        raise DataError(f"The threshold cannot be raised to {raise_to}, which is no accuracy. Evaluate again with "
                        "force, or set gate.raise_threshold=off.")

    def holds(state: State) -> bool:
        return _ground(state) == _ground(judged) and promotion_of_model(state, event["model"]) is None

    def changed(state: State) -> State:
        if raise_to is None or raise_to <= state["threshold"]:
            return _crowned(state, {"action": "promoted"} | event)
        return _crowned(state | {"threshold": raise_to}, {"action": "promoted"} | event | {"threshold": raise_to})

    return _change_if(store, holds, changed)


def roll_back(store: Store, name: str = "", by: str = "") -> Event:
    """Make an earlier champion the champion again, as a new event, once all that it needs was found to be whole.

    ``name``: its model's key, the key's beginning, or its run; by default the one before the champion. ConfigError
    where there is none, DataError where anything of it is gone or damaged.
    """
    for _ in range(MAX_UPDATE_ATTEMPTS):
        if (state := read_state(store)) is None or (now := state["champion"]) is None:
            raise ConfigError(f"There is no champion in {store.url}.")
        wanted = find_promotion(store, state, name) if name else _the_one_before(state)
        if wanted["model"] == now["model"]:
            raise ConfigError(f"{now['model']} is the champion already.")
        model = load_event_model(store, wanted)
        _check_all_of(store, model)
        event = {"action": "rolled_back"} | {part: wanted[part] for part in ENTRY if part in wanted} | {
            "previous_model": now["model"], "by": by}
        # where somebody was first, the one before is another
        if _change_if(store, lambda state: state["champion"] == now, lambda state: _crowned(state, event)):  # noqa: B023
            return event
    raise ServiceError(f"The champion changed {MAX_UPDATE_ATTEMPTS} times while it was to be rolled back. Try again.")


def set_threshold(store: Store, threshold: float, by: str = "") -> None:
    """Change the stored threshold, as an event of the history; the champion stays."""
    if not 0 <= threshold <= 1:
        raise ConfigError(f"The threshold {threshold} is no accuracy: give a number from 0 to 1.")

    def change(state: State | None) -> State | None:
        before = state["threshold"] if state else None
        if before == threshold:
            return None
        event = {"action": "threshold", "threshold": threshold, "previous_threshold": before, "by": by}
        return _with_event((state or _new_state(threshold)) | {"threshold": threshold}, event)

    change_state(store, change)


def record_score(store: Store, model_key: str, metrics: Metrics) -> None:
    """Append a submission's ``ref``, ``public_score`` and ``rank`` to the history, once for a model and a ref.

    An empty public score is none yet, and a store without a champion's file keeps no history: both leave all as it is.
    """
    def recorded(event: Event) -> bool:
        return event_action(event) == "scored" and (event["model"], event["ref"]) == (model_key, metrics["ref"])

    event = {"action": "scored", "model": model_key, "ref": metrics["ref"],
             "public_score": metrics["public_score"], "rank": metrics.get("rank", "")}
    if metrics["public_score"] != "":
        _change_if(store, lambda state: not any(map(recorded, state["history"])),
                   lambda state: _with_event(state, event))


def event_action(event: Event) -> str:
    """What an event did."""
    return str(event.get("action", "promoted"))


def event_time(event: Event) -> str:
    """When it was, in ISO format; "" where that is not known."""
    return str(event.get("time") or event.get("promoted", ""))  # as older versions wrote it


def model_summary(state: State, event: Event, evaluation: Evaluation | None) -> dict[str, Any]:
    """What is known of an event's model: accuracy, its interval and the last public score; None for what is not."""
    metrics = evaluation.metrics if evaluation else {}
    scores = [other for other in state["history"] if event_action(other) == "scored" and other["model"] == event["model"]]
    last = scores[-1] if scores else {}
    return {
        "model": event["model"], "run": event.get("run", ""), "val_accuracy": event.get("val_accuracy"),
        "val_accuracy_low": metrics.get("val_accuracy_low"), "val_accuracy_high": metrics.get("val_accuracy_high"), "public_score": last.get("public_score"),
        "rank": last.get("rank"),
    }


def promotions(state: State) -> list[Event]:
    """The events that promoted a model, oldest first."""
    return [event for event in state["history"] if event_action(event) == "promoted"]


def promotion_of_model(state: State, model_key: str) -> Event | None:
    """The event that promoted a model; None where it never was."""
    return next((event for event in promotions(state) if event["model"] == model_key), None)


def find_promotion(store: Store, state: State, name: str) -> Event:
    """The promotion of a model, named by its key, the key's beginning, or its run; ConfigError where it is not one."""
    found = {event["model"]: event for event in promotions(state)
             if name and (event["model"].startswith(name) or event.get("run") == name)}
    if len(found) == 1:
        return next(iter(found.values()))
    known = ", ".join(event["model"] for event in promotions(state)) or "none"
    if found:
        raise ConfigError(f"{name!r} may be {' or '.join(found)}. Give more of the key.")
    if re.fullmatch(r"[0-9a-f]{16}", name) and Model.find(store, name):
        raise ConfigError(f"The model {name} was never champion. The champions were: {known}.")
    raise ConfigError(f"No champion of {store.url} has the key or the run {name!r}. The champions were: {known}.")


def verify_artifact(store: Store, artifact: Artifact) -> None:
    """Raise DataError where a file of the artifact is gone from the store or damaged there, whatever is cached here."""
    with tempfile.TemporaryDirectory(prefix="carclf-") as folder:
        for name, file in artifact.files.items():
            path = Path(folder) / "file"
            try:
                store.download(file.key, path)
            except KeyError as error:
                raise DataError(f"{file.key}, {name} of {artifact.folder}/{artifact.key}, is gone from {store.url}. "
                                "Restore it.") from error
            if file_sha256(path) != file.sha256:
                raise DataError(f"{file.key}, {name} of {artifact.folder}/{artifact.key}, is damaged in {store.url}. "
                                "Restore it.")


def _check_all_of(store: Store, model: Model) -> None:
    """Raise DataError where anything is gone or damaged that later runs read of a champion."""
    for artifact in (model, load_training_split(store, model)):
        verify_artifact(store, artifact)
    if not model.is_ensemble:
        return
    # its members' networks are in its own file; who of them may answer for a picture is told by their splits
    members = json.loads(model.path(store, "ensemble.json").read_text())["members"]
    for key in dict.fromkeys(str(member["split"]) for member in members):
        if (split := Split.find(store, key)) is None:
            raise DataError(f"The split {key} of a member of the ensemble {model.key} is gone from {store.url}: nobody "
                            f"can tell which pictures the member knows. Restore splits/{key}.")
        verify_artifact(store, split)


def _the_one_before(state: State) -> Event:
    """The promotion of the model that was the champion when the present one was promoted."""
    before = None
    for event in state["history"]:
        if event_action(event) == "promoted" and event["model"] == state["champion"]["model"]:
            break
        if event_action(event) in ("promoted", "rolled_back"):
            before = event["model"]
    found = promotion_of_model(state, before) if before else None
    if found is None:
        raise ConfigError(f"There was no champion before {state['champion']['model']}. Name another one: --to MODEL.")
    return found


def _ground(state: State) -> tuple[str | None, float]:
    """What a candidate is judged by: the champion's model and the threshold."""
    return (state["champion"] or {}).get("model"), state["threshold"]


def _crowned(state: State, event: Event) -> State:
    changed = _with_event(state, event)
    return changed | {"champion": changed["history"][-1]}


def _with_event(state: State, event: Event) -> State:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return state | {"history": [*state["history"], event | {"time": now}]}


def _new_state(threshold: float) -> State:
    return {"champion": None, "threshold": threshold, "history": []}


def _change_if(store: Store, holds: Callable[[State], bool], changed: Callable[[State], State]) -> bool:
    """Change the state if ``holds`` says so of what is there when it is written; whether it did."""
    done = False

    def change(state: State | None) -> State | None:
        nonlocal done
        done = state is not None and holds(state)
        return changed(state) if state is not None and done else None

    change_state(store, change)
    return done
