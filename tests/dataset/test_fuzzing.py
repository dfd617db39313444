"""Mutated images and archives, seeded: they are read or rejected with a message, and stay in their folder."""

import io
import random
import stat
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from jpeg_parts import uniform_jpeg
from mutations import Mutation, flip_bits, mutation_counts, repeat, splice, truncate
from PIL import Image

from carclf.config import Validation
from carclf.dataset.archives import extract
from carclf.dataset.findings import SEVERITY_BY_KIND
from carclf.dataset.inspection import inspect_image
from carclf.errors import DataError
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


GOOD_NAMES = (
    "train/0/a.jpg", "train/1/b.jpg", "top/train/1/c.jpg", "test_upload/d.jpg", "sample-submission.csv", "train.zip",
    "test.zip", "train/./0/e.jpg", "train/0/\u202egpj.exe", "~/train/0/i.jpg", "train/0/.hidden", "train/0/",
)
BAD_NAMES = (
    "train", "train/0", "train/0/a.jpg/b.jpg", "train/../../evil.jpg", "/evil.jpg", "..\\train\\evil.jpg", "train/0/..",
    "//train//0//f.jpg", "C:\\train\\0\\g.jpg", "train/0/" + "n" * 300, "train/\0/h.jpg", ".", "..", "../a.csv",
)
CONTENTS = (b"", b"../../x", b"Id,Category\n", bytes(5000))
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
MODES = (stat.S_IFREG, stat.S_IFLNK, stat.S_IFIFO, stat.S_IFDIR)


def archive(random: random.Random, depth: int = 0) -> bytes:
    """A small archive with unusual names, links, nested archives and compression methods."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as opened:
        for _ in range(random.randrange(1, 6)):
            member = zipfile.ZipInfo(random.choice(random.choices((GOOD_NAMES, BAD_NAMES), (9, 1))[0]))
            mode = random.choices(MODES, (40, 1, 1, 1))[0]
            member.external_attr, member.create_system = (mode | 0o644) << 16, 3
            nested = member.filename.endswith(".zip") and depth < 4
            data = archive(random, depth + 1) if nested else random.choice(CONTENTS)
            opened.writestr(member, data, random.choice(METHODS))
    return buffer.getvalue()


def change_sizes(random: random.Random, data: bytes) -> bytes:
    """Change numbers in the local headers, the central directory or its end."""
    signature = random.choice((b"PK\3\4", b"PK\1\2", b"PK\5\6"))
    if (at := data.find(signature)) < 0:
        return data
    at += random.randrange(4, 30)
    number = random.choice((struct.pack("<I", random.getrandbits(32)), b"\xff" * 4, bytes(4)))
    return data[:at] + number + data[at + 4 :]


def rename(random: random.Random, data: bytes) -> bytes:
    """Change names, keeping their length, in the central directory, the local header, or both."""
    return data.replace(b"train/0/", random.choice((b"../../..", b"/train/0", b"train/\0/", b"\xff\xfe\xfd/xyz")),
                        random.choice((1, 2, -1)))


ARCHIVE_MUTATIONS: tuple[Mutation, ...] = (
    lambda _, data: data, flip_bits, truncate, change_sizes, rename, repeat,
)


def fuzz_archives(num: int, folder: Path) -> dict[str, int]:
    """Extract mutated archives; return how many were extracted and how many rejected."""
    outcomes = {"extracted": 0, "rejected": 0}
    (folder / "deep/er").mkdir(parents=True)
    path = folder / "a.zip"
    for number in range(num):
        chance, target = random.Random(number), folder / "deep/er" / str(number)
        path.write_bytes(chance.choice(ARCHIVE_MUTATIONS)(chance, archive(chance)))
        target.mkdir()
        try:
            extract(path, target, top_folders=("train", "test_upload"))
            outcomes["extracted"] += 1
        except DataError as error:
            assert str(error)
            outcomes["rejected"] += 1
        assert not any(entry.is_symlink() or not (entry.is_file() or entry.is_dir()) for entry in target.rglob("*"))
    outside = {entry.name for entry in (*folder.iterdir(), *(folder / "deep").iterdir())}
    assert outside == {"a.zip", "deep", "er"}
    assert {entry.name for entry in (folder / "deep/er").iterdir()} == {str(number) for number in range(num)}
    return outcomes


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000"])
@mutation_counts(300)
def test_mutated_images_are_usable_or_have_a_problem(num: int, kind: str, tmp_path: Path) -> None:
    outcomes = fuzz_images(kind, num, tmp_path / "a.jpg")
    assert min(outcomes.get(outcome, 0) for outcome in ("usable", "undecodable")) > 0


@pytest.mark.filterwarnings("ignore::UserWarning")
@mutation_counts(400)
def test_mutated_archives_are_extracted_or_rejected(num: int, tmp_path: Path) -> None:
    outcomes = fuzz_archives(num, tmp_path / "work")
    assert min(outcomes.values()) > 0
