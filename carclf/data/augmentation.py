"""Random changes of one training picture, drawn from (seed, epoch, example) alone."""

import os
import threading
import zlib
from functools import cached_property
from typing import Any

from carclf.config import Augment
from carclf.data.images import Pixels, letterbox

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it looks for a newer release on import


class Augmenter:
    """Turns a decoded picture into a (height, width, 3) uint8 view; each thread has its own transforms."""

    def __init__(self, config: Augment, height: int, width: int) -> None:
        self.config, self.height, self.width = config, height, width
        self.local = threading.local()

    @cached_property
    def _albumentations(self) -> Any:
        import albumentations
        import cv2

        cv2.setNumThreads(0)  # the pipeline's threads are the parallelism
        return albumentations

    def _transforms(self) -> Any:
        a, config = self._albumentations, self.config
        return a.Compose([
            a.HorizontalFlip(p=0.5 if config.flip else 0.0),
            a.Rotate(limit=config.rotate_degrees, border_mode=0, p=0.5 if config.rotate_degrees else 0.0),
            a.RandomResizedCrop(
                (self.height, self.width), scale=(config.crop_scale, 1.0), ratio=(0.8, 1.25), p=1.0
            ),
            a.ColorJitter(config.colour, config.colour, config.colour, 0.02, p=0.8 if config.colour else 0.0),
        ])

    def __call__(self, pixels: Pixels, *, seed: int, epoch: int, example: str) -> Pixels:
        if not hasattr(self.local, "transforms"):
            self.local.transforms = self._transforms()
        # albumentations does not seed worker threads: seeding each example makes their number irrelevant.
        self.local.transforms.set_random_seed(zlib.crc32(f"{seed}:{epoch}:{example}".encode()))
        # Cropping from the letterboxed frame keeps bumpers in view and the aspect ratio true.
        view: Pixels = self.local.transforms(image=letterbox(pixels, self.height, self.width))["image"]
        return view
