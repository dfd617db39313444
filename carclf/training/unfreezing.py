"""Which layers train while fine-tuning, from which epoch on, and how fast."""

import math
from typing import Any

import keras

from carclf.training.backbones import all_layers, backbone_layers, blocks
from carclf.training.optimizers import BlockRate


def unfreeze(model: keras.Model, fraction: float, *, batch_norm: str = "inference") -> list[list[Any]]:
    """Let the head and this share of the backbone's blocks, from the top, train; return those blocks, topmost last.

    In inference mode every BatchNormalization layer stays frozen. A nested call with training=False is not enough for
    that: ``fit`` reaches the nested layers with training=True all the same (seen in Keras 3.15).
    """
    groups = blocks(backbone_layers(model))
    num_frozen = len(groups) - math.ceil(fraction * len(groups))
    model.trainable = True
    for position, group in enumerate(groups):
        for layer in group:
            layer.trainable = position >= num_frozen
    for layer in all_layers(model) if batch_norm == "inference" else []:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.trainable = False
    return groups[num_frozen:]


def block_rates(num_blocks: int, *, decay: float, phase_starts: list[int]) -> list[BlockRate]:
    """A rate for each block, the topmost last: ``decay`` to the power of its depth, joining in its phase.

    In phase p of P (from 1), which begins at step ``phase_starts[p - 1]``, the topmost p/P of the blocks train.
    """
    depths = range(num_blocks, 0, -1)  # 1 for the block below the head
    phases = [math.ceil(depth * len(phase_starts) / num_blocks) - 1 for depth in depths]
    return [BlockRate(decay**depth, phase_starts[phase]) for depth, phase in zip(depths, phases, strict=True)]
