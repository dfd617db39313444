"""Class probabilities of a model, averaged over several looks at each picture."""

from typing import Any

import cv2
import keras
import numpy as np
import numpy.typing as npt
from scipy.special import softmax

from carclf.config import Evaluate
from carclf.data.input_pipeline import Plain, batches, num_batches
from carclf.progress import Meter

Pictures = npt.NDArray[np.uint8]


def predict(model: keras.Model, source: Plain, settings: Evaluate) -> npt.NDArray[np.float64]:
    """Probabilities (rows, classes), in the order of the source's rows."""
    found: list[Any] = []
    with Meter("predict") as meter:
        for pixels, _ in batches(source, settings.batch_size):
            logits = [np.asarray(model.predict_on_batch(look), float) for look in looks(pixels, settings)]
            # Averaging after the softmax, before the argmax: an argmax of each look cannot be averaged.
            found.append(np.mean([softmax(look, 1) for look in logits], axis=0))
            meter(len(found), num_batches(source, settings.batch_size))
    return np.concatenate(found)


def looks(pixels: Pictures, settings: Evaluate) -> list[Pictures]:
    """The pictures (batch, height, width, 3) at each zoom, and their mirror images."""
    zoomed = [_zoomed(pixels, zoom) for zoom in settings.zoom_factors]
    mirrored = [look[:, :, ::-1] for look in zoomed] if settings.flip_tta else []
    return zoomed + mirrored


def _zoomed(pixels: Pictures, zoom: float) -> Pictures:
    """The middle of each picture, enlarged by the factor to the picture's size."""
    if zoom == 1:
        return pixels
    height, width = pixels.shape[1:3]
    matrix = np.array([[zoom, 0, (1 - zoom) * width / 2], [0, zoom, (1 - zoom) * height / 2]])
    border = {"flags": cv2.INTER_LINEAR, "borderMode": cv2.BORDER_REPLICATE}
    return np.stack([np.asarray(cv2.warpAffine(one, matrix, (width, height), **border), np.uint8) for one in pixels])
