"""Recall of changed copies of real photographs as near-copies, and false matches of different images.

"joined" images are in one cluster of the dataset (``duplicates``). "recognized" images are identified with an image of
the champion's split.
"""

import argparse
import io
import json
from collections.abc import Callable
from functools import partial
from math import comb
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageEnhance

from carclf.config import Duplicates
from carclf.dataset.champion_split import previous_values
from carclf.dataset.inspection import decode_reduced
from carclf.dataset.near_hashes import near_pairs_between
from carclf.dataset.pixel_matching import thumbnail, thumbnail_difference
from carclf.demo.rendering import car_image
from carclf.images.decode import EncodedImage, Pixels
from carclf.images.hashes import color_signature, perceptual_hash

SETTINGS = Duplicates()
NUM_CLASSES = 10
MIN_SIDE = 32
CROPS = (0.01, 0.02, 0.03, 0.05)  # fraction of width and height removed on each side

Change = Callable[[Image.Image, np.random.Generator], Image.Image]


def resize(image: Image.Image, random: np.random.Generator) -> Image.Image:
    """Resize by a factor from 0.5 to 1.5."""
    factor = random.uniform(0.5, 1.5)
    return image.resize((max(MIN_SIDE, round(image.width * factor)), max(MIN_SIDE, round(image.height * factor))))


def relight(image: Image.Image, random: np.random.Generator) -> Image.Image:
    """Change the brightness by up to 25%."""
    return ImageEnhance.Brightness(image).enhance(random.uniform(0.75, 1.25))


def crop(image: Image.Image, random: np.random.Generator, *, fraction: float, exactly: bool) -> Image.Image:
    """Remove this fraction of width and height on each side, or a random one up to it."""
    left, top, right, bottom = [fraction] * 4 if exactly else (random.random(4) * fraction).tolist()
    width, height = image.size
    return image.crop((round(width * left), round(height * top), round(width * (1 - right)),
                       round(height * (1 - bottom))))


def flip(image: Image.Image, random: np.random.Generator) -> Image.Image:
    """Flip horizontally."""
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


def changes() -> dict[str, Change]:
    """Return the changes that precede saving as a JPEG of quality 20 to 95."""
    crops: dict[str, Change] = {}
    for fraction in CROPS:
        crops[f"cropped by {fraction:.0%} a side"] = partial(crop, fraction=fraction, exactly=True)
        crops[f"cropped by up to {fraction:.0%} a side"] = partial(crop, fraction=fraction, exactly=False)
    return {"re-encoded": lambda image, random: image, "resized": resize, "relit": relight, **crops, "flipped": flip}


def encode(image: Image.Image, random: np.random.Generator) -> bytes:
    """Return a JPEG of random quality."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=int(random.integers(20, 96)))
    return buffer.getvalue()


def split_rows(files: list[bytes], name: str) -> tuple[pd.DataFrame, list[Pixels]]:
    """Return a split's rows of the images, and their thumbnails."""
    images = [decode_reduced(EncodedImage(data)) for data in files]
    digests = [f"{name} {number}" for number in range(len(files))]
    rows = pd.DataFrame({"sha256": digests, "pixels_sha256": digests, "subset": "train", "number": range(len(files)),
                         "color_signature": [color_signature(pixels) for pixels in images],
                         "phash": np.array([perceptual_hash(pixels) for pixels in images], np.uint64),
                         "flipped_phash": np.array([perceptual_hash(flipped(pixels)) for pixels in images], np.uint64)})
    return rows, [thumbnail(pixels) for pixels in images]


def flipped(pixels: Pixels) -> Pixels:
    """Flip pixels horizontally."""
    return np.ascontiguousarray(pixels[:, ::-1])


def match(first: Pixels, second: Pixels) -> bool:
    """Compare two thumbnails as the search for near-copies does."""
    return thumbnail_difference(first, second) <= SETTINGS.max_pixel_difference


def measure_copies(change: Change, files: list[bytes]) -> dict[str, float]:
    """Return the fractions of changed images with a near hash, joined, recognized, and recognized as another image."""
    random = np.random.default_rng(0)
    images = (Image.open(io.BytesIO(data)).convert("RGB") for data in files)
    rows, thumbnails = split_rows(files, "original")
    copies, copy_thumbnails = split_rows([encode(change(image, random), random) for image in images], "copy")
    is_near, is_joined = np.zeros((2, len(files)), bool)
    views = {"phash": copy_thumbnails, "flipped_phash": [flipped(pixels) for pixels in copy_thumbnails]}
    for column, view in views.items():
        bits = np.bitwise_count(rows["phash"].to_numpy() ^ copies[column].to_numpy())
        is_near_view = bits <= SETTINGS.max_hash_distance
        is_near |= is_near_view
        is_joined |= [near and match(first, second)
                      for near, first, second in zip(is_near_view.tolist(), thumbnails, view, strict=True)]
    numbers = previous_values(copies, rows, "number")
    is_right = numbers == copies["number"]
    return {"copies": len(files), "near hash": is_near.mean(), "joined": float(np.mean(is_joined)),
            "recognized": is_right.mean(), "confused": (numbers.notna() & ~is_right).mean()}


def measure_different(title: str, files: list[bytes]) -> dict[str, float]:
    """Print and return the number of near and joined pairs, and the fraction of one half recognized in the other."""
    rows, thumbnails = split_rows(files, "image")
    hashes = rows["phash"].to_numpy(np.uint64)
    near, near_flips = (
        {(first, second) for first, second in near_pairs_between(hashes, others, SETTINGS.max_hash_distance)
         if first < second}
        for others in (hashes, rows["flipped_phash"].to_numpy(np.uint64)))
    previous, new = rows[: len(rows) // 2], rows[len(rows) // 2 :]
    uncolored = [half.assign(color_signature=bytes(192)) for half in (new, previous)]
    metrics = {
        "pairs": comb(len(rows), 2), "near": len(near), "near flips": len(near_flips),
        "joined": sum(match(thumbnails[first], thumbnails[second]) for first, second in near),
        "joined flips": sum(match(thumbnails[first], flipped(thumbnails[second])) for first, second in near_flips),
        "recognized": round(float(previous_values(new, previous, "subset").notna().mean()), 4),
        "recognized by hash alone": round(float(previous_values(*uncolored, "subset").notna().mean()), 4)}
    print(f"different images of {title}: {metrics}")
    return metrics


def main() -> None:
    """Print a row for each change, then the false matches among photographs and among the demo's images."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="A folder in the layout of the competition.")
    parser.add_argument("--quick", action="store_true", help="every tenth image instead of every third")
    options = parser.parse_args()
    paths = sorted(options.data.glob("train/*/*"))
    files = [path.read_bytes() for path in paths[:: 10 if options.quick else 3]]
    table = pd.DataFrame({title: measure_copies(change, files) for title, change in changes().items()}).T
    print(table.to_string(float_format="{:.3f}".format))
    random = np.random.default_rng(0)
    photographs = measure_different("cars10", [path.read_bytes() for path in paths])
    cars = [car_image(number % NUM_CLASSES, random) for number in range(300 if options.quick else 1500)]
    rendered = measure_different("the demo", cars)
    print(json.dumps({
        "joined": table["joined"].round(3).to_dict(), "recognized": table["recognized"].round(3).to_dict(),
        "different_joined": photographs["joined"], "different_recognized": photographs["recognized"],
        "rendered_recognized": rendered["recognized"]}))


if __name__ == "__main__":
    main()
