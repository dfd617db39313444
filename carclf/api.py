"""The Python API: open a store, list its runs, use its models, and train without Airflow."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image

from carclf.config import Config, deployment_settings, load_config, parse_override
from carclf.dashboard.run_report import run_stage_to_end
from carclf.dataset.detection.detect import detect_in_place
from carclf.dataset.listing import Folder
from carclf.errors import ConfigError, DataError
from carclf.evaluation.classification import classification_metrics
from carclf.images.letterbox import letterbox
from carclf.metrics import METRICS
from carclf.runs.index import list_runs
from carclf.runs.model_selection import SelectedModel, select_model
from carclf.runs.predictor import load_predictor
from carclf.runs.run import Run
from carclf.runs.run_names import CHAMPION, load_run
from carclf.services import storage
from carclf.stages.chain import STAGES
from carclf.stats import class_positions, probability_columns

if TYPE_CHECKING:
    from carclf.inference.files import ImagePredictor

Pixels = npt.NDArray[np.uint8]
Images = str | Path | Pixels | Sequence[str | Path | Pixels]


class Store:
    """The runs and models of a folder or a bucket.

    Arguments:
        url: A folder, or a bucket such as ``s3://bucket/prefix``.
        create: Create the store if it does not exist.

    Raises:
        NotFoundError: There is no store at ``url``.
    """

    def __init__(self, url: str | Path, *, create: bool = False) -> None:
        self._store = storage.init_store(str(url)) if create else storage.require_store(str(url))

    def __repr__(self) -> str:
        return f"Store({self._store.url!r})"

    def runs(self) -> pd.DataFrame:
        """Return a table of all runs, newest first, with state, metric and its 95% interval, decision and minutes."""
        return pd.DataFrame(list_runs(self._store))

    def model(self, run: str = CHAMPION) -> "Model":
        """Return the champion, or the model of a run: its id, the first characters of it, or ``last``.

        Raises:
            NotFoundError: There is no champion, or no such run.
            ConfigError: The run has no model yet.
        """
        return Model(self._store, select_model(self._store, run="" if run == CHAMPION else run))

    def table(self, stage: str, file: str, run: str = CHAMPION) -> pd.DataFrame:
        """Return a table of a run's stage, such as ``table("evaluate", "predictions.parquet")``.

        Raises:
            ConfigError: There is no such stage, or it has not run.
            DataError: The stage has no such table.
        """
        if stage not in STAGES:
            raise ConfigError(f"There is no stage {stage!r}. The stages are {', '.join(STAGES)}.")
        artifact = load_run(run, self._store).artifact(STAGES[stage].artifact, stage)
        if file not in artifact.files or not file.endswith((".parquet", ".csv")):
            tables = [name for name in artifact.files if name.endswith((".parquet", ".csv"))]
            raise DataError(f"{stage} has no table {file!r}. Its tables are {', '.join(tables) or 'none'}.")
        path = artifact.path(self._store, file)
        return pd.read_csv(path) if file.endswith(".csv") else pd.read_parquet(path)


class Model:
    """A trained classifier. ``Store.model`` and ``train`` return it."""

    def __init__(self, store: storage.Store, selected: SelectedModel) -> None:
        self._store = store
        self._selected = selected
        self._loaded: ImagePredictor | None = None

    def __repr__(self) -> str:
        return f"Model({self.key!r}, {len(self.class_names)} classes, {self._selected.origin})"

    @property
    def key(self) -> str:
        """The key of the model in the store."""
        return self._selected.model.key

    @property
    def class_names(self) -> list[str]:
        """The names of the classes, in the order of the probabilities."""
        return self._selected.model.class_names

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the network's input, in pixels; images are resized to it with their aspect ratio."""
        return self._selected.model.image_size

    @property
    def metrics(self) -> dict[str, Any]:
        """What was measured on the validation images, such as ``val_accuracy``; empty without an evaluation."""
        return dict(self._selected.evaluation.metrics) if self._selected.evaluation else {}

    def predict(self, images: Images) -> pd.DataFrame:
        """Return a row for each image, with calibrated probabilities.

        Arguments:
            images: Paths of images and of folders with images, and RGB images of the type uint8 and the shape (height,
                width, 3); one or a sequence.

        Returns:
            The columns ``file`` (the path, or the position in ``images``), ``class``, ``probability``, ``p_<class>``
            for each class, and ``error``: why an image cannot be read. Such an image has no class.

        Raises:
            ConfigError: An array has another shape or type.
        """
        rows: list[dict[str, Any]] = []
        columns = probability_columns(self.class_names)
        for (name, _), result in self._predictor.predict_items(_list_images(images), lambda item: self._read(item[1])):
            if isinstance(result, str):
                rows.append({"file": name, "class": None, "probability": float("nan"), "error": result})
            else:
                best = int(result.argmax())
                rows.append({"file": name, "class": self.class_names[best], "probability": float(result[best])}
                            | dict(zip(columns, map(float, result), strict=True)) | {"error": ""})
        return pd.DataFrame(rows, columns=["file", "class", "probability", *columns, "error"])

    def evaluate(self, folder: str | Path, **settings: Any) -> dict[str, Any]:
        """Measure the model on the labeled images of a folder, in any layout that ``carclf inspect`` reads.

        Nothing is fitted to these images; whether the model was trained on some of them is not checked.

        Returns:
            ``num_images`` that were measured, ``num_unreadable``, ``accuracy``, its 95% interval (``accuracy_low``,
            ``accuracy_high``), ``log_loss``, and ``recall`` by class.

        Raises:
            DataError: The folder has no labeled images that can be read, or has classes that the model lacks.
        """
        labels = _labels_of(folder, settings)
        if unknown := sorted(set(labels.values()) - set(self.class_names)):
            raise DataError(f"{folder} has classes that the model lacks: {', '.join(unknown)}. The model's classes are "
                            f"{', '.join(self.class_names)}.")
        predictions = self.predict(list(labels))
        is_readable = (predictions["error"] == "").to_numpy()
        if not is_readable.any():
            raise DataError(f"No image in {folder} can be read. The first one {predictions['error'].iloc[0]}.")
        probabilities = predictions.loc[is_readable, probability_columns(self.class_names)].to_numpy(float)
        positions = class_positions(list(labels.values()), self.class_names)[is_readable]
        measured = classification_metrics(positions, probabilities)
        low, high = measured["interval"]
        return {
            "num_images": measured["num_images"], "num_unreadable": int((~is_readable).sum()),
            "accuracy": measured["accuracy"], "accuracy_low": low, "accuracy_high": high,
            "log_loss": METRICS["log_loss"].compute(positions, probabilities),
            "recall": dict(zip(self.class_names, measured["recall"], strict=True)),
        }

    def explain(self, image: str | Path | Pixels) -> Image.Image:
        """Return the image as the network sees it, in gray, under a heatmap of what its class is predicted from.

        Raises:
            DataError: The image cannot be read.
            ConfigError: The model is an ensemble, which has no heatmap.
        """
        from carclf.inference.gradcam import Explainer
        from carclf.inference.tta import predict_batch
        from carclf.reports.error_images import overlay_heatmap

        if self._selected.model.metrics.get("members"):
            raise ConfigError("The model is an ensemble, which has no heatmap. Explain one of its members.")
        pixels = self._read(_list_images(image)[0][1])
        if isinstance(pixels, str):
            raise DataError(f"{image} {pixels}.")
        batch = pixels[np.newaxis]
        column = predict_batch(self._predictor.network, batch, self._predictor.settings).argmax(1)
        explainer = Explainer(self._predictor.network, Path(), self.image_size, self.class_names)
        return Image.fromarray(overlay_heatmap(pixels, explainer.heat(batch, column)[0]))

    @property
    def _predictor(self) -> "ImagePredictor":
        if self._loaded is None:
            self._loaded = load_predictor(self._selected, self._store)
        return self._loaded

    def _read(self, image: Path | Pixels) -> Pixels | str:
        """Return the image in the size of the network, or why it cannot be read."""
        if isinstance(image, Path):
            return self._predictor.read_or_reason(image)
        return letterbox(image, *self.image_size)


