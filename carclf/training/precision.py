"""The compute precision of a network. Its weights are always float32."""

from collections.abc import Iterator
from contextlib import contextmanager

import keras

from carclf.training.backbones import flatten_layers

BFLOAT16_CAPABILITY = (8, 0)  # NVIDIA Ampere, the first generation with bfloat16 matrix units


@contextmanager
def compute_precision(precision: str, model: keras.Model) -> Iterator[str]:
    """Use float32, bfloat16 or auto (bfloat16 if the GPU supports it) for the model within the block.

    Yields the precision used. The logits stay float32. float16 is not offered: EfficientNets overflow in it.
    """
    if precision == "auto":
        precision = "bfloat16" if has_bfloat16() else "float32"
    layers = [layer for layer in flatten_layers(model) if layer.name != "logits"]
    policies = [layer.dtype_policy for layer in layers]
    for layer in layers:
        layer.dtype_policy = "mixed_bfloat16" if precision == "bfloat16" else "float32"
    try:
        yield precision
    finally:
        for layer, policy in zip(layers, policies, strict=True):
            layer.dtype_policy = policy


def has_bfloat16() -> bool:
    """Return whether every visible GPU has bfloat16 matrix units. CPUs gain too little from bfloat16."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        gpus = tf.config.list_physical_devices("GPU")
        details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus]
        capabilities = [tuple(detail.get("compute_capability", (0, 0))) for detail in details]
    else:
        import jax

        devices = [device for device in jax.devices() if device.platform == "gpu"]
        capabilities = [tuple(map(int, str(device.compute_capability).split("."))) for device in devices]
    return bool(capabilities) and min(capabilities) >= BFLOAT16_CAPABILITY
