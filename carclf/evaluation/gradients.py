"""Gradients in the words of the backend that runs: the one thing here that Keras has no word for."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import numpy.typing as npt


def gradient(function: Callable[[Any], Any], at: Any) -> npt.NDArray[np.float32]:
    """The derivative of a function from an array to a number, in the array's shape."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        point = tf.convert_to_tensor(at)
        with tf.GradientTape() as tape:
            tape.watch(point)
            value = function(point)
        return np.asarray(tape.gradient(value, point))
    import jax

    return np.asarray(jax.grad(function)(keras.ops.convert_to_tensor(at)))
