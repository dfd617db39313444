"""Seeds and the backend's switch to deterministic kernels."""

import keras


def make_repeatable(seed: int) -> None:
    """Seed Python, NumPy and the backend; let TensorFlow take only deterministic kernels."""
    keras.utils.set_random_seed(seed)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()
