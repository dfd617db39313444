"""``carclf predict``: classify single images."""

import csv
import io
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from carclf.cli.options import ModelOption, ModelRunOption, StoreOption
from carclf.errors import ConfigError, DataError
from carclf.formatting import format_count, printable
from carclf.runs.model_selection import SelectedModel, select_model
from carclf.runs.predictor import load_predictor
from carclf.services.storage import Store, require_store
from carclf.stats import probability_columns

if TYPE_CHECKING:
    from carclf.inference.files import ImagePrediction


def predict(
    files: Annotated[list[Path], typer.Argument(help="Image files, and folders with image files; - reads their names "
                                                     "from the standard input, one per line.")],
    store_url: StoreOption = "store", model: ModelOption = "", run: ModelRunOption = "",
    top: Annotated[int, typer.Option(min=1, help="Print the N most probable classes.")] = 3,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object per image, with the probabilities of all classes.")
    ] = False,
    output: Annotated[
        Optional[Path], typer.Option("--output", metavar="FILE", help="Write the probabilities of all classes to a CSV "
                                     "file instead. Images that it already has are skipped.")
    ] = None,
) -> None:
    """Predict the classes of images, with calibrated probabilities; exit status 65 if some cannot be read."""
    store = require_store(store_url)
    selected = select_model(store, model, run)
    from carclf.inference.files import list_files  # imports Keras: errors above do not wait for it

    if not (paths := list_files(_with_standard_input(files))):
        raise ConfigError("No files found. Give image files, or folders that contain some.")
    if output:
        num_unreadable = _write_csv(output, selected, paths, store)
    else:
        num_unreadable = 0
        for prediction in load_predictor(selected, store).predict(paths):
            num_unreadable += bool(prediction.problem)
            print(_format(selected, prediction, top, as_json=as_json), flush=True)
    if num_unreadable:
        raise DataError(f"Not readable images: {num_unreadable} of {format_count(len(paths), 'file')}. Fix or remove "
                        "them.")


def _with_standard_input(files: list[Path]) -> Iterator[Path]:
    for file in files:
        yield from map(Path, sys.stdin.read().splitlines()) if str(file) == "-" else [file]


def _format(selected: SelectedModel, prediction: "ImagePrediction", top: int, *, as_json: bool) -> str:
    class_names = selected.model.class_names
    if as_json:
        return json.dumps(_to_json(selected, prediction, class_names))
    return printable(f"{prediction.path}: {prediction.problem or _most_probable(prediction, class_names, top)}")


def _write_csv(output: Path, selected: SelectedModel, paths: list[Path], store: Store) -> int:
    """Append the predictions to a file, without those that it has; return how many images cannot be read."""
    class_names = selected.model.class_names
    header = ["file", "model", "class", "probability", *probability_columns(class_names), "error"]
    num_unreadable = 0
    with _open_csv(output, header, selected.model.key) as (writer, finished):
        left = [path for path in paths if str(path) not in finished]
        for prediction in load_predictor(selected, store).predict(left):
            num_unreadable += bool(prediction.problem)
            row = _to_json(selected, prediction, class_names)
            probabilities = row.get("probabilities", dict.fromkeys(class_names, ""))
            writer.writerow([row["file"], row["model"], row.get("class", ""), row.get("probability", ""),
                             *probabilities.values(), prediction.problem])
    print(f"{output}: {format_count(len(left), 'new image')}, {format_count(len(paths) - len(left), 'image')} before")
    return num_unreadable


@contextmanager
def _open_csv(path: Path, header: list[str], model: str) -> Iterator[tuple[Any, set[str]]]:
    """Yield a writer of rows, and the files that the CSV file has. A last line without an end is removed.

    Raise ConfigError if it has other columns, or predictions of another model.
    """
    content = path.read_bytes() if path.exists() else b""
    whole = content[: content.rfind(b"\n") + 1]  # the process may have been killed while it wrote
    first_line = io.StringIO()
    csv.writer(first_line, lineterminator="\n").writerow(header)
    is_started = not whole and first_line.getvalue().encode().startswith(content)  # with the header or nothing
    text = "" if is_started else (whole or content).decode(errors="surrogateescape")
    rows = list(csv.reader(io.StringIO(text, newline="")))
    if rows and (rows[0] != header or {row[1] for row in rows[1:]} - {model}):
        raise ConfigError(f"{path} is not a file of predictions of the model {model}. Give --output another file, or "
                          "remove it.")
    with path.open("ab") as file:
        file.truncate(len(whole))
    with path.open("a", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.writer(file, lineterminator="\n")
        if not whole:
            writer.writerow(header)
        yield writer, {row[0] for row in rows[1:]}


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
