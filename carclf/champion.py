"""``champion.json``: the champion, the stored threshold, and the history, changed by compare-and-swap."""

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime

from typing_extensions import TypedDict  # pydantic needs it on Python 3.11

from carclf.artifacts import ArtifactKey, Evaluation, Metrics, Model, RefittedModel, Split, verify_artifact
from carclf.champion_history import (
    CHAMPION_ACTIONS,
    Event,
    State,
    StoredState,
    decline_of_model,
    measurement_of_model,
    promotion_of_model,
    promotions,
    refit_of_model,
    responses_of_model,
)
from carclf.config import THRESHOLDS, load_policy
from carclf.errors import ConfigError, DataError, NotFoundError, ServiceError
from carclf.metrics import METRICS, Metric
from carclf.services.storage import Store, format_command, parse_object, update_object

CHAMPION = "champion.json"
MODEL_KEY = re.compile(r"[0-9a-f]{16}")
MAX_ATTEMPTS = 20  # at a promotion or a rollback, which verifies models each time: as many as simultaneous promotions
MAX_NAMES = 5  # in a message
# Copied to a rollback's event.
PROMOTION_FIELDS = ("model", "decision", "evaluation", "run", "val_accuracy", "metric", "val_metric")


class _Member(TypedDict):
    split: ArtifactKey


class _Ensemble(TypedDict):
    members: list[_Member]


def read_state(store: Store) -> State | None:
    """Return ``champion`` (an event of the history, or None), ``threshold`` and ``history``; None for a new store."""
    stored = store.read(CHAMPION)
    return None if stored is None else _parse_state(stored.data, store)


def change_state(store: Store, change: Callable[[State | None], State | None]) -> None:
    """Replace the state with the result of ``change``, or leave it unchanged if the result is None.

    If another process writes first, ``change`` is called again with the newer state, so no update is lost.
    """

    def change_bytes(data: bytes | None) -> bytes | None:
        state = change(None if data is None else _parse_state(data, store))
        return None if state is None else json.dumps(state, indent=1).encode()

    update_object(store, CHAMPION, change_bytes)


def _parse_state(data: bytes, store: Store) -> State:
    state = parse_object(StoredState, data, f"{CHAMPION} in {store.url}", "Restore it from a backup.")
    return {"metric": "accuracy"} | dict(state)


def ensure_state(store: Store, threshold: float, metric: Metric = METRICS["accuracy"]) -> State:
    """Return the store's state; create it with this threshold and no champion if it is missing.

    A stored threshold that the policy does not allow is replaced by the policy's, with an event.

    Raises:
        ConfigError: The policy fixes another metric, or the stored threshold is of another one.
    """
    _require_allowed_metric(metric)
    while (state := read_state(store)) is None:
        change_state(store, lambda existing: None if existing else _new_state(threshold, metric))
    if state["metric"] != metric.name:
        command = format_command(store, f"champion set-threshold {threshold:.4g} --metric {metric.name}")
        raise ConfigError(f"The stored threshold {state['threshold']:.4f} in {store.url} is of {state['metric']}, but "
                          f"data.metric of this run is {metric.name}. Use another --store, or change the threshold, "
                          f"for example: {command}")
    return _apply_policy(store, state, metric)


def _apply_policy(store: Store, state: State, metric: Metric) -> State:
    """Tighten the stored threshold to the policy's, and return the state."""
    policy, limit = load_policy(), _policy_threshold(metric)

    def is_looser(state: State) -> bool:
        return limit is not None and state["metric"] == metric.name and metric.is_better(limit, state["threshold"])

    def tighten(state: State) -> State:
        event = {"action": "threshold_changed", "previous_threshold": state["threshold"], "by": f"policy {policy.file}"}
        return _with_event(state | {"threshold": limit}, event | {"threshold": limit, "metric": metric.name})

    if not is_looser(state):
        return state
    _change_if(store, is_looser, tighten)
    return read_state(store) or state


def _policy_threshold(metric: Metric) -> float | None:
    """Return the loosest threshold of a metric that the policy allows; None if it does not limit it."""
    limit: float | None = load_policy().limits.get(THRESHOLDS[0 if metric.higher_is_better else 1])
    return limit