def open_store(url: str | Path, *, create: bool = False) -> Store:
    """Return the store of a folder or a bucket; see ``Store``."""
    return Store(url, create=create)


def train(
    source: str | Path, store: str | Path = "store", *, recipe: str = "gpu", run: str = "", **settings: Any
) -> Model:
    """Run all stages, from download to the gate and the submission, and return the trained model.

    What is unchanged in the store is reused. Whether the model is the champion now is in ``Store.runs``.

    Arguments:
        source: A competition, dataset, folder, bucket or archive, as ``data.source``.
        store: A folder or a bucket, which is created if it does not exist.
        recipe: The name of a recipe; ``carclf recipes`` lists them.
        run: The id of the run; by default the recipe and the time. A run with the same id and settings is resumed.
        settings: Settings that differ from the recipe, with two underscores for the dot: ``fine_tune__epochs=3``.

    Raises:
        CarclfError: What the stages raise, such as DataError for data that cannot be used.
    """
    opened = storage.init_store(str(store))
    config = _config(recipe, {"data.source": _source(source)} | _dotted(settings))
    name = run or f"{recipe}-{datetime.now(UTC):%Y%m%dT%H%M%S}"
    started = Run.start_or_resume(name, opened, recipe, config)
    for stage in started.stages:
        result = run_stage_to_end(started, stage)
        if result.skip_reason or result.waiting:
            break
    return Model(opened, select_model(opened, run=name))


