"""JPEGs with very many scans are rejected before they are decoded."""

import io
from pathlib import Path

import pytest
from PIL import Image

from carclf.config import Validation
from carclf.dataset.inspection import inspect_image, make_pixel_loader
from carclf.errors import DataError
from carclf.images.decode import ImageDecodeError, decode
from carclf.images.jpeg_scans import MAX_SCANS
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
