"""Mutated images, seeded: they are read or rejected with a message."""

import io
import random
from pathlib import Path

import numpy as np
import pytest
from jpeg_parts import uniform_jpeg
from mutations import Mutation, flip_bits, mutation_counts, repeat, splice, truncate
from PIL import Image

from carclf.config import Validation
from carclf.dataset.findings import SEVERITY_BY_KIND
from carclf.dataset.inspection import inspect_image
from carclf.images.decode import decode

CONFIG = Validation(min_side=8, max_megapixels=2)


def jpegs() -> list[bytes]:
    """Small images of all kinds of JPEG that cameras and editors write."""
    image = random_image()
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "a car"
    options = [{}, {"progressive": True}, {"exif": exif}, {"subsampling": 0}, {"restart_marker_blocks": 2},
               {"comment": b"x" * 80}, {"icc_profile": bytes(200)}]
    rgb = [encode(image, **option) for option in options]
    rare = [uniform_jpeg(frame) for frame in (2, 3, 7, 9, 10)] + [uniform_jpeg(3, num_channels=4)]
    return [*rgb, *rare, encode(image.convert("L")), encode(image.convert("CMYK"))]


def random_image() -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8).repeat(4, 0).repeat(4, 1)
    return Image.fromarray(pixels)


def encode(image: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


Variants = list[tuple[Image.Image, dict[str, object]]]


def images(kind: str) -> list[bytes]:
    """Small images of a format, in several color modes, with and without metadata."""
    if kind == "JPEG":
        return jpegs()
    exif = Image.Exif()
    exif[0x0112] = 6
    image = random_image()
    transparent = image.copy()
    transparent.putalpha(image.convert("L"))
    two_images: dict[str, object] = {"save_all": True, "append_images": [image.transpose(Image.Transpose.ROTATE_180)]}
    deep = Image.fromarray(np.asarray(image.convert("L"), np.uint16) * 257)
    more: dict[str, Variants] = {
        "PNG": [(transparent, {}), (image.convert("P"), {"transparency": 3}), (deep, {})],
        "WEBP": [(transparent, {}), (image, {"lossless": True}), (image, two_images)],
        "GIF": [(image, two_images)],
        "BMP": [(image.convert("P"), {}), (image.convert("1"), {})],
        "TIFF": [(image, {"compression": name}) for name in ("jpeg", "tiff_lzw", "tiff_deflate", "packbits")]
        + [(image.convert("F"), {}), (image.convert("CMYK"), {})],
        "AVIF": [(transparent, {}), (image, two_images)],
        "JPEG2000": [(transparent, {}), (image, {"irreversible": True}), (image, {"no_jp2": True})],
    }
    variants: Variants = [(image, {}), (image, {"exif": exif}), (image.convert("L"), {}), *more[kind]]
    return [encode(variant, kind, **options) for variant, options in variants]


def change_header(random: random.Random, data: bytes) -> bytes:
    """Change lengths, sizes, numbers of components or tables after one of the markers."""
    markers = [at for at in range(len(data) - 12) if data[at] == 0xFF and 0xC0 <= data[at + 1] <= 0xFE]
    at = random.choice(markers) + random.randrange(1, 10)
    return data[:at] + random.choice((b"\0\0", b"\xff\xff", b"\x80\0", random.randbytes(2))) + data[at + 2 :]


def change_number(random: random.Random, data: bytes) -> bytes:
    """Set a number near the beginning, where most formats have their sizes, to an extreme one."""
    at = random.randrange(min(len(data), 200))
    number = random.choice((b"\0\0", b"\xff\xff", b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x80\0\0\0"))
    return data[:at] + number + data[at + len(number) :]


def fuzz_images(kind: str, num: int, path: Path) -> dict[str, int]:
    """Inspect mutated images, and decode the usable ones like a training; return their number by kind of problem."""
    seeds = images(kind)
    mutations: list[Mutation] = [
        flip_bits, truncate, splice(seeds), repeat, change_header if kind == "JPEG" else change_number]
    outcomes: dict[str, int] = {}
    for number in range(num):
        chance = random.Random(number)
        data = chance.choice(seeds)
        for _ in range(chance.choice((1, 1, 2))):
            data = chance.choice(mutations)(chance, data) or b"\xff"
        path.write_bytes(data)
        row = inspect_image(path, CONFIG)
        problem = row["problem_kind"]
        assert bool(row["problem"]) == bool(problem), number
        assert not problem or SEVERITY_BY_KIND[problem] == "unusable", number
        if not problem:
            assert min(row["width"], row["height"]) > 0, number
            assert decode(data, min_size=(20, 20), max_megapixels=CONFIG.max_megapixels).shape[2] == 3, number
        outcomes[problem or "usable"] = outcomes.get(problem or "usable", 0) + 1
    return outcomes


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000"])
@mutation_counts(120)
def test_mutated_images_are_usable_or_have_a_problem(num: int, kind: str, tmp_path: Path) -> None:
    outcomes = fuzz_images(kind, num, tmp_path / "a.jpg")
    assert min(outcomes.get(outcome, 0) for outcome in ("usable", "undecodable")) > 0
