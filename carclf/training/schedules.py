"""Schedules of fine-tuning: learning rates, phases, image sizes, and unfrozen blocks."""

import math
from typing import Any

import keras

from carclf.config import FineTune, scaled_size
from carclf.pipeline.batches import Size, TrainingSource
from carclf.training.backbones import backbone_layers, group_layers_by_block, with_drop_path
from carclf.training.batch_norm import set_batch_norm_mode
from carclf.training.compile import compile_classifier
from carclf.training.optimizers import BlockRate, BlockwiseAdamW


def warmup_cosine(peak: float, num_steps: int, warmup_fraction: float) -> keras.optimizers.schedules.CosineDecay:
    """Rise linearly to the peak, then fall to 0 by half a cosine (Loshchilov & Hutter 2017, arXiv:1608.03983)."""
    warmup = int(num_steps * warmup_fraction)
    return keras.optimizers.schedules.CosineDecay(
        0.0 if warmup else peak, max(1, num_steps - warmup), warmup_target=peak if warmup else None, warmup_steps=warmup
    )


def phases_by_epoch(epochs: int, num_phases: int) -> list[int]:
    """Return the phase of each epoch, from 0. Phases have equal lengths up to rounding."""
    return [epoch * num_phases // epochs for epoch in range(epochs)]


def epoch_sizes(size: Size, initial_fraction: float, num_phases: int, epochs: int) -> tuple[Size, ...]:
    """Return the image size (height, width) of each epoch.

    The size grows from phase to phase in steps of 32 px, from ``initial_fraction`` of each side to the full size. A
    single phase keeps that fraction: a random crop enlarges the objects of a training image, so that larger images in
    predictions have objects of the size that was trained (Touvron et al. 2019, arXiv:1906.06423).
    """
    last = max(1, num_phases - 1)
    return tuple(scaled_size(size, initial_fraction + (1 - initial_fraction) * phase / last)
                 for phase in phases_by_epoch(epochs, num_phases))


def unfreeze(model: keras.Model, fraction: float, *, batch_norm: str = "inference") -> list[list[Any]]:
    """Make the head and this fraction of the backbone's blocks, from the top, trainable.

    Returns the layers of each trainable block, the topmost block last. ``set_batch_norm_mode`` explains
    ``batch_norm``.
    """
    blocks = group_layers_by_block(backbone_layers(model))
    num_frozen = len(blocks) - math.ceil(fraction * len(blocks))
    model.trainable = True
    for position, block in enumerate(blocks):
        for layer in block:
            layer.trainable = position >= num_frozen
    set_batch_norm_mode(model, batch_norm)
    return blocks[num_frozen:]


def block_rates(num_blocks: int, *, decay: float, phase_starts: list[int]) -> list[BlockRate]:
    """Return the learning rate of each block, the topmost last: ``decay`` to the power of its depth below the head.

    In phase p of P (from 1), which starts at step ``phase_starts[p - 1]``, the topmost p/P of the blocks train.
    """
    depths = range(num_blocks, 0, -1)  # 1 for the block below the head
    phases = [math.ceil(depth * len(phase_starts) / num_blocks) - 1 for depth in depths]
    return [BlockRate(decay**depth, phase_starts[phase]) for depth, phase in zip(depths, phases, strict=True)]


def ema_momentum(fraction: float, num_steps: int) -> float:
    """Return the momentum of an average over a fraction of the steps; 0, no average, if that is less than a step."""
    return 1 - 1 / max(1.0, fraction * num_steps)


def compile_for_fine_tuning(
    settings: FineTune, model: keras.Model, source: TrainingSource, learning_rate: Any = None
) -> tuple[keras.Model, int]:
    """Return a model of the same weights, compiled for fine-tuning, and the number of trainable blocks.

    No setting but the batch size may be automatic. ``learning_rate``, a number or a schedule, replaces the schedule of
    the settings.
    """
    assert settings.weight_decay is not None and settings.drop_path is not None
    model = with_drop_path(model, settings.drop_path, source.seed)
    num_steps = source.epochs * source.steps_per_epoch
    blocks = unfreeze(model, settings.unfrozen_fraction, batch_norm=settings.batch_norm)
    phases = phases_by_epoch(settings.epochs, settings.num_phases)
    phase_starts = [phases.index(phase) * source.steps_per_epoch for phase in sorted(set(phases))]
    rates = block_rates(len(blocks), decay=settings.layer_decay, phase_starts=phase_starts or [0])
    if learning_rate is None:
        learning_rate = settings.learning_rate
        if settings.schedule != "plateau":  # with plateau, the trainer lowers the rate
            learning_rate = warmup_cosine(learning_rate, max(1, num_steps), settings.warmup_fraction)
    optimizer = BlockwiseAdamW(
        learning_rate, weight_decay=settings.weight_decay, global_clipnorm=settings.global_clipnorm,
        ema_momentum=ema_momentum(settings.ema_fraction, num_steps),
    )
    trained = compile_classifier(model, optimizer, settings.label_smoothing, xla=settings.xla)
    optimizer.build_for(trained, list(zip(blocks, rates, strict=True)))
    return trained, len(blocks)
