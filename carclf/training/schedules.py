"""How the learning rate moves over the steps."""


import math
from typing import Any

import keras

from carclf.config import FineTune, scaled_size
from carclf.pipeline.batches import TrainingSource
from carclf.training.backbones import backbone_layers, flatten_layers, group_layers_by_block
from carclf.training.compile import compile_classifier
from carclf.training.optimizers import BlockRate, BlockwiseAdamW


def warmup_cosine(
    peak: float, num_steps: int, warmup_fraction: float
) -> keras.optimizers.schedules.LearningRateSchedule:
    """Linear from 0 to the peak, then a half cosine to 0 (Loshchilov & Hutter 2017, arXiv:1608.03983)."""
    warmup = int(num_steps * warmup_fraction)
    return keras.optimizers.schedules.CosineDecay(
        0.0 if warmup else peak, max(1, num_steps - warmup), warmup_target=peak if warmup else None,
        warmup_steps=warmup,
    )


def phases_by_epoch(epochs: int, num_phases: int) -> list[int]:
    """The phase, from 0, of each epoch: phases of equal length but for rounding, none of them empty."""
    return [epoch * num_phases // epochs for epoch in range(epochs)]

def epoch_sizes(size: tuple[int, int], first: float, num_phases: int, epochs: int) -> tuple[tuple[int, int], ...]:
    """The pictures' size in each epoch: growing from phase to phase, in steps of 32 px, the full size last."""
    found = []
    for phase in phases_by_epoch(epochs, num_phases):
        share = first + (1 - first) * phase / (num_phases - 1) if num_phases > 1 else 1.0
        found.append(scaled_size(size, share))
    return tuple(found)


def compile_for_fine_tuning(own: FineTune, model: keras.Model, source: TrainingSource, rate: Any = None) -> tuple[keras.Model, int]:
    """The model compiled for a fine-tuning by these settings, and the number of blocks that will train.

    ``rate`` stands for another learning-rate schedule than theirs.
    """
    num_steps = source.epochs * source.steps_per_epoch
    groups = unfreeze(model, own.unfrozen_fraction, batch_norm=own.batch_norm)
    phases = phases_by_epoch(own.epochs, own.num_phases)
    starts = [phases.index(phase) * source.steps_per_epoch for phase in sorted(set(phases))]
    rates = block_rates(len(groups), decay=own.layer_decay, phase_starts=starts or [0])
    if rate is None and own.schedule == "cosine":
        rate = warmup_cosine(own.learning_rate, max(1, num_steps), own.warmup_fraction)
    elif rate is None:
        rate = own.learning_rate
    optimizer = BlockwiseAdamW(rate, weight_decay=own.weight_decay, global_clipnorm=own.global_clipnorm,
                               ema_momentum=own.ema_momentum)
    trained = compile_classifier(model, optimizer, own.label_smoothing)
    optimizer.build_for(trained, list(zip(groups, rates, strict=True)))
    return trained, len(groups)

def unfreeze(model: keras.Model, fraction: float, *, batch_norm: str = "inference") -> list[list[Any]]:
    """Let the head and this share of the backbone's blocks, from the top, train; return those blocks, topmost last.

    In inference mode every BatchNormalization layer stays frozen. A nested call with training=False is not enough for
    that: ``fit`` reaches the nested layers with training=True all the same (seen in Keras 3.15).
    """
    groups = group_layers_by_block(backbone_layers(model))
    num_frozen = len(groups) - math.ceil(fraction * len(groups))
    model.trainable = True
    for position, group in enumerate(groups):
        for layer in group:
            layer.trainable = position >= num_frozen
    for layer in flatten_layers(model) if batch_norm == "inference" else []:
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
