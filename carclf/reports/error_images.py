"""The errors of an evaluation as small pictures, each beside what the network looked at."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from carclf.reports.thumbnails import Thumbnails, data_uri

# From pictures' paths and their predicted classes to pixels (height, width, 3) and the heat of each, 0..1.
ExplainFunction = Callable[[list[str], list[int]], list[tuple[Any, Any]]]
HEAT = 0.55  # share of the colours in the overlay where the heat is 1


def error_images(errors: list[dict[str, Any]], images: Path, explain: ExplainFunction | None) -> list[dict[str, str]]:
    """For each error ``picture`` and ``overlay`` as data: URIs, "" where there is none."""
    show = Thumbnails(images)
    pictures = [show(error["path"]) for error in errors]
    overlays = [""] * len(errors)
    if explain is not None and errors:
        looked = explain([error["path"] for error in errors], [error["predicted"] for error in errors])
        overlays = [data_uri(overlay_heatmap(pixels, heat)) for pixels, heat in looked]
    return [{"picture": picture, "overlay": over} for picture, over in zip(pictures, overlays, strict=True)]


def overlay_heatmap(pixels: npt.NDArray[np.uint8], heat: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """The picture in grey with the heat in colours upon it: the hotter, the yellower and the denser."""
    height, width = pixels.shape[:2]
    heat = np.clip(cv2.resize(heat, (width, height), interpolation=cv2.INTER_LINEAR), 0, 1)
    colours = cv2.applyColorMap((255 * heat).astype(np.uint8), cv2.COLORMAP_INFERNO)[:, :, ::-1]
    grey = np.repeat(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)[:, :, None], 3, axis=2)
    share = HEAT * heat[:, :, None]
    return np.asarray((1 - share) * grey + share * colours).astype(np.uint8)
