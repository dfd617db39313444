"""Thumbnails of misclassified images, with heatmaps of the regions that the prediction is based on."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from carclf.reports.thumbnails import Thumbnails, data_uri

# From paths and predicted classes to pixels (height, width, 3) and their heatmap (rows, columns) from 0 to 1.
ExplainFunction = Callable[[list[str], list[str]], list[tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]]]
MAX_OPACITY = 0.55  # of the heatmap where it is 1


def error_images(
    errors: Sequence[Mapping[str, Any]], images: Path, explain: ExplainFunction | None
) -> list[dict[str, str]]:
    """Return ``image`` and ``overlay`` of each error as data URIs, empty if not available."""
    paths = [error["path"] for error in errors]
    overlays = [""] * len(errors)
    if explain is not None and errors:
        heatmaps = explain(paths, [error["predicted"] for error in errors])
        overlays = [data_uri(overlay_heatmap(pixels, heat)) for pixels, heat in heatmaps]
    thumbnails = Thumbnails(images)
    return [{"image": thumbnails(path), "overlay": overlay} for path, overlay in zip(paths, overlays, strict=True)]


def overlay_heatmap(pixels: npt.NDArray[np.uint8], heat: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """Return the image in gray under a heatmap, which is brighter and more opaque where it is hotter."""
    height, width = pixels.shape[:2]
    heat = np.clip(cv2.resize(heat, (width, height), interpolation=cv2.INTER_LINEAR), 0, 1)
    colors = cv2.applyColorMap((255 * heat).astype(np.uint8), cv2.COLORMAP_INFERNO)[:, :, ::-1]
    gray = np.repeat(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)[:, :, None], 3, axis=2)
    opacity = MAX_OPACITY * heat[:, :, None]
    return np.asarray((1 - opacity) * gray + opacity * colors).astype(np.uint8)
