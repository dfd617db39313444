"""Test-time augmentation: class probabilities of a model, averaged over several views of each image."""

import math
import statistics
import time

import cv2
import keras
import numpy as np
import numpy.typing as npt
from scipy.special import softmax

from carclf.config import Evaluate
from carclf.images.letterbox import warp_affine
from carclf.pipeline.batches import LetterboxedSource, batches, num_batches
from carclf.progress import Meter

Images = npt.NDArray[np.uint8]  # (batch, height, width, 3)
Probabilities = npt.NDArray[np.float64]  # (batch, classes)
TIMED_BATCH_SIZE = 16
MIN_TIMED_BATCHES, MAX_TIMED_BATCHES = 2, 8
MAX_RELATIVE_ERROR = 0.05  # of the mean time; the gate's limit is usually a multiple of the time
# Positions of a crop in an enlarged image, (x, y): 0 is left or top, 1 is right or bottom.
CENTER = (0.5, 0.5)
CORNERS = ((0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (1.0, 1.0))


def predict(model: keras.Model, source: LetterboxedSource, settings: Evaluate) -> Probabilities:
    """Return probabilities (rows, classes), in the order of the source's rows."""
    probabilities: list[Probabilities] = []
    with Meter("predict") as meter:
        for images, _ in batches(source, settings.batch_size):
            probabilities.append(predict_batch(model, images, settings))
            meter(len(probabilities), num_batches(source, settings.batch_size))
    return np.concatenate(probabilities)


def predict_batch(model: keras.Model, images: Images, settings: Evaluate) -> Probabilities:
    """Return probabilities (batch, classes), the mean over the views of each image."""
    # Average after the softmax and before the argmax: predicted classes cannot be averaged.
    views = tta_views(images, settings)
    return np.asarray(np.mean([softmax(np.asarray(model.predict_on_batch(view), float), 1) for view in views], axis=0))


def milliseconds_per_image(model: keras.Model, source: LetterboxedSource, settings: Evaluate) -> float:
    """Return the prediction time of one image with all its views, without decoding: the median of small batches.

    Batches of 16 images are timed until the standard error of their mean is small: two batches on an idle machine.
    """
    images, _ = next(iter(batches(source, TIMED_BATCH_SIZE)))
    predict_batch(model, images, settings)  # warms up
    seconds: list[float] = []
    while not _is_precise(seconds):
        started = time.perf_counter()
        predict_batch(model, images, settings)
        seconds.append(time.perf_counter() - started)
    return 1000 * statistics.median(seconds) / len(images)


def _is_precise(seconds: list[float]) -> bool:
    if not MIN_TIMED_BATCHES <= len(seconds) < MAX_TIMED_BATCHES:
        return len(seconds) >= MAX_TIMED_BATCHES
    error = statistics.stdev(seconds) / math.sqrt(len(seconds))
    return error <= MAX_RELATIVE_ERROR * statistics.mean(seconds)


def tta_views(images: Images, settings: Evaluate) -> list[Images]:
    """Return the images at each zoom and crop, and the horizontal flips of all these views."""
    views = []
    for zoom in settings.zoom_factors:
        corners = CORNERS if settings.crops == "corners" and zoom > 1 else ()
        views += [_zoom(images, zoom, position) for position in (CENTER, *corners)]
    flipped = [view[:, :, ::-1] for view in views] if settings.flip_tta else []
    return views + flipped


def _zoom(images: Images, factor: float, position: tuple[float, float]) -> Images:
    """Enlarge the part of each image at the position to the size of the whole image."""
    if factor == 1:
        return images
    height, width = images.shape[1:3]
    x, y = position
    matrix = np.array([[factor, 0, (1 - factor) * width * x], [0, factor, (1 - factor) * height * y]])
    return np.stack([warp_affine(image, matrix, height, width, border=cv2.BORDER_REPLICATE) for image in images])
