"""Mutated images, seeded: they are read or rejected with a message."""

import io
import random
from pathlib import Path

import numpy as np
import pytest
from mutations import Mutation, flip_bits, mutation_counts, repeat, splice, truncate
from PIL import Image

from carclf.config import Validation
from carclf.dataset.findings import SEVERITY_BY_KIND
from carclf.dataset.inspection import inspect_image

CONFIG = Validation(min_side=8, max_megapixels=2)


def jpegs() -> list[bytes]:
    """Small images of all kinds of JPEG that cameras and editors write."""
    pixels = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8).repeat(4, 0).repeat(4, 1)
    image = Image.fromarray(pixels)
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "a car"
    options = [{}, {"progressive": True}, {"exif": exif}, {"subsampling": 0}, {"restart_marker_blocks": 2},
               {"comment": b"x" * 80}, {"icc_profile": bytes(200)}]
    rgb = [encode(image, **option) for option in options]
    return [*rgb, encode(image.convert("L")), encode(image.convert("CMYK"))]


def encode(image: Image.Image, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **options)
    return buffer.getvalue()


def change_header(random: random.Random, data: bytes) -> bytes:
    """Change lengths, sizes, numbers of components or tables after one of the markers."""
    markers = [at for at in range(len(data) - 12) if data[at] == 0xFF and 0xC0 <= data[at + 1] <= 0xFE]
    at = random.choice(markers) + random.randrange(1, 10)
    return data[:at] + random.choice((b"\0\0", b"\xff\xff", b"\x80\0", random.randbytes(2))) + data[at + 2 :]


SEEDS = jpegs()
JPEG_MUTATIONS: tuple[Mutation, ...] = (
    flip_bits, truncate, splice(SEEDS), change_header, repeat,
)


def fuzz_jpegs(num: int, path: Path) -> dict[str, int]:
    """Inspect mutated images; return their number by kind of problem."""
    outcomes: dict[str, int] = {}
    for number in range(num):
        chance = random.Random(number)
        data = chance.choice(SEEDS)
        for _ in range(chance.choice((1, 1, 2))):
            data = chance.choice(JPEG_MUTATIONS)(chance, data) or b"\xff"
        path.write_bytes(data)
        row = inspect_image(path, CONFIG)
        kind = row["problem_kind"]
        assert bool(row["problem"]) == bool(kind), number
        assert not kind or SEVERITY_BY_KIND[kind] == "unusable", number
        assert kind or min(row["width"], row["height"]) > 0, number
        outcomes[kind or "usable"] = outcomes.get(kind or "usable", 0) + 1
    return outcomes


@pytest.mark.filterwarnings("ignore::UserWarning:PIL", "ignore::UserWarning:zipfile")
@mutation_counts(1500)
def test_mutated_jpegs_are_usable_or_have_a_problem(num: int, tmp_path: Path) -> None:
    outcomes = fuzz_jpegs(num, tmp_path / "a.jpg")
    assert min(outcomes.get(kind, 0) for kind in ("usable", "truncated", "undecodable")) > 0
