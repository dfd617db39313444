"""Which model a command means: the one of --model KEY, of --run RUN, or the champion; and what is known of it."""

import re
from dataclasses import dataclass, field
from typing import Any

from carclf.artifacts import Decision, Evaluation, Model
from carclf.champion import champion_model, read_state
from carclf.errors import ConfigError
from carclf.runs.run import Run
from carclf.services.storage import Store

KEY_DIGITS = 16
KEY = re.compile(f"[0-9a-f]{{{KEY_DIGITS}}}")


@dataclass(frozen=True)
class SelectedModel:
    """A model and the words for how it was chosen; where they are known, its evaluation and more of its story.

    ``record`` is of the run that made it, ``scores`` are the events of its public scores.
    """

    model: Model
    origin: str
    evaluation: Evaluation | None = None
    decision: Decision | None = None
    record: dict[str, Any] = field(default_factory=dict)
    scores: list[dict[str, Any]] = field(default_factory=list)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the network's input, in pixels."""
        return int(self.model.number("image_height")), int(self.model.number("image_width"))

    @property
    def temperature(self) -> float | None:
        """By which its answers are calibrated; None where no evaluation tells it."""
        found = self.evaluation.metrics.get("temperature") if self.evaluation else None
        return None if found is None else float(found)


def select_model(store: Store, key: str = "", run: str = "") -> SelectedModel:
    """The model of that key, else the fine-tuned one of that run, else the champion; ConfigError where there is none.

    Its evaluation is that of the run or of the promotion, else any on the model's own split that the store has.
    """
    if key and run:
        raise ConfigError("Give --model or --run, not both.")
    if key and not KEY.fullmatch(key):
        raise ConfigError(f"{key!r} is no key of a model: those are {KEY_DIGITS} hexadecimal digits, as the line of "
                          "fine_tune names them.")
    if run:
        begun = Run.load(run, store)
        return _told(store, begun.artifact(Model, "fine_tune"), f"the model of the run {run}", begun.record)
    found = Model.find(store, key) if key else champion_model(store)
    if found is None and key:
        raise ConfigError(f"There is no model {key!r} in {store.url}. Give the key of a folder in models/, or --run "
                          "with the run that made it.")
    if found is None:
        raise ConfigError(f"{store.url} has no champion yet. Give --run or --model with the model that is meant.")
    return _told(store, found, "a model of the store" if key else "the champion", {})


def _told(store: Store, model: Model, origin: str, record: dict[str, Any]) -> SelectedModel:
    state = read_state(store) or {"history": []}
    events = [event for event in state["history"] if event.get("model") == model.key]
    promoted: dict[str, Any] = next((event for event in reversed(events) if "decision" in event), {})
    decision = Decision.find(store, promoted["decision"]) if promoted else None
    if not record and promoted.get("run") and store.read(f"runs/{promoted['run']}.json"):
        record = Run.load(promoted["run"], store).record
    scores = [event for event in events if event.get("action") == "scored"]
    return SelectedModel(model, origin, _evaluation(store, model, record, decision), decision, record, scores)


def _evaluation(
    store: Store, model: Model, record: dict[str, Any], decision: Decision | None
) -> Evaluation | None:
    known = [record["stages"].get("evaluate", {}).get("key")] if record else []
    known += [decision.inputs.get("evaluation")] if decision else []
    if (found := _of_model(store, model, known)) is not None:
        return found
    return _of_model(store, model, [key.split("/")[1] for key in store.list_keys("evaluations/")
                                    if key.endswith("/manifest.json")])


def _of_model(store: Store, model: Model, keys: list[Any]) -> Evaluation | None:
    """The first evaluation of the model on its own split."""
    wanted = (model.key, model.inputs.get("split"))
    found = (Evaluation.find(store, key) for key in keys if key)
    return next((one for one in found if one and (one.inputs.get("model"), one.inputs.get("split")) == wanted), None)
