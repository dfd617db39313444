"""The model that a command works on: ``--model KEY``, ``--run RUN``, or the champion."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from carclf.artifacts import Classifier, Decision, Evaluation, Model, RefittedModel
from carclf.champion import CHAMPION, champion_model, read_state
from carclf.champion_history import refit_of_model
from carclf.errors import ConfigError, NotFoundError
from carclf.runs.record import Record
from carclf.runs.run import Run
from carclf.runs.run_names import load_run
from carclf.services.storage import Store

KEY_DIGITS = 16
KEY = re.compile(f"[0-9a-f]{{{KEY_DIGITS}}}")


@dataclass(frozen=True)
class SelectedModel:
    """A model, the way it was selected, and related data in the store.

    The evaluation, decision and scores of a refitted model are those of its measured model. ``record`` is the record
    of the run that trained it. ``scores`` are the champion events of its public scores.
    """

    model: Classifier
    origin: str
    evaluation: Evaluation | None = None
    decision: Decision | None = None
    record: Record | None = None
    scores: list[dict[str, Any]] = field(default_factory=list)

    @property
    def temperature(self) -> float | None:
        """The temperature that calibrates the model's predictions, or None if it has not been evaluated."""
        return None if self.evaluation is None else self.evaluation.number("temperature")


def select_model(store: Store, key: str = "", run: str = "") -> SelectedModel:
    """Return the model with this key, else the model of this run, else the champion.

    Without a key, the refitted model is returned if there is one. The evaluation is that of the run or of the
    promotion, else any evaluation on the model's own split. Raise ConfigError if both key and run are given, or if the
    model does not exist.
    """
    if key and run:
        raise ConfigError("Both --model and --run are given. Give only one of them.")
    if run:
        loaded = load_run(run, store)
        run = loaded.run_id
        if "refit" in loaded.record["stages"]:
            refitted = loaded.artifact(RefittedModel, "refit")
            return _describe(store, refitted, f"the refitted model of run {run}", loaded.record)
        return _describe(store, loaded.artifact(Model, "fine_tune"), f"the model of run {run}", loaded.record)
    if key:
        return _describe(store, _find_model(store, key), "a model of the store", None)
    if (champion := champion_model(store)) is None:
        raise NotFoundError(f"{store.url} has no champion yet. Promote a run's model, or name a model.")
    if refit := refit_of_model(read_state(store) or {"history": []}, champion.key):
        refitted = RefittedModel.require(store, refit, f"{CHAMPION} names it")
        return _describe(store, refitted, "the refitted champion", None)
    return _describe(store, champion, "the champion", None)


def _find_model(store: Store, key: str) -> Classifier:
    if not KEY.fullmatch(key):
        raise ConfigError(f"Invalid model key {key!r}. Give the {KEY_DIGITS} hexadecimal digits that the log of "
                          "fine_tune shows.")
    if (model := Model.find(store, key) or RefittedModel.find(store, key)) is None:
        raise NotFoundError(f"There is no model {key!r} in {store.url}. Give the name of a folder in models/ or "
                            "refits/, or --run with the run that trained it.")
    return model


def _describe(store: Store, model: Classifier, origin: str, record: Record | None) -> SelectedModel:
    state = read_state(store) or {"history": []}
    events = [event for event in state["history"] if event.get("model") == model.measured_key]
    promotion: dict[str, Any] = next((event for event in reversed(events) if "decision" in event), {})
    decision = Decision.find(store, promotion["decision"]) if promotion else None
    if record is None and promotion.get("run") and store.read(f"runs/{promotion['run']}.json"):
        record = Run.load(promotion["run"], store).record
    scores = [event for event in events if event.get("action") == "scored"]
    return SelectedModel(model, origin, _find_evaluation(store, model, record, decision), decision, record, scores)


def _find_evaluation(
    store: Store, model: Classifier, record: Record | None, decision: Decision | None
) -> Evaluation | None:
    likely = [record["stages"].get("evaluate", {}).get("key")] if record else []
    likely += [decision.inputs.get("evaluation")] if decision else []
    if (evaluation := _first_of_model(store, model, likely)) is not None:
        return evaluation
    return _first_of_model(store, model, Evaluation.list_keys(store))


def _first_of_model(store: Store, model: Classifier, keys: Iterable[str | None]) -> Evaluation | None:
    """Return the first of these evaluations that validates the model on its own split."""
    for key in keys:
        evaluation = Evaluation.find(store, key) if key else None
        if evaluation is None or evaluation.inputs.get("model") != model.measured_key:
            continue
        if "validation" not in evaluation.inputs and evaluation.inputs.get("split") == model.inputs.get("split"):
            return evaluation
    return None
