"""Class probabilities of image files outside of any dataset, from the same views as in an evaluation."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import keras
import numpy as np
import numpy.typing as npt

from carclf.config import Evaluate
from carclf.dataset.layout import is_in_junk_folder, is_junk_file
from carclf.images.decode import ImageDecodeError, Pixels
from carclf.images.letterbox import letterbox
from carclf.inference.calibration import apply_temperature
from carclf.inference.tta import predict_batch
from carclf.pipeline.decode_cache import read_image

T = TypeVar("T")
Failure = TypeVar("Failure")


@dataclass(frozen=True)
class ImagePrediction:
    """The calibrated probabilities of an image by class, or the reason why the file could not be read."""

    path: Path
    probabilities: npt.NDArray[Any] | None = None
    problem: str = ""


@dataclass(frozen=True)
class ImagePredictor:
    """A network with its input size (height, width), the views of each image, and the temperature of calibration."""

    network: keras.Model
    image_size: tuple[int, int]
    settings: Evaluate
    temperature: float = 1.0
    max_megapixels: float = 50

    def predict(self, paths: Sequence[Path]) -> Iterator[ImagePrediction]:
        """Yield a prediction for each path, in order. At most two batches of images are in memory."""
        for path, result in self.predict_items(paths, self.read_or_reason):
            if isinstance(result, str):
                yield ImagePrediction(path, problem=result)
            else:
                yield ImagePrediction(path, result)

    def predict_items(
        self, items: Sequence[T], read: Callable[[T], Pixels | Failure]
    ) -> Iterator[tuple[T, npt.NDArray[Any] | Failure]]:
        """Yield each item with its calibrated probabilities, or with what ``read`` returned instead of pixels.

        ``read`` is called by threads; they read the next batch while a batch is predicted.
        """
        step = min(self.settings.batch_size, len(items))
        batches = [items[start : start + step] for start in range(0, len(items), step or 1)]
        with ThreadPoolExecutor() as pool:
            pending: list[list[Future[Pixels | Failure]]] = []
            for number, batch in enumerate(batches):
                for later in batches[number + len(pending) : number + 2]:
                    pending.append([pool.submit(read, item) for item in later])
                results = [future.result() for future in pending.pop(0)]
                yield from zip(batch, self._predict_batch(results, step), strict=True)

    def read(self, path: Path) -> Pixels:
        """Return the image in the network's input size. Raises ImageDecodeError or OSError."""
        return letterbox(read_image(path, *self.image_size, max_megapixels=self.max_megapixels), *self.image_size)

    def read_or_reason(self, path: Path) -> Pixels | str:
        """Return the image in the network's input size, or the reason why it could not be read."""
        try:
            return self.read(path)
        except ImageDecodeError as error:
            return f"cannot be decoded: {error}"
        except OSError as error:
            return f"cannot be read: {error.strerror or error}"

    def _predict_batch(
        self, results: Sequence[Pixels | Failure], batch_size: int
    ) -> Iterator[npt.NDArray[Any] | Failure]:
        images = [result for result in results if isinstance(result, np.ndarray)]
        rows: Iterator[npt.NDArray[Any]] = iter(())
        if images:
            padding = [images[-1]] * (batch_size - len(images))  # TensorFlow would compile each size of a batch
            probabilities = predict_batch(self.network, np.stack(images + padding), self.settings)
            rows = iter(apply_temperature(probabilities[: len(images)], self.temperature))
        for result in results:
            yield next(rows) if isinstance(result, np.ndarray) else result


def list_files(paths: Iterable[Path]) -> list[Path]:
    """Return the paths, with each folder replaced by all files below it, in order, except those of file managers."""
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            files += [file for file in sorted(path.rglob("*")) if _is_visible_file(file, path)]
        else:
            files.append(path)
    return files


def _is_visible_file(file: Path, folder: Path) -> bool:
    return file.is_file() and not is_junk_file(file.name) and not is_in_junk_folder(file.relative_to(folder).parts)
