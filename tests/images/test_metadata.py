"""Images with intact pixels and odd metadata: the pixels are used, and nothing is reported as damage."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from jpeg_parts import exif, insert, uniform_jpeg
from PIL import Image, ImageOps

from carclf.config import Validation
from carclf.dataset.inspection import Row, inspect_image
from carclf.images.decode import ImageDecodeError, decode

SMALL = np.random.default_rng(4).integers(0, 256, (6, 8, 3), np.uint8)
IMAGE = Image.fromarray(SMALL).resize((128, 96), Image.Resampling.BICUBIC)


def encode(kind: str, image: Image.Image = IMAGE, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(kind: bytes, content: bytes, checksum: int | None = None) -> bytes:
    checksum = zlib.crc32(kind + content) if checksum is None else checksum
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


JPEG, PNG = encode("JPEG"), encode("PNG")
GRAY, CMYK = encode("JPEG", IMAGE.convert("L")), encode("JPEG", IMAGE.convert("CMYK"))
AFTER_HEADER = 33  # bytes of a PNG
SCAN_PARAMETERS = JPEG.rfind(b"\xff\xda") + 11  # the last three bytes of the scan's header


def after_header(*chunks: bytes) -> bytes:
    return PNG[:AFTER_HEADER] + b"".join(chunks) + PNG[AFTER_HEADER:]


ODD = {
    "ICC profile with wrong part numbers": (insert(JPEG, 0xE2, b"ICC_PROFILE\0\5\2" + bytes(99)), JPEG),
    "ICC profile without part numbers": (insert(JPEG, 0xE2, b"ICC_PROFILE\0"), JPEG),
    "MPF segment without content": (insert(JPEG, 0xE2, b"MPF\0"), JPEG),
    "EXIF that is not TIFF": (insert(JPEG, 0xE1, b"Exif\0\0no TIFF header"), JPEG),
    "EXIF orientation 0": (insert(JPEG, 0xE1, exif(0)), JPEG),
    "EXIF orientation 9": (insert(JPEG, 0xE1, exif(9)), JPEG),
    "Photoshop segment without content": (insert(JPEG, 0xED, b"Photoshop 3.0\0"), JPEG),
    "short JFIF segment": (insert(JPEG[:2] + JPEG[20:], 0xE0, b"JFIF\0"), JPEG),
    "JFIF 2": (JPEG.replace(b"JFIF\0\1", b"JFIF\0\2"), JPEG),
    "stray bytes in the header": (JPEG[:20] + bytes(7) + JPEG[20:], JPEG),
    "odd parameters of a scan": (JPEG[:SCAN_PARAMETERS] + bytes(3) + JPEG[SCAN_PARAMETERS + 3 :], JPEG),
    "trailing bytes": (JPEG + bytes(50), JPEG),
    "no end marker": (JPEG[:-2], JPEG),
    "no end marker, gray": (GRAY[:-2], GRAY),
    "no end marker, CMYK": (CMYK[:-2], CMYK),
    "no end marker, EXIF thumbnail": (insert(JPEG, 0xE1, exif(1) + JPEG)[:-2], JPEG),
    "PNG: EXIF that is not TIFF": (after_header(chunk(b"eXIf", b"no TIFF header")), PNG),
    "PNG: EXIF with a wrong checksum": (after_header(chunk(b"eXIf", exif(6)[6:], 0)), PNG),
    "PNG: text with a wrong checksum": (after_header(chunk(b"tEXt", b"a\0b", 0)), PNG),
    "PNG: text that is not compressed": (after_header(chunk(b"zTXt", b"a\0\0b")), PNG),
    "PNG: ICC profile that is not compressed": (after_header(chunk(b"iCCP", b"a\0\0b")), PNG),
    "PNG: text of 70 MB": (after_header(chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(70_000_000)))), PNG),
    "PNG: no end": (PNG[:-12], PNG),
    "WebP: EXIF that is not TIFF": (encode("WEBP", exif=b"no TIFF header"), encode("WEBP")),
    "AVIF: EXIF without tags": (encode("AVIF", exif=b"MM\0*\0\0\0\x08\0\0"), encode("AVIF")),
}


def inspect(data: bytes, folder: Path) -> Row:
    (folder / "a.jpg").write_bytes(data)
    return inspect_image(folder / "a.jpg", Validation())


@pytest.mark.parametrize(("data", "plain"), ODD.values(), ids=list(ODD))
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_odd_metadata_neither_change_the_pixels_nor_count_as_damage(data: bytes, plain: bytes, tmp_path: Path) -> None:
    assert data != plain
    np.testing.assert_array_equal(decode(data), decode(plain))
    row, plain_row = inspect(data, tmp_path), inspect(plain, tmp_path)
    assert row | {"sha256": ""} == plain_row | {"sha256": ""}
    assert row["problem"] == row["decode_warning"] == "" and not row["has_exif_orientation"]


@pytest.mark.parametrize("sampling", [0x42, 0x14, 0x31, 0x24, 0x41, 0x22])
def test_rare_chroma_subsampling_is_not_damage(sampling: int, tmp_path: Path) -> None:
    row = inspect(uniform_jpeg(sampling=sampling), tmp_path)
    assert (row["width"], row["height"], row["problem"], row["decode_warning"]) == (640, 480, "", "")


@pytest.mark.parametrize("data", [JPEG, GRAY, CMYK], ids=["RGB", "gray", "CMYK"])
@pytest.mark.parametrize("missing", [3, 60, 600])
def test_a_jpeg_without_some_of_its_pixels_is_truncated(data: bytes, missing: int, tmp_path: Path) -> None:
    assert inspect(data[:-missing], tmp_path)["problem_kind"] == "truncated"
    with pytest.raises(ImageDecodeError):
        decode(data[:-missing])


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_exif_orientation_is_applied_to_each_format(kind: str, orientation: int, tmp_path: Path) -> None:
    tags = Image.Exif()
    tags[0x0112] = orientation
    data = encode(kind, exif=tags)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    assert expected.shape == ((96, 128, 3) if orientation < 5 else (128, 96, 3))
    assert np.abs(decode(data).astype(int) - expected).max() <= 4
    row = inspect(data, tmp_path)
    assert (row["height"], row["width"], 3) == expected.shape
