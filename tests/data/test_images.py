import io

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from carclf.data.framing import letterbox
from carclf.data.images import Undecodable, decode

PIXELS = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8).repeat(4, 0).repeat(4, 1)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


JPEG = encoded(Image.fromarray(PIXELS), "JPEG", quality=95)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "LA"])
def test_pictures_of_every_mode_become_rgb(mode: str) -> None:
    kind = "TIFF" if mode == "CMYK" else "PNG"
    decoded = decode(encoded(Image.fromarray(PIXELS).convert(mode), kind))
    assert (decoded.shape, decoded.dtype) == ((192, 256, 3), np.uint8)


def test_exif_rotation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    assert decode(encoded(Image.fromarray(PIXELS), "JPEG", exif=exif)).shape == (256, 192, 3)


@pytest.mark.parametrize(
    ("frame", "shape"),
    [((96, 400), (96, 128, 3)), ((300, 100), (96, 128, 3)), ((97, 400), (120, 160, 3)), ((500, 500), (192, 256, 3))],
)
def test_a_jpeg_is_decoded_at_the_smallest_scale_that_fills_the_frame(frame: tuple[int, int], shape: tuple) -> None:
    assert decode(JPEG, frame=frame).shape == shape
    assert decode(JPEG).shape == (192, 256, 3)


@pytest.mark.parametrize("data", [b"", b"no picture", JPEG[: len(JPEG) // 2], JPEG[:40]])
def test_what_is_no_whole_picture_is_refused(data: bytes) -> None:
    with pytest.raises(Undecodable):
        decode(data)


def test_a_decompression_bomb_is_refused_before_decoding() -> None:
    with pytest.raises(Undecodable, match="megapixels"):
        decode(encoded(Image.new("L", (9000, 9000)), "PNG"))


@settings(max_examples=300, deadline=None)
@given(st.integers(0, len(JPEG) - 1), st.binary(min_size=1, max_size=8), st.integers(1, len(JPEG)))
def test_mutated_jpegs_decode_or_are_refused_and_nothing_else(at: int, patch: bytes, end: int) -> None:
    try:
        decoded = decode((JPEG[:at] + patch + JPEG[at + len(patch) :])[:end])
    except Undecodable:
        return
    assert decoded.ndim == 3


@given(st.integers(1, 80), st.integers(1, 80), st.integers(1, 40), st.integers(1, 40))
def test_letterbox_fills_the_frame_whatever_the_shapes(height: int, width: int, to_height: int, to_width: int) -> None:
    framed = letterbox(np.full((height, width, 3), 7, np.uint8), to_height, to_width)
    assert framed.shape == (to_height, to_width, 3)
    assert (framed == 7).all()


def test_letterbox_keeps_the_whole_picture() -> None:
    wide = np.zeros((50, 100, 3), np.uint8)
    wide[:, :10], wide[:, -10:] = 255, 255
    framed = letterbox(wide, 100, 100)
    assert framed[50, 2, 0] == 255 and framed[50, 97, 0] == 255
    assert cv2.mean(framed[50:51, 45:55])[0] == 0


EXIF = Image.Exif()
EXIF[0x0112], EXIF[0x010E] = 3, "a car"
WITH_EXIF = encoded(Image.fromarray(PIXELS), "JPEG", exif=EXIF)


@settings(max_examples=400, deadline=None)
@given(st.integers(20, 120), st.binary(min_size=1, max_size=6))
def test_mutated_exif_data_decode_or_are_refused_and_nothing_else(at: int, patch: bytes) -> None:
    try:
        decoded = decode(WITH_EXIF[:at] + patch + WITH_EXIF[at + len(patch) :])
    except Undecodable:
        return
    assert decoded.ndim == 3
