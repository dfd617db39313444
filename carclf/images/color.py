"""Conversion of images of any color mode to RGB."""

import numpy as np
import numpy.typing as npt
from PIL import Image

HIGH_BIT_DEPTH_MODES = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")  # Pillow's own conversion clips these at 255
MIN_RANGE = 1e-30  # avoids a division by zero if all values are equal
MAX_VALUE = 1e38  # the range of the values must be a float32


def to_rgb(image: Image.Image) -> npt.NDArray[np.uint8]:
    """Convert an image of any mode to uint8 RGB of shape (height, width, 3).

    Transparent pixels become white. Gray values of more than 8 bits are stretched from the darkest and brightest value
    of the image to 0 and 255, because few images use the whole range of their type.
    """
    if image.has_transparency_data:
        image = to_reducible_mode(image)
        background = Image.new("RGB", image.size, "white")
        background.paste(image, mask=image.getchannel("A"))
        return np.asarray(background)
    if image.mode in HIGH_BIT_DEPTH_MODES:
        gray = _stretch(np.array(image, np.float32))
        return np.repeat(gray[:, :, None], 3, 2)
    return np.asarray(image.convert("RGB"))


def to_reducible_mode(image: Image.Image) -> Image.Image:
    """Convert an image to a mode that ``Image.reduce`` accepts and that keeps what ``to_rgb`` needs."""
    mode = "RGBA" if image.has_transparency_data else "F" if image.mode in HIGH_BIT_DEPTH_MODES else "RGB"
    return image if image.mode in (mode, "L") and "transparency" not in image.info else image.convert(mode)


def _stretch(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """Scale the values to 0 to 255, in place to avoid twice the memory for a large image."""
    np.nan_to_num(values, copy=False, posinf=0, neginf=0)
    np.clip(values, -MAX_VALUE, MAX_VALUE, out=values)
    low, high = float(values.min()), float(values.max())
    values -= low
    values *= 255 / max(high - low, MIN_RANGE)
    return np.rint(values, out=values).astype(np.uint8)
