"""Class probabilities of pictures that are in no dataset, framed and averaged as an evaluation's are."""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from carclf.config import Evaluate
from carclf.images.decode import ImageDecodeError, Pixels
from carclf.images.letterbox import letterbox
from carclf.inference.calibration import apply_temperature
from carclf.inference.tta import predict_batch
from carclf.pipeline.decode_cache import read_image


@dataclass(frozen=True)
class ImagePrediction:
    """One picture's calibrated probabilities by class, or the reason why it could not be read."""

    path: Path
    probabilities: npt.NDArray[Any] | None = None
    problem: str = ""


@dataclass(frozen=True)
class ImagePredictor:
    """A network and how it is asked: its input's size, the looks at each picture, the temperature of its answers."""

    network: keras.Model
    size: tuple[int, int]
    settings: Evaluate
    temperature: float = 1.0
    max_megapixels: float = 50

    def answers(self, paths: Sequence[Path]) -> Iterator[ImagePrediction]:
        """An answer for each path, in their order; as many pictures in memory as a batch has."""
        step = self.settings.batch_size
        with ThreadPoolExecutor() as pool:
            for begin in range(0, len(paths), step):
                yield from self._batch(paths[begin : begin + step], pool)

    def _batch(self, paths: Sequence[Path], pool: ThreadPoolExecutor) -> Iterator[ImagePrediction]:
        read = list(pool.map(self._read, paths))
        pictures = [pixels for pixels in read if not isinstance(pixels, str)]
        rows = iter(())  if not pictures else iter(
            apply_temperature(predict_batch(self.network, np.stack(pictures), self.settings), self.temperature))
        for path, found in zip(paths, read, strict=True):
            yield ImagePrediction(path, problem=found) if isinstance(found, str) else ImagePrediction(path, next(rows))

    def _read(self, path: Path) -> Pixels | str:
        try:
            return letterbox(read_image(path, *self.size, max_megapixels=self.max_megapixels), *self.size)
        except ImageDecodeError as error:
            return f"it cannot be decoded: {error}"
        except OSError as error:
            return f"it cannot be read: {error.strerror or error}"


def list_files(paths: Iterable[Path]) -> list[Path]:
    """The paths, each folder replaced by the files in it and below, in their order; hidden ones are left out."""
    found: list[Path] = []
    for path in paths:
        inside = [file for file in sorted(path.rglob("*")) if file.is_file() and not _hidden(file.relative_to(path))]
        found += inside if path.is_dir() else [path]
    return found


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)
