"""Decoding pictures, trusting bytes and never names."""

import io
import math
import struct
import threading
import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image, ImageOps, UnidentifiedImageError

from carclf.images.color import to_reducible_mode, to_rgb
from carclf.images.scans import MAX_SCANS, count_scans

Pixels = npt.NDArray[np.uint8]
# Among Pillow's other formats are some that start programs (EPS) or that no camera writes.
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP")
LARGE = 8_000_000  # pixels, or bytes of a file
BYTES_PER_PIXEL = 4  # a file that takes more is refused: also what is read is to be bounded
_ONE_LARGE = threading.RLock()
# One piece of memory for each picture: large ones go back to the system, where many small ones stay with the thread.
Image.core.set_block_size(1 << 28)  # type: ignore[attr-defined]

# What Pillow raises for broken files and broken EXIF data, found by fuzzing.
BROKEN = (
    OSError, ValueError, TypeError, IndexError, KeyError, EOFError, OverflowError, SyntaxError, struct.error,
    zlib.error,
)


class ImageDecodeError(ValueError):
    """These bytes are no usable picture; the message says why, ``kind`` in one of findings.KINDS' words."""

    def __init__(self, text: str, kind: str = "undecodable") -> None:
        super().__init__(text)
        self.kind = kind


def large_image_lock(num: int) -> AbstractContextManager[object]:
    """Pictures of more than LARGE pixels or bytes are worked on one at a time: so memory stays bounded."""
    return _ONE_LARGE if num > LARGE else nullcontext()


def read_image_bytes(path: Path, max_megapixels: float = 50) -> bytes:
    """A picture's file. Raises Undecodable, before reading it, where it is larger than any picture may be."""
    if (num_bytes := path.stat().st_size) > max_megapixels * 1e6 * BYTES_PER_PIXEL:
        raise ImageDecodeError(f"{num_bytes} bytes are more than {BYTES_PER_PIXEL} for each pixel of the largest picture "
                          f"that is allowed ({max_megapixels} megapixels)", "too_many_pixels")
    return path.read_bytes()


class EncodedImage:
    """A picture whose header was read: ``height`` and ``width`` are those of the file, before any turning.

    Raises Undecodable, as ``decode`` does.
    """

    def __init__(self, data: bytes, max_megapixels: float = 50) -> None:
        with _refusing():
            self.data = data
            self.header: Image.Image = Image.open(io.BytesIO(data), formats=FORMATS)
            self.height, self.width = self.header.height, self.header.width
            self.format, self.mode = self.header.format or "", self.header.mode
            if self.height * self.width > max_megapixels * 1e6:
                raise ImageDecodeError(f"{self.width}x{self.height} pixels are more than {max_megapixels} megapixels",
                                  "too_many_pixels")
            if self.format in ("JPEG", "MPO") and (num_scans := count_scans(data)) > MAX_SCANS:
                raise ImageDecodeError(f"its {num_scans} scans are more than {MAX_SCANS}", "too_many_pixels")
            # Only a JPEG's header tells it; other formats are read to their end for it: that has time until decoding.
            self.turned = self.format in ("JPEG", "MPO") and self._is_turned()
            self.is_transparent = self.header.has_transparency_data
        self.decode_warning = ""  # of the strict decoder, about a picture that Pillow reads all the same

    def decode(self, frame: tuple[int, int] | None = None) -> Pixels:
        """uint8 RGB (height, width, 3), EXIF orientation applied; for the frame see ``decode`` below."""
        with _refusing(), large_image_lock(self.height * self.width):
            if self.format == "JPEG" and self.mode == "RGB" and not self.turned:
                try:
                    return _decode_jpeg(self.data, self.height, self.width, frame)
                except ValueError as error:  # stray bytes, which Pillow forgives, or a real fault, which it tells
                    self.decode_warning = str(error)
            # Kaggle ships PNGs, grey and CMYK pictures named .jpg: Pillow reads them all.
            self.turned = self.turned or self._is_turned()
            return to_rgb(ImageOps.exif_transpose(self.header))

    def shrink(self, height: int, width: int) -> None:
        """Let Pillow decode what only just fills (height, width), where that is cheap or the picture is large.

        For looking at a picture, not for training: it is rougher than reducing the whole.
        """
        with _refusing(), large_image_lock(self.height * self.width):
            if self.format in ("JPEG", "MPO"):
                self.header.draft(None, (width, height))
            elif self.height * self.width > LARGE:
                self.turned = self._is_turned()
                self.header = to_reducible_mode(self.header).reduce(min(self.height // height, self.width // width))

    def _is_turned(self) -> bool:
        return bool(self.header.getexif().get(0x0112, 1) != 1)


@contextmanager
def _refusing() -> Iterator[None]:
    try:
        yield
    except ImageDecodeError:
        raise
    except UnidentifiedImageError as error:  # its message holds an address in memory, another one each time
        raise ImageDecodeError("it is no picture that Pillow knows") from error
    except Image.DecompressionBombError as error:
        raise ImageDecodeError(str(error), "too_many_pixels") from error
    except BROKEN as error:
        text = str(error) or type(error).__name__
        raise ImageDecodeError(text, "truncated" if "truncated" in text.lower() else "undecodable") from error


def decode(data: bytes, *, frame: tuple[int, int] | None = None, max_megapixels: float = 50) -> Pixels:
    """Decode a picture to uint8 RGB (height, width, 3), EXIF orientation applied.

    JPEGs are decoded at the smallest scale at which the whole picture still fills the frame (height, width)
    without being enlarged. Raises Undecodable.
    """
    return EncodedImage(data, max_megapixels).decode(frame)


def strict_decode_error(picture: EncodedImage) -> str:
    """What the strict decoder says against a JPEG that may need Pillow for other reasons; "" where nothing."""
    try:
        with large_image_lock(picture.height * picture.width):
            _decode_jpeg(picture.data, picture.height, picture.width, (1, 1))
    except ValueError as error:
        return str(error)
    return ""


def _decode_jpeg(data: bytes, height: int, width: int, frame: tuple[int, int] | None) -> Pixels:
    scale = min(1.0, frame[0] / height, frame[1] / width) if frame else 1.0
    smallest = {"min_height": math.ceil(height * scale), "min_width": math.ceil(width * scale)}
    pixels: Pixels = simplejpeg.decode_jpeg(data, "RGB", fastdct=True, **smallest)
    return pixels
