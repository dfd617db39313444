"""MixUp and CutMix of whole batches, seeded by (seed, batch number)."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

MIXUP_ALPHA, CUTMIX_ALPHA = 0.2, 1.0
SEED_STREAM = 1  # keeps this random stream apart from the one that shuffles the epochs

MixedBatch = tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]


@dataclass(frozen=True)
class BatchMixer:
    """Turn (pixels, labels) into (pixels, label probabilities [batch, classes]), mixing some batches.

    Labels are positions of classes, or already probabilities.

    ``mixup`` and ``cutmix`` are the fractions of batches that each is applied to, with weights drawn from
    Beta(0.2, 0.2) and Beta(1, 1) (Zhang et al. 2018, arXiv:1710.09412; Yun et al. 2019, arXiv:1905.04899).
    """

    num_classes: int
    seed: int
    mixup: float = 0.0
    cutmix: float = 0.0

    def __call__(self, number: int, batch: tuple[Any, Any]) -> MixedBatch:
        """Return the batch with this number, mixed or unchanged."""
        pixels, labels = batch
        probabilities = labels if labels.ndim > 1 else np.eye(self.num_classes, dtype=np.float32)[labels]
        random = np.random.default_rng((self.seed, SEED_STREAM, number))
        draw, order = random.random(), random.permutation(len(pixels))
        if draw < self.mixup:
            weight = float(random.beta(MIXUP_ALPHA, MIXUP_ALPHA))
            pixels = np.rint(_blend(pixels, order, weight)).astype(np.uint8)
            return pixels, _blend(probabilities, order, weight)
        if draw < self.mixup + self.cutmix:
            rows, columns, weight = _window(pixels.shape[1:3], random)
            pixels = pixels.copy()
            pixels[:, rows, columns] = pixels[order][:, rows, columns]
            return pixels, _blend(probabilities, order, weight)
        return pixels, probabilities


def _blend(values: npt.NDArray[Any], order: npt.NDArray[np.int64], weight: float) -> npt.NDArray[np.float32]:
    return np.asarray(values * np.float32(weight) + values[order] * np.float32(1 - weight))


def _window(size: tuple[int, int], random: np.random.Generator) -> tuple[slice, slice, float]:
    """Return a random window of the image, as rows and columns, and the fraction of the image outside of it."""
    scale = np.sqrt(1 - random.beta(CUTMIX_ALPHA, CUTMIX_ALPHA))
    height, width = (max(1, round(length * scale)) for length in size)
    top = int(random.integers(0, size[0] - height + 1))
    left = int(random.integers(0, size[1] - width + 1))
    outside = 1 - height * width / (size[0] * size[1])
    return slice(top, top + height), slice(left, left + width), outside
