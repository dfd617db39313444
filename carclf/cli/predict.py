"""``carclf predict``: what a model says of single pictures."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from carclf.artifacts import Dataset, Split
from carclf.config import Validation
from carclf.errors import ConfigError, DataError
from carclf.formatting import printable
from carclf.progress import log
from carclf.runs.model_selection import SelectedModel
from carclf.services.storage import Store


def prediction_lines(chosen: SelectedModel, paths: Iterable[Path], store: Store, *, top: int, as_json: bool) -> Iterator[str]:
    """A line for each picture; DataError at the end where some could not be read."""
    from carclf.inference.files import list_files

    if not (files := list_files(paths)):
        raise ConfigError("There is no file in what was given. Name pictures, or folders with pictures in them.")
    names = [str(name) for name in chosen.model.class_names]
    num_unread = 0
    for one in _question(chosen, store).predict(files):
        num_unread += bool(one.problem)
        if as_json:
            yield json.dumps(_described(chosen, one, names))
        else:
            yield f"{printable(str(one.path))}: {one.problem or _words(one.probabilities, names, top)}"
    if num_unread:
        raise DataError(f"{num_unread} of {len(files)} files are no pictures that can be read; the others are answered "
                        "above. Leave them out, or mend them.")


def _question(chosen: SelectedModel, store: Store) -> Any:
    import keras

    from carclf.evaluation.evaluate import tta_settings
    from carclf.inference.files import ImagePredictor

    settings = tta_settings(chosen.evaluation)
    temperature = chosen.temperature
    looks = (f"zooms {settings.zooms}{', corners too' if settings.crops == 'corners' else ''}"
             f"{', mirrored too' if settings.flip_tta else ''}")
    if temperature is None or chosen.evaluation is None:
        log.warning("predict: %s, %s; %s; no evaluation in the store tells a temperature, so the probabilities are "
                    "not calibrated. Make one: carclf evaluate --run RUN", chosen.origin, chosen.model.key, looks)
    else:
        log.info("predict: %s, %s; %s; calibrated by the temperature %.3f of the evaluation %s", chosen.origin,
                 chosen.model.key, looks, temperature, chosen.evaluation.key)
    network = keras.models.load_model(chosen.model.path(store, "model.keras"), compile=False)
    return ImagePredictor(network, chosen.size, settings, temperature or 1.0, _max_megapixels(chosen, store))


def _max_megapixels(chosen: SelectedModel, store: Store) -> float:
    """The limit of the data that the model was trained on."""
    split = Split.find(store, chosen.model.inputs.get("split", "none"))
    dataset = split and Dataset.find(store, split.inputs["dataset"])
    return float(dataset.settings["max_megapixels"]) if dataset else Validation().max_megapixels


def _described(chosen: SelectedModel, one: Any, names: list[str]) -> dict[str, Any]:
    told: dict[str, Any] = {"file": str(one.path), "model": chosen.model.key}
    if one.problem:
        return told | {"error": one.problem}
    shares = dict(zip(names, map(float, one.probabilities), strict=True))
    best = max(shares, key=lambda name: shares[name])
    return told | {"class": int(best), "probability": shares[best], "probabilities": shares,
                   "temperature": chosen.temperature}


def _words(probabilities: Any, names: list[str], top: int) -> str:
    order = probabilities.argsort()[::-1][:top]
    return ", ".join(f"class {names[place]} {probabilities[place]:.3f}" for place in order)
