import io
import tracemalloc
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from carclf.config import Validation
from carclf.dataset.inspection import inspect_image, make_pixel_loader
from carclf.errors import DataError
from carclf.images.decode import ImageDecodeError, decode, read_image_bytes
from carclf.images.letterbox import letterbox
from carclf.images.scans import MAX_SCANS
from carclf.pipeline.decode_cache import ImageFiles
from carclf.reports.thumbnails import Thumbnails

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
    with pytest.raises(ImageDecodeError):
        decode(data)


def test_a_decompression_bomb_is_refused_before_decoding() -> None:
    with pytest.raises(ImageDecodeError, match="megapixels"):
        decode(encoded(Image.new("L", (9000, 9000)), "PNG"))


@settings(max_examples=300, deadline=None)
@given(st.integers(0, len(JPEG) - 1), st.binary(min_size=1, max_size=8), st.integers(1, len(JPEG)))
def test_mutated_jpegs_decode_or_are_refused_and_nothing_else(at: int, patch: bytes, end: int) -> None:
    try:
        decoded = decode((JPEG[:at] + patch + JPEG[at + len(patch) :])[:end])
    except ImageDecodeError:
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
    except ImageDecodeError:
        return
    assert decoded.ndim == 3


def many_scans(num: int) -> bytes:
    """A progressive JPEG with its last scan again and again: each goes over all of its pixels."""
    data = encoded(Image.new("RGB", (640, 480), (90, 90, 90)), "JPEG", progressive=True)
    tables = data.rfind(b"\xff\xc4", 0, data.rfind(b"\xff\xda"))
    return data[:-2] + data[tables:-2] * num + data[-2:]


def test_a_jpeg_of_many_scans_is_refused_before_decoding_wherever_pictures_are_decoded(tmp_path: Path) -> None:
    (tmp_path / "bomb.jpg").write_bytes(data := many_scans(1000))
    with pytest.raises(ImageDecodeError, match=f"its 10[0-9]{{2}} scans are more than {MAX_SCANS}"):
        decode(data)
    with pytest.raises(ImageDecodeError, match="scans"):
        make_pixel_loader(tmp_path, ["bomb.jpg"])(0)
    with pytest.raises(DataError, match="scans"):
        ImageFiles([tmp_path / "bomb.jpg"], 48, 64)[0]
    row = inspect_image(tmp_path / "bomb.jpg", Validation())
    assert row["problem_kind"] == "too_many_pixels" and len(row["sha256"]) == 64 and Thumbnails(tmp_path)("bomb.jpg") == ""


def test_ordinary_progressive_jpegs_are_read_also_beside_bytes_that_look_like_scans() -> None:
    exif = Image.Exif()
    exif[0x010E] = "\xff\xda".encode("latin-1") * 200
    for data in (many_scans(0), many_scans(20), many_scans(0) + b"\xff\xda\0\2" * 200,
                 encoded(Image.fromarray(PIXELS), "JPEG", progressive=True, exif=exif)):
        assert decode(data).shape in ((480, 640, 3), (192, 256, 3))


def test_a_file_that_no_picture_can_fill_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "huge.jpg").open("wb") as file:
        file.truncate(50_000_000 * 4 + 1)
    tracemalloc.start()
    with pytest.raises(ImageDecodeError, match="200000001 bytes are more than 4 for each pixel"):
        read_image_bytes(tmp_path / "huge.jpg")
    row, thumbnail = inspect_image(tmp_path / "huge.jpg", Validation()), Thumbnails(tmp_path)("huge.jpg")
    assert (row["problem_kind"], thumbnail) == ("too_many_pixels", "") and tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()


RAMP = np.linspace(0, 1, 256, dtype=np.float32)[None].repeat(40, 0)


@pytest.mark.parametrize(
    ("values", "problem_kind"),
    [((RAMP * 65535).astype(np.uint16), "PNG"), ((RAMP * 4095).astype(np.uint16), "TIFF"),
     ((RAMP * 100_000 - 50_000).astype(np.int32), "TIFF"), (RAMP, "TIFF"), (RAMP * 1e-3, "TIFF")],
)
def test_greys_of_more_than_eight_bits_are_stretched(values: np.ndarray, kind: str) -> None:
    decoded = decode(encoded(Image.fromarray(values), kind))
    assert np.abs(decoded - np.arange(256)[None, :, None]).max() <= 1 and decoded.dtype == np.uint8


def test_a_float_picture_of_one_value_or_of_none_is_black() -> None:
    for value in (7.0, np.nan, np.inf):
        assert not decode(encoded(Image.fromarray(np.full((40, 40), value, np.float32)), "TIFF")).any()


def half_transparent(mode: str) -> bytes:
    """Left red (or grey) and right transparent, with another color below it."""
    image = Image.new("RGBA", (64, 48), (200, 0, 0, 255))
    image.paste((0, 0, 250, 0), (32, 0, 64, 48))
    if mode == "P":
        flat = Image.new("P", (64, 48), 1)
        flat.putpalette([0, 0, 250, 200, 0, 0])
        flat.paste(0, (32, 0, 64, 48))
        return encoded(flat, "PNG", transparency=0)
    if mode == "RGB":
        return encoded(image.convert("RGB"), "PNG", transparency=(0, 0, 250))
    return encoded(image.convert(mode), "PNG")


@pytest.mark.parametrize(("mode", "left"), [("RGBA", (200, 0, 0)), ("P", (200, 0, 0)), ("RGB", (200, 0, 0)),
                                            ("LA", (60, 60, 60))])
@pytest.mark.parametrize("reduces", [False, True])
def test_what_is_transparent_is_white(
    mode: str, left: tuple[int, ...], reduces: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if reduces:  # as large pictures are by validation
        monkeypatch.setattr("carclf.images.decode.LARGE", 1)
        monkeypatch.setattr("carclf.dataset.inspection.SMALLEST_SIDE", 24)
    (tmp_path / "a.png").write_bytes(half_transparent(mode))
    pixels = make_pixel_loader(tmp_path, ["a.png"])(0) if reduces else decode(half_transparent(mode))
    assert pixels.shape == ((24, 32, 3) if reduces else (48, 64, 3))
    assert tuple(pixels[5, 2]) == left and tuple(pixels[5, -2]) == (255, 255, 255)
    assert inspect_image(tmp_path / "a.png", Validation())["format"] == f"PNG {mode} transparent"
