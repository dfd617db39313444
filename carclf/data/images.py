"""Decoding pictures, trusting bytes and never names, and fitting them into a frame."""

import io
import math
import struct
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image, ImageOps, UnidentifiedImageError

from carclf.artifacts import Archive, cache_folder, cached, whole_folder
from carclf.data.archives import extract
from carclf.services.storage import Store

Pixels = npt.NDArray[np.uint8]
Matrix = npt.NDArray[np.float64]
# Among Pillow's other formats are some that start programs (EPS) or that no camera writes.
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP")
LARGE = 8_000_000  # pixels: larger pictures are decoded one at a time, so that memory stays bounded
_ONE_LARGE = threading.Lock()

# What Pillow raises for broken files and broken EXIF data, found by fuzzing.
BROKEN = (
    OSError, ValueError, TypeError, IndexError, KeyError, EOFError, OverflowError, SyntaxError, struct.error,
    zlib.error,
)


class Undecodable(ValueError):
    """These bytes are no usable picture; the message says why, ``kind`` in one of findings.KINDS' words."""

    def __init__(self, text: str, kind: str = "undecodable") -> None:
        super().__init__(text)
        self.kind = kind


def unpack(archive: Archive, store: Store) -> Path:
    """The local folder with ``train/<class>/*``, ``test_upload/*``, ``extra/<n>/<class>/*`` and the CSVs.

    It is unpacked once per content; DataError for archives that are damaged or would leave the folder.
    """
    folder = cache_folder() / "images" / archive.content
    with whole_folder(folder) as work:
        if work is not None:
            extract(cached(store, archive.files["archive.zip"]), work, tops=("train", "test_upload"))
            if extra := archive.files.get("extra.zip"):
                extract(cached(store, extra), work, tops=("extra",))
    return folder


class Picture:
    """A picture whose header was read: ``height`` and ``width`` are those of the file, before any turning.

    Raises Undecodable, as ``decode`` does.
    """

    def __init__(self, data: bytes, max_megapixels: float = 50) -> None:
        with _refusing():
            self.data, self.header = data, Image.open(io.BytesIO(data), formats=FORMATS)
            self.height, self.width = self.header.height, self.header.width
            self.format, self.mode = str(self.header.format), self.header.mode
            if self.height * self.width > max_megapixels * 1e6:
                raise Undecodable(f"{self.width}x{self.height} pixels are more than {max_megapixels} megapixels",
                                  "too_many_pixels")
            # Only a JPEG's header tells it; other formats are read to their end for it: that has time until decoding.
            self.turned = self.format in ("JPEG", "MPO") and self._is_turned()
        self.complaint = ""  # of the strict decoder, about a picture that Pillow reads all the same

    def decode(self, frame: tuple[int, int] | None = None) -> Pixels:
        """uint8 RGB (height, width, 3), EXIF orientation applied; for the frame see ``decode`` below."""
        large = self.height * self.width > LARGE
        with _refusing(), _ONE_LARGE if large else nullcontext():
            if self.format == "JPEG" and self.mode == "RGB" and not self.turned:
                try:
                    return _decode_jpeg(self.data, self.height, self.width, frame)
                except ValueError as error:  # stray bytes, which Pillow forgives, or a real fault, which it tells
                    self.complaint = str(error)
            # Kaggle ships PNGs, grey and CMYK pictures named .jpg: Pillow reads them all.
            self.turned = self._is_turned()
            return np.asarray(ImageOps.exif_transpose(self.header).convert("RGB"))

    def _is_turned(self) -> bool:
        return bool(self.header.getexif().get(0x0112, 1) != 1)


@contextmanager
def _refusing() -> Iterator[None]:
    try:
        yield
    except Undecodable:
        raise
    except UnidentifiedImageError as error:  # its message holds an address in memory, another one each time
        raise Undecodable("it is no picture that Pillow knows") from error
    except Image.DecompressionBombError as error:
        raise Undecodable(str(error), "too_many_pixels") from error
    except BROKEN as error:
        text = str(error) or type(error).__name__
        raise Undecodable(text, "truncated" if "truncated" in text.lower() else "undecodable") from error


def decode(data: bytes, *, frame: tuple[int, int] | None = None, max_megapixels: float = 50) -> Pixels:
    """Decode a picture to uint8 RGB (height, width, 3), EXIF orientation applied.

    JPEGs are decoded at the smallest scale at which the whole picture still fills the frame (height, width)
    without being enlarged. Raises Undecodable.
    """
    return Picture(data, max_megapixels).decode(frame)


def strict_complaint(picture: Picture) -> str:
    """What the strict decoder says against a JPEG that may need Pillow for other reasons; "" where nothing."""
    try:
        _decode_jpeg(picture.data, picture.height, picture.width, (1, 1))
    except ValueError as error:
        return str(error)
    return ""


def _decode_jpeg(data: bytes, height: int, width: int, frame: tuple[int, int] | None) -> Pixels:
    scale = min(1.0, frame[0] / height, frame[1] / width) if frame else 1.0
    smallest = {"min_height": math.ceil(height * scale), "min_width": math.ceil(width * scale)}
    pixels: Pixels = simplejpeg.decode_jpeg(data, "RGB", fastdct=True, **smallest)
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