def _config(recipe: str, settings: dict[str, Any]) -> Config:
    """Return the configuration with the deployment's settings (CARCLF_SETTINGS), as for ``carclf run``."""
    return load_config(recipe, dict(map(parse_override, deployment_settings([]))) | settings)


def _dotted(settings: dict[str, Any]) -> dict[str, Any]:
    return {name.replace("__", ".", 1): value for name, value in settings.items()}


def _source(source: str | Path) -> str:
    """Return a path as a setting: with a slash, so that it is not the name of a competition."""
    return str(source) if isinstance(source, str) else str(source.absolute())


def _labels_of(folder: str | Path, settings: dict[str, Any]) -> dict[Path, str]:
    """Return the class of each labeled image of a folder."""
    path = Path(folder).absolute()
    layout = detect_in_place(Folder(str(path)), _config("gpu", {"data.source": str(path)} | _dotted(settings)))
    if layout is None:
        raise DataError(f"{folder} has archives. Extract them first.")
    labeled = layout.images[layout.images["label"] != ""]
    return {path / name: label for name, label in zip(labeled["path"], labeled["label"], strict=True)}


def _list_images(images: Images) -> list[tuple[str, Path | Pixels]]:
    """Return the name and the path or array of each image. Raise ConfigError for arrays that are no images."""
    from carclf.inference.files import list_files

    items: Iterable[Any] = [images] if isinstance(images, str | Path) or (
        isinstance(images, np.ndarray) and images.ndim == 3) else images  # noqa: PLR2004 (height, width, channels)
    result: list[tuple[str, Path | Pixels]] = []
    for position, item in enumerate(items):
        if isinstance(item, str | Path):
            result += [(str(path), path) for path in list_files([Path(item)])]
            continue
        array = np.asarray(item)
        if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:  # noqa: PLR2004
            raise ConfigError(f"Image {position} has the type {array.dtype} and the shape {array.shape}. Expected "
                              "uint8 and (height, width, 3), in the order RGB.")
        result.append((str(position), array))
    return result
