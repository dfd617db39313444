"""Decode image files to RGB pixels. The content determines the format, never the file name.

``color.py`` converts the other color modes, such as CMYK, to RGB.
"""

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
from PIL import ExifTags, Image, UnidentifiedImageError

from carclf.images.color import to_reducible_mode, to_rgb
from carclf.images.jpeg_segments import (
    END_OF_IMAGE,
    MAX_SCANS,
    START_OF_IMAGE,
    START_OF_SCAN,
    count_scans,
    read_frame,
)
from carclf.images.metadata import without_metadata

Pixels = npt.NDArray[np.uint8]
# Pillow also reads formats that start other programs (EPS) or that no camera writes.
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "AVIF", "JPEG2000")
JPEG_BITS = 8  # per sample; Pillow reads no others
LOSSLESS_FRAME = 3  # libjpeg-turbo crashes if it scales such a JPEG
UNSUPPORTED_SUBSAMPLING = "Could not determine subsampling"  # the strict decoder's message
SCALABLE_FRAMES = (0, 1, 2, 9, 10)
MAX_SHOWN_BYTES = 16  # of a file in an unknown format: they contain the real one
TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # by EXIF orientation
LARGE = 8_000_000  # pixels, or bytes of a file
MAX_BYTES_PER_PIXEL = 4  # larger files are rejected before they are read, which bounds memory
_LARGE_IMAGE_LOCK = threading.RLock()
# One block of memory per image: large blocks return to the system, while many small ones stay with the thread.
Image.core.set_block_size(1 << 28)  # type: ignore[attr-defined]

# The exceptions that Pillow raises for broken files and broken EXIF data. Fuzzing discovered them.
PILLOW_ERRORS = (
    OSError, ValueError, TypeError, IndexError, KeyError, EOFError, OverflowError, SyntaxError, RuntimeError,
    struct.error, zlib.error,
)


class ImageDecodeError(ValueError):
    """The file is not a usable image. ``kind`` is a key of ``carclf.dataset.findings.SEVERITY_BY_KIND``."""

    def __init__(self, message: str, kind: str = "undecodable") -> None:
        super().__init__(message)
        self.kind = kind


def large_image_lock(num: float) -> AbstractContextManager[object]:
    """Return a lock for an image of more than LARGE pixels or bytes; decoding one at a time bounds the memory."""
    return _LARGE_IMAGE_LOCK if num > LARGE else nullcontext()


def read_image_bytes(path: Path, max_megapixels: float = 50) -> bytes:
    """Return the bytes of an image file; raise ImageDecodeError if it is larger than any allowed image can be."""
    if (num_bytes := path.stat().st_size) > max_megapixels * 1e6 * MAX_BYTES_PER_PIXEL:
        raise ImageDecodeError(
            f"{num_bytes} bytes are more than {MAX_BYTES_PER_PIXEL} for each pixel of the largest allowed image "
            f"({max_megapixels} megapixels)", "too_many_pixels")
    return path.read_bytes()


