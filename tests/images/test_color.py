"""Conversion of color modes to RGB, in full and while an image is reduced."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from carclf.config import Validation
from carclf.dataset.inspection import inspect_image, make_pixel_loader
from carclf.images.decode import decode

PIXELS = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8).repeat(4, 0).repeat(4, 1)
RAMP = np.linspace(0, 1, 256, dtype=np.float32)[None].repeat(40, 0)


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "LA"])
def test_images_of_each_mode_become_rgb(mode: str) -> None:
    kind = "TIFF" if mode == "CMYK" else "PNG"
    pixels = decode(encode(Image.fromarray(PIXELS).convert(mode), kind))
    assert (pixels.shape, pixels.dtype) == ((192, 256, 3), np.uint8)


@pytest.mark.parametrize(
    ("values", "kind"),
    [((RAMP * 65535).astype(np.uint16), "PNG"), ((RAMP * 4095).astype(np.uint16), "TIFF"),
     ((RAMP * 100_000 - 50_000).astype(np.int32), "TIFF"), (RAMP, "TIFF"), (RAMP * 1e-3, "TIFF"),
     ((RAMP - 0.5) * 1.9e38, "TIFF")],
)
def test_gray_values_of_more_than_eight_bits_are_stretched(values: np.ndarray, kind: str) -> None:
    pixels = decode(encode(Image.fromarray(values), kind))
    assert np.abs(pixels - np.arange(256)[None, :, None]).max() <= 1
    assert pixels.dtype == np.uint8


@pytest.mark.parametrize("value", [7.0, np.nan, np.inf])
def test_a_float_image_without_a_range_of_values_is_black(value: float) -> None:
    assert not decode(encode(Image.fromarray(np.full((40, 40), value, np.float32)), "TIFF")).any()


def half_transparent(mode: str) -> bytes:
    """The left half red (or gray), the right half transparent over another color."""
    image = Image.new("RGBA", (64, 48), (200, 0, 0, 255))
    image.paste((0, 0, 250, 0), (32, 0, 64, 48))
    if mode == "P":
        palette_image = Image.new("P", (64, 48), 1)
        palette_image.putpalette([0, 0, 250, 200, 0, 0])
        palette_image.paste(0, (32, 0, 64, 48))
        return encode(palette_image, "PNG", transparency=0)
    if mode == "RGB":
        return encode(image.convert("RGB"), "PNG", transparency=(0, 0, 250))
    return encode(image.convert(mode), "PNG")


HALF_TRANSPARENT = [("RGBA", (200, 0, 0)), ("P", (200, 0, 0)), ("RGB", (200, 0, 0)), ("LA", (60, 60, 60))]


@pytest.mark.parametrize(("mode", "left"), HALF_TRANSPARENT)
def test_transparent_pixels_become_white(mode: str, left: tuple[int, ...], tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(half_transparent(mode))
    pixels = decode(half_transparent(mode))
    assert pixels.shape == (48, 64, 3)
    assert (tuple(pixels[5, 2]), tuple(pixels[5, -2])) == (left, (255, 255, 255))
    row = inspect_image(tmp_path / "a.png", Validation())
    assert (row["format"], row["mode"], row["is_transparent"]) == ("PNG", mode, True)


@pytest.mark.parametrize(("mode", "left"), HALF_TRANSPARENT)
def test_transparent_pixels_of_a_reduced_image_become_white(
    mode: str, left: tuple[int, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("carclf.images.decode.LARGE", 1)  # Pillow reduces only large images
    monkeypatch.setattr("carclf.dataset.inspection.MIN_REDUCED_SIDE", 24)
    (tmp_path / "a.png").write_bytes(half_transparent(mode))
    pixels = make_pixel_loader(tmp_path, ["a.png"])(0)
    assert pixels.shape == (24, 32, 3)
    assert (tuple(pixels[5, 2]), tuple(pixels[5, -2])) == (left, (255, 255, 255))
    row = inspect_image(tmp_path / "a.png", Validation())
    assert (row["format"], row["mode"], row["is_transparent"]) == ("PNG", mode, True)
