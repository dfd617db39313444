"""In which precision a network computes; its weights are float32 always."""

from collections.abc import Iterator
from contextlib import contextmanager

import keras

from carclf.training.backbones import flatten_layers

BFLOAT16_CAPABILITY = (8, 0)  # NVIDIA Ampere: the first with bfloat16 matrix units


@contextmanager
def compute_precision(precision: str, model: keras.Model) -> Iterator[str]:
    """The model computes in float32, bfloat16, or auto (bfloat16 on a GPU that has it) inside the block.

    The logits stay float32. float16 is not offered: EfficientNets overflow in it.
    """
    if precision == "auto":
        precision = "bfloat16" if has_bfloat16() else "float32"
    layers = [layer for layer in flatten_layers(model) if layer.name != "logits"]
    before = [layer.dtype_policy for layer in layers]
    for layer in layers:
        layer.dtype_policy = "mixed_bfloat16" if precision == "bfloat16" else "float32"
    try:
        yield precision
    finally:
        for layer, policy in zip(layers, before, strict=True):
            layer.dtype_policy = policy


def has_bfloat16() -> bool:
    """Whether every visible GPU multiplies in bfloat16; CPUs gain too little from it."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        gpus = tf.config.list_physical_devices("GPU")
        found = [tf.config.experimental.get_device_details(gpu).get("compute_capability", (0, 0)) for gpu in gpus]
    else:
        import jax

        devices = [device for device in jax.devices() if device.platform == "gpu"]
        found = [tuple(map(int, str(device.compute_capability).split("."))) for device in devices]
    return bool(found) and all(tuple(capability) >= BFLOAT16_CAPABILITY for capability in found)