def _require_limited_metric(metric: Metric) -> None:
    """Raise ConfigError if the policy limits only the thresholds of metrics in the other direction."""
    policy = load_policy()
    limited = [name for name in THRESHOLDS if name in policy.limits]
    if limited and _policy_threshold(metric) is None:
        (missing,) = set(THRESHOLDS) - set(limited)
        raise ConfigError(f"The policy {policy.file} limits {limited[0]} but not {missing}, so a threshold of "
                          f"{metric.noun} would have no limit. Use another --metric, or add {missing} to the policy.")


def _require_allowed_threshold(threshold: float, metric: Metric) -> None:
    """Raise ConfigError if the policy does not allow a threshold or its metric."""
    _require_allowed_metric(metric)
    limit = _policy_threshold(metric)
    if limit is not None and metric.is_better(limit, threshold):
        raise ConfigError(f"The threshold {threshold} is looser than the policy {load_policy().file} allows: {limit:g} "
                          f"({metric.noun}).")


def _require_allowed_metric(metric: Metric) -> None:
    """Raise ConfigError if the policy fixes another metric."""
    policy = load_policy()
    if policy.limits.get("data.metric", "auto") not in ("auto", metric.name):
        raise ConfigError(f"The policy {policy.file} fixes data.metric = {policy.limits['data.metric']}, so a model "
                          f"cannot be judged by {metric.name}. If a run was started with {metric.name}, start a new "
                          "run.")


def champion_event(store: Store) -> Event | None:
    """Return the event that made the champion, or None if there is no champion."""
    return (read_state(store) or {}).get("champion")


def champion_model(store: Store) -> Model | None:
    """Return the champion's fine-tuned model, or None if there is no champion."""
    event = champion_event(store)
    return None if event is None else load_event_model(store, event)


def load_event_model(store: Store, event: Event) -> Model:
    """Return the model that an event names; raise DataError if it is missing."""
    return Model.require(store, str(event["model"]), f"{CHAMPION} names it")


def champion_split(store: Store) -> Split | None:
    """Return the split that the champion was trained on, or None if there is no champion."""
    model = champion_model(store)
    return None if model is None else load_training_split(store, model)


def load_training_split(store: Store, champion: Model) -> Split:
    """Return the split that a champion was trained on; raise DataError if it is missing."""
    role = "it lists the images that the champion was trained on"
    return Split.require(store, champion.input("split"), role)


def require_common_classes(champion: Model, split: Split, store: Store) -> None:
    """Raise ConfigError if the split has less than half of the champion's classes: a comparison would be meaningless.

    The champion's predictions of classes that it was not trained on are always wrong.
    """
    names = champion.class_names
    common = [name for name in names if name in split.class_names]
    if not common or 2 * len(common) < len(names):
        raise ConfigError(
            f"The champion {champion.key} in {store.url} predicts the classes {_listed(names)}, but the classes of the "
            f"data are {_listed(split.class_names)}: {len(common)} in common. If data.class_names renamed the classes, "
            "restore their names. If data.source has other data, use another --store. To replace the champion without "
            "a comparison, set gate.champion_rule=off.")


def _listed(names: list[str]) -> str:
    return ", ".join(names[:MAX_NAMES]) + (", ..." if len(names) > MAX_NAMES else "")


def record_promotion(store: Store, event: Event, judged_state: State, *, raise_to: float | None = None) -> bool:
    """Append a promotion; return False if champion, threshold or a rejection have changed since the judged state.

    ``raise_to`` replaces a threshold that is easier to reach. The threshold never becomes easier.
    """
    metric = METRICS[judged_state["metric"]]
    if raise_to is not None and not metric.is_valid(raise_to):  # NaN would reject every later candidate
        raise DataError(f"Cannot raise the threshold to {raise_to}: {_expected(metric)}. Evaluate again with --set "
                        "force=true, or set gate.raise_threshold=off.")

    def is_unchanged(state: State) -> bool:
        model = event["model"]
        is_same_decline = decline_of_model(state, model) == decline_of_model(judged_state, model)
        is_new = promotion_of_model(state, model) is None
        return _gate_basis(state) == _gate_basis(judged_state) and is_same_decline and is_new

    def promote(state: State) -> State:
        promotion = {"action": "promoted"} | event
        if raise_to is None or not metric.is_better(raise_to, state["threshold"]):
            return _with_champion(state, promotion)
        return _with_champion(state | {"threshold": raise_to}, promotion | {"threshold": raise_to})

    return _change_if(store, is_unchanged, promote)


