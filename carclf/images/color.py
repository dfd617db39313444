"""Pictures of any mode as RGB."""

import numpy as np
import numpy.typing as npt
from PIL import Image

HIGH_BIT_DEPTH_MODES = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")  # modes that Pillow itself would cut off at 255


def to_rgb(image: Image.Image) -> npt.NDArray[np.uint8]:
    """A picture of any mode as uint8 RGB: transparency on white, 16-bit and float values stretched to 0 to 255.

    They are stretched from the picture's own darkest to its own brightest, since few use their whole range.
    """
    if image.has_transparency_data:
        image = to_reducible_mode(image)
        on_white = Image.new("RGB", image.size, "white")
        on_white.paste(image, mask=image.getchannel("A"))
        return np.asarray(on_white)
    if image.mode in HIGH_BIT_DEPTH_MODES:
        grey = _stretched(np.array(image, np.float32))
        return np.repeat(grey[:, :, None], 3, 2)
    return np.asarray(image.convert("RGB"))


def to_reducible_mode(image: Image.Image) -> Image.Image:
    """The picture in a mode that Pillow reduces, with all that ``to_rgb`` wants of it."""
    wanted = "RGBA" if image.has_transparency_data else "F" if image.mode in HIGH_BIT_DEPTH_MODES else "RGB"
    return image if image.mode in (wanted, "L") and "transparency" not in image.info else image.convert(wanted)


def _stretched(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """In place: a large picture's values are there once."""
    np.nan_to_num(values, copy=False, posinf=0, neginf=0)
    low, high = float(values.min()), float(values.max())
    values -= low
    values *= 255 / max(high - low, 1e-30)
    return np.rint(values, out=values).astype(np.uint8)
