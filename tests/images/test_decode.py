"""Decoding: EXIF orientation, reduced scales, and files that are rejected."""

import io
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from carclf.config import Validation
from carclf.dataset.inspection import inspect_image
from carclf.images.decode import ImageDecodeError, decode, read_image_bytes
from carclf.reports.thumbnails import Thumbnails

PIXELS = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8).repeat(4, 0).repeat(4, 1)
ORIENTATION, DESCRIPTION = 0x0112, 0x010E  # EXIF tags


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


JPEG = encode(Image.fromarray(PIXELS), "JPEG", quality=95)


def test_exif_orientation_is_applied() -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    assert decode(encode(Image.fromarray(PIXELS), "JPEG", exif=exif)).shape == (256, 192, 3)


@pytest.mark.parametrize(
    ("min_size", "shape"),
    [((96, 400), (96, 128, 3)), ((300, 100), (96, 128, 3)), ((97, 400), (120, 160, 3)), ((500, 500), (192, 256, 3)),
     (None, (192, 256, 3))],
)
def test_a_jpeg_is_decoded_at_the_smallest_sufficient_scale(
    min_size: tuple[int, int] | None, shape: tuple[int, ...]
) -> None:
    assert decode(JPEG, min_size=min_size).shape == shape


@pytest.mark.parametrize("data", [b"no image", JPEG[: len(JPEG) // 2], JPEG[:40]])
def test_an_incomplete_image_is_rejected(data: bytes) -> None:
    with pytest.raises(ImageDecodeError):
        decode(data)


def test_an_empty_file_is_reported_as_empty() -> None:
    with pytest.raises(ImageDecodeError, match="the file is empty") as error:
        decode(b"")
    assert error.value.kind == "empty"


def test_a_decompression_bomb_is_rejected_before_decoding() -> None:
    with pytest.raises(ImageDecodeError, match="megapixels"):
        decode(encode(Image.new("L", (9000, 9000)), "PNG"))


@settings(max_examples=300, deadline=None)
@given(st.integers(0, len(JPEG) - 1), st.binary(min_size=1, max_size=8), st.integers(1, len(JPEG)))
def test_a_mutated_jpeg_raises_only_image_decode_error(at: int, patch: bytes, end: int) -> None:
    try:
        pixels = decode((JPEG[:at] + patch + JPEG[at + len(patch) :])[:end])
    except ImageDecodeError:
        return
    assert pixels.ndim == 3


EXIF = Image.Exif()
EXIF[ORIENTATION] = 3
EXIF[DESCRIPTION] = "a car"
WITH_EXIF = encode(Image.fromarray(PIXELS), "JPEG", exif=EXIF)


@settings(max_examples=400, deadline=None)
@given(st.integers(20, 120), st.binary(min_size=1, max_size=6))
def test_mutated_exif_data_raise_only_image_decode_error(at: int, patch: bytes) -> None:
    try:
        pixels = decode(WITH_EXIF[:at] + patch + WITH_EXIF[at + len(patch) :])
    except ImageDecodeError:
        return
    assert pixels.ndim == 3


def test_a_file_larger_than_any_allowed_image_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "huge.jpg").open("wb") as file:
        file.truncate(50_000_000 * 4 + 1)
    tracemalloc.start()
    with pytest.raises(ImageDecodeError, match="200000001 bytes"):
        read_image_bytes(tmp_path / "huge.jpg")
    row = inspect_image(tmp_path / "huge.jpg", Validation())
    assert row["problem_kind"] == "too_many_pixels"
    assert Thumbnails(tmp_path)("huge.jpg") == ""
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()


@pytest.mark.parametrize("data", [b"<!DOCTYPE html><title>404</title>", b"\0\0\0\x18ftypheic" + bytes(40)])
def test_a_file_in_an_unknown_format_is_reported_with_its_first_bytes(data: bytes) -> None:
    with pytest.raises(ImageDecodeError) as error:
        decode(data)
    assert f"bytes {data[:12].hex(' ')} " in str(error.value)


@pytest.mark.parametrize("kind", ["AVIF", "JPEG2000", "WEBP", "GIF", "BMP", "TIFF", "PNG"])
def test_each_format_is_read_whatever_the_extension(kind: str, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(encode(Image.fromarray(PIXELS), kind))
    row = inspect_image(tmp_path / "a.jpg", Validation())
    assert (row["format"], row["width"], row["height"], row["problem"]) == (kind, 256, 192, "")
