"""Class probabilities of a model, averaged over the picture and its mirror image."""

from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from carclf.data.input_pipeline import Pictures
from carclf.progress import Meter


def predict(model: keras.Model, pictures: Pictures, *, flip_tta: bool) -> npt.NDArray[np.float64]:
    """Probabilities (rows, classes), in the order of the pictures' rows."""
    results = []
    with Meter("predict") as meter:
        for batch in range(len(pictures)):
            images, _ = pictures[batch]
            looks = [images, images[:, :, ::-1]] if flip_tta else [images]
            results.append(np.mean([_softmax(model.predict_on_batch(look)) for look in looks], axis=0))
            meter(batch + 1, len(pictures))
    return np.concatenate(results)


def _softmax(logits: Any) -> npt.NDArray[np.float64]:
    shifted = np.exp(np.asarray(logits, np.float64) - np.max(logits, axis=1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True))