def roll_back(store: Store, name: str = "", by: str = "") -> Event:
    """Make an earlier champion the champion again and return the new event. All its files are verified first.

    ``name`` is the model's key or its run, or a prefix of one; the default is the previous champion. ``by`` names the
    person, for the history. Raise ConfigError if no earlier champion matches, or if the match is already the champion;
    DataError if one of its artifacts is missing or damaged.
    """
    for _ in range(MAX_ATTEMPTS):
        if (state := read_state(store)) is None or (champion := state["champion"]) is None:
            raise NotFoundError(f"There is no champion in {store.url}.")
        promotion = find_promotion(store, state, name) if name else _previous_promotion(state)
        if promotion["model"] == champion["model"]:
            raise ConfigError(f"{champion['model']} is already the champion.")
        _verify_champion(store, load_event_model(store, promotion))
        if refit := refit_of_model(state, promotion["model"]):
            verify_artifact(store, RefittedModel.require(store, refit, f"{CHAMPION} names it"))
        event = {"action": "rolled_back"} | {name: promotion[name] for name in PROMOTION_FIELDS if name in promotion}
        event |= {"previous_model": champion["model"], "by": by}
        if _replace_champion(store, champion, event):
            return event
    raise ServiceError(f"The champion changed {MAX_ATTEMPTS} times during the rollback. Try again.")


def _replace_champion(store: Store, champion: Event, event: Event) -> bool:
    """Append an event that makes its model the champion, unless another process replaced the champion first."""
    return _change_if(store, lambda state: bool(state["champion"] == champion),
                      lambda state: _with_champion(state, event))


def set_threshold(store: Store, threshold: float, by: str = "", metric_name: str = "") -> None:
    """Change the stored threshold, and its metric if one is named, and append an event.

    The champion does not change. Raise ConfigError if the metric cannot have this value, or if the policy does not
    allow it.
    """
    if metric_name and metric_name not in METRICS:
        raise ConfigError(f"{metric_name!r} is not a metric. Use one of {', '.join(METRICS)}.")

    def change(state: State | None) -> State | None:
        previous = state["threshold"] if state else None
        metric = METRICS[metric_name or (state or {}).get("metric", "accuracy")]
        if not metric.is_valid(threshold):
            raise ConfigError(f"The threshold {threshold} is not valid: {_expected(metric)}.")
        _require_allowed_threshold(threshold, metric)
        if metric_name and metric_name != (state or {}).get("metric"):
            _require_limited_metric(metric)
        changed = {"threshold": threshold, "metric": metric.name}
        if state and state == state | changed:
            return None
        event = {"action": "threshold_changed", "previous_threshold": previous, "by": by} | changed
        return _with_event((state or _new_state(threshold, metric)) | changed, event)

    change_state(store, change)


def _expected(metric: Metric) -> str:
    return "expected {} from {:g} to {:g}".format(metric.noun, *metric.limits)


def record_score(store: Store, model_key: str, metrics: Metrics) -> None:
    """Append a submission's ``ref``, ``public_score`` and ``rank`` to the history, once per model and ref.

    Nothing is written if the public score is empty or the store has no ``champion.json``.
    """

    def is_new(state: State) -> bool:
        recorded = [(event["model"], event["ref"]) for event in state["history"] if event["action"] == "scored"]
        return (model_key, metrics["ref"]) not in recorded

    event = {"action": "scored", "model": model_key, "ref": metrics["ref"]}
    event |= {"public_score": metrics["public_score"], "rank": metrics.get("rank", "")}
    if metrics["public_score"] != "":
        _change_if(store, is_new, lambda state: _with_event(state, event))


def record_measurement(store: Store, model_key: str, holdout: Evaluation) -> Event:
    """Append a champion's metrics on the labeled test images to the history, once per model; return the event."""
    event: Event = {"action": "measured", "model": model_key, "holdout_evaluation": holdout.key}
    event["metric"] = holdout.metrics.get("metric", "accuracy")
    event |= {name: value for name, value in holdout.metrics.items() if name.startswith("holdout_")}
    _change_if(store, lambda state: measurement_of_model(state, model_key) is None,
               lambda state: _with_event(state, event))
    return measurement_of_model(read_state(store) or {"history": []}, model_key) or event


