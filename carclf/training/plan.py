"""What a fine-tuning does when: the pictures' size, the blocks that train, and how fast."""

from typing import Any

import keras

from carclf.config import FineTune, size_at
from carclf.data.input_pipeline import Training
from carclf.training.compiling import compile_for
from carclf.training.optimizers import BlockwiseAdamW
from carclf.training.schedules import phase_of_epoch, warmup_cosine
from carclf.training.unfreezing import block_rates, unfreeze


def epoch_sizes(size: tuple[int, int], first: float, num_phases: int, epochs: int) -> tuple[tuple[int, int], ...]:
    """The pictures' size in each epoch: growing from phase to phase, in steps of 32 px, the full size last."""
    found = []
    for phase in phase_of_epoch(epochs, num_phases):
        share = first + (1 - first) * phase / (num_phases - 1) if num_phases > 1 else 1.0
        found.append(size_at(size, share))
    return tuple(found)


def compile_by(own: FineTune, model: keras.Model, source: Training, rate: Any = None) -> tuple[keras.Model, int]:
    """The model compiled for a fine-tuning by these settings, and the number of blocks that will train.

    ``rate`` stands for another learning-rate schedule than theirs.
    """
    num_steps = source.epochs * source.steps_per_epoch
    groups = unfreeze(model, own.unfrozen_fraction, batch_norm=own.batch_norm)
    phases = phase_of_epoch(own.epochs, own.num_phases)
    starts = [phases.index(phase) * source.steps_per_epoch for phase in sorted(set(phases))]
    rates = block_rates(len(groups), decay=own.layer_decay, phase_starts=starts or [0])
    if rate is None and own.schedule == "cosine":
        rate = warmup_cosine(own.learning_rate, max(1, num_steps), own.warmup_fraction)
    elif rate is None:
        rate = own.learning_rate
    optimizer = BlockwiseAdamW(rate, weight_decay=own.weight_decay, clip_norm=own.clip_norm,
                               ema_momentum=own.ema_momentum)
    trained = compile_for(model, optimizer, own.label_smoothing)
    optimizer.build_for(trained, list(zip(groups, rates, strict=True)))
    return trained, len(groups)
