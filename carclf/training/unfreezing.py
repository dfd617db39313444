"""Which layers train while fine-tuning."""

import math

import keras

from carclf.training.backbones import all_layers, backbone_layers, blocks


def unfreeze(model: keras.Model, fraction: float) -> int:
    """Let the head and this share of the backbone's blocks, from the top, train; return the number of blocks.

    Every BatchNormalization layer stays frozen. A nested call with training=False is not enough for that:
    ``fit`` reaches the nested layers with training=True all the same (seen in Keras 3.15).
    """
    groups = blocks(backbone_layers(model))
    num_unfrozen = math.ceil(fraction * len(groups))
    model.trainable = True
    for position, group in enumerate(groups):
        for layer in group:
            layer.trainable = position >= len(groups) - num_unfrozen
    for layer in all_layers(model):
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.trainable = False
    return num_unfrozen
