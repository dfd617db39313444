"""MixUp and CutMix on whole batches, drawn from (seed, batch number) alone."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class BatchMixer:
    """Turns (pixels, integer labels) into (pixels, label shares [batch, classes]), mixing some of the batches.

    ``mixup`` and ``cutmix`` are the shares of batches that each is applied to, with a Beta(0.2, 0.2) and a
    Beta(1, 1) weight (Zhang et al. 2018, arXiv:1710.09412; Yun et al. 2019, arXiv:1905.04899).
    """

    num_classes: int
    seed: int
    mixup: float = 0.0
    cutmix: float = 0.0

    def __call__(self, number: int, batch: tuple[Any, Any]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
        pixels, labels = batch
        shares = np.eye(self.num_classes, dtype=np.float32)[labels]
        random = np.random.default_rng((self.seed, 1, number))
        kind, order = random.random(), random.permutation(len(pixels))
        if kind < self.mixup:
            kept = float(random.beta(0.2, 0.2))
            mixed = pixels * np.float32(kept) + pixels[order] * np.float32(1 - kept)
            return np.rint(mixed).astype(np.uint8), shares * np.float32(kept) + shares[order] * np.float32(1 - kept)
        if kind < self.mixup + self.cutmix:
            rows, columns, kept = _window(pixels.shape[1:3], random)
            pixels = pixels.copy()
            pixels[:, rows, columns] = pixels[order][:, rows, columns]
            return pixels, shares * np.float32(kept) + shares[order] * np.float32(1 - kept)
        return pixels, shares


def _window(size: tuple[int, int], random: np.random.Generator) -> tuple[slice, slice, float]:
    """A random window inside the picture, and the share of the picture outside of it."""
    side = np.sqrt(1 - random.beta(1, 1))
    height, width = (max(1, round(length * side)) for length in size)
    top, left = (int(random.integers(0, whole - part + 1)) for whole, part in zip(size, (height, width), strict=True))
    kept = 1 - height * width / (size[0] * size[1])
    return slice(top, top + height), slice(left, left + width), kept
