"""A rendered car competition: ten body shapes in any color, light, position and angle, and some broken files."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter

from carclf.errors import ConfigError

NUM_CLASSES = 10
HORIZON = 0.6  # of the image's height
WINDOW_HEIGHT = 0.4  # points of the outline above this are around the windows
FLIP_PROBABILITY = 0.5
# Silhouettes in units of the car's length and height: (outline from left to right, wheel radius, wheel positions).
BODIES: tuple[tuple[tuple[tuple[float, float], ...], float, tuple[float, ...]], ...] = (
    (((0, .5), (.2, .45), (.33, .1), (.68, .1), (.82, .45), (1, .5)), .13, (.2, .8)),  # sedan
    (((0, .5), (.25, .45), (.4, .1), (.85, .1), (1, .5)), .13, (.2, .82)),  # hatchback
    (((0, .5), (.2, .45), (.3, .1), (.95, .1), (1, .5)), .13, (.18, .82)),  # estate
    (((0, .35), (.25, .3), (.33, -.1), (.95, -.1), (1, .35)), .18, (.2, .82)),  # off-roader
    (((0, .35), (.1, -.2), (.97, -.2), (1, .4)), .12, (.18, .84)),  # van
    (((0, .45), (.2, .42), (.3, .05), (.55, .05), (.58, .42), (1, .42)), .16, (.2, .82)),  # pickup
    (((0, .6), (.35, .52), (.52, .22), (.7, .22), (1, .52)), .14, (.2, .84)),  # coupe
    (((0, .5), (.12, .45), (.2, .1), (.85, .1), (.92, .45), (1, .5)), .1, (.12, .5, .9)),  # limousine, six wheels
    (((0, .6), (.3, .55), (.42, .3), (.46, .55), (1, .6)), .2, (.18, .82)),  # buggy
    (((0, .4), (.02, .05), (.22, .05), (.25, .35), (.27, -.35), (1, -.35), (1, .4)), .13, (.14, .75)),  # box truck
)


def render_competition(folder: Path, *, num_train: int = 700, num_test: int = 150, seed: int = 0) -> None:
    """Write a competition and its ``truth.csv``; the same seed gives the same bytes."""
    if min(num_train, num_test) < NUM_CLASSES:
        raise ConfigError(f"Got {num_train} and {num_test} images; give at least {NUM_CLASSES} of each.")
    rng = np.random.default_rng(seed)
    # Ids from 900001 on belong to the planted files.
    ids = [f"{name}.jpg" for name in rng.permutation(800_000)[: num_train + num_test] + 100_000]
    labels = np.arange(num_train + num_test) % NUM_CLASSES
    for name, label in zip(ids[:num_train], labels, strict=False):
        _write(folder / "train" / str(label) / name, car_image(int(label), rng))
    for name, label in zip(ids[num_train:], labels[num_train:], strict=True):
        _write(folder / "test_upload" / name, car_image(int(label), rng))
    truth = pd.DataFrame({"Id": ids[num_train:], "Category": labels[num_train:]}).sample(frac=1, random_state=seed)
    truth.to_csv(folder / "truth.csv", index=False)
    truth.assign(Category=0).to_csv(folder / "sample-submission.csv", index=False)
    _plant_faults(folder, rng)
    _write_train_table(folder)


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def _write_train_table(folder: Path) -> None:
    """Write ``train.csv``, grouped by class like that of the real competition."""
    rows = [(path.name, path.parent.name) for path in sorted((folder / "train").glob("*/*"))]
    pd.DataFrame(rows, columns=["Id", "Category"]).to_csv(folder / "train.csv", index=False, lineterminator="\n")


def _plant_faults(folder: Path, rng: np.random.Generator) -> None:
    """Add broken files and copies for the validation stage, and two unusual images that are usable."""
    whole = car_image(0, rng)
    _write(folder / "train/0/900001.jpg", whole[: len(whole) // 2])
    _write(folder / "train/1/900002.jpg", b"")
    _write(folder / "train/2/900003.jpg", b"<html>not an image</html>")
    _write(folder / "train/3/900004.jpg", _encoded(_image(3, rng), "PNG"))
    _write(folder / "train/4/900005.jpg", _encoded(_image(4, rng).convert("L"), "JPEG"))
    for label in (5, 6):
        first = min((folder / "train" / str(label)).iterdir())
        _write(first.with_name(f"90000{label + 1}.jpg"), first.read_bytes())


def car_image(label: int, rng: np.random.Generator) -> bytes:
    """Return a JPEG of a car of that class."""
    return _encoded(_image(label, rng), "JPEG", quality=int(rng.integers(70, 95)))


def _encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _image(label: int, rng: np.random.Generator) -> Image.Image:
    width, height = int(rng.integers(240, 360)), int(rng.integers(190, 250))
    image = draw_background(width, height, rng)
    car = draw_car(label, width, rng)
    car = car.rotate(float(rng.uniform(-4, 4)), resample=Image.Resampling.BILINEAR, expand=True)
    if rng.random() < FLIP_PROBABILITY:
        car = car.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    # The car is near the center, as photographers place it, so that a small network learns from a few hundred images.
    left = int(rng.uniform(0.4, 0.6) * (width - car.width))
    top = int(rng.uniform(0.5, 0.7) * (height - car.height))
    image.paste(car, (left, top), car)
    image = ImageEnhance.Brightness(image).enhance(float(rng.uniform(0.6, 1.3)))
    image = image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0, 1.2))))
    noise = rng.normal(0, rng.uniform(2, 10), (height, width, 1))
    return Image.fromarray(np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8))


def draw_background(width: int, height: int, rng: np.random.Generator) -> Image.Image:
    """Return a street with some buildings."""
    sky, ground = rng.integers(170, 256, 3), rng.integers(70, 120, 3)
    rows = np.linspace(0, 1, height)[:, None, None]
    pixels = np.where(rows < HORIZON, sky * (1 - rows / 2), ground) * np.ones((1, width, 1))
    image = Image.fromarray(pixels.astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(0, 6))):
        x = rng.uniform(0, width)
        w = rng.uniform(20, 80)
        h = rng.uniform(20, height * 0.5)
        draw.rectangle((x, height * HORIZON - h, x + w, height * HORIZON), fill=_color(rng, 120))
    return image


def _color(rng: np.random.Generator, darkest: int = 20) -> tuple[int, int, int]:
    red, green, blue = (int(value) for value in rng.integers(darkest, 220, 3))
    return red, green, blue


def draw_car(
    label: int, width: int, rng: np.random.Generator, color: tuple[int, int, int] | None = None
) -> Image.Image:
    """Return a car for an image of that width, on transparent ground, in a random color by default."""
    outline, radius, wheels = BODIES[label]
    length = width * rng.uniform(0.74, 0.86)
    tall, up = length * rng.uniform(0.36, 0.46), length * 0.2
    image = Image.new("RGBA", (int(length) + 2, int(tall + 2 * up)))
    draw = ImageDraw.Draw(image)
    body = color or _color(rng)
    points = [(x * length, up + y * tall) for x, y in outline]
    points += [(length, up + tall * 0.85), (0, up + tall * 0.85)]
    draw.polygon(points, fill=(*body, 255), outline=(20, 20, 20, 255))
    glass = [(x * length * 0.9 + length * 0.05, up + y * tall + tall * 0.06) for x, y in outline if y < WINDOW_HEIGHT]
    if len(glass) > 1:
        (x0, y0), (x1, _) = min(glass), max(glass)
        draw.rectangle((x0 + 4, y0 + 4, max(x0 + 5, x1 - 4), max(y0 + 5, up + tall * 0.42)), fill=(150, 190, 210, 255))
    y = up + tall * 0.85
    r = radius * tall * 1.5
    for position in wheels:
        x = position * length
        draw.ellipse((x - r, y - r, x + r, y + r), fill=(25, 25, 25, 255))
        draw.ellipse((x - r / 2, y - r / 2, x + r / 2, y + r / 2), fill=(170, 170, 170, 255))
    return image
