"""Class probabilities of a model, averaged over several looks at each picture."""

import statistics
import time
from typing import Any

import cv2
import keras
import numpy as np
import numpy.typing as npt
from scipy.special import softmax

from carclf.config import Evaluate
from carclf.pipeline.batches import LetterboxedSource, batches, num_batches
from carclf.progress import Meter

Pictures = npt.NDArray[np.uint8]
NUM_TIMED = 3
MIDDLE, CORNERS = (0.5, 0.5), ((0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (1.0, 1.0))  # of an enlargement: right, down


def predict(model: keras.Model, source: LetterboxedSource, settings: Evaluate) -> npt.NDArray[np.float64]:
    """Probabilities (rows, classes), in the order of the source's rows."""
    found: list[Any] = []
    with Meter("predict") as meter:
        for pixels, _ in batches(source, settings.batch_size):
            found.append(predict_batch(model, pixels, settings))
            meter(len(found), num_batches(source, settings.batch_size))
    return np.concatenate(found)


def predict_batch(model: keras.Model, pixels: Pictures, settings: Evaluate) -> npt.NDArray[np.float64]:
    """Probabilities (batch, classes): the mean over the looks at each picture."""
    logits = [np.asarray(model.predict_on_batch(look), float) for look in tta_views(pixels, settings)]
    # Averaging after the softmax, before the argmax: an argmax of each look cannot be averaged.
    return np.asarray(np.mean([softmax(look, 1) for look in logits], axis=0))


def milliseconds_per_image(model: keras.Model, source: LetterboxedSource, settings: Evaluate) -> float:
    """Time of an answer, all looks included and decoding not: the median of a few batches after one to warm up."""
    pixels, _ = next(iter(batches(source, settings.batch_size)))
    seconds = []
    for _ in range(1 + NUM_TIMED):
        started = time.perf_counter()
        predict_batch(model, pixels, settings)
        seconds.append(time.perf_counter() - started)
    return 1000 * statistics.median(seconds[1:]) / len(pixels)


def tta_views(pixels: Pictures, settings: Evaluate) -> list[Pictures]:
    """The pictures (batch, height, width, 3) at each zoom, in each crop of it, and their mirror images."""
    zoomed = [_zoomed(pixels, zoom, *place) for zoom in settings.zoom_factors
              for place in (MIDDLE, *(CORNERS if settings.crops == "corners" and zoom > 1 else ()))]
    mirrored = [look[:, :, ::-1] for look in zoomed] if settings.flip_tta else []
    return zoomed + mirrored


def _zoomed(pixels: Pictures, zoom: float, right: float, down: float) -> Pictures:
    """A part of each picture, enlarged by the factor to the picture's size; 0 is at the left or the top, 1 opposite."""
    if zoom == 1:
        return pixels
    height, width = pixels.shape[1:3]
    matrix = np.array([[zoom, 0, (1 - zoom) * width * right], [0, zoom, (1 - zoom) * height * down]])
    border = {"flags": cv2.INTER_LINEAR, "borderMode": cv2.BORDER_REPLICATE}
    return np.stack([np.asarray(cv2.warpAffine(one, matrix, (width, height), **border), np.uint8) for one in pixels])