def record_refit(store: Store, refitted: RefittedModel) -> None:
    """Append that a model was refitted to the history, unless it names this refitted model already."""
    model, key = refitted.measured_key, refitted.key
    _change_if(store, lambda state: refit_of_model(state, model) != key,
               lambda state: _with_event(state, {"action": "refitted", "model": model, "refit": key}))


def record_response(store: Store, event: Event) -> None:
    """Append a response to a request for approval to the history, once: a task that is retried repeats it."""

    def is_new(state: State) -> bool:
        return all(event | {"time": other["time"]} != other for other in responses_of_model(state, event["model"]))

    _change_if(store, is_new, lambda state: _with_event(state, event))


def require_promoted(store: Store, model_key: str) -> None:
    """Raise ConfigError if a model was never promoted."""
    if promotion_of_model(read_state(store) or {"history": []}, model_key) is None:
        raise ConfigError(f"The model {model_key} was never promoted. Promote it first: carclf promote --run RUN; if "
                          "gate.approval is required: carclf promote --run RUN --approved-by NAME.")


def find_promotion(store: Store, state: State, name: str) -> Event:
    """Return the promotion with this run or model key, or a prefix of one; raise ConfigError unless one matches."""
    exact = [event for event in promotions(state) if name in (event["model"], event.get("run"))]
    named = exact or [event for event in promotions(state) if _starts_with(event, name)]
    matches = {event["model"]: event for event in named if name}
    if len(matches) == 1:
        return next(iter(matches.values()))
    if matches:
        raise ConfigError(f"{name!r} is ambiguous: it names {' and '.join(matches)}. Use a longer prefix.")
    champions = ", ".join(event["model"] for event in promotions(state)) or "none"
    if MODEL_KEY.fullmatch(name) and Model.find(store, name):
        raise ConfigError(f"The model {name} was never the champion. Champions so far: {champions}.")
    raise NotFoundError(f"No champion in {store.url} has the key or the run {name!r}. Champions so far: {champions}.")


def _starts_with(event: Event, prefix: str) -> bool:
    return bool(event["model"].startswith(prefix) or str(event.get("run") or "").startswith(prefix))


def _verify_champion(store: Store, model: Model) -> None:
    """Verify every file of a champion that later runs read."""
    for artifact in (model, load_training_split(store, model)):
        verify_artifact(store, artifact)
    if not model.is_ensemble:
        return
    # The model's file contains the members' networks. Their splits determine which member may predict which image.
    path = f"models/{model.key}/ensemble.json in {store.url}"
    data = model.path(store, "ensemble.json").read_bytes()
    ensemble = parse_object(_Ensemble, data, path, "Restore it from a backup, or build the ensemble again.")
    for key in dict.fromkeys(member["split"] for member in ensemble["members"]):
        role = f"the split of a member of the ensemble {model.key}: it lists the images that the member was trained on"
        verify_artifact(store, Split.require(store, key, role))


def _previous_promotion(state: State) -> Event:
    """Return the promotion of the model that was the champion when the current one was promoted."""
    champion = state["champion"]["model"]
    previous = ""
    for event in state["history"]:
        if event["action"] == "promoted" and event["model"] == champion:
            break
        if event["action"] in CHAMPION_ACTIONS:
            previous = event["model"]
    if (promotion := promotion_of_model(state, previous)) is None:
        raise ConfigError(f"There was no champion before {champion}. Name a champion with --to MODEL.")
    return promotion


def _gate_basis(state: State) -> tuple[str | None, float, str]:
    """Return the champion's model, and the threshold with its metric, with which a candidate is compared."""
    return (state["champion"] or {}).get("model"), state["threshold"], state["metric"]


def _with_champion(state: State, event: Event) -> State:
    changed = _with_event(state, event)
    return changed | {"champion": changed["history"][-1]}


def _with_event(state: State, event: Event) -> State:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return state | {"history": [*state["history"], event | {"time": now}]}


def _new_state(threshold: float, metric: Metric) -> State:
    return {"champion": None, "threshold": threshold, "metric": metric.name, "history": []}


def _change_if(store: Store, condition: Callable[[State], bool], change: Callable[[State], State]) -> bool:
    """Change the state if the stored state meets the condition when it is written; return whether it was changed."""
    is_changed = False

    def change_state_once(state: State | None) -> State | None:
        nonlocal is_changed
        is_changed = state is not None and condition(state)
        return change(state) if state is not None and is_changed else None

    change_state(store, change_state_once)
    return is_changed
