"""``carclf predict``: classify single images."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from carclf.cli.options import ModelOption, ModelRunOption, StoreOption
from carclf.errors import ConfigError, DataError
from carclf.formatting import format_count, printable
from carclf.runs.model_selection import SelectedModel, select_model
from carclf.runs.predictor import load_predictor
from carclf.services.storage import require_store

if TYPE_CHECKING:
    from carclf.inference.files import ImagePrediction


def predict(
    files: Annotated[list[Path], typer.Argument(help="Image files, and folders with image files.")],
    store_url: StoreOption = "store", model: ModelOption = "", run: ModelRunOption = "",
    top: Annotated[int, typer.Option(min=1, help="Print the N most probable classes.")] = 3,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object per image, with the probabilities of all classes.")
    ] = False,
) -> None:
    """Predict the classes of images, with calibrated probabilities; exit status 65 if some cannot be read."""
    store = require_store(store_url)
    selected = select_model(store, model, run)
    from carclf.inference.files import list_files  # imports Keras: errors above do not wait for it

    if not (paths := list_files(files)):
        raise ConfigError("No files found. Give image files, or folders that contain some.")
    class_names = selected.model.class_names
    num_unreadable = 0
    for prediction in load_predictor(selected, store).predict(paths):
        num_unreadable += bool(prediction.problem)
        if as_json:
            line = json.dumps(_to_json(selected, prediction, class_names))
        else:
            text = prediction.problem or _most_probable(prediction, class_names, top)
            line = printable(f"{prediction.path}: {text}")
        print(line, flush=True)
    if num_unreadable:
        raise DataError(f"Not readable images: {num_unreadable} of {format_count(len(paths), 'file')}. Fix or remove "
                        "them.")


def _to_json(selected: SelectedModel, prediction: "ImagePrediction", class_names: list[str]) -> dict[str, Any]:
    line: dict[str, Any] = {"file": str(prediction.path), "model": selected.model.key}
    if prediction.probabilities is None:
        return line | {"error": prediction.problem}
    probabilities = dict(zip(class_names, map(float, prediction.probabilities), strict=True))
    predicted = max(probabilities, key=lambda name: probabilities[name])
    return line | {
        "class": predicted, "probability": probabilities[predicted], "probabilities": probabilities,
        "temperature": selected.temperature,
    }


def _most_probable(prediction: "ImagePrediction", class_names: list[str], top: int) -> str:
    assert prediction.probabilities is not None
    order = prediction.probabilities.argsort()[::-1][:top]
    return ", ".join(f"class {class_names[index]} {prediction.probabilities[index]:.3f}" for index in order)
