"""How many changed copies of real photographs are found as such, and how many different ones are taken for copies.

"joined" is what ``duplicates`` does among the pictures of a dataset, "known" what a split does beside the champion's.
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
from carclf.dataset.matching import thumbnail, thumbnail_difference
from carclf.dataset.near_hashes import near_pairs_between
from carclf.demo.rendering import car_image
from carclf.images.decode import EncodedImage, Pixels
from carclf.images.hashes import color_signature, perceptual_hash

SETTINGS = Duplicates()
Change = Callable[[Image.Image, np.random.Generator], Image.Image]


def resized(image: Image.Image, random: np.random.Generator) -> Image.Image:
    """Half to one and a half times as large."""
    factor = random.uniform(0.5, 1.5)
    return image.resize((max(32, round(image.width * factor)), max(32, round(image.height * factor))))


def lit(image: Image.Image, random: np.random.Generator) -> Image.Image:
    """A quarter darker to a quarter brighter."""
    return ImageEnhance.Brightness(image).enhance(random.uniform(0.75, 1.25))


def cropped(image: Image.Image, random: np.random.Generator, *, share: float, exactly: bool) -> Image.Image:
    """Without this share of its width and height on each side, or without up to this share on each."""
    left, top, right, bottom = [share] * 4 if exactly else (random.random(4) * share).tolist()
    width, height = image.size
    return image.crop((round(width * left), round(height * top), round(width * (1 - right)),
                       round(height * (1 - bottom))))


def changes() -> dict[str, Change]:
    """What is done to the pictures before they are saved again as JPEGs of quality 20 to 95."""
    found: dict[str, Change] = {"saved again": lambda image, random: image, "resized": resized, "lit": lit}
    for share in (0.01, 0.02, 0.03, 0.05):
        found[f"cropped by {share:.0%} a side"] = partial(cropped, share=share, exactly=True)
        found[f"cropped by up to {share:.0%} a side"] = partial(cropped, share=share, exactly=False)
    found["mirrored"] = lambda image, random: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return found


def saved(image: Image.Image, random: np.random.Generator) -> bytes:
    """As a JPEG."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=int(random.integers(20, 96)))
    return buffer.getvalue()


def table(files: list[bytes], name: str) -> tuple[pd.DataFrame, list[Pixels]]:
    """The rows that a split has of the pictures, and their thumbnails."""
    pictures = [decode_reduced(EncodedImage(data)) for data in files]
    numbers = [f"{name} {number}" for number in range(len(files))]
    rows = pd.DataFrame({"sha256": numbers, "pixels_sha256": numbers, "subset": "train", "number": range(len(files)),
                         "color_signature": [color_signature(pixels) for pixels in pictures],
                         "phash": np.array([perceptual_hash(pixels) for pixels in pictures], np.uint64)})
    return rows, [thumbnail(pixels) for pixels in pictures]


def copies(change: Change, files: list[bytes]) -> dict[str, float]:
    """Shares of the changed pictures: whose hash is near enough, that are joined, and that are known."""
    random = np.random.default_rng(0)
    images = (Image.open(io.BytesIO(data)).convert("RGB") for data in files)
    (rows, own), (again, others) = table(files, "a"), table([saved(change(one, random), random) for one in images], "b")
    bits = np.bitwise_count(rows["phash"].to_numpy() ^ again["phash"].to_numpy())
    near = bits <= SETTINGS.max_hash_distance
    joined = [near and thumbnail_difference(one, other) <= SETTINGS.max_pixel_difference
              for near, one, other in zip(near.tolist(), own, others, strict=True)]
    found = previous_values(again, rows, "number")
    return {"copies": len(files), "near hash": near.mean(), "joined": float(np.mean(joined)),
            "known": (found == again["number"]).mean(), "taken for others": (found.notna() & (
                found != again["number"])).mean()}


def strangers(title: str, files: list[bytes]) -> dict[str, float]:
    """Different pictures: pairs with near hashes and those joined, and the share of one half known by the other."""
    rows, thumbnails = table(files, "a")
    hashes = rows["phash"].to_numpy(np.uint64)
    near = {(one, other) for one, other in near_pairs_between(hashes, hashes, SETTINGS.max_hash_distance) if one < other}
    joined = sum(thumbnail_difference(thumbnails[one], thumbnails[other]) <= SETTINGS.max_pixel_difference for one, other in near)
    halves = rows[: len(rows) // 2], rows[len(rows) // 2 :]
    by_hash = previous_values(halves[1].drop(columns="color_signature"), halves[0].drop(columns="color_signature"), "subset").notna().mean()
    found = {"pairs": comb(len(rows), 2), "near": len(near), "joined": joined,
             "known": previous_values(halves[1], halves[0], "subset").notna().mean(), "known by hash alone": by_hash}
    metrics = {name: round(float(figure), 4) for name, figure in found.items()}
    print(f"different pictures of {title}: {metrics}")
    return metrics


def main() -> None:
    """A row per change, then the different pictures of the photographs and of the demo."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/cars10"))
    parser.add_argument("--quick", action="store_true", help="every tenth picture")
    options = parser.parse_args()
    paths = sorted(options.data.glob("train/*/*"))
    files = [path.read_bytes() for path in paths[:: 10 if options.quick else 3]]
    shares = pd.DataFrame({title: copies(change, files) for title, change in changes().items()}).T
    print(shares.to_string(float_format="{:.3f}".format))
    random = np.random.default_rng(0)
    photographs = strangers("cars10", [path.read_bytes() for path in paths])
    rendered = strangers("the demo", [car_image(number % 10, random) for number in range(300 if options.quick else 1500)])
    print(json.dumps({"joined": shares["joined"].round(3).to_dict(), "known": shares["known"].round(3).to_dict(),
                      "strangers_joined": photographs["joined"], "strangers_known": photographs["known"],
                      "rendered_known": rendered["known"]}))


if __name__ == "__main__":
    main()
