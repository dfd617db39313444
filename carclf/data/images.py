"""Unpacking the competition's archive and decoding its pictures, trusting bytes and never names."""

import io
import math
import struct
import zipfile
import zlib
from pathlib import Path, PurePosixPath

import cv2
import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image, ImageOps, UnidentifiedImageError

from carclf.artifacts import Archive, cache_folder, cached, whole_folder
from carclf.errors import DataError
from carclf.services.storage import Store

Pixels = npt.NDArray[np.uint8]
Matrix = npt.NDArray[np.float64]
IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png"}


# What Pillow raises for broken files and broken EXIF data, found by fuzzing.
BROKEN = (
    OSError, ValueError, TypeError, IndexError, KeyError, EOFError, OverflowError, SyntaxError, struct.error,
    zlib.error, Image.DecompressionBombError,
)


class Undecodable(ValueError):
    """These bytes are no usable picture; the message says why."""


def unpack(archive: Archive, store: Store) -> Path:
    """The local folder with ``train/<class>/*``, ``test_upload/*`` and the CSVs, unpacked once per archive."""
    file = archive.files["archive.zip"]
    folder = cache_folder() / "images" / file.sha256
    with whole_folder(folder) as work:
        if work is not None:
            _extract(zipfile.ZipFile(cached(store, file)), work)
    return folder


def _extract(archive: zipfile.ZipFile, folder: Path) -> None:
    for member in archive.infolist():
        if member.is_dir():
            continue
        if member.filename.endswith(".zip"):
            try:
                with archive.open(member) as inner:
                    _extract(zipfile.ZipFile(inner), folder)
            except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
                raise DataError(f"{member.filename} in the archive is damaged: {error}. Run again with force to "
                                "download it anew; if it stays so, tell the competition's host.") from error
        elif (path := _placed(member.filename, folder)) is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(archive.read(member))


def _placed(name: str, folder: Path) -> Path | None:
    """Where a member belongs; None for files of no interest; DataError for a name that leaves the folder."""
    parts = PurePosixPath(name.replace("\\", "/")).parts
    if ".." in parts or name.startswith(("/", "\\")):
        raise DataError(f"The archive holds {name!r}, which leaves its folder. Do not use this archive.")
    for top in ("train", "test_upload"):  # Kaggle's inner archives may have an extra top folder
        if top in parts[:-1]:
            return folder.joinpath(*parts[parts.index(top):])
    return folder / parts[-1] if parts[-1].endswith(".csv") else None


def decode(data: bytes, *, frame: tuple[int, int] | None = None, max_megapixels: float = 50) -> Pixels:
    """Decode a picture to uint8 RGB (height, width, 3), EXIF orientation applied.

    JPEGs are decoded at the smallest scale at which the whole picture still fills the frame (height, width)
    without being enlarged. Raises Undecodable.
    """
    try:
        header = Image.open(io.BytesIO(data))
        if header.width * header.height > max_megapixels * 1e6:
            raise Undecodable(f"{header.width}x{header.height} pixels are more than {max_megapixels} megapixels")
        plain = header.format == "JPEG" and header.mode == "RGB" and header.getexif().get(0x0112, 1) == 1
        if plain and (pixels := _decode_jpeg(data, header.height, header.width, frame)) is not None:
            return pixels
        # Kaggle ships PNGs, grey and CMYK pictures named .jpg: Pillow reads them all.
        return np.asarray(ImageOps.exif_transpose(header).convert("RGB"))
    except UnidentifiedImageError as error:  # its message holds an address in memory, another one each time
        raise Undecodable("it is no picture that Pillow knows") from error
    except BROKEN as error:
        raise Undecodable(str(error) or type(error).__name__) from error


def _decode_jpeg(data: bytes, height: int, width: int, frame: tuple[int, int] | None) -> Pixels | None:
    """None for what the strict decoder refuses: stray bytes, which Pillow forgives, or a real fault, which it tells."""
    scale = min(1.0, frame[0] / height, frame[1] / width) if frame else 1.0
    smallest = {"min_height": math.ceil(height * scale), "min_width": math.ceil(width * scale)}
    try:
        pixels: Pixels = simplejpeg.decode_jpeg(data, "RGB", fastdct=True, **smallest)
    except ValueError:
        return None
    return pixels


def fit_matrix(pixels: Pixels, height: int, width: int) -> Matrix:
    """The 2x3 matrix that fits the whole picture into the middle of (height, width), keeping its aspect ratio."""
    scale = min(height / pixels.shape[0], width / pixels.shape[1])
    left, top = (width - pixels.shape[1] * scale) / 2, (height - pixels.shape[0] * scale) / 2
    return np.array([[scale, 0, left], [0, scale, top]])


def warp(pixels: Pixels, matrix: Matrix, height: int, width: int) -> Pixels:
    """The picture through a 2x3 matrix, on a background of its mean colour."""
    background = cv2.mean(pixels)[:3]
    view: Pixels = cv2.warpAffine(
        pixels, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=background
    )
    return view


def letterbox(pixels: Pixels, height: int, width: int) -> Pixels:
    """Resize to fit (height, width), keeping the aspect ratio, on a background of the picture's mean colour."""
    scale = min(height / pixels.shape[0], width / pixels.shape[1])
    size = (max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale)))
    inner = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    canvas = np.empty((height, width, 3), np.uint8)
    canvas[:] = np.array(cv2.mean(pixels)[:3]).round()
    top, left = (height - size[1]) // 2, (width - size[0]) // 2
    canvas[top : top + size[1], left : left + size[0]] = inner
    return canvas