class EncodedImage:
    """An image whose header was read. ``height`` and ``width`` are in pixels, before EXIF orientation is applied.

    Metadata other than EXIF are ignored, so that damage to them does not matter. Raises ImageDecodeError if the file is
    empty, if the header is damaged, or if the image has too many pixels or scans.
    """

    def __init__(self, data: bytes, max_megapixels: float = 50) -> None:
        if not data:
            raise ImageDecodeError("the file is empty", "empty")
        with _raise_decode_errors(data):
            self.data = without_metadata(data)
            self.is_jpeg = data.startswith(START_OF_IMAGE)
            self.is_scalable = self.is_jpeg and _require_frame(self.data) in SCALABLE_FRAMES
            self.header: Image.Image = self._open()
            self.width, self.height = self.header.size
            self.format, self.mode = self.header.format or "", self.header.mode
            self._require_limits(max_megapixels)
            # A JPEG's header contains the EXIF data. For other formats Pillow reads the whole file: decode() does that.
            self.orientation = self._read_orientation() if self.is_jpeg else 1
            self.is_transparent = self.header.has_transparency_data
        self.decode_warning = ""  # the strict decoder's message about a JPEG that only Pillow decodes

    @property
    def has_exif_orientation(self) -> bool:
        """True if the EXIF data rotate or flip the image; known for JPEGs, and after decoding for all formats."""
        return self.orientation != 1

    def _open(self) -> Image.Image:
        return Image.open(io.BytesIO(self.data), formats=FORMATS)

    def _require_limits(self, max_megapixels: float) -> None:
        if self.height * self.width > max_megapixels * 1e6:
            raise ImageDecodeError(
                f"{self.width}x{self.height} pixels are more than {max_megapixels} megapixels", "too_many_pixels")
        if self.is_jpeg and (num_scans := count_scans(self.data)) > MAX_SCANS:
            raise ImageDecodeError(f"its {num_scans} scans are more than {MAX_SCANS}", "too_many_pixels")

    def decode(self, min_size: tuple[int, int] | None = None) -> Pixels:
        """Return uint8 RGB of shape (height, width, 3), EXIF orientation applied; ``min_size`` as in ``decode``."""
        with _raise_decode_errors(self.data), large_image_lock(self.height * self.width):
            self._add_missing_end()
            if self.is_scalable and self.mode == "RGB" and not self.has_exif_orientation:
                try:
                    return _decode_jpeg(self, min_size)
                except ValueError as error:  # stray bytes, which Pillow ignores, or real damage, which it reports
                    self.decode_warning = _damage(error)
            # Kaggle ships PNGs and grayscale and CMYK images named .jpg: Pillow reads them all.
            self.header.load()
            if not self.has_exif_orientation:
                self.orientation = self._read_orientation()
            return to_rgb(self._upright())

    def draft(self, height: int, width: int) -> None:
        """Let Pillow decode at a reduced size that covers (height, width), if that is cheap or the image is large.

        This is good enough for statistics and hashes, not for training: it is coarser than resizing all pixels.
        """
        with _raise_decode_errors(self.data), large_image_lock(self.height * self.width):
            self._add_missing_end()
            if self.is_scalable:
                self.header.draft(None, (width, height))
            elif self.height * self.width > LARGE:
                self.header.load()
                self.orientation = self._read_orientation()
                self.header = to_reducible_mode(self.header).reduce(min(self.height // height, self.width // width))

    def _add_missing_end(self) -> None:
        """Add the end marker to a JPEG without it, if the strict decoder confirms that all pixels are there."""
        if self.is_scalable and self.data.rfind(END_OF_IMAGE) < self.data.rfind(START_OF_SCAN):
            incomplete = self.data
            self.data += END_OF_IMAGE
            try:
                _decode_jpeg(self, (1, 1))
                self.header = self._open()
            except ValueError:
                self.data = incomplete

    def _read_orientation(self) -> int:
        """Return the EXIF orientation, 1 to 8; 1 if the EXIF data are damaged or contain another number."""
        try:
            orientation = self.header.getexif().get(ExifTags.Base.Orientation)
            return orientation if orientation in TRANSPOSITIONS else 1
        except PILLOW_ERRORS:
            return 1

    def _upright(self) -> Image.Image:
        return self.header.transpose(TRANSPOSITIONS[self.orientation]) if self.has_exif_orientation else self.header


def _require_frame(data: bytes) -> int:
    """Return the type of a JPEG's frame. Raises ImageDecodeError if it is missing or no decoder supports it."""
    if (frame := read_frame(data)) is None:
        raise ImageDecodeError("the JPEG has no frame (SOF)")
    if frame.type not in (*SCALABLE_FRAMES, LOSSLESS_FRAME) or frame.bits != JPEG_BITS:
        raise ImageDecodeError(
            f"the JPEG is of the type SOF{frame.type} with {frame.bits} bits per sample; supported are SOF0, 1, 2, 3, "
            f"9 and 10 with {JPEG_BITS} bits")
    return frame.type


@contextmanager
def _raise_decode_errors(data: bytes) -> Iterator[None]:
    """Turn the exceptions of the decoders into ImageDecodeError."""
    try:
        yield
    except ImageDecodeError:
        raise
    except UnidentifiedImageError as error:  # its own message contains a memory address
        raise ImageDecodeError(
            f"the file starts with the bytes {data[:MAX_SHOWN_BYTES].hex(' ')} and is not readable as "
            f"{', '.join(FORMATS)}") from error
    except Image.DecompressionBombError as error:
        raise ImageDecodeError(str(error), "too_many_pixels") from error
    except PILLOW_ERRORS as error:
        message = str(error) or type(error).__name__
        raise ImageDecodeError(message, "truncated" if "truncated" in message.lower() else "undecodable") from error


def decode(data: bytes, *, min_size: tuple[int, int] | None = None, max_megapixels: float = 50) -> Pixels:
    """Decode an image to uint8 RGB of shape (height, width, 3), with EXIF orientation applied.

    With ``min_size`` (height, width), a JPEG is decoded at the smallest scale from which it can be letterboxed to that
    size without being enlarged. Raises ImageDecodeError if the data are not a usable image.
    """
    return EncodedImage(data, max_megapixels).decode(min_size)


def strict_decode_error(image: EncodedImage) -> str:
    """Return the strict decoder's message about a damaged JPEG.

    Return "" if it decodes the image, or if it does not support its kind, such as 4:1:0 subsampling.
    """
    if not image.is_scalable:
        return ""
    try:
        with large_image_lock(image.height * image.width):
            _decode_jpeg(image, (1, 1))
    except ValueError as error:
        return _damage(error)
    return ""


def _damage(error: ValueError) -> str:
    return "" if UNSUPPORTED_SUBSAMPLING in str(error) else str(error)


def _decode_jpeg(image: EncodedImage, min_size: tuple[int, int] | None) -> Pixels:
    scale = min(1.0, min_size[0] / image.height, min_size[1] / image.width) if min_size else 1.0
    min_height, min_width = math.ceil(image.height * scale), math.ceil(image.width * scale)
    pixels: Pixels = simplejpeg.decode_jpeg(
        image.data, "RGB", fastdct=True, min_height=min_height, min_width=min_width)
    return pixels
