"""Inspection of one image file: hashes, size, format, light and sharpness, or the reason why it is unusable."""

import hashlib
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from carclf.artifacts import file_sha256
from carclf.config import Validation
from carclf.images.decode import (
    EncodedImage,
    ImageDecodeError,
    Pixels,
    read_image_bytes,
    strict_decode_error,
)
from carclf.images.hashes import color_signature, perceptual_hash, pixels_sha256
from carclf.images.letterbox import resize_to_fit

# Images are reduced by a power of two, at most 8, that leaves at least this many pixels on the shorter side. JPEG
# decoders are fast only at powers of two. They still read the whole stream, so truncation is detected at each scale.
MIN_REDUCED_SIDE = 64
MAX_REDUCTION = 8
SHARPNESS_SIDE = 128  # longer side in pixels: sharpness depends on the size, so all images are measured at this one

Row = dict[str, Any]
EMPTY_ROW: Row = {
    "width": 0, "height": 0, "sha256": "", "pixels_sha256": "", "phash": 0, "flipped_phash": 0,
    "color_signature": b"", "brightness": 0.0, "contrast": 0.0, "sharpness": 0.0, "format": "", "mode": "",
    "is_transparent": False, "has_exif_orientation": False, "decode_warning": "", "problem_kind": "", "problem": "",
}


class LargeImageError(Exception):
    """The image has more pixels or bytes than requested."""


def inspect_image(path: Path, config: Validation, *, max_size: float = math.inf) -> Row:
    """Return the columns of EMPTY_ROW; ``problem`` and ``problem_kind`` are not empty if the image is unusable.

    Raises LargeImageError, before decoding the image, if it has more than ``max_size`` pixels or bytes.
    """
    _require_size(path.stat().st_size, max_size)
    sha256 = ""
    try:
        data = read_image_bytes(path, config.max_megapixels)
        sha256 = hashlib.sha256(data).hexdigest()
        image = EncodedImage(data, config.max_megapixels)
        _require_size(image.height * image.width, max_size)
        return EMPTY_ROW | {"sha256": sha256} | _measure(image, config)
    except ImageDecodeError as error:
        return EMPTY_ROW | {"sha256": sha256 or file_sha256(path), "problem_kind": error.kind,
                            "problem": f"cannot be decoded: {error}"}


def _require_size(size: float, max_size: float) -> None:
    if size > max_size:
        raise LargeImageError(size)


def _measure(image: EncodedImage, config: Validation) -> Row:
    pixels = decode_reduced(image)
    height, width = image.height, image.width
    if image.has_exif_orientation and (pixels.shape[0] > pixels.shape[1]) != (height > width):
        height, width = width, height
    row: Row = {"width": width, "height": height} | _describe_format(image)
    if min(width, height) < config.min_side:
        row |= {"problem_kind": "too_small",
                "problem": f"{width}x{height} pixels, but each side must have at least {config.min_side}"}
    brightness, contrast, sharpness = measure_light_and_sharpness(pixels)
    return row | {
        "pixels_sha256": pixels_sha256(pixels), "phash": perceptual_hash(pixels),
        "flipped_phash": perceptual_hash(np.asarray(cv2.flip(pixels, 1), np.uint8)),
        "color_signature": color_signature(pixels), "brightness": brightness, "contrast": contrast,
        "sharpness": sharpness,
    }


def decode_reduced(image: EncodedImage) -> Pixels:
    """Return the image's uint8 RGB pixels at the reduced scale. Raises ImageDecodeError."""
    scale = MAX_REDUCTION
    while scale > 1 and min(image.height, image.width) < MIN_REDUCED_SIDE * scale:
        scale //= 2
    height, width = -(-image.height // scale), -(-image.width // scale)
    image.draft(height, width)
    pixels = image.decode((height, width))
    if pixels.shape[0] * pixels.shape[1] > height * width:  # Pillow may return more than requested
        is_upright = (pixels.shape[1] > pixels.shape[0]) == (width > height)
        size = (width, height) if is_upright else (height, width)
        pixels = np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)
    return pixels


def make_pixel_loader(folder: Path, paths: Sequence[str]) -> Callable[[int], Pixels]:
    """Return a function from the position of a usable image to its pixels at the reduced scale."""
    # inspect_image has already rejected images that are too large.
    return lambda position: decode_reduced(EncodedImage((folder / paths[position]).read_bytes(), math.inf))


def measure_light_and_sharpness(pixels: Pixels) -> tuple[float, float, float]:
    """Return brightness (0 to 255), contrast (standard deviation of the gray values) and sharpness.

    Sharpness is the root mean square of the Laplacian divided by the contrast, so that fog and dusk do not count as
    blur (the Laplacian as a focus measure: Pech-Pacheco et al. 2000).
    """
    gray = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    mean, deviation = cv2.meanStdDev(gray)
    contrast = float(deviation[0, 0])
    gray = resize_to_fit(gray, SHARPNESS_SIDE, SHARPNESS_SIDE)
    energy = cv2.norm(cv2.Laplacian(gray, cv2.CV_16S), cv2.NORM_L2SQR) / gray.size
    return float(mean[0, 0]), contrast, float(energy**0.5 / max(contrast, 1.0))


def _describe_format(image: EncodedImage) -> Row:
    decode_warning = image.decode_warning
    # decode() tried the strict decoder only on upright RGB JPEGs.
    if image.format == "JPEG" and (image.mode != "RGB" or image.has_exif_orientation):
        decode_warning = decode_warning or strict_decode_error(image)
    return {"format": image.format, "mode": image.mode, "is_transparent": image.is_transparent,
            "has_exif_orientation": image.has_exif_orientation, "decode_warning": decode_warning}
