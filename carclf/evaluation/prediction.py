"""Class probabilities of a model, averaged over several looks at each picture."""

from typing import Any

import keras
import numpy as np
import numpy.typing as npt
from scipy.special import softmax

from carclf.data.input_pipeline import Plain, batches, num_batches
from carclf.progress import Meter


def predict(model: keras.Model, source: Plain, *, batch_size: int, flip_tta: bool) -> npt.NDArray[np.float64]:
    """Probabilities (rows, classes), in the order of the source's rows."""
    found: list[Any] = []
    with Meter("predict") as meter:
        for pixels, _ in batches(source, batch_size):
            looks = [pixels, pixels[:, :, ::-1]] if flip_tta else [pixels]
            # Averaging after the softmax, before the argmax: an argmax of each look cannot be averaged.
            logits = [np.asarray(model.predict_on_batch(look), float) for look in looks]
            found.append(np.mean([softmax(look, 1) for look in logits], axis=0))
            meter(len(found), num_batches(source, batch_size))
    return np.concatenate(found)
