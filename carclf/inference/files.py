"""Class probabilities of image files outside of any dataset, from the same views as in an evaluation."""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
        """Yield a prediction for each path, in order. At most one batch of images is in memory."""
        step = self.settings.batch_size
        with ThreadPoolExecutor() as pool:
            for start in range(0, len(paths), step):
                yield from self._predict_batch(paths[start : start + step], pool)

    def _predict_batch(self, paths: Sequence[Path], pool: ThreadPoolExecutor) -> Iterator[ImagePrediction]:
        results = list(pool.map(self._read, paths))
        images = [result for result in results if not isinstance(result, str)]
        rows: Iterator[npt.NDArray[Any]] = iter(())
        if images:
            probabilities = predict_batch(self.network, np.stack(images), self.settings)
            rows = iter(apply_temperature(probabilities, self.temperature))
        for path, result in zip(paths, results, strict=True):
            if isinstance(result, str):
                yield ImagePrediction(path, problem=result)
            else:
                yield ImagePrediction(path, next(rows))

    def _read(self, path: Path) -> Pixels | str:
        """Return the image in the network's input size, or the reason why it could not be read."""
        try:
            pixels = read_image(path, *self.image_size, max_megapixels=self.max_megapixels)
        except ImageDecodeError as error:
            return f"cannot be decoded: {error}"
        except OSError as error:
            return f"cannot be read: {error.strerror or error}"
        return letterbox(pixels, *self.image_size)


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
