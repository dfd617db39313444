"""What one picture's file tells: its hashes, size, format, light and sharpness, or why it is unusable."""

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
    large_image_lock,
    read_image_bytes,
    strict_decode_error,
)
from carclf.images.hashes import color_signature, perceptual_hash, pixels_sha256

# The reduced scale: halved, up to three times, while the shorter side keeps this many pixels. The JPEG decoder is
# fast at halves only, and reads the whole stream at every scale: what is cut off is found at each.
SMALLEST_SIDE = 64
# Blur is a matter of size: it is measured on pictures of one width.
SHARPNESS_SIDE = 128

Row = dict[str, Any]
UNKNOWN: Row = {"width": 0, "height": 0, "sha256": "", "pixels_sha256": "", "phash": 0, "color_signature": b"",
                "brightness": 0.0, "contrast": 0.0, "sharpness": 0.0, "format": "", "problem_kind": "", "problem": ""}


def inspect_image(path: Path, config: Validation) -> Row:
    """The columns of UNKNOWN; where the picture is unusable, ``problem`` says why and ``kind`` in one word."""
    with large_image_lock(path.stat().st_size):
        row = UNKNOWN
        try:
            data = read_image_bytes(path, config.max_megapixels)
            row = UNKNOWN | {"sha256": hashlib.sha256(data).hexdigest()}
            return row | _measure(data, config)
        except ImageDecodeError as error:
            sha256 = row["sha256"] or file_sha256(path)
            return row | {"sha256": sha256, "problem_kind": error.kind, "problem": f"cannot be decoded: {error}"}


def _measure(data: bytes, config: Validation) -> Row:
    if not data:
        raise ImageDecodeError("the file is empty", "empty")
    picture = EncodedImage(data, config.max_megapixels)
    pixels = decode_reduced(picture)
    height, width = picture.height, picture.width
    if picture.turned and (pixels.shape[0] > pixels.shape[1]) != (height > width):
        height, width = width, height
    row: Row = {"width": width, "height": height, "format": _format(picture)}
    if min(width, height) < config.min_side:
        return row | {"problem_kind": "too_small", "problem": f"{width}x{height} is smaller than {config.min_side}"}
    brightness, contrast, sharpness = statistics(pixels)
    return row | {"pixels_sha256": pixels_sha256(pixels), "phash": perceptual_hash(pixels), "color_signature": color_signature(pixels),
                  "brightness": brightness, "contrast": contrast, "sharpness": sharpness}


def decode_reduced(picture: EncodedImage) -> Pixels:
    """The picture's pixels at the reduced scale. Raises Undecodable."""
    scale = 8
    while scale > 1 and min(picture.height, picture.width) < SMALLEST_SIDE * scale:
        scale //= 2
    height, width = -(-picture.height // scale), -(-picture.width // scale)
    picture.shrink(height, width)
    pixels = picture.decode((height, width))
    if pixels.shape[0] * pixels.shape[1] > height * width:  # what Pillow decodes comes larger
        size = (width, height) if (pixels.shape[1] > pixels.shape[0]) == (width > height) else (height, width)
        pixels = np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)
    return pixels


def make_pixel_loader(folder: Path, paths: Sequence[str]) -> Callable[[int], Pixels]:
    """What gives the pixels of a usable picture, at the reduced scale, by its position."""

    def load(position: int) -> Pixels:
        # no limit here: the pass has refused what is too large
        return decode_reduced(EncodedImage((folder / paths[position]).read_bytes(), math.inf))

    return load


def statistics(pixels: Pixels) -> tuple[float, float, float]:
    """Brightness (0 to 255), contrast (standard deviation of the greys), and sharpness.

    Sharpness is the Laplacian's root mean square over the contrast, so that fog and dusk do not count as blur
    (the Laplacian as a focus measure: Pech-Pacheco et al. 2000).
    """
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    mean, deviation = cv2.meanStdDev(grey)
    contrast = float(deviation[0, 0])
    scale = SHARPNESS_SIDE / max(grey.shape)
    if scale < 1:
        size = (max(1, round(grey.shape[1] * scale)), max(1, round(grey.shape[0] * scale)))
        grey = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
    energy = cv2.norm(cv2.Laplacian(grey, cv2.CV_16S), cv2.NORM_L2SQR) / grey.size
    return float(mean[0, 0]), contrast, float(energy**0.5 / max(contrast, 1.0))


def _format(picture: EncodedImage) -> str:
    """Such as ``JPEG RGB``, ``PNG RGBA transparent`` or ``JPEG RGB turned damaged``."""
    words = [picture.format, picture.mode]
    if picture.is_transparent:
        words.append("transparent")
    if picture.turned:
        words.append("turned")
    plain = picture.mode == "RGB" and not picture.turned  # then the strict decoder had the first word
    if picture.decode_warning or (picture.format == "JPEG" and not plain and strict_decode_error(picture)):
        words.append("damaged")
    return " ".join(words)
