"""JPEGs of all types: those with very many scans and unsupported ones are rejected before they are decoded."""

import io
from pathlib import Path

import numpy as np
import pytest
from jpeg_parts import uniform_jpeg
from PIL import Image

from carclf.config import Validation
from carclf.dataset.inspection import inspect_image, make_pixel_loader
from carclf.errors import DataError
from carclf.images.decode import ImageDecodeError, decode
from carclf.images.jpeg_segments import MAX_SCANS
from carclf.pipeline.decode_cache import ImageFiles
from carclf.reports.thumbnails import Thumbnails


def encode_progressive(**options: object) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (640, 480), (90, 90, 90)).save(buffer, "JPEG", progressive=True, **options)
    return buffer.getvalue()


def repeat_last_scan(num: int) -> bytes:
    """A progressive JPEG that repeats its last scan, which updates all pixels each time."""
    data = encode_progressive()
    tables = data.rfind(b"\xff\xc4", 0, data.rfind(b"\xff\xda"))
    return data[:-2] + data[tables:-2] * num + data[-2:]


def test_a_jpeg_with_many_scans_is_rejected_wherever_images_are_decoded(tmp_path: Path) -> None:
    path = tmp_path / "bomb.jpg"
    path.write_bytes(data := repeat_last_scan(1000))
    with pytest.raises(ImageDecodeError, match=f"10[0-9]{{2}} scans .*{MAX_SCANS}"):
        decode(data)
    with pytest.raises(ImageDecodeError, match="scans"):
        make_pixel_loader(tmp_path, ["bomb.jpg"])(0)
    with pytest.raises(DataError, match="scans"):
        ImageFiles([path], 48, 64)[0]
    row = inspect_image(path, Validation())
    assert row["problem_kind"] == "too_many_pixels"
    assert len(row["sha256"]) == 64
    assert Thumbnails(tmp_path)("bomb.jpg") == ""


def exif_with_scan_markers() -> Image.Exif:
    exif = Image.Exif()
    exif[0x010E] = "\xff\xda".encode("latin-1") * 200
    return exif


@pytest.mark.parametrize("data", [
    repeat_last_scan(0), repeat_last_scan(20), repeat_last_scan(0) + b"\xff\xda\0\2" * 200,
    encode_progressive(exif=exif_with_scan_markers()),
], ids=["plain", "twenty scans", "markers after the end", "markers in EXIF data"])
def test_a_progressive_jpeg_is_decoded(data: bytes) -> None:
    assert decode(data).shape == (480, 640, 3)


@pytest.mark.parametrize("num_channels", [1, 3, 4])
def test_a_lossless_jpeg_is_decoded_without_the_scaled_decoder(num_channels: int, tmp_path: Path) -> None:
    """The scaled decoder would end the process."""
    path = tmp_path / "lossless.jpg"
    path.write_bytes(uniform_jpeg(3, num_channels=num_channels))
    assert decode(path.read_bytes(), min_size=(60, 80)).shape == (480, 640, 3)
    assert np.ptp(decode(path.read_bytes())) == 0
    row = inspect_image(path, Validation())
    assert (row["width"], row["height"], row["problem"], row["decode_warning"]) == (640, 480, "", "")
    assert make_pixel_loader(tmp_path, ["lossless.jpg"])(0).shape == (120, 160, 3)
    assert ImageFiles([path], 60, 80)[0].shape == (60, 80, 3)
    assert Thumbnails(tmp_path)("lossless.jpg").startswith("data:")


@pytest.mark.parametrize("bits", [8, 12, 16])
@pytest.mark.parametrize("frame", [number for number in range(16) if number not in (4, 8, 12)])
def test_each_type_of_jpeg_is_decoded_or_named(frame: int, bits: int) -> None:
    data = uniform_jpeg(frame, bits)
    if frame in (0, 1, 2, 3, 9, 10) and bits == 8:
        assert decode(data, min_size=(60, 80)).shape[2] == 3
    else:
        with pytest.raises(ImageDecodeError, match=rf"SOF{frame} .*\b{bits} bits"):
            decode(data, min_size=(60, 80))


def test_cmyk_jpegs_with_and_without_ycck_have_the_right_colors() -> None:
    red = Image.new("RGB", (64, 48), (200, 0, 0)).convert("CMYK")
    buffer = io.BytesIO()
    red.save(buffer, "JPEG", quality=95)
    plain = buffer.getvalue()  # Adobe's marker with the color transform 0
    assert np.abs(decode(plain).astype(int) - (200, 0, 0)).max() <= 3
    assert b"Adobe" in plain
    ycck = plain.replace(b"Adobe\0\x64\0\0\0\0\0", b"Adobe\0\x64\0\0\0\0\2")
    assert ycck != plain and decode(ycck).shape == (48, 64, 3)
    assert not np.array_equal(decode(ycck), decode(plain))  # without the marker they would be the same
