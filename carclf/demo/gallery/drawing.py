"""Small images of cars. The class decides the body and the color, so that a small network learns it quickly."""

import io
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
from PIL import Image

from carclf.demo.rendering import FLIP_PROBABILITY, draw_background, draw_car

COLORS = ((215, 30, 30), (30, 60, 215), (35, 170, 60), (235, 205, 30), (235, 235, 235))
FORMATS = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".tif": "TIFF"}
TRAIN_PER_CLASS = 24
TEST_PER_CLASS = 6


@dataclass(frozen=True)
class Cars:
    """Images in the order 0, 1, 2, 0, 1, 2, ... of their classes."""

    labels: tuple[int, ...]
    images: tuple[Image.Image, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def names(self, class_names: tuple[str, ...]) -> list[str]:
        """Return each image's class name."""
        return [class_names[label] for label in self.labels]

    def files(self, paths: list[str]) -> dict[str, bytes]:
        """Return the images as files, in the format of the paths' extension."""
        return {path: _encode(image, PurePosixPath(path).suffix)
                for path, image in zip(paths, self.images, strict=True)}


def draw_cars(rng: np.random.Generator, num_classes: int, per_class: int = TRAIN_PER_CLASS) -> Cars:
    """Return ``per_class`` images of each class."""
    labels = tuple(range(num_classes)) * per_class
    return Cars(labels, tuple(_draw(label, rng) for label in labels))


def draw_subsets(rng: np.random.Generator, num_classes: int) -> tuple[Cars, Cars]:
    """Return training and test images."""
    return draw_cars(rng, num_classes), draw_cars(rng, num_classes, TEST_PER_CLASS)


def _draw(label: int, rng: np.random.Generator) -> Image.Image:
    width, height = int(rng.integers(84, 120)), int(rng.integers(64, 88))
    image = draw_background(width, height, rng)
    shade = rng.uniform(0.75, 1.05)
    red, green, blue = (int(min(255, shade * value)) for value in COLORS[label])
    car = draw_car(2 * label, width, rng, (red, green, blue))
    car = car.rotate(float(rng.uniform(-8, 8)), resample=Image.Resampling.BILINEAR, expand=True)
    if rng.random() < FLIP_PROBABILITY:
        car = car.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    left = int(rng.uniform(0.2, 0.8) * (width - car.width))
    top = int(rng.uniform(0.3, 0.9) * (height - car.height))
    image.paste(car, (left, top), car)
    noise = rng.normal(0, 8, (height, width, 1))  # a flat image would resemble every other one
    return Image.fromarray(np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8))


def _encode(image: Image.Image, suffix: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, FORMATS[suffix])
    return buffer.getvalue()
